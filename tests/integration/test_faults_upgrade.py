"""Live upgrade while a thousand clients talk: nothing is lost, whether it succeeds or fails."""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.accounts import holdings
from tests.support.faults import EVERYDAY, FULL, FULL_RUNS, LOADS, Load, said, under_load
from tests.support.heir import command, heir
from tests.support.relays import Relay, until

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

WORKERS = 2
UPGRADES = [
    pytest.param(EVERYDAY, 1, id="everyday"),
    *(pytest.param(FULL, 20, id=f"full-{run}", marks=pytest.mark.full) for run in range(1, FULL_RUNS + 1)),
]


@pytest.mark.parametrize(("load", "upgrades"), UPGRADES)
def test_upgrades_in_a_row(load: Load, upgrades: int, key_file: Path, tmp_path: Path) -> None:
    with Relay(key_file, workers=WORKERS) as relay:
        with under_load(f"{upgrades} upgrades", relay.target, key_file, load, tmp_path) as course:
            pids = {relay.pid}
            for _ in range(upgrades):
                relay.upgrade()
                pids.add(relay.pid)
        course.assert_nothing_lost()
        assert len(pids) == upgrades + 1
        assert relay.total("ufrag_relay_worker_restarts_total") == 0
        assert relay.total("ufrag_relay_flows", state="established") == load.flows


def test_upgrades_leave_no_descriptors(key_file: Path) -> None:
    """What a launcher was given goes to the next one over the socket alone, not by inheritance as well."""
    with Relay(key_file, workers=WORKERS) as relay:
        held = [relay.upgrade() and holdings(relay) for _ in range(2)]
        assert held[0] == held[1]


@pytest.mark.parametrize("load", LOADS)
def test_another_number_of_workers(load: Load, key_file: Path, tmp_path: Path) -> None:
    """2, 4, then 1; those that retire end when their flows have gone elsewhere."""
    flow_timeout_s = 3
    with Relay(key_file, workers=2, extra=("--flow-timeout", str(flow_timeout_s))) as first, ExitStack() as stack:
        with under_load("2, 4, 1 workers", first.target, key_file, load, tmp_path) as course:
            relay = first
            for count in (4, 1):
                successor = stack.enter_context(relay.again("--takeover", "--workers", str(count)))
                relay.followed()
                relay = successor
                until_said(relay, "workers added" if count == 4 else "workers retire")
            assert names(relay) == {"relay-admin", *(f"relay-worker-{index}" for index in range(4))}
            until_said(relay, "workers retired")
        course.assert_nothing_lost()
        assert names(relay) == {"relay-admin", "relay-worker-0"}
        assert relay.status("/readyz") == 200
        assert {path.name for path in Path(relay.state_dir).glob("slot-*")} == {"slot-0"}
        assert relay.total("ufrag_relay_flows", state="established") == load.flows


def until_said(relay: Relay, *words: str) -> None:
    until(lambda: bool(said(relay, *words)), 20)


def names(relay: Relay) -> set[str]:
    return set(relay.children())


# ---- when it fails


DEATHS = [("warming", "die"), ("turns", "die"), ("proving", "die")]
HANGS = [("warming", "freeze"), ("turns", "freeze"), ("turns", "freeze-all"), ("proving", "freeze-all")]


def fail_upgrade(relay: Relay, step: str, what: str) -> None:
    before = len(said(relay, "nothing of it is left"))
    with heir(relay, step, what) as process:
        until(lambda: len(said(relay, "nothing of it is left")) > before, 30)
        assert process.wait(5) == -signal.SIGKILL
    until(lambda: names(relay) == {"relay-admin", *(f"relay-worker-{index}" for index in range(WORKERS))})


@pytest.mark.parametrize("load", LOADS)
def test_a_new_relay_that_dies_at_any_step_changes_nothing(load: Load, key_file: Path, tmp_path: Path) -> None:
    with Relay(key_file, workers=WORKERS) as relay:
        with under_load("upgrades that die", relay.target, key_file, load, tmp_path) as course:
            for step, what in DEATHS:
                fail_upgrade(relay, step, what)
        course.assert_nothing_lost()
        assert relay.upgrade()


@pytest.mark.parametrize("load", [pytest.param(EVERYDAY, marks=pytest.mark.full, id="full")])
def test_a_new_relay_that_hangs_at_any_step_is_ended(load: Load, key_file: Path, tmp_path: Path) -> None:
    """Packets wait in the sockets until it is found out."""
    with Relay(key_file, workers=WORKERS) as relay:
        with under_load("upgrades that hang", relay.target, key_file, load, tmp_path) as course:
            for step, what in HANGS:
                fail_upgrade(relay, step, what)
        course.assert_nothing_lost()
        assert relay.upgrade()


@pytest.mark.parametrize("load", LOADS)
def test_a_new_program_that_cannot_start_changes_nothing(load: Load, key_file: Path, tmp_path: Path) -> None:
    with Relay(key_file, workers=WORKERS) as relay:
        with under_load("upgrade that cannot start", relay.target, key_file, load, tmp_path) as course:
            hidden = key_file.rename(key_file.with_suffix(".hidden"))
            with pytest.raises(subprocess.CalledProcessError) as failure:
                relay.upgrade()
            hidden.rename(key_file)
        course.assert_nothing_lost()
        assert failure.value.returncode == 1
        assert "exit status 78" in failure.value.stderr
        assert said(relay, "hand-over failed, this relay goes on")
        assert relay.upgrade()


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("step", ["warming", "turns", "proving"])
def test_an_old_relay_that_dies_in_between_is_followed_all_the_same(
    load: Load, step: str, key_file: Path, tmp_path: Path
) -> None:
    """The new one has the sockets, and waits until none of the old one's processes is left."""
    with Relay(key_file, workers=WORKERS) as relay, ExitStack() as stack:
        with under_load(f"old one dies, {step}", relay.target, key_file, load, tmp_path) as course:
            successor = relay.again("--takeover")
            successor.command = command(successor, step, "bereave")
            stack.enter_context(successor)
            relay.gone()
            until_said(successor, "child started", "admin")
        course.assert_nothing_lost()
        assert relay.process.returncode == -signal.SIGKILL
        assert said(successor, "the old relay is lost")
