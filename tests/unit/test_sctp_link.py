"""Data channels on links that lose, reorder and fall silent, and the bounds of what waits for them.

As in `test_sctp`, ours talks to ours and to aiortc's own transport, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from aiortc import rtcsctptransport as sctp

from tests.support.sctp_pair import LoopClock, Message, Ours, Pair, Peer, Theirs, joined
from tests.support.virtual_loop import VirtualLoop, run
from transceiver import sctp_association
from transceiver.sctp import Channel, ChannelFull

PEERS = pytest.mark.parametrize("peer", [Ours, Theirs])
ROLES = pytest.mark.parametrize("role", ["client", "server"])


@pytest.fixture(autouse=True)
def _virtual_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiortc takes round-trip and life times from the system's clock; here it gets the loop's."""

    monkeypatch.setattr(sctp, "time", LoopClock)


def fill(channel: Channel, message: Message) -> int:
    """Send until no more is taken."""
    for sent in range(100_000):
        try:
            channel.send(message)
        except ChannelFull:
            return sent
    raise AssertionError("there is no bound")


def now() -> float:
    return asyncio.get_running_loop().time()


@PEERS
@ROLES
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reliable_ordered_messages_all_arrive_in_order_over_a_bad_link(role: str, peer: Peer, seed: int) -> None:
    async def scene() -> None:
        pair = await joined(role, peer, seed=seed, loss=0.1, jitter_s=0.03)
        expected = [str(number) * 50 for number in range(200)] + [bytes(range(256)) * 400]
        for message in expected:
            pair.ours.opened[0].send(message)
            pair.peer.opened[0].send(message)
        await pair.ours.until(lambda: len(pair.ours.messages) == len(expected))
        await pair.peer.until(lambda: len(pair.peer.messages) == len(expected))
        assert pair.ours.received() == expected
        assert pair.peer.received() == expected
        assert (pair.ours.channels.malformed, pair.ours.channels.failure) == (0, "")
        await pair.close()

    run(scene())


@PEERS
def test_reliable_unordered_messages_all_arrive_once_over_a_bad_link(peer: Peer) -> None:
    async def scene() -> None:
        pair = Pair("server", peer, loss=0.1, jitter_s=0.03).start()
        mine, theirs = pair.ours.open("a", ordered=False), pair.peer.open("b", ordered=False)
        await pair.ours.until(lambda: len(pair.ours.opened) == 2)
        await pair.peer.until(lambda: len(pair.peer.opened) == 2)
        expected = [f"{number} " * (number * 10) for number in range(1, 100)]
        for message in expected:
            mine.send(message)
            theirs.send(message)
        await pair.ours.until(lambda: len(pair.ours.messages) == len(expected))
        await pair.peer.until(lambda: len(pair.peer.messages) == len(expected))
        assert Counter(pair.ours.received()) == Counter(pair.peer.received()) == Counter(expected)
        await pair.close()

    run(scene())


@PEERS
@pytest.mark.parametrize("limit", ["max_retransmits", "max_packet_life_time"])
@pytest.mark.parametrize("ordered", [True, False])
def test_unreliable_messages_may_be_lost_but_hold_nothing_up(limit: str, ordered: bool, peer: Peer) -> None:
    async def scene() -> None:
        pair = Pair("server", peer, loss=0.1, jitter_s=0.03).start()
        options = {limit: 0 if limit == "max_retransmits" else 50, "ordered": ordered}
        mine, theirs = pair.ours.open("a", **options), pair.peer.open("b", **options)
        await pair.ours.until(lambda: len(pair.ours.opened) == 2)
        await pair.peer.until(lambda: len(pair.peer.opened) == 2)
        for number in range(300):
            mine.send(f"{number:3}" * 1000)
            theirs.send(f"{number:3}" * 1000)
            await asyncio.sleep(0.02)
        reliable = pair.ours.open("c"), pair.peer.open("d")
        await pair.ours.until(lambda: reliable[0].state == "open")
        reliable[0].send("end")
        await pair.peer.until(lambda: "end" in pair.peer.received())
        for end in (pair.ours, pair.peer):
            numbers = [int(message[:3]) for message in end.received() if message != "end"]
            assert 100 < len(numbers) < 300, "fragments of some messages were lost, and most were not"
            assert len(set(numbers)) == len(numbers)
            assert not ordered or numbers == sorted(numbers)
        assert not pair.ours.channels.failure
        await pair.close()

    run(scene())


def test_a_lost_last_message_comes_again_within_half_a_second() -> None:
    async def scene() -> None:
        pair = await joined()
        for _ in range(5):
            pair.ours.opened[0].send("to measure the round trip")
            await asyncio.sleep(0.2)
        pair.down.loss = 1
        pair.ours.opened[0].send("lost")
        pair.down.loss = 0
        sent = now()
        await pair.peer.until(lambda: "lost" in pair.peer.received())
        assert 0.3 < now() - sent < 0.5
        await pair.close()

    run(scene())


def test_a_peer_that_is_silent_for_half_a_minute_is_waited_for() -> None:
    async def scene() -> None:
        pair = Pair(loss=1)
        pair.ours.start()
        await asyncio.sleep(30)
        assert 4 <= len(pair.down.carried) <= 6, "the INIT comes again at growing distances"
        pair.up.loss = pair.down.loss = 0
        pair.peer.start()
        pair.peer.open("x")
        await pair.ours.until(lambda: pair.ours.opened)
        assert pair.ours.channels._association._rto <= sctp_association.RTO_INITIAL_S
        await pair.close()

    run(scene())


