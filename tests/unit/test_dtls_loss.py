"""DTLS handshakes on networks that lose, double and reorder, in virtual time: what is sent again, when, how often."""

from __future__ import annotations

import time

import pytest

from tests.support.dtls_peers import (
    RawPeer,
    connected_pair,
    exchange,
    identity,
    pair,
    transport,
    until_connected,
)
from tests.support.netem import Netem
from transceiver.dtls import HANDSHAKE_TIMEOUT_S, DTLSTransport
from transceiver.dtls_records import CHANGE_CIPHER_SPEC, DTLS_1_2, HANDSHAKE, NUMBER_BITS, Record, cut
from transceiver.dtls_timer import FIRST_RESEND_S, LAST_RESEND_S, MAX_RESENDS, ResendTimer

RUNS = 400
RTT_S = 0.06


def times(loss: float, duplicate: float, kinds: tuple[str, str] = ("ecdsa", "ecdsa"), runs: int = RUNS) -> list[float]:
    """How long each handshake took until both sides were connected; every one must end so."""
    found = []
    for seed in range(runs):
        network: Netem[int] = Netem(seed, loss, duplicate, delay_s=RTT_S / 2, jitter_s=0.01)
        client, server = (identity(kind) for kind in kinds)
        sides = transport("client", own=client, peer=server), transport("server", own=server, peer=client)
        for side in sides:
            side.set_rtt(RTT_S)
        done = until_connected(sides, network, HANDSHAKE_TIMEOUT_S)
        assert done is not None, f"seed {seed}: {[(side.state, side.failure) for side in sides]}"
        found.append(done)
    return sorted(found)


def test_without_loss_it_takes_two_round_trips_and_no_resend() -> None:
    network: Netem[int] = Netem(1, delay_s=RTT_S / 2)
    done = until_connected(pair(), network, HANDSHAKE_TIMEOUT_S)
    assert done == pytest.approx(2 * RTT_S)
    assert network.sent == 4


