"""What is done to a relay's workers while a thousand clients talk loses nothing: kills, new keys."""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path

import pytest

from tests.support.faults import LOADS, Load, rounds, under_load
from tests.support.relays import Relay, until

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

WORKERS = 2
KILL_EVERY_S = 0.75  # each worker in its turn: one that lives less than a second would be started later
RELOAD_EVERY_S = 2.0  # workers look at their key file each second
RELOAD_MOST_S = 1.1


@pytest.mark.parametrize("load", LOADS)
def test_workers_are_killed(load: Load, key_file: Path, tmp_path: Path) -> None:
    with Relay(key_file, workers=WORKERS) as relay:
        with under_load("worker SIGKILL", relay.target, key_file, load, tmp_path) as course:
            kills = [relay.kill_worker(number % WORKERS) for number in rounds(course, KILL_EVERY_S)]
        course.assert_nothing_lost()
        assert relay.total("ufrag_relay_worker_restarts_total") == len(kills) >= WORKERS


@pytest.mark.parametrize("load", LOADS)
def test_keys_are_replaced(load: Load, key_file: Path, tmp_path: Path) -> None:
    """The key that the flows' tokens were made with goes, too."""
    with Relay(key_file, workers=WORKERS) as relay:
        with under_load("key reload", relay.target, key_file, load, tmp_path) as course:
            for number in rounds(course, RELOAD_EVERY_S, RELOAD_MOST_S):
                new = str(1 + number % 6)
                key_file.write_text(f"{new}:{secrets.token_hex(32)}\n")
                os.kill(relay.pid, signal.SIGHUP)
                until(lambda new=new: relay.total("ufrag_relay_route_key_present", key_id=new) == WORKERS)  # type: ignore[misc]
        course.assert_nothing_lost()
        assert relay.total("ufrag_relay_worker_restarts_total") == 0
        assert relay.total("ufrag_relay_route_key_present", key_id="0") == 0
