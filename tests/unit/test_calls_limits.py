"""What a media process does not do: take more calls than it may, mix one up with the next of its number, lose a command
of one because of another's datagrams, or keep anything of a call that is over.
"""

from __future__ import annotations

import gc
import os
from collections import Counter

import pytest

from _fastpath.media import CommandsFull
from tests.support.peer import Peer
from tests.support.world import CLIENT, RELAYS, Link, World
from transceiver.http.calls import Refused
from transceiver.session import Session

RELAY = next(iter(RELAYS))
CALLS = 10_000 if os.environ.get("UFRAG_TEST_PROFILE") == "full" else 1_600


def refused(world: World, peer: Peer | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        world.call(peer or Peer(CLIENT))
    return caught.value


# --- calls ---


def test_more_calls_than_sessions_are_refused_until_one_is_over() -> None:
    world = World(sessions=3)
    peers = [Peer(("198.51.100.7", port)) for port in (1, 2, 3)]
    for peer in peers:
        world.call(peer)
    refusal = refused(world)
    assert (refusal.status, refusal.code) == (503, "server_full")
    assert refusal.retry_after is not None
    world.hangup(peers[1])
    world.call(Peer(CLIENT))
    assert refused(world).status == 503
    assert world.slot.totals()["refused_full"] == 2


def test_a_draining_server_takes_none_and_keeps_those_it_has() -> None:
    world = World()
    peer = Peer(CLIENT)
    session = world.call(peer)
    world.slot.draining = True
    refusal = refused(world)
    assert (refusal.status, refusal.code) == (503, "draining")
    assert world.until(lambda: session.state == "live", 3)
    world.restart(peer)
    world.slot.draining = False
    world.call(Peer(("198.51.100.7", 1)))
    assert world.slot.totals()["refused_draining"] == 1


def test_while_it_drains_a_connection_of_before_may_bring_a_last_call() -> None:
    world = World()
    world.slot.draining = world.slot.lingering = True
    world.call(Peer(CLIENT))
    world.slot.lingering = False
    assert refused(world).code == "draining"


def test_calls_come_at_a_bounded_rate() -> None:
    """Ten a second, and ten at once after a rest."""
    world = World(sessions=64, max_new_per_s=10)

    def attempt() -> int:
        try:
            world.call(Peer(CLIENT))
        except Refused as refusal:
            return refusal.status
        return 201

    def taken(attempts: int) -> int:
        statuses = [attempt() for _ in range(attempts)]
        assert set(statuses) <= {201, 429}
        return statuses.count(201)

    assert taken(15) == 10
    world.us += 500_000
    assert taken(10) == 5
    world.us += 60_000_000
    assert taken(15) == 10
    assert world.slot.totals()["refused_rate"] == 15


def test_an_offer_that_cannot_be_answered_takes_nothing() -> None:
    world = World(sessions=1)
    for _ in range(5):
        with pytest.raises(Refused) as caught:
            world.calls.create("v=0\r\n", world.now, world.now)
        assert caught.value.status == 400
    assert len(world.calls.registry) == 0
    world.call(Peer(CLIENT))


def test_without_an_advertised_address_there_are_no_calls() -> None:
    world = World(sessions=1, relays=0)
    for _ in range(3):
        refusal = refused(world)
        assert (refusal.status, refusal.code) == (503, "no_relay")
    world.relays = dict(RELAYS)
    for place, relay in enumerate(world.relays):
        world.connect(relay, Link(), place)
    world.call(Peer(CLIENT))


# --- numbers, and what is left of a call ---


def keys_of(session: Session) -> bool:
    """Whether its SRTP contexts live."""
    return session.pair is not None


def test_a_number_is_used_again_only_when_the_hot_thread_has_let_go() -> None:
    world = World(sessions=1)
    peer = Peer(CLIENT)
    session = world.call(peer)
    assert world.until(lambda: session.state == "live", 3)
    assert keys_of(session)
    assert world.calls.hangup(peer.call_id, world.now)
    # The loop is through with it; the hot thread has not heard of it yet, and could be in the midst of a packet.
    assert session.reason == "hangup"
    assert keys_of(session)
    assert refused(world).status == 503
    world.engine.step(world.us)
    assert refused(world).status == 503
    while world.calls.dispatch(world.now):
        pass
    assert not keys_of(session)
    again = world.call(Peer(CLIENT))
    assert (again.place.index, again.place.serial) == (0, session.place.serial + 2)


def test_late_commands_of_a_call_that_is_gone_do_nothing() -> None:
    world = World(sessions=1)
    first = Peer(CLIENT)
    place = world.call(first).place
    world.hangup(first)
    second = Peer(CLIENT)
    session = world.call(second)
    assert session.place.index == place.index
    engine = world.engine
    engine.set_keys(place.index, place.serial, 1, 1)
    engine.send(place.index, place.serial, 0, b"late")
    engine.add_credential(
        place.index, place.serial, token="t" * 32, password="p", remote_ufrag="u", remote_password="p"
    )
    engine.pump(place.index, place.serial)
    engine.close(place.index, place.serial)
    second.media.speaking = True
    assert world.until(lambda: second.media.heard, 3)


def test_the_timers_of_a_call_are_not_its_predecessors() -> None:
    """Both had the same number, and a timer due at the very same moment, behind one of a third call."""
    world = World(sessions=2)

    def begin(peer: Peer) -> Session:
        session = world.call(peer)
        world.clients.clear()
        world.serve([((CLIENT, RELAY), peer.check(peer.routes[0], world.now))])
        assert session.state == "handshaking"
        return session

    begin(Peer(CLIENT))
    world.us += 50_000
    ended = Peer(CLIENT)
    number = begin(ended).place.index
    world.hangup(ended)
    session = begin(Peer(CLIENT))
    assert session.place.index == number
    first = session.last_flight
    world.run(0.15)
    assert session.last_flight == pytest.approx(first + 0.1, abs=0.001)


def send_for_ever(world: World, session: Session, datagram: bytes) -> None:
    while True:
        world.engine.send(session.place.index, session.place.serial, 200, datagram)


def test_a_hot_thread_that_is_behind_costs_datagrams_and_no_call() -> None:
    """Its commands are full: what the loop would send is lost, as on a bad network, and nothing else is."""
    world = World()
    peer = Peer(CLIENT)
    session = world.call(peer)
    sent = world.engine.step(world.us, [world._wrapped((CLIENT, RELAY), peer.check(peer.routes[0], world.now))])
    world._send(sent)
    for length in (1200, 1):
        with pytest.raises(CommandsFull):
            send_for_ever(world, session, bytes(length))
    world.calls.dispatch(world.now)
    assert session.state == "handshaking"
    other = world.calls.create(Peer(CLIENT).offer(), world.now, world.now)
    assert world.calls.hangup(other.call_id, world.now)
    world.serve()
    assert len(world.calls.registry) == 1
    peer.media.speaking = True
    assert world.until(lambda: peer.media.heard and session.state == "live", 3)


def nothing_left(world: World) -> None:
    calls = world.calls
    assert len(calls.registry) == 0
    assert calls._armed == {}
    assert calls.next_timer() is None
    assert calls._timers == []
    assert world.engine.wait_us() == -1
    for index in range(world.slot.max_sessions):
        state = world.engine.debug(index)
        assert (state["serial"], state["sources"], state["paths"]) == (0, 0, [])
    assert world.slot.sessions() == []


def test_thousands_of_calls_leave_nothing() -> None:
    world = World(sessions=8)
    peer = Peer(CLIENT)
    offer = peer.offer()
    for _ in range(CALLS // 8):
        ids = [world.calls.create(offer, world.now, world.now).call_id for _ in range(8)]
        for call_id in ids:
            assert world.calls.hangup(call_id, world.now)
        world.serve()
    nothing_left(world)
    totals = world.slot.totals()
    assert totals["sessions"] == totals["ended_hangup"] == CALLS


def echoes(world: World, peer: Peer, session: Session) -> bool:
    return world.until(lambda: peer.media.heard and session.state == "live", 3)


def test_calls_that_went_all_the_way_leave_nothing() -> None:
    """Some of each kind of end, with paths, keys, timers and restarts; no session object outlives its call."""
    world = World(sessions=8, link=Link(delay_s=0.005))
    ends: Counter[str] = Counter()
    for number in range(40):
        peer = Peer(("198.51.100.7", 1000 + number), seed=number)
        session = world.call(peer)
        if number % 5 == 0:
            peer.checks = False
            world.run(31)
        elif number % 5 == 1:
            world.run(0.004 * (number % 7))
            world.hangup(peer)
        else:
            peer.media.speaking = True
            assert echoes(world, peer, session)
            world.restart(peer)
            world.run(0.2)
            if number % 5 == 2:
                world.hangup(peer)
            elif number % 5 == 3:
                peer.close(world.now)
                world.carry(peer)
                world.run(1)
            else:
                peer.checks = peer.answers = peer.media.speaking = False
                world.run(31)
        ends[session.reason] += 1
        del world.clients[peer.own], session
    assert ends == {"no_check": 8, "hangup": 16, "close_notify": 8, "consent_expired": 8}
    nothing_left(world)
    gc.collect()
    sessions = [each for each in gc.get_objects() if isinstance(each, Session)]
    assert [each for each in sessions if each.place.engine is world.engine] == []
