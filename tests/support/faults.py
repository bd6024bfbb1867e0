"""Faults under load: clients that go on while something is done to what serves them, and what they saw of it.

The clients are the generator's: each flow a packet at fixed times, whatever comes back, and a check every 2.5 s. Each
course prints what it was like: packets lost, and the longest time that any client went without an answer; that is never
less than the time between two of its packets, which is said beside it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from benchmarks.support import Echo, Generator, Result, Words, mint_tokens, write_tokens
from tests.support.relays import Relay


@dataclass(frozen=True)
class Load:
    """For `seconds` at the least: until what is done is done, and a moment longer. `slack_ms` is what gaps may exceed
    their bounds by: every day, processors may be busy with other things."""

    flows: int
    pps: int
    seconds: float
    slack_ms: float = 200.0

    @property
    def every_ms(self) -> float:
        """Between two packets of a flow."""
        return 1e3 * self.flows / self.pps


EVERYDAY = Load(200, 10_000, 2.0)
FULL = Load(1000, 50_000, 15.0, slack_ms=10.0)
FULL_RUNS = 3
MOST_S = 120.0  # of any load
NOTES: list[str] = []  # of each course, for the end of a run of tests
SETTLED_S = 0.6  # the load goes on for that long after the last fault, at the least
LOADS = [
    pytest.param(EVERYDAY, id="everyday"),
    *(pytest.param(FULL, id=f"full-{run}", marks=pytest.mark.full) for run in range(1, FULL_RUNS + 1)),
]


@dataclass
class Course:
    """What the clients saw. `silences_s` are the times for which there was nobody to serve them, as measured."""

    name: str
    load: Load
    owner: Echo
    begun_s: float  # by time.monotonic, when the load had been on for a little
    result: Result = field(default_factory=dict)
    silences_s: list[float] = field(default_factory=list)

    @property
    def left_s(self) -> float:
        """Of the load."""
        return self.begun_s + self.load.seconds - time.monotonic()

    @property
    def gap_ms(self) -> float:
        return float(self.result["longest_gap_ms"])

    def __str__(self) -> str:
        seen = self.result
        checks = seen["checks_sent"]
        silent = "".join(f", nobody there for {silence * 1e3:.0f} ms" for silence in self.silences_s)
        return (
            f"{self.name}: lost {seen['lost']} of {seen['sent']} packets, "
            f"{checks - seen['checks_answered']} of {checks} checks; "
            f"longest gap {self.gap_ms:.0f} ms, of half the flows {seen['median_gap_ms']:.0f} ms "
            f"(a packet every {self.load.every_ms:.0f} ms{silent}); slowest {seen['rtt_us']['max'] / 1e3:.0f} ms, "
            f"{seen['duplicated']} twice, {seen['reordered']} out of order"
        )

    def assert_right(self) -> None:
        """What holds in any fault: nothing wrong came, nothing went astray."""
        wrong = ("corrupted", "misdirected", "foreign", "send_errors")
        assert {name: self.result[name] for name in wrong} == dict.fromkeys(wrong, 0)

    def assert_nothing_lost(self) -> None:
        self.assert_right()
        assert (self.result["lost"], self.result["checks_sent"]) == (0, self.result["checks_answered"])

    def lost_most(self, silence_s: float) -> float:
        """How many packets may be lost when nobody is there for so long."""
        return self.load.pps * silence_s


@contextmanager
def under_load(
    name: str, target: str, key_file: Path, load: Load, folder: Path, *,
    enter: Words = (), owner_at: str = "", **options: object,
) -> Iterator[Course]:  # fmt: skip
    """Within, the load is on; at the end the rest of it is awaited, and what the clients saw is said. Clients and their
    owner are where `enter` leads."""
    with Echo(0, listen=owner_at).by(*enter) as owner:
        tokens = write_tokens(folder / "tokens", mint_tokens(key_file, [owner.address], load.flows))
        settings: dict[str, object] = {"live": True, "live_every": 0.25, "size": 160, **options}
        generator = Generator(target, tokens, flows=load.flows, rate=load.pps, seconds=MOST_S, **settings)
        with generator.by(*enter):
            lines = generator.seconds()
            next(lines)  # all flows are there
            course = Course(name, load, owner, time.monotonic() - 0.25)
            yield course
            time.sleep(max(course.left_s, SETTLED_S))
            assert generator.process.poll() is None, "the load was over before the faults were"
            generator.end_load()
            for _ in lines:
                pass
        course.result = generator.result
        print(f"\n{course}")
        NOTES.append(str(course))
    assert owner.result["misrouted"] == owner.result["bad_headers"] == 0


def rounds(course: Course, every_s: float, takes_s: float = 0.0) -> Iterator[int]:
    """Numbers, one each `every_s`, as long as there is load enough left to see what became of the last, which may take
    `takes_s`."""
    number, due = 0, time.monotonic()
    while course.begun_s + course.load.seconds - due > SETTLED_S + takes_s:
        time.sleep(max(0.0, due - time.monotonic()))
        yield number
        number, due = number + 1, due + every_s


# ---- what is done to relays


def kill_everything(relay: Relay) -> float:
    """SIGKILL to all processes of a relay at once: the time at which it was. Workers may take a moment to be gone."""
    pids = [relay.pid, *(child.pid for child in psutil.Process(relay.pid).children(recursive=True))]
    killed_s = time.time()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    relay.gone()
    return killed_s


def started_s(relay: Relay, restarts: int = 0) -> float:
    """When the last of its workers was there."""
    return max(said_s(line) for line in said(relay, "child started", "worker", f"restarts={restarts}"))


def said(relay: Relay, *words: str) -> list[str]:
    return [line for line in relay.log().splitlines() if all(word in line for word in words)]


def said_s(line: str) -> float:
    """The time at which something was logged, as `time.time` has it."""
    return datetime.fromisoformat(line.split()[0].removesuffix("Z") + "+00:00").timestamp()
