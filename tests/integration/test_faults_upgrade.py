"""Live upgrade while a thousand clients talk: nothing is lost, whether it succeeds or fails."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.faults import EVERYDAY, FULL, Load, under_load
from tests.support.relays import Relay

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

WORKERS = 2
UPGRADE_MOST_S = 3.5  # it takes one and a half with a processor to itself
UPGRADES = [
    pytest.param(dataclasses.replace(EVERYDAY, seconds=UPGRADE_MOST_S), 1, id="everyday"),
    *(
        pytest.param(dataclasses.replace(FULL, seconds=n * UPGRADE_MOST_S), n, id=f"full-{n}", marks=pytest.mark.full)
        for n in (5, 6, 20)
    ),
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
