"""DTLS under hostile input: nothing raises, little is believed, and a transport keeps little memory."""

from __future__ import annotations

import random

import pytest

from tests.support.dtls_peers import connected_pair, deliver, exchange, first_piece, pair
from transceiver.dtls import MAX_READ_BYTES, TRANSITIONS, DTLSTransport, Role
from transceiver.dtls_records import APPLICATION_DATA, Record


def at_flight(number: int) -> tuple[DTLSTransport, bytes]:
    """A side in the middle of a handshake, and the datagrams that are next for it."""
    sides = pair()
    sides[0].start(0.0)
    for turn in range(number):
        deliver(sides[turn % 2], sides[1 - turn % 2])
    return sides[1 - number % 2], b"".join(sides[number % 2].take_datagrams())


@pytest.mark.parametrize("number", range(4))
def test_a_flight_cut_anywhere_is_waited_for(number: int) -> None:
    _, flight = at_flight(number)
    for length in range(0, len(flight), 7):
        side, whole = at_flight(number)
        side.receive(whole[:length], 0.0)
        assert side.state in ("handshaking", "new", "connected")


@pytest.mark.parametrize("number", range(4))
def test_a_flight_with_a_changed_byte_never_raises(number: int) -> None:
    chance = random.Random(number)
    _, flight = at_flight(number)
    for position in range(0, len(flight), 5):
        side, whole = at_flight(number)
        changed = bytearray(whole)
        changed[position % len(changed)] ^= 1 << chance.randrange(8)
        side.receive(bytes(changed), 0.0)
        side.receive(whole, 0.0)
        assert side.state in TRANSITIONS
        assert bool(side.failure) == (side.state == "failed")
    # Whatever OpenSSL said of all those, the next handshake does not hear it.
    assert all(each.state == "connected" for each in connected_pair())


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("connected", [False, True])
def test_garbage_is_ignored_and_the_handshake_goes_on(role: Role, connected: bool) -> None:
    chance = random.Random(7)
    client, server = connected_pair() if connected else pair()
    client.start(0.0)
    side = client if role == "client" else server
    for _ in range(300):
        side.receive(chance.randbytes(chance.randrange(60)), 0.0)
        # Looks like data, has no number yet, and no key either.
        side.receive(Record(APPLICATION_DATA, 0xFEFD, chance.getrandbits(64), chance.randbytes(40)).encode(), 0.0)
    exchange(client, server)
    assert (client.state, server.state) == ("connected", "connected")
    assert side.take_received() == []


def test_a_peer_that_never_comes_to_an_end_is_left() -> None:
    client, server = pair()
    client.start(0.0)
    [hello] = client.take_datagrams()
    first = first_piece(hello, 60)
    for _ in range(MAX_READ_BYTES // len(first) + 1):
        server.receive(first, 0.0)
    assert (server.state, server.keys) == ("failed", None)


# Memory


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_a_connected_transport_keeps_little_and_a_dropped_one_nothing() -> None:
    for _ in range(100):
        connected_pair()
    before = resident_bytes()
    for _ in range(400):
        connected_pair()
    assert resident_bytes() - before < 400 * 500
    before = resident_bytes()
    kept = [connected_pair() for _ in range(300)]
    assert resident_bytes() - before < len(kept) * 2 * 6_000
