"""Hearts that pass zero, threads that are measured and pinned, and the companion of a hot thread."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import pytest

from _fastpath.slot import TICKS_PER_SECOND
from relay.runtime import watch


def test_hearts_beat_in_the_slots_ticks() -> None:
    assert watch.HEARTBEATS_PER_S == TICKS_PER_SECOND


@pytest.mark.parametrize(
    ("heart", "now", "age"),
    [(160, 10.0, 0.0), (160, 12.5, 2.5), (0xFFFFFFF8, 2**28 + 0.5, 1.0), (176, 10.0, 0.0)],
)
def test_ages(heart: int, now: float, age: float) -> None:
    """A beat of the future is fresh: the reader's clock was read a moment before."""
    assert watch.heart_age_s(heart, now) == age


def test_stale_ones_are_named_by_number() -> None:
    tick = int(time.monotonic() * watch.HEARTBEATS_PER_S)
    late = tick - int(watch.FRESH_HEART_S * watch.HEARTBEATS_PER_S) - 2
    assert watch.stale(each & 0xFFFFFFFF for each in (tick, late, tick + 1, late)) == [1, 3]


def test_a_busy_thread_is_busier_than_one_that_waits() -> None:
    end = threading.Event()
    waiting = threading.Thread(target=end.wait)
    waiting.start()
    assert waiting.ident is not None
    idle, busy = watch.BusyMeter(waiting.ident), watch.BusyMeter(threading.get_ident())
    sum(range(1_000_000))
    assert 0.0 <= idle.ratio() < busy.ratio() <= 1.0
    end.set()
    waiting.join()


@pytest.mark.native
def test_a_pin_that_fails_is_said_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    before = os.sched_getaffinity(0)
    watch.pin(None, worker=0)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        watch.pin(1023, worker=3)
    assert os.sched_getaffinity(0) == before
    assert caplog.records[0].__dict__["fields"]["worker"] == 3


COLD = """
import os, sys, threading
from relay.runtime import watch
report, alive = int(sys.argv[1]), int(sys.argv[2])
watch.REPORT_S = 0.01
watch.Cold(alive, lambda ratio: print(os.write(report, b"r" if 0.0 <= ratio <= 1.0 else b"?"))).start()
threading.Event().wait(10)
sys.exit(1)
"""


@pytest.mark.native
def test_the_cold_thread_reports_and_ends_the_process_with_the_launcher() -> None:
    """In a process of its own, as it ends the one it is in."""
    report_read, report_write = os.pipe()
    alive_read, alive_write = os.pipe()
    command = [sys.executable, "-c", COLD, str(report_write), str(alive_read)]
    with subprocess.Popen(command, pass_fds=(report_write, alive_read), stdout=subprocess.DEVNULL) as process:
        assert os.read(report_read, 1) == b"r"
        os.close(alive_write)
        assert process.wait(10) == 0
    for descriptor in (report_read, report_write, alive_read):
        os.close(descriptor)