def test_a_peer_that_is_silent_for_ten_minutes_is_given_up() -> None:
    async def scene() -> None:
        pair = Pair(loss=1)
        channel = pair.ours.open("x")
        pair.ours.start()
        await pair.ours.until(lambda: pair.ours.closed == [channel])
        assert 200 < now() < 600
        assert pair.ours.channels.state == "closed"

    run(scene())


def test_a_clock_that_is_set_does_not_disturb_the_round_trip_time() -> None:
    async def scene() -> None:
        association = (await joined()).ours.channels._association
        for measured in (0.1, -3600.0, 3600.0):
            association._update_rto(measured)
            assert (association._srtt, association._rto) == (0.1, sctp_association.RTO_MIN_S)
        await association.stop()

    run(scene())


def test_a_timer_that_has_just_run_out_sends_nothing_after_the_end() -> None:
    async def scene() -> None:
        pair = await joined()
        pair.up.loss = pair.down.loss = 1
        await asyncio.sleep(1)
        pair.ours.opened[0].send("never acknowledged")
        association = pair.ours.channels._association
        assert association._t3_handle
        association._t3_handle.cancel()
        association._t3_expired()  # aiortc makes a task of what is to be sent
        pair.ours.channels.close()
        pair.peer.channels.close()
        carried = len(pair.down.carried)
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert (len(pair.down.carried), loop.timers()) == (carried, 0)

    run(scene())


@PEERS
def test_a_late_copy_of_any_packet_of_the_handshake_changes_nothing(peer: Peer) -> None:
    async def scene() -> None:
        pair = await joined("server", peer)
        pair.peer.opened[0].send("before")
        await pair.ours.until(lambda: pair.ours.messages)
        for packet in pair.up.carried[:4]:
            pair.ours.receive(packet)
        pair.peer.opened[0].send("after")
        pair.ours.opened[0].send("back")
        await pair.ours.until(lambda: pair.ours.received() == ["before", "after"])
        await pair.peer.until(lambda: pair.peer.received() == ["back"])
        assert pair.ours.channels._association._sack_misordered == set(), "TSNs are counted as before"
        await pair.close()

    run(scene())


# What waits to be sent


def test_what_waits_to_be_sent_is_bounded_and_goes_when_it_can() -> None:
    async def scene() -> None:
        pair = await joined()
        pair.up.loss = 1  # nothing is acknowledged any more
        sent = fill(pair.ours.opened[0], bytes(100_000))
        assert 40 <= sent <= 45
        assert 4_000_000 < pair.ours.opened[0].buffered_bytes <= sctp_association.MAX_WAITING_BYTES
        pair.up.loss = 0
        await pair.peer.until(lambda: len(pair.peer.messages) == sent)
        assert pair.ours.opened[0].buffered_bytes == 0
        pair.ours.opened[0].send("room again")
        await pair.peer.until(lambda: pair.peer.received()[-1] == "room again")
        await pair.close()

    run(scene())


@pytest.mark.parametrize("message", ["", b"x"])
def test_small_messages_that_wait_are_bounded_by_their_number(message: Message) -> None:
    async def scene() -> None:
        pair = await joined()
        pair.up.loss = 1
        assert fill(pair.ours.opened[0], message) <= sctp_association.MAX_WAITING_MESSAGES + 5000
        await pair.close()

    run(scene())


def test_what_is_in_flight_is_bounded_even_if_the_peer_opens_the_window_wide() -> None:
    async def scene() -> None:
        pair = await joined(delay_s=0.001)
        association = pair.ours.channels._association
        association._cwnd = 1 << 30
        pair.up.loss = 1
        for message in [b"x"] * 2000 + [bytes(100_000)] * 10:
            pair.ours.opened[0].send(message)
        assert 500 < len(association._sent_queue) <= sctp_association.MAX_IN_FLIGHT_CHUNKS + sctp.USERDATA_MAX_LENGTH
        pair.up.loss = 0
        await pair.peer.until(lambda: len(pair.peer.messages) == 2010)
        await pair.close()

    run(scene())


def test_no_more_is_in_flight_than_the_peer_has_room_for() -> None:
    async def scene() -> None:
        pair = await joined(delay_s=0.001)
        pair.peer.channels._association._advertised_rwnd = 5000
        pair.ours.opened[0].send("to hear of it")
        await pair.peer.until(lambda: pair.peer.messages)
        pair.ours.opened[0].send(bytes(100_000))
        most = 0
        while len(pair.peer.messages) < 2:
            most = max(most, pair.ours.channels._association._flight_size)
            await asyncio.sleep(0.001)
        assert 2000 < most <= 5000 + sctp.USERDATA_MAX_LENGTH
        await pair.close()

    run(scene())


def test_an_init_sent_again_has_no_tag_either() -> None:
    async def scene() -> None:
        pair = Pair(loss=1)
        pair.ours.start()
        pair.ours.channels._association._remote_verification_tag = 77
        await asyncio.sleep(4)
        assert [sctp.parse_packet(packet)[2] for packet in pair.down.carried] == [0, 0, 0]
        pair.ours.channels.close()
        assert sctp.parse_packet(pair.down.carried[-1])[2] == 77

    run(scene())
