"""A second relay takes over the address of a first one, which goes on: what it does not know comes from Redis at once,
or else with the next check of each flow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.faults import EVERYDAY, FULL, Load
from tests.support.hub import Hub

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

CHECK_INTERVAL_S = 2.5
LONGER = Load(EVERYDAY.flows, EVERYDAY.pps, 4.0)  # there must be a check of each flow in it
BACK_MS = 100


@pytest.mark.parametrize(
    "load", [pytest.param(LONGER, id="everyday"), pytest.param(FULL, id="full", marks=pytest.mark.full)]
)
def test_without_redis(load: Load, hub: Hub, key_file: Path, tmp_path: Path) -> None:
    with hub.relay(hub.one, key_file), hub.relay(hub.other, key_file) as other:
        with hub.under_load("another relay, no Redis", key_file, load, tmp_path) as course:
            hub.give_address_to(hub.other)
        course.assert_right()
        assert course.gap_ms <= 1e3 * CHECK_INTERVAL_S + load.every_ms + BACK_MS
        assert other.total("ufrag_relay_flows", state="established") == load.flows
