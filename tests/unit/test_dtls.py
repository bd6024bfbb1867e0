"""DTLS-SRTP: both roles against pyOpenSSL itself and against each other, who is refused, and how it ends."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import pytest

from tests.support.dtls_peers import (
    RawPeer,
    connected_pair,
    deliver,
    exchange,
    exchange_as,
    fingerprint,
    first_piece,
    identity,
    pair,
    transport,
)
from transceiver.dtls import DTLSTransport, Role
from transceiver.dtls_records import cut
from transceiver.identity import HASHES, Identity
from transceiver.srtp import PROFILE_TABLE, PROFILES

KINDS = ("ecdsa", "rsa")
OTHER: dict[Role, Role] = {"client": "server", "server": "client"}


def against_raw(role: Role, raw: RawPeer, own: Identity | None = None) -> DTLSTransport:
    """Ours in `role`, after everything was exchanged with the raw peer in the other."""
    ours = transport(role, own=own, peer=identity("ecdsa", 1))
    exchange_as(role, ours, raw)
    return ours


# Handshakes


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("own", "peer"), list(itertools.product(KINDS, KINDS)))
@pytest.mark.parametrize("role", ["client", "server"])
def test_every_certificate_and_profile_in_both_roles(role: Role, own: str, peer: str, profile: str) -> None:
    them = identity(peer, 1)
    raw = RawPeer(OTHER[role], them, profiles=[profile])
    ours = transport(role, own=identity(own), peer=them)
    exchange_as(role, ours, raw)
    assert (ours.state, raw.state) == ("connected", "connected")
    server_kind = (peer if role == "client" else own).upper()
    assert server_kind in ours.cipher
    key_bytes, salt_bytes, _ = PROFILE_TABLE[profile]
    block = raw.connection.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key_bytes + salt_bytes))
    keys, salts = block[: 2 * key_bytes], block[2 * key_bytes :]
    client, server = keys[:key_bytes] + salts[:salt_bytes], keys[key_bytes:] + salts[salt_bytes:]
    assert ours.keys == (profile, *((client, server) if role == "client" else (server, client)))


@pytest.mark.parametrize("role", ["client", "server"])
def test_data_both_ways_with_a_raw_peer(role: Role) -> None:
    raw = RawPeer(OTHER[role], identity("ecdsa", 1))
    ours = against_raw(role, raw)
    for size in (1, 100, 1160, 5000):
        ours.send(bytes(size))
        raw.send(b"x" * size)
        deliver(ours, raw)
        deliver(raw, ours)
        assert raw.take_received() == [bytes(size)]
        assert ours.take_received() == [b"x" * size]


def test_ours_with_ours() -> None:
    client, server = pair()
    client.start(1.0)
    assert (client.state, server.state) == ("handshaking", "new")
    exchange(client, server, now=1.25)
    assert (client.state, server.state) == ("connected", "connected")
    assert (client.handshake_s, client.failure) == (0.25, "")
    assert client.keys is not None
    assert server.keys == (client.keys.profile, client.keys.rx_key, client.keys.tx_key)
    assert client.keys.profile == PROFILES[0]
    assert client.next_timer() is server.next_timer() is None


def test_the_first_common_profile_is_taken_and_none_is_no_failure() -> None:
    client, server = transport("client", profiles=PROFILES[1:]), transport("server", profiles=PROFILES[::-1])
    exchange(client, server)
    assert client.keys is not None
    assert client.keys.profile == PROFILES[2]  # the server's order decides
    client, server = transport("client", profiles=()), transport("server")
    exchange(client, server)
    assert (client.state, server.state) == ("connected", "connected")
    assert client.keys is server.keys is None


def test_the_hello_is_small_and_says_dtls_1_2_at_most() -> None:
    client = transport("client")
    client.start(0.0)
    [datagram] = client.take_datagrams()
    assert len(datagram) <= 160
    [hello] = cut(datagram)
    assert hello.fragment[12:14] == b"\xfe\xfd"
    assert b"\xfe\xfc" not in hello.fragment


def test_dtls_1_0_is_refused() -> None:
    raw = RawPeer("client", identity("ecdsa", 1), ciphers=b"ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0", max_version=0xFEFF)
    ours = against_raw("server", raw)
    assert (ours.state, ours.failure) == ("failed", "unsupported protocol")


def test_a_server_that_asks_for_a_cookie() -> None:
    raw = RawPeer("server", identity("ecdsa", 1), cookie=b"cookie")
    assert against_raw("client", raw).state == raw.state == "connected"


@pytest.mark.parametrize("mtu", [300, 600, 1200])
def test_datagrams_keep_to_the_mtu_and_flights_are_packed(mtu: int) -> None:
    client = transport("client", own=identity("rsa"), peer=identity("rsa"), mtu=mtu)
    server = transport("server", own=identity("rsa"), peer=identity("rsa"), mtu=mtu)
    client.start(0.0)
    sizes: list[list[int]] = []
    for source, target in [(client, server), (server, client)] * 2:
        flight = source.take_datagrams()
        sizes.append([len(each) for each in flight])
        for datagram in flight:
            target.receive(datagram, 0.0)
    assert client.state == server.state == "connected"
    assert max(map(max, sizes)) <= mtu
    for flight_sizes in sizes:
        # Whole records, as many as fit: no two neighbours would have fitted into one.
        assert all(a + b > mtu - 100 for a, b in itertools.pairwise(flight_sizes[:-1]))


# A ClientHello as browsers send it: larger than a datagram, in any order


def hello_in_pieces() -> tuple[RawPeer, list[bytes]]:
    raw = RawPeer("client", identity("ecdsa", 1), mtu=256)
    raw.connection.set_alpn_protos([b"x" * 200, b"y" * 100])
    raw.start(0.0)
    return raw, raw.take_datagrams()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("twice", [False, True])
def test_a_hello_in_pieces_in_any_order(order: Sequence[int], twice: bool) -> None:
    raw, pieces = hello_in_pieces()
    assert len(pieces) == 3
    server = transport("server", peer=identity("ecdsa", 1))
    for number in order:
        for _ in range(2 if twice else 1):
            server.receive(pieces[number], 0.0)
    exchange(raw, server)
    assert (raw.state, server.state) == ("connected", "connected")


def test_a_piece_that_was_lost_comes_with_the_next_hello() -> None:
    client, server = pair()
    client.start(0.0)
    [hello] = client.take_datagrams()
    server.receive(first_piece(hello, 60), 0.0)
    assert server.take_datagrams() == []
    client.handle_timer(0.1)
    exchange(client, server, now=0.2)
    assert (client.state, server.state) == ("connected", "connected")


def test_one_hello_many_times_is_answered_once() -> None:
    client, server = pair()
    client.start(0.0)
    [hello] = client.take_datagrams()
    for _ in range(100):
        server.receive(hello, 0.0)
    assert len(server.take_datagrams()) == 1


# Who the peer is


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_wrong_fingerprint_fails_and_gives_no_keys(role: Role) -> None:
    raw = RawPeer(OTHER[role], identity("ecdsa", 2))
    ours = against_raw(role, raw)
    assert (ours.state, ours.keys) == ("failed", None)
    assert "fingerprint" in ours.failure
    assert raw.state == "failed"  # it got an alert
    assert ours.next_timer() is None


def test_a_client_without_certificate_fails() -> None:
    raw = RawPeer("client", None)
    ours = against_raw("server", raw)
    assert (ours.state, ours.keys, raw.state) == ("failed", None, "failed")
    assert "certificate" in ours.failure


def test_without_a_usable_fingerprint_nothing_starts() -> None:
    ours = DTLSTransport(identity("ecdsa"), role="client", fingerprints=[("md5", bytes(16)), ("sha-1", bytes(20))])
    ours.start(0.0)
    assert (ours.state, ours.take_datagrams()) == ("failed", [])
    assert all(name in ours.failure for name in HASHES)


WRONG = bytes(64)


@pytest.mark.parametrize(
    ("names", "wrong", "accepted"),
    [
        (["sha-256"], [], True),
        (["SHA-384"], [], True),
        (["sha-512", "sha-1"], ["sha-1"], True),
        (["sha-256", "sha-512"], ["sha-256"], True),
        (["sha-256", "sha-512"], ["sha-512"], False),
    ],
)
def test_the_strongest_hash_decides(names: list[str], wrong: list[str], accepted: bool) -> None:
    offered = [(name, WRONG if name in wrong else fingerprint(identity("ecdsa"), name.lower())[1]) for name in names]
    client = DTLSTransport(identity("ecdsa"), role="client", fingerprints=offered)
    exchange(client, transport("server"))
    assert client.state == ("connected" if accepted else "failed")


def test_any_fingerprint_of_the_strongest_hash_will_do() -> None:
    offered = [("sha-256", hashlib.sha256(b"another").digest()), fingerprint(identity("ecdsa"))]
    client = DTLSTransport(identity("ecdsa"), role="client", fingerprints=offered)
    exchange(client, transport("server"))
    assert client.state == "connected"


# Connected, and the end


@pytest.mark.parametrize("role", ["client", "server"])
def test_close_notify_is_said_heard_and_answered(role: Role) -> None:
    raw = RawPeer(OTHER[role], identity("ecdsa", 1))
    ours = against_raw(role, raw)
    ours.close(1.0)
    ours.close(1.0)
    deliver(ours, raw)
    assert (ours.state, raw.state) == ("closed", "closed")

    raw = RawPeer(OTHER[role], identity("ecdsa", 1))
    ours = against_raw(role, raw)
    assert raw.connection.shutdown() is False
    deliver(raw, ours)
    assert (ours.state, ours.failure) == ("closed", "")
    deliver(ours, raw)
    assert raw.connection.shutdown() is True


def test_what_is_over_stays_so() -> None:
    client, server = connected_pair()
    late = fingerprint(identity("ecdsa"))[1]
    client.send(late)
    [datagram] = client.take_datagrams()
    server.close(1.0)
    server.take_datagrams()
    server.receive(datagram, 1.0)
    server.send(b"late")
    server.start(2.0)
    server.handle_timer(99.0)
    assert (server.state, server.take_received(), server.take_datagrams()) == ("closed", [], [])


def test_an_alert_of_the_handshake_has_words() -> None:
    raw = RawPeer("server", identity("ecdsa", 1), ciphers=b"ECDHE-ECDSA-CHACHA20-POLY1305")
    ours = against_raw("client", raw)
    assert (ours.state, ours.keys) == ("failed", None)
    assert "handshake failure" in ours.failure


def test_a_fatal_alert_later_fails_and_a_warning_does_not() -> None:
    for level, state in ((1, "connected"), (2, "failed")):
        client, server = connected_pair()
        client._alert(level, 80)
        deliver(client, server)
        assert server.state == state
        assert server.failure == ("the peer sent alert 80" if level == 2 else "")


def test_a_sealed_record_counts_once_and_unchanged_only() -> None:
    client, server = connected_pair()
    client.send(b"data")
    [datagram] = client.take_datagrams()
    for position in range(len(datagram)):
        changed = bytearray(datagram)
        changed[position] ^= 0x01
        server.receive(bytes(changed), 0.0)
    assert server.take_received() == []
    server.receive(datagram, 0.0)
    server.receive(datagram, 0.0)
    assert server.take_received() == [b"data"]


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_new_handshake_on_the_old_keys_is_refused(role: Role) -> None:
    raw = RawPeer(OTHER[role], identity("ecdsa", 1))
    ours = against_raw(role, raw)
    assert raw.connection.renegotiate()
    raw.start(1.0)
    deliver(raw, ours)
    [refusal] = ours.take_datagrams()
    assert len(refusal) == 13 + 8 + 2 + 16
    assert ours.state == "connected"
    raw.receive(refusal, 1.0)
    if role == "server":
        assert "no renegotiation" in raw.failure


def test_a_plain_hello_does_not_touch_what_is_connected() -> None:
    _, server = connected_pair()
    other = transport("client")
    other.start(0.0)
    deliver(other, server)
    assert (server.state, server.take_datagrams()) == ("connected", [])
