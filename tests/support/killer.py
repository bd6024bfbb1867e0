"""Workers killed on purpose at named points (`benchmarks/native/killer.c`), and what each death was like."""

from __future__ import annotations

import platform
import re
import statistics
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from _fastpath import flows
from benchmarks.native_build import build
from benchmarks.support import Echo, Generator, Process, ProcessFailed, Result, options_of
from tests.support.relays import Relay, until

WORKERS = 2
SETTLED_S = 0.25  # from a kill to the next one, at the least


# Of _fastpath.flows. What is left of their instructions when a thread has come to their first.
TABLE_WRITERS = ("flow_open", "flow_free")


class Point(NamedTuple):
    """`draw` says for each kill how many occasions to pass over, and how far to go on from there.

    A worker that lives less than a second counts as one that crashes, and is forked again later: two take turns, each
    `every_s`. Single steps hold a worker for up to 0.4 s before the kill. A new flow takes some 2,500 of them.
    """

    draw: Callable[[Random], dict[str, object]]
    every_s: float = 0.65


POINTS = {
    "received": Point(lambda dice: {"skip": dice.randrange(30)}),
    "half-sent": Point(lambda dice: {"skip": dice.randrange(10)}),
    "sent": Point(lambda dice: {"skip": dice.randrange(30)}),
    "instruction": Point(lambda dice: {"skip": dice.randrange(5), "steps": dice.randrange(3000), "checks": True}, 0.9),
    "table": Point(lambda dice: {"function": dice.choice(TABLE_WRITERS), "steps": dice.randrange(600)}, 0.9),
    "anywhere": Point(lambda dice: {"after_us": dice.randrange(20_000)}),
    "twice": Point(lambda dice: {"at": dice.choice(["received", "sent"]), "skip": dice.randrange(30), "twice": True}),
}


def kill(pid: int, **options: object) -> Result:
    """What the killer says of it: packets taken, of these sent, instructions done, how long it was held before."""
    with Process([str(build("killer")), *options_of(pid=pid, **options)]) as killer:
        return killer.wait(20)


def skip_unless_possible() -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip(f"the killer does not know the registers of {platform.machine()}")
    try:
        with Echo() as other:
            kill(other.pid, at="none")
    except ProcessFailed as failure:
        pytest.skip(str(failure))


def kill_workers(relay: Relay, generator: Generator, at: str, kills: int) -> list[Result]:
    """One with each line of the running generator, in turn; returns when the generator has ended.

    `without_ms` is how long service was missing: the longest that any packet was under way until the next kill, less
    the time that the worker was held at the point before it was killed. An upper bound: tracing also slows the worker
    on its way to the point, by the more the less of a CPU there is for the tracer.
    """
    point, dice = POINTS[at], Random(at)
    deaths: list[Result] = []
    for number, line in enumerate(generator.seconds()):
        since_s = (line["clock_ns"] - deaths[-1]["killed_ns"]) / 1e9 if deaths else point.every_s
        if since_s < 0:
            continue  # said while the worker was being brought to the point
        if deaths:
            deaths[-1]["without_ms"] = max(deaths[-1]["without_ms"], line["slowest_ms"] - deaths[-1]["held_ms"])
        if number and since_s > SETTLED_S and len(deaths) < kills:
            deaths.append(
                {"without_ms": 0.0, **kill_worker(relay, len(deaths) % WORKERS, {"at": at, **point.draw(dice)})}
            )
    return deaths


def kill_worker(relay: Relay, index: int, options: dict[str, object]) -> Result:
    name = f"relay-worker-{index}"
    until(lambda: name in relay.children())
    pid = relay.children()[name]
    if "function" in options:
        options["at"] = "function"
        options["address"] = address_of(str(options.pop("function")), pid)
    return kill(pid, **options)


@cache
def offset_of(function: str) -> int:
    """Of a compiled function, in the file that its module was loaded from."""
    listed = subprocess.run(["nm", flows.__file__], capture_output=True, text=True, check=True).stdout
    (line,) = (each for each in listed.splitlines() if re.fullmatch(rf"\w+ t __pyx_f_\w*_{function}", each))
    return int(line.split()[0], 16)


def address_of(function: str, pid: int) -> int:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    first = next(line for line in maps if line.endswith(flows.__file__))
    return int(first.partition("-")[0], 16) + offset_of(function)


def load_times(at: str, kills: int) -> dict[str, Any]:
    """Options of the generator: a line for each kill, one before the first, one after the last, and some to spare for
    those that pass while a worker is held."""
    every_s = POINTS[at].every_s
    return {"live": True, "live_every": every_s, "seconds": round((1.1 * kills + 3.5) * every_s, 3)}


def summary(at: str, deaths: list[Result], duplicates: int, resumed: float) -> str:
    without = sorted(float(death["without_ms"]) for death in deaths)
    taken = statistics.mean(death["taken"] for death in deaths)
    steps = sorted(death["stepped"] for death in deaths)
    ways = ", ".join(sorted({death["priority"] for death in deaths}))
    return (
        f"{at}: {len(deaths)} kills, {resumed:.0f} batches resumed, duplicates {duplicates} "
        f"(sent before the kill {sum(death['sent'] for death in deaths)}), {taken:.1f} packets in a batch, "
        f"instructions {steps[0]}..{steps[-1]}, priority {ways}; "
        f"without service p50 {statistics.median(without):.1f} ms, p90 {without[len(without) * 9 // 10]:.1f} ms, "
        f"max {without[-1]:.1f} ms"
    )
