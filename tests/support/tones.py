"""Which tone is in a sound: for recordings of `transceiver call`, and for calls that must not hear each other."""

from __future__ import annotations

import math
import wave
from array import array
from collections.abc import Sequence
from pathlib import Path

RATE = 48_000


def read_wav(path: Path) -> Sequence[int]:
    """The samples of a recording, which is mono, 16 bits, 48 kHz."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE)
        samples = array("h")
        samples.frombytes(file.readframes(file.getnframes()))
    return samples


def write_wav(path: Path, samples: Sequence[int], rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(array("h", samples).tobytes())
    return path


def strength(samples: Sequence[int], hertz: float) -> float:
    """Goertzel's algorithm: how much of one frequency there is."""
    turn = 2 * math.cos(2 * math.pi * hertz / RATE)
    last = before = 0.0
    for sample in samples:
        last, before = sample + turn * last - before, last
    return last * last + before * before - turn * last * before


def loudest(samples: Sequence[int], candidates: Sequence[float]) -> float:
    """The frequency that is strongest."""
    assert any(samples), "nothing but silence"
    return max(candidates, key=lambda hertz: strength(samples, hertz))
