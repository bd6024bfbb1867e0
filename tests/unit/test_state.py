"""The state that outlives a relay: where it is, and what the next launcher takes on. What it refuses is in
test_state_refused.py."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from _fastpath.slot import slot_bytes
from relay.runtime.config import parse_address
from relay.runtime.errors import StateBusy
from relay.state import State, place
from tests.support import machines
from tests.support.harness import Relay, Settings
from tests.support.packets import RTP
from tests.support.states import MAX_FLOWS, PORTS, Life, lived, record, settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


# ---- where


def test_each_relay_has_a_place_of_its_own() -> None:
    """Two relays that could run beside each other never share one; the order of the options does not matter."""
    one, other = (parse_address(text) for text in ("127.0.0.1:3478", "[::1]:3478"))
    places = {place(machines.settings(state_dir="auto", listen=listen)) for listen in ([one], [other], [one, other])}
    assert len(places) == 3
    for each in places:
        assert each is not None
        assert each.parent == Path("/dev/shm")
        assert f"-{os.geteuid()}-" in each.name
    both = [place(machines.settings(state_dir="auto", listen=listen)) for listen in ([one, other], [other, one])]
    assert both[0] == both[1]


def test_none_is_nowhere(tmp_path: Path) -> None:
    assert place(machines.settings(state_dir="none")) is None
    state = State.take(machines.settings(state_dir="none", max_flows=MAX_FLOWS))
    kept = state.allocate()
    state.save(PORTS[:2])
    assert [(each.file, os.fstat(each.memory.fd).st_size) for each in kept] == [("", slot_bytes(MAX_FLOWS))] * 2
    state.leave()


# ---- a first life


def test_a_first_life_leaves_a_record_of_all_there_is(path: Path) -> None:
    life = Life(path)
    assert life.adopted == life.orphans == []
    assert sorted(file.name for file in path.iterdir()) == ["lock", "slot-0", "slot-1", "state.json"]
    assert {(path / name).stat().st_size for name in life.files} == {slot_bytes(MAX_FLOWS)}
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}
    saved = record(path)
    assert (saved["slots"], saved["orphans"], saved["internal"]) == (["slot-0", "slot-1"], [], PORTS[:2])
    assert saved["launcher"] == os.getpid()


def test_all_of_the_memory_is_there(path: Path) -> None:
    """A page that is missing would be asked for in the middle of a call, and end it if there is none."""
    Life(path).end()
    for name in ("slot-0", "slot-1"):
        assert (path / name).stat().st_blocks * 512 >= slot_bytes(MAX_FLOWS)


def test_one_launcher_at_a_time(path: Path) -> None:
    life = Life(path)
    with pytest.raises(StateBusy):
        Life(path)
    life.end()


# ---- the next one


def test_the_next_one_has_everything(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Life(path).live()
    flows, secret, epochs = first.flows(), first.slots[0].secret, [slot.epoch for slot in first.slots]
    for slot in first.slots:
        slot.draining, slot.stopping, slot.pid = 2, True, 4711
    first.end()
    with caplog.at_level(logging.INFO):
        second = Life(path)
    assert second.adopted == ["slot-0", "slot-1"]
    assert second.flows() == flows
    assert all(len(each) == 3 for each in flows)
    assert {slot.secret for slot in second.slots} == {secret}
    assert [slot.epoch for slot in second.slots] == epochs
    assert not any((slot.draining, slot.stopping, slot.pid) != (0, False, 0) for slot in second.slots)
    assert "state adopted" in caplog.text
    said = next(each for each in caplog.records if each.message == "state adopted")
    assert said.__dict__["fields"] | {"age_s": 0} == {
        "flows": 6, "slots": 2, "orphans": 0, "age_s": 0, "version": record(path)["version"],
    }  # fmt: skip


def test_internal_ports_are_remembered(path: Path) -> None:
    lived(path)
    second = State.take(settings(path))
    assert second.ports == PORTS[:2]


def test_sockets_keep_the_order_that_flows_name_them_by(path: Path) -> None:
    one, other = parse_address("127.0.0.1:3478"), parse_address("127.0.0.2:3478")
    lived(path, listen=[one, other])
    second = State.take(settings(path, listen=[other, one]))
    assert list(second.listen) == [one, other]


def test_nothing_is_written_before_the_start_is_certain(path: Path) -> None:
    first = Life(path).live()
    for slot in first.slots:
        slot.draining = 1
    first.end()
    before = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}
    second = Life(path, saves=False, workers=1)
    assert second.state.directory is not None
    second.state.abandon()
    second.end()
    assert {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"} == before
    assert Life(path).adopted == ["slot-0", "slot-1"]


@pytest.mark.parametrize("adopts", [False, True])
def test_a_start_killed_before_it_had_written_its_record(
    path: Path, adopts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are nobody's: with an older record that one counts, without one all is refused."""
    if adopts:
        lived(path)
    Life(path, saves=False, workers=3).end()
    assert (path / "slot-2").exists()
    third = Life(path).live()
    assert third.adopted == (["slot-0", "slot-1"] if adopts else [])
    assert ("state refused" in caplog.text) is not adopts
    assert not (path / "slot-2").exists()
    third.end()


