"""What `transceiver call` says and hears: the sound it sends, its level, its recording, and the echo in what returns.

All of it is mono, 16 bits, 48 kHz, in frames of 20 ms. Nothing here knows the network or reads a clock: frames come
with the time at which they were spoken or heard.

The tone is cut into dots of 40 ms, on or off by a maximal-length sequence: such a pattern looks like itself at one
delay only, where a steady tone would look the same at any. Speech has that property by nature. An echo is found by
comparing loudness, not samples, in blocks of 10 ms, so that a codec between them does no harm.
"""

from __future__ import annotations

import math
import wave
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import TypeAlias

import av

RATE = 48_000
FRAME = RATE // 50
FRAME_S = FRAME / RATE
BLOCK = FRAME // 2
BLOCK_S = BLOCK / RATE
SILENT_DB = -99.0
AMPLITUDE = 8000  # -15 dB of the loudest: easy to hear, never clipped

Samples: TypeAlias = "array[int]"  # array is generic for type checkers only, until Python 3.12
Source = Callable[[int], Samples]  # number of a frame -> its samples

# Of an echo: how much is compared, the longest delay looked for, and how alike it must be.
_WINDOW, _LEAST, _FARTHEST = 200, 50, 200  # blocks
_ALIKE = 0.7
_KEPT = _WINDOW + 2 * _FARTHEST

_DOT_FRAMES = 2
_RAMP = RATE // 200  # dots begin and end within 5 ms: without clicks

# x^6 + x^5 + 1 passes through all 63 states.
_SEQUENCE_BITS = 6


def _dots() -> list[bool]:
    state, found = 1, []
    for _ in range((1 << _SEQUENCE_BITS) - 1):
        found.append(bool(state & 1))
        state = (state >> 1) | (((state ^ (state >> 1)) & 1) << (_SEQUENCE_BITS - 1))
    return found


def tone(hertz: float) -> Source:
    """Dots of a tone, for ever; the pattern returns after 2.5 s."""
    dots = _dots()

    def frame(number: int) -> Samples:
        dot, part = divmod(number, _DOT_FRAMES)
        if not dots[dot % len(dots)]:
            return array("h", bytes(2 * FRAME))
        step = 2 * math.pi * hertz / RATE
        first = (number * FRAME) % RATE  # whole seconds hold whole periods of a whole number of hertz
        samples = array("h", [round(AMPLITUDE * math.sin(step * (first + index))) for index in range(FRAME)])
        for index in range(_RAMP):
            if part == 0:
                samples[index] = samples[index] * index // _RAMP
            if part == _DOT_FRAMES - 1:
                samples[-1 - index] = samples[-1 - index] * index // _RAMP
        return samples

    return frame


def file(path: Path, seconds: float) -> Source:
    """The first `seconds` of an audio file, whatever its format; a shorter one is repeated. OSError or ValueError:
    what is wrong with it."""
    samples = array("h")
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise ValueError("there is no audio in it")
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                samples.frombytes(bytes(part.planes[0])[: 2 * part.samples])
            if len(samples) > RATE * seconds:
                break
    samples.frombytes(bytes(2 * (-len(samples) % FRAME)))
    if not samples:
        raise ValueError("there is no audio in it")
    return lambda number: samples[number * FRAME % len(samples) :][:FRAME]


def mono(frame: av.AudioFrame) -> Samples:
    """The left channel of a decoded frame; that of a telephone codec (8 or 16 kHz) with each sample repeated."""
    channels = len(frame.layout.channels)
    samples = array("h")
    samples.frombytes(bytes(frame.planes[0])[: 2 * channels * frame.samples])
    left = samples[::channels]
    repeat = RATE // frame.sample_rate
    return left if repeat == 1 else array("h", [each for each in left for _ in range(repeat)])


def power(samples: Sequence[int]) -> float:
    return sum(map(mul, samples, samples)) / len(samples) if samples else 0.0


def decibels(mean_square: float) -> float:
    """Relative to the loudest possible."""
    return max(SILENT_DB, 10 * math.log10(mean_square / 2**30)) if mean_square > 0 else SILENT_DB


class Loudness:
    """How loud it was and when, in blocks of 10 ms, for the last seconds."""

    def __init__(self) -> None:
        self._blocks: dict[int, float] = {}

    def add(self, samples: Samples, at_s: float) -> float:
        """`at_s`: when the first of these samples sounded. Returns their mean square."""
        powers = [power(samples[start : start + BLOCK]) for start in range(0, len(samples), BLOCK)]
        first = round(at_s / BLOCK_S)
        self._blocks.update((first + index, math.sqrt(each)) for index, each in enumerate(powers))
        while len(self._blocks) > _KEPT:
            del self._blocks[next(iter(self._blocks))]
        return sum(powers) / len(powers) if powers else 0.0

    def span(self) -> tuple[int, int]:
        """The first block, and the one after the last."""
        return (min(self._blocks), max(self._blocks) + 1) if self._blocks else (0, 0)

    def between(self, first: int, end: int) -> list[float]:
        return [self._blocks.get(index, 0.0) for index in range(first, end)]


@dataclass(frozen=True)
class EchoFound:
    delay_s: float
    likeness: float  # 1: the same but for its strength


def find_echo(spoken: Loudness, heard: Loudness) -> EchoFound | None:
    """How much later the last two seconds that were heard had been spoken; None when they were not."""
    first, end = heard.span()
    first = max(first, end - _WINDOW)
    if end - first < _LEAST:
        return None
    late, early = heard.between(first, end), spoken.between(first - _FARTHEST, end)
    scores = [_likeness(early[_FARTHEST - lag :][: len(late)], late) for lag in range(_FARTHEST + 1)]
    best = max(range(len(scores)), key=scores.__getitem__)
    if scores[best] < _ALIKE:
        return None
    return EchoFound((best + _vertex(scores, best)) * BLOCK_S, scores[best])


def _likeness(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's coefficient of correlation; 0 for what never changes."""
    count, sum_one, sum_other = len(one), sum(one), sum(other)
    spread_one = count * sum(map(mul, one, one)) - sum_one * sum_one
    spread_other = count * sum(map(mul, other, other)) - sum_other * sum_other
    if spread_one <= 0 or spread_other <= 0:
        return 0.0
    shared = count * sum(map(mul, one, other)) - sum_one * sum_other
    return float(shared / math.sqrt(spread_one * spread_other))


def _vertex(scores: Sequence[float], best: int) -> float:
    """Where between its neighbours a maximum lies, by the parabola through the three."""
    if not 0 < best < len(scores) - 1:
        return 0.0
    before, at, after = scores[best - 1 : best + 2]
    bend = before - 2 * at + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


class Recording:
    """A WAV file of what was heard; what was lost on the way is silence in it."""

    def __init__(self, path: Path) -> None:
        self._file = wave.open(str(path), "wb")  # noqa: SIM115 (closed by `close`)
        self._file.setparams((1, 2, RATE, 0, "NONE", ""))
        self._written = 0

    def add(self, samples: Samples, at_s: float) -> None:
        """`at_s` from the beginning of the recording."""
        gap = round(at_s * RATE) - self._written
        if 0 < gap < RATE * 10:
            self._file.writeframesraw(bytes(2 * gap))
            self._written += gap
        self._file.writeframesraw(samples.tobytes())
        self._written += len(samples)

    def close(self) -> None:
        self._file.close()
