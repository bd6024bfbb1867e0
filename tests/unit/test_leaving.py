"""How a transceiver that drains leaves HTTP to the one beside it: the rules without time and sockets, then with a real
server; and what is lent, with real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from relay.runtime.config import Address, parse_address
from relay.runtime.errors import ConfigError, RuntimeFault
from relay.runtime.sockets import listen
from tests.support.signaling import run, served
from transceiver import beside
from transceiver.http.leaving import AGAIN_S, HANDSHAKE_S, LAST_S, UNTAKEN_LOOKS, Leaving, Stance

SHUT = Stance(listens=False, lingers=False)
LAST = Stance(listens=False, lingers=True)
OPEN = Stance(listens=True, lingers=False)


def test_alone_it_listens_and_refuses_at_once() -> None:
    assert Leaving(10.0).look(10.0, shared=False, waiting=9, connections=9) == OPEN


def test_connections_it_has_may_bring_a_call_for_as_long_as_they_may_be_idle() -> None:
    leaving = Leaving(10.0)
    assert leaving.look(10.0, True, 0, 1) == LAST
    assert leaving.look(10.0 + LAST_S - 0.1, True, 0, 1) == LAST
    assert leaving.look(10.0 + LAST_S, True, 0, 1) == SHUT


def test_without_connections_a_handshake_may_still_be_under_way() -> None:
    leaving = Leaving(10.0)
    assert leaving.look(10.0 + HANDSHAKE_S - 0.1, True, 0, 0) == LAST
    assert leaving.look(10.0 + HANDSHAKE_S, True, 0, 0) == SHUT


def test_what_nobody_takes_is_answered_for_a_while() -> None:
    leaving = Leaving(0.0)
    looks = [leaving.look(100 + 0.1 * number, True, 1, 0) for number in range(UNTAKEN_LOOKS)]
    assert looks == [SHUT] * (UNTAKEN_LOOKS - 1) + [OPEN]
    again = 100 + 0.1 * (UNTAKEN_LOOKS - 1) + AGAIN_S
    assert leaving.look(again - 0.1, True, 0, 3) == OPEN
    assert leaving.look(again, True, 0, 3) == SHUT


def test_a_queue_that_another_empties_is_not_ours() -> None:
    leaving = Leaving(0.0)
    for number in range(10 * UNTAKEN_LOOKS):
        waiting = int(number % UNTAKEN_LOOKS > 0)
        assert leaving.look(100 + 0.1 * number, True, waiting, 0) == SHUT


@pytest.mark.native
def test_a_server_that_does_not_listen_says_that_an_answer_is_the_last() -> None:
    """What connects meanwhile waits, is counted, and is answered as soon as it listens again."""

    async def test() -> None:
        async with served() as it:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(request)
            assert b"connection: close" not in (await reader.readuntil(b"\r\n\r\n")).lower()
            await it.server.listen(False)
            assert (it.server.connections, it.server.waiting()) == (1, 0)
            later_reader, later_writer = await asyncio.open_connection("127.0.0.1", it.port)
            later_writer.write(request)
            writer.write(request)
            assert b"\r\nConnection: close\r\n" in await reader.read()
            assert it.server.waiting() == 1
            await it.server.listen(True)
            assert (await later_reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            for each in (writer, later_writer):
                each.close()

    run(test())


# ---- lending


@pytest.fixture
def http() -> socket.socket:
    return listen(parse_address("127.0.0.1:0"), "--http", shared=True)


def address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()
    return Address(host, port, socket.AF_INET)


@pytest.mark.native
def test_sockets_generation_and_key_are_lent(http: socket.socket) -> None:
    async def lend_and_borrow() -> None:
        offer = beside.Offer(address_of(http))
        loop = asyncio.get_running_loop()
        loop.add_reader(offer.sock.fileno(), lambda: offer.lend([http, http], 7, b"key"))
        lent = await asyncio.to_thread(beside.borrow, address_of(http))
        loop.remove_reader(offer.sock.fileno())
        offer.close()
        assert lent is not None
        assert (lent.pid, lent.generation, lent.session_key, len(lent.http)) == (os.getpid(), 7, b"key", 2)
        for sock in lent.http:
            assert sock.getsockname() == http.getsockname()
            assert not sock.get_inheritable()
            sock.close()

    with http:
        asyncio.run(lend_and_borrow())
        assert beside.borrow(address_of(http)) is None


@pytest.mark.native
def test_another_user_is_given_nothing(http: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with http:
        offer = beside.Offer(address_of(http))
        name = offer.sock.getsockname()
        monkeypatch.setattr(os, "geteuid", lambda: 1234567)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(name)
            assert offer.lend([http], 7, b"key") is None
            assert stranger.recv(100) == b""
        offer.close()


@pytest.mark.native
@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"nonsense", RuntimeFault),
        (b"{}", RuntimeFault),
        (b'{"version":9}', ConfigError),
        (b'{"version":1,"sockets":1,"generation":0,"key":""}', RuntimeFault),
    ],
)
def test_what_cannot_be_understood_is_a_fault(http: socket.socket, message: bytes, error: type[Exception]) -> None:
    with http:
        offer = beside.Offer(address_of(http))

        def answer() -> None:
            offer.sock.setblocking(True)
            with offer.sock.accept()[0] as connection:
                connection.send(message)

        async def ask() -> None:
            answering = asyncio.create_task(asyncio.to_thread(answer))
            try:
                await asyncio.to_thread(beside.borrow, address_of(http))
            finally:
                await answering
                offer.close()

        with pytest.raises(error, match="--beside"):
            asyncio.run(ask())


@pytest.mark.parametrize(
    ("own", "other", "found"), [(9, 7, 9), (7, 7, 8), (6, 7, 8), (1, 4095, 1), (4095, 4095, 0), (4000, 10, 11)]
)
def test_a_later_generation(own: int, other: int, found: int) -> None:
    assert beside.later(own, other) == found


def test_names_of_others_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = f"@ufrag-transceiver/{os.geteuid()}/127.0.0.1:80/"
    lines = [f"0000: 0000 00000000 00010000 0005 01 1 {name}" for name in (mine + "1x", mine, mine + "7/8", "@else")]
    (tmp_path / "unix").write_text("\n".join(["Num RefCount Path", *lines, "0000: 1 0 0 0005 01 22"]))
    monkeypatch.setattr(beside, "NAMES", tmp_path / "unix")
    assert beside.borrow(parse_address("127.0.0.1:80")) is None