# ---- other numbers of workers, other sizes


def test_fewer_workers_leave_orphans(path: Path) -> None:
    lived(path, workers=3)
    second = Life(path, workers=1)
    assert (second.adopted, second.orphans) == (["slot-0"], ["slot-1", "slot-2"])
    assert (record(path)["slots"], record(path)["orphans"]) == (["slot-0"], ["slot-1", "slot-2"])
    worker = Relay(Settings(max_flows=MAX_FLOWS, orphans=[kept.slot for kept in second.state.orphans]), second.slots[0])
    assert worker.up(RTP, ("10.0.2.1", 5000))[0] == "adopted"
    assert worker.up(RTP, ("10.0.0.1", 5000))[0] == "media"
    assert worker.up(RTP, ("10.0.3.1", 5000))[0] == "no_flow"


def test_more_workers_find_those_that_were_there(path: Path) -> None:
    lived(path, workers=1)
    second = Life(path, workers=3)
    assert (second.adopted, second.files, second.orphans) == (["slot-0"], ["slot-0", "slot-1", "slot-2"], [])
    assert len({slot.secret for slot in second.slots}) == 1
    worker = Relay(Settings(max_flows=MAX_FLOWS, siblings=[second.slots[0]]), second.slots[2])
    assert worker.up(RTP, ("10.0.0.1", 5000))[0] == "adopted"


@pytest.mark.parametrize("changed", [{"max_flows": 100}, {"internal": parse_address("[::]:0")}])
def test_tables_of_another_shape_are_orphans(path: Path, changed: dict[str, Any]) -> None:
    """New ones are made beside them, under other names."""
    lived(path)
    second = Life(path, **changed).live()
    assert (second.adopted, second.orphans) == ([], ["slot-0", "slot-1"])
    assert not set(second.files) & set(second.orphans)
    second.end()
    third = Life(path, **changed)
    assert (third.adopted, third.orphans) == (second.files, ["slot-0", "slot-1"])


def test_orphans_are_gone_when_they_are_forgotten(path: Path) -> None:
    lived(path, workers=2)
    second = Life(path, workers=1).live()
    second.state.forget_orphans()
    assert (record(path)["orphans"], (path / "slot-1").exists()) == ([], False)
    second.end()
    assert Life(path, workers=2).adopted == ["slot-0"]


def test_an_orphan_does_not_come_back(path: Path) -> None:
    """What it holds was taken out of it and may be different by now: a worker in its place gets a table of its own."""
    lived(path, workers=2)
    Life(path, workers=1).live().end()
    third = Life(path, workers=2)
    assert (third.adopted, third.files, third.orphans) == (["slot-0"], ["slot-0", "slot-1.1"], ["slot-1"])
    assert third.flows()[1] == []


def test_orphans_whose_writer_died_while_it_rebuilt_its_indexes_are_whole(path: Path) -> None:
    """No worker will do for them what it does for its own table."""
    first = Life(path).live()
    orphan = first.slots[1]
    words = 2 * 4 * 128
    flows_end = 8192 + 64 + 96 * MAX_FLOWS
    first.state.slots[1].memory.map[flows_end : flows_end + words] = bytes(words)
    assert orphan.flows_used == 3
    first.end()
    second = Life(path, workers=1)
    worker = Relay(Settings(max_flows=MAX_FLOWS, orphans=[kept.slot for kept in second.state.orphans]), second.slots[0])
    assert worker.up(RTP, ("10.0.1.1", 5000))[0] == "adopted"


# ---- the end


def test_with_no_flow_left_nothing_is_left(path: Path) -> None:
    life = Life(path)
    life.state.leave()
    assert list(path.iterdir()) == []  # the directory is the operator's


def test_flows_that_are_left_are_there_for_the_next_one(path: Path) -> None:
    life = Life(path).live()
    life.state.leave()
    life.end()
    assert Life(path).adopted == ["slot-0", "slot-1"]


def test_memory_that_crashed_the_relay_is_not_kept(path: Path) -> None:
    Life(path).live().state.leave(whole=False)
    assert list(path.iterdir()) == []


def test_a_start_that_fails_leaves_nothing_where_there_was_nothing(path: Path) -> None:
    Life(path, saves=False).state.abandon()
    assert list(path.iterdir()) == []