def test_at_ten_percent_loss_every_handshake_ends_within_five_seconds() -> None:
    found = times(0.1, 0.0)
    assert found[RUNS // 2] < 0.2
    assert found[RUNS * 99 // 100] < 1.0
    assert found[-1] < 5.0


def test_at_twenty_percent_loss_and_duplicates_every_handshake_ends() -> None:
    assert times(0.2, 0.2, runs=200)[190] < 2.0
    assert times(0.2, 0.1, ("rsa", "rsa"), runs=50)[47] < 4.0


def test_duplicates_alone_cost_no_time_and_one_datagram() -> None:
    network: Netem[int] = Netem(3, duplicate=1.0, delay_s=0.01)
    assert until_connected(pair(), network, HANDSHAKE_TIMEOUT_S) == pytest.approx(0.04)
    assert network.sent == 5  # a doubled Finished is taken for a repeated one: our last flight goes twice


# What a single lost flight needs


def flight(source: DTLSTransport | RawPeer, target: DTLSTransport | RawPeer, now: float = 0.0) -> list[bytes]:
    datagrams = source.take_datagrams()
    for datagram in datagrams:
        target.receive(datagram, now)
    return datagrams


def test_a_lost_last_flight_comes_again_for_a_finished_with_a_new_number() -> None:
    """An independent server drops repeated numbers, and answers a repeated Finished only if it is a new record."""
    client, server = transport("client", peer=identity("ecdsa", 1)), RawPeer("server", identity("ecdsa", 1))
    client.start(0.0)
    flight(client, server)
    flight(server, client)
    first = flight(client, server)
    assert server.state == "connected"
    for count in range(3):
        assert server.take_datagrams() != []  # lost
        for datagram in first:
            server.receive(datagram, 0.0)
        assert server.take_datagrams() == []  # the very same once more is no use
        client.handle_timer(10.0 + count)
        again = flight(client, server)
        assert [len(each) for each in again] == [len(each) for each in first]
    flight(server, client)
    assert client.state == "connected"
    client.send(b"after that")
    flight(client, server)
    assert server.take_received() == [b"after that"]


def test_our_own_last_flight_comes_again_and_not_for_ever() -> None:
    client, server = pair()
    client.start(0.0)
    flight(client, server)
    flight(server, client)
    flight(client, server)
    last = server.take_datagrams()
    now, answered = 0.0, 0
    for _ in range(MAX_RESENDS):
        now = client.next_timer() or now
        client.handle_timer(now)
        flight(client, server)
        again = server.take_datagrams()
        answered += bool(again)
        assert not again or [len(each) for each in again] == [len(each) for each in last]
    assert 5 < answered <= MAX_RESENDS
    for datagram in again:
        client.receive(datagram, now)
    assert client.state == "connected"


def test_data_overtakes_the_last_flight_in_its_datagram_only() -> None:
    client, server = pair()
    client.start(0.0)
    for source, target in [(client, server), (server, client), (client, server)]:
        flight(source, target)
    server.send(b"early")
    last, early = server.take_datagrams()
    client.receive(early + last, 0.0)
    assert (client.state, client.take_received()) == ("connected", [b"early"])


def test_openssl_repeating_by_itself_is_not_heard() -> None:
    """Its first timer is a second of real time, and reading is when it looks."""
    client, server = pair()
    client.start(0.0)
    flight(client, server)
    connection = client._connection
    assert connection is not None
    while connection.DTLSv1_get_timeout():
        time.sleep(0.02)
    of_the_next_epoch = Record(HANDSHAKE, DTLS_1_2, (1 << NUMBER_BITS) + 5, bytes(40))
    client.receive(of_the_next_epoch.encode(), 0.0)
    assert (client.state, client.take_datagrams()) == ("handshaking", [])
    exchange(client, server)
    assert (client.state, server.state) == ("connected", "connected")


# The timer


def test_a_silent_peer_gets_the_hello_at_doubling_times_and_then_the_handshake_fails() -> None:
    client = transport("client")
    client.start(5.0)
    at, numbers, hellos = [], set(), []
    while (now := client.next_timer()) is not None:
        client.handle_timer(now)
        at.append(round(now - 5.0, 3))
        for datagram in client.take_datagrams():
            hellos += [record.fragment for record in cut(datagram)]
            numbers |= {record.stamp for record in cut(datagram)}
    assert at[:8] == [0.1, 0.2, 0.4, 0.6, 1.0, 1.4, 2.2, 3.0]
    assert at[-1] == HANDSHAKE_TIMEOUT_S
    assert len(at) - 1 == len(hellos) - 1 <= MAX_RESENDS
    assert (len(set(hellos)), len(numbers)) == (1, len(hellos))
    assert (client.state, client.failure, client.keys) == ("failed", "dtls_timeout", None)


def test_a_server_that_hears_nothing_fails_in_time() -> None:
    server = transport("server")
    server.start(1.0)
    assert server.next_timer() == 1.0 + HANDSHAKE_TIMEOUT_S
    server.handle_timer(30.9)
    assert server.state == "handshaking"
    server.handle_timer(31.0)
    assert (server.state, server.failure) == ("failed", "dtls_timeout")


def test_resend_on_demand_is_at_once_but_no_storm() -> None:
    client = transport("client")
    client.resend(0.0)
    client.start(0.0)
    client.take_datagrams()
    sent = []
    for millisecond in range(1, 20_000):
        client.resend(millisecond / 1000)
        sent += [millisecond] * len(client.take_datagrams())
    assert sent[:5] == pytest.approx([50, 101, 202, 303, 504], abs=1)
    assert len(sent) == MAX_RESENDS
    assert client.next_timer() == HANDSHAKE_TIMEOUT_S


def test_nothing_is_resent_once_connected() -> None:
    for side in connected_pair():
        side.resend(1.0)
        side.handle_timer(1.0)
        assert side.take_datagrams() == []


def test_a_long_round_trip_waits_longer() -> None:
    timer = ResendTimer()
    for rtt_s, first_s in ((0.01, FIRST_RESEND_S), (0.3, 0.6), (5.0, LAST_RESEND_S)):
        timer.set_rtt(rtt_s)
        timer.flight_sent(10.0)
        assert timer.at == pytest.approx(10.0 + first_s)


def test_a_flight_is_whole_each_time() -> None:
    client, server = pair()
    client.start(0.0)
    flight(client, server)
    server.take_datagrams()
    server.handle_timer(1.0)
    flight(server, client)
    client.take_datagrams()
    client.handle_timer(2.0)
    kinds = [record.content_type for datagram in client.take_datagrams() for record in cut(datagram)]
    assert kinds == [HANDSHAKE, HANDSHAKE, HANDSHAKE, CHANGE_CIPHER_SPEC, HANDSHAKE]


# The network itself


def test_the_network_is_as_bad_as_asked_and_the_same_each_time() -> None:
    def run() -> tuple[list[tuple[str, bytes]], int]:
        network: Netem[str] = Netem(5, loss=0.2, duplicate=0.2, delay_s=0.1, jitter_s=0.05)
        for number in range(1000):
            network.send(number * 0.01, "b", number.to_bytes(2, "big"))
        due = network.due()
        assert due is not None
        assert due >= 0.05
        assert network.deliver(0.04) == []
        return network.deliver(100.0), network.lost

    arrived, lost = run()
    assert (arrived, lost) == run()
    assert 150 < lost < 250
    assert len(set(arrived)) == 1000 - lost
    assert 1.15 < len(arrived) / len(set(arrived)) < 1.25
    assert arrived != sorted(arrived)
