"""Looking after threads that never come up for air: their hearts, how busy they are, and where they run.

A hot thread beats by storing the coarse clock in its slot, `HEARTBEATS_PER_S` ticks a second, in 32 bits. The launcher
reads it to find a thread that hangs, the admin process to say whether the program is ready. Inside the child a thread
cannot look at its own clock without leaving its loop, so another one measures it (`BusyMeter`), in a program without
an event loop the one made for that (`Cold`).
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable

from relay.runtime import cpus
from relay.runtime.log import event

log = logging.getLogger("ufrag.runtime.watch")

HEARTBEATS_PER_S = 16
FRESH_HEART_S = 3.0  # a hot thread beats at least four times a second
REPORT_S = 1.0
COLD_NICENESS = 10


def heart_age_s(heart: int, now: float) -> float:
    """Seconds since the beat. Ticks are 32 bits; an age is their difference, which may pass zero."""
    ticks = (int(now * HEARTBEATS_PER_S) - heart) & 0xFFFFFFFF
    return ticks / HEARTBEATS_PER_S if ticks < 0x80000000 else 0.0


def age_s(heart: int) -> float:
    """The same at this moment."""
    return heart_age_s(heart, time.monotonic())


def tick_in(seconds: float) -> int:
    """A heart's tick that is to come, as 32 bits; never 0."""
    return int((time.monotonic() + seconds) * HEARTBEATS_PER_S) & 0xFFFFFFFF or 1


def stale(hearts: Iterable[int]) -> list[int]:
    """The numbers of those that have not beaten lately."""
    now = time.monotonic()
    return [index for index, heart in enumerate(hearts) if heart_age_s(heart, now) > FRESH_HEART_S]


def pin(cpu: int | None, thread: int = 0, **fields: object) -> None:
    """As the plan says, which is None for not at all. A CPU that was taken away since the start, by a cpuset, is no
    reason to end: the thread runs elsewhere, and the log says so."""
    if cpu is None:
        return
    try:
        cpus.pin(cpu, thread)
    except OSError as error:
        event(log, logging.WARNING, "cannot pin", cpu=cpu, error=str(error), **fields)


class BusyMeter:
    """CPU time of one thread (`threading.get_ident()`) over time, since the last look."""

    def __init__(self, ident: int) -> None:
        self._clock = time.pthread_getcpuclockid(ident)
        self._wall, self._used = time.monotonic(), time.clock_gettime(self._clock)

    def ratio(self) -> float:
        now, used = time.monotonic(), time.clock_gettime(self._clock)
        busy = (used - self._used) / max(now - self._wall, 1e-9)
        self._wall, self._used = now, used
        return min(1.0, busy)


class Cold(threading.Thread):
    """The niced companion of the hot thread that starts it: `report(busy ratio)` once a second. It ends the process
    when the launcher is gone."""

    def __init__(self, alive_fd: int, report: Callable[[float], None]) -> None:
        super().__init__(name="cold", daemon=True)
        self._alive_fd = alive_fd
        self._report = report
        self._meter = BusyMeter(threading.get_ident())  # of the creating thread, the hot one

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), COLD_NICENESS)
        poll = select.poll()
        poll.register(self._alive_fd, select.POLLIN)
        while not poll.poll(REPORT_S * 1000):
            self._report(self._meter.ratio())
        os._exit(0)
