"""The transceiver's slots and what its launcher and admin port do with them: real sockets and memory, no media
process."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from relay.runtime.config import Hidden, parse_address
from relay.runtime.errors import ConfigError, PortBusy
from relay.runtime.sockets import listen
from tests.support.configured import configured, key_file
from transceiver import slots as slots_module
from transceiver.program import Drain, TransceiverProgram, pages
from transceiver.settings import Settings
from transceiver.slots import ProcessSlot, open_slots

pytestmark = pytest.mark.native  # real sockets, and what the kernel says of them

TOKEN = "A+" * 16


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[ProcessSlot]]:
    slots = open_slots(configured(tmp_path))
    yield slots
    for own in slots:
        own.close()


def free_port() -> int:
    """Of a pair and the one after it, both for UDP and TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def rung(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


# ---- slots


def test_each_slot_has_its_own_internal_address(opened: list[ProcessSlot]) -> None:
    assert [own.index for own in opened] == [0, 1]
    assert opened[0].address != opened[1].address
    for own in opened:
        assert own.address.host == "127.0.0.1"
        assert own.owner.getsockname() == own.internal.getsockname() == own.address.sockaddr
        assert own.internal.type == socket.SOCK_DGRAM
        assert own.slot.max_sessions == 8
        with socket.create_connection(own.address.sockaddr):
            own.owner.accept()[0].close()


def test_connections_to_http_are_dealt_out(opened: list[ProcessSlot]) -> None:
    first, second = (own.http for own in opened)
    assert first.getsockname() == second.getsockname()
    with ExitStack() as stack:
        waiting: set[int] = set()
        while len(waiting) < 2:  # which one a connection goes to is a hash of its port
            stack.enter_context(socket.create_connection(first.getsockname()))
            waiting |= {each.fileno() for each in select.select([first, second], [], [], 0)[0]}


def test_worker_i_takes_port_plus_i(tmp_path: Path) -> None:
    port = free_port()
    slots = open_slots(configured(tmp_path, internal=parse_address(f"127.0.0.1:{port}")))
    assert [own.address.port for own in slots] == [port, port + 1]
    for own in slots:
        own.close()


def test_a_taken_tcp_port_is_named_or_gone_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(parse_address("127.0.0.1:0"), "--admin") as taken:
        internal = parse_address(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(PortBusy, match="--internal"):
            open_slots(configured(tmp_path, workers=1, internal=internal))
    tried: list[str] = []

    def reluctant(address: Any, option: str, **more: Any) -> socket.socket:
        tried.append(option)
        if tried.count("--internal") <= 2 and option == "--internal":
            raise PortBusy("the port is taken", where=option)
        return listen(address, option, **more)

    monkeypatch.setattr(slots_module, "listen", reluctant)
    (own,) = open_slots(configured(tmp_path, workers=1))
    assert tried.count("--internal") == 3
    assert own.owner.getsockname() == own.internal.getsockname()
    own.close()


def test_two_transceivers_do_not_share_http(tmp_path: Path, opened: list[ProcessSlot]) -> None:
    """SO_REUSEPORT would let the second one in."""
    http = parse_address(f"127.0.0.1:{opened[0].http.getsockname()[1]}")
    with pytest.raises(PortBusy, match=f"--http {http}"):
        open_slots(configured(tmp_path, http=http))


def test_the_bells_are_two(opened: list[ProcessSlot]) -> None:
    own = opened[0]
    own.wake_thread()
    assert (rung(own.wake), rung(own.ring)) == (True, False)
    own.ring_loop()
    own.ring_loop()
    assert os.eventfd_read(own.ring) == 2
    own.close_sockets()
    own.ring_loop()
    assert rung(own.ring)


# ---- the program


class Idle:
    """A child that is never forked."""

    essential = True

    def __init__(self, index: int, settings: Settings, slots: Sequence[ProcessSlot]) -> None:
        self.name = f"media {index}"
        self.own = slots[index]

    def prepare(self) -> None: ...

    def started(self, pid: int, restarts: int) -> None: ...

    def heart_age_s(self, now: float) -> float | None: ...

    def main(self, alive_fd: int) -> int:
        return 0


Start = Any


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def _start(**changed: Any) -> TransceiverProgram:
            program = TransceiverProgram(configured(tmp_path, **changed), Idle)
            stack.callback(program.children[-1]._sock.close)  # type: ignore[attr-defined]
            stack.callback(program._offer.close)
            for own in program.slots:
                stack.callback(own.close)
            return program

        yield _start


def test_children_are_a_media_process_a_worker_and_admin(start: Start) -> None:
    program = start(workers=3)
    assert [child.name for child in program.children] == ["media 0", "media 1", "media 2", "admin"]
    assert [child.essential for child in program.children] == [True, True, True, False]


def test_drain_and_stop_are_words_and_bells(start: Start) -> None:
    program = start()
    serial = program.slots[1].slot.begin(5, "x", 1.0)
    assert serial
    program.drain()
    assert all(own.slot.draining and rung(own.ring) for own in program.slots)
    assert not any(own.slot.stopping or rung(own.wake) for own in program.slots)
    assert not program.drained()
    program.slots[1].slot.end(5)
    assert program.drained()
    program.stop()
    assert all(own.slot.stopping and rung(own.wake) for own in program.slots)


def test_a_drain_by_command_has_a_time_and_can_be_taken_back(
    opened: list[ProcessSlot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.runtime.watch.time.monotonic", lambda: 1000.0)
    drain = Drain(opened, 20.0)
    act = pages(opened, drain).actions["/drain/*"]
    assert act("default")[0] == 200
    assert {(own.slot.draining, own.slot.drain_until, rung(own.ring)) for own in opened} == {(1, 1020 * 16, True)}
    assert act("1.500")[0] == 200
    assert {own.slot.drain_until for own in opened} == {1001.5 * 16}
    for word in ("", "x", "-1", "1e3", "inf", "\u0663"):
        assert act(word)[0] == 404
    assert act("off")[0] == 200
    assert {(own.slot.draining, own.slot.drain_until) for own in opened} == {(0, 0)}
    drain.ending.begin()
    assert act("off")[0] == act("default")[0] == 409


def test_who_shares_http_is_drained_when_no_connection_may_bring_a_call(start: Start) -> None:
    program = start()
    for own in program.slots:
        own.slot.shared = True
    program.drain()
    assert not program.drained()
    for own in program.slots:
        assert own.slot.lingering
        own.slot.lingering = False
    assert program.drained()


def test_reload_asks_each_process_to_read_the_keys(start: Start) -> None:
    program = start()
    program.reload()
    program.reload()
    assert [own.slot.reloads for own in program.slots] == [2, 2]


def test_reload_says_what_is_wrong_and_asks_all_the_same(start: Start, tmp_path: Path) -> None:
    """A bad key file does not hold back a renewed certificate; each process keeps the keys it has."""
    program = start()
    Path(key_file(tmp_path)).write_text("nonsense")
    with pytest.raises(ConfigError, match="no route key"):
        program.reload()
    assert [own.slot.reloads for own in program.slots] == [1, 1]


WILDCARD = parse_address("0.0.0.0:0")
KEY = Hidden("0123456789abcdef")


@pytest.mark.parametrize(
    ("changed", "says", "level"),
    [
        ({}, "cannot be handed between hosts", "INFO"),
        ({"http": WILDCARD, "no_auth": True}, "whoever reaches --http may call", "WARNING"),
        ({"http": WILDCARD, "auth_key": KEY}, "come in clear text", "WARNING"),
    ],
)
def test_what_an_operator_may_not_have_meant(
    start: Start, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], says: str, level: str
) -> None:
    with caplog.at_level(logging.INFO):
        start(**changed)
    assert [record.levelname for record in caplog.records if says in record.message] == [level]
    assert KEY.text not in str([record.__dict__ for record in caplog.records])


def test_what_listens_is_said_with_its_port(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        program = start(admin=parse_address("127.0.0.1:0"))
    (fields,) = (record.__dict__["fields"] for record in caplog.records if record.message == "listening")
    assert fields["http"] == f"http://127.0.0.1:{program.slots[0].http.getsockname()[1]}"
    assert fields["internal"] == [str(own.address) for own in program.slots]
    assert fields["advertise"] == ["127.0.0.1:3478"]


# ---- the admin port


def test_sessions_as_tools_get_them(opened: list[ProcessSlot]) -> None:
    serial = opened[1].slot.begin(3, TOKEN, 12.5)
    opened[1].slot.describe(3, "live", codec="opus")
    opened[0].slot.begin(0, TOKEN, 1.0)
    status, kind, body = pages(opened).local["/sessions"]()
    assert (status, kind) == (200, "application/json")
    _, found = json.loads(body)
    assert {name: found[name] for name in ("id", "worker", "token", "state", "codec", "opened_unix_s")} == {
        "id": f"1-3-{serial}", "worker": 1, "token": TOKEN, "state": "live", "codec": "opus", "opened_unix_s": 12.5,
    }  # fmt: skip


def test_a_hangup_is_a_word_in_the_slot_and_a_ring(opened: list[ProcessSlot]) -> None:
    serial = opened[1].slot.begin(3, "x", 1.0)
    hangup = pages(opened).actions["/sessions/*/hangup"]
    assert hangup(f"1-3-{serial}")[0] == 202
    assert list(opened[1].slot.hangups()) == [(3, serial)]
    assert rung(opened[1].ring)
    assert not rung(opened[0].ring)


@pytest.mark.parametrize(
    "session", ["", "1", "1-3", "1-3-", "1-3-2", "1-8-1", "1-99999-1", "2-3-1", "999-3-1", "-1-3-1", "1-3-x", "٣-3-1"]
)
def test_a_hangup_of_nothing_is_404(opened: list[ProcessSlot], session: str) -> None:
    assert opened[1].slot.begin(3, "x", 1.0) == 1
    assert pages(opened).actions["/sessions/*/hangup"](session)[0] == 404
    assert not rung(opened[1].ring)


def test_ready_means_beating_and_not_draining(opened: list[ProcessSlot], monkeypatch: pytest.MonkeyPatch) -> None:
    ready = pages(opened).public["/readyz"]
    for own in opened:
        own.slot.heart = own.slot.loop_heart = 1000 * 16
    monkeypatch.setattr("relay.runtime.watch.time.monotonic", lambda: 1000.0)
    assert ready()[0] == 200
    opened[1].slot.heart = 990 * 16
    assert json.loads(ready()[2]) == {"ready": False, "draining": False, "stale_workers": [1]}
    opened[1].slot.heart, opened[1].slot.loop_heart = 1000 * 16, 990 * 16
    assert json.loads(ready()[2])["stale_workers"] == [1]
    opened[1].slot.loop_heart = 1000 * 16
    opened[0].slot.draining = True
    assert ready()[0] == 503


def test_metrics_are_served(opened: list[ProcessSlot]) -> None:
    status, _, body = pages(opened).public["/metrics"]()
    assert status == 200
    assert b'ufrag_transceiver_sessions_capacity{worker="1"} 8.0' in body


def test_another_user_who_asks_for_the_sockets_changes_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    program = start()
    with monkeypatch.context() as as_another, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        as_another.setattr(os, "geteuid", lambda: 1234567)
        stranger.connect(program._offer.sock.getsockname())
        program._lend()
    assert [own.slot.shared for own in program.slots] == [False, False]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect(program._offer.sock.getsockname())
        program._lend()
    assert [own.slot.shared for own in program.slots] == [True, True]
