"""A relay that is gone altogether, and another in its place: how long its clients are without one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.faults import (
    FULL,
    FULL_RUNS,
    Course,
    Load,
    kill_everything,
    said,
    started_s,
    under_load,
)
from tests.support.relays import Relay

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

WORKERS = 2
CHECK_INTERVAL_S = 2.5
FULL_EACH = range(1, FULL_RUNS + 1)
SHORT = Load(200, 10_000, 4.5)  # there must be a check of each flow in it
BRIEF = Load(200, 10_000, 3.0)
LOADS = [pytest.param(SHORT, id="everyday"), pytest.param(FULL, id="full", marks=pytest.mark.full)]


def replaced(relay: Relay, course: Course, stack: ExitStack, *extra: str) -> Relay:
    """By one that begins when the other has ended."""
    killed_s = kill_everything(relay)
    successor = stack.enter_context(relay.again(*extra))
    course.silences_s.append(started_s(successor) - killed_s)
    return successor


@pytest.mark.parametrize(
    ("load", "workers"),
    [
        pytest.param(BRIEF, WORKERS, id="everyday"),
        *(pytest.param(FULL, n, id=f"{n}-full-{run}", marks=pytest.mark.full) for n in (2, 4, 1) for run in FULL_EACH),
    ],
)
def test_with_its_memory_flows_are_back_at_once(load: Load, workers: int, key_file: Path, tmp_path: Path) -> None:
    with Relay(key_file, workers=WORKERS) as relay, ExitStack() as stack:
        with under_load(
            f"all SIGKILLed, {WORKERS} to {workers} workers", relay.target, key_file, load, tmp_path
        ) as course:
            successor = replaced(relay, course, stack, "--workers", str(workers))
        course.assert_right()
        assert said(successor, "state adopted", f"flows={load.flows}")
        assert course.gap_ms <= 1e3 * course.silences_s[0] + 2 * load.every_ms + load.slack_ms


@pytest.mark.parametrize("load", LOADS)
def test_without_memory_and_redis_flows_are_back_with_their_next_check(
    load: Load, key_file: Path, tmp_path: Path
) -> None:
    with Relay(key_file, workers=WORKERS) as relay, ExitStack() as stack:
        with under_load("replaced, no Redis", relay.target, key_file, load, tmp_path) as course:
            replaced(relay, course, stack, "--state-dir", "none")
        course.assert_right()
        assert course.gap_ms <= 1e3 * (course.silences_s[0] + CHECK_INTERVAL_S) + 2 * load.every_ms + load.slack_ms
