"""How calls begin and how they end: what leaves first, what is sent again, which reason each end has, and what a client
sees of it.
"""

from __future__ import annotations

from typing import Any

import pytest

from _fastpath.wire import binding
from tests.support.dtls_peers import identity
from tests.support.peer import SLOW_S, Peer
from tests.support.peer_media import FRAME_S
from tests.support.world import CLIENT, RELAYS, SECOND_US, Link, Seen, World
from transceiver.answer import Setup
from transceiver.session import BYE_GRACE_S, Session

LINK = Link(delay_s=0.03)
RTT_S = 0.06
RELAY = next(iter(RELAYS))
CONSENT_S = 30.0

roles = pytest.mark.parametrize("prefer", ["active", "passive"])


def live(prefer: Setup = "active", *, link: Link = LINK, **kwargs: Any) -> tuple[World, Peer, Session]:
    world = World(link=link, prefer=prefer)
    peer = Peer(CLIENT, **kwargs)
    session = world.call(peer)
    assert world.until(lambda: peer.connected_at and session.state == "live", 5)
    world.run(0.5)
    return world, peer, session


def down(world: World, kind: str, since_us: int = 0) -> list[Seen]:
    return [each for each in world.seen if not each.up and each.kind == kind and each.us >= since_us]


def silence(peer: Peer) -> None:
    """It is gone without a word."""
    peer.checks = peer.answers = peer.media.speaking = peer.media.reporting = False


def ended(world: World, session: Session, limit_s: float = 60) -> float:
    """Seconds until it is over, all of it."""
    started = world.now
    assert world.until(lambda: session.state == "gone", limit_s)
    assert len(world.calls.registry) == 0
    return world.now - started


def totals(world: World) -> dict[str, int]:
    return {name: n for name, n in world.slot.totals().items() if n and name.startswith("ended_")}


# --- the beginning ---


def test_the_hello_leaves_behind_the_answer_to_the_first_check() -> None:
    """On the same flow, before nomination, before the path is proven."""
    world = World(link=LINK)
    peer = Peer(CLIENT)
    peer.answers = False
    session = world.call(peer)
    peer.routes[0].use_candidate = False
    assert world.until(lambda: session.state == "handshaking", 1)
    kinds = [(each.kind, each.datagram[:2]) for each in world.seen if not each.up]
    assert kinds == [("stun", b"\1\1"), ("stun", b"\0\1"), ("dtls", b"\x16\xfe")]


def test_nothing_leaves_before_the_first_check() -> None:
    world = World(link=LINK)
    peer = Peer(CLIENT)
    peer.checks = False
    world.call(peer)
    world.run(20)
    assert world.seen == []


def test_the_client_may_begin_before_its_check_is_nominated() -> None:
    """Chromium's hello comes right behind the first answer, half a round trip before USE-CANDIDATE."""
    world = World(link=LINK, prefer="passive")
    peer = Peer(CLIENT)
    session = world.call(peer)
    peer.routes[0].use_candidate = False
    assert world.until(lambda: session.state == "live", 1)


@roles
def test_a_flight_that_could_not_be_afforded_leaves_when_the_path_is_proven(prefer: Setup) -> None:
    """All the datagrams are the test's: one small check, as client a hello, and a late answer to our request."""
    world = World(link=LINK, prefer=prefer)
    peer = Peer(CLIENT)
    if prefer == "active":
        peer.ufrag, peer.credentials = "u" * 60, {"u" * 60: peer.pwd}  # our request to it takes what is left
    session = world.call(peer)
    del world.clients[CLIENT]
    assert peer.remote is not None
    check = binding.request(
        bytes(12), f"{peer.remote.ufrag}:".encode(), peer.remote.pwd.encode(), priority=1, tie_breaker=1,
        controlling=True,
    )  # fmt: skip
    assert peer.dtls is not None
    peer.dtls.start(world.now)
    world.serve([((CLIENT, RELAY), each) for each in (check, *peer.dtls.take_datagrams())])
    assert down(world, "dtls") == []
    assert world.books()["down_amplified"] == 1
    (request,) = (each.datagram for each in world.seen if each.datagram[:2] == b"\0\1" and not each.up)
    world.us += 50_000
    world.serve([((CLIENT, RELAY), binding.success(request[8:20], RELAY, peer.pwd.encode()))])
    (flight,) = down(world, "dtls")
    assert flight.us == world.us
    assert session.stages.proven == world.now
    peer.dtls.receive(flight.datagram, world.now)
    world.serve([((CLIENT, RELAY), each) for each in peer.dtls.take_datagrams()])
    assert len(down(world, "dtls")) == 2


@roles
def test_the_last_flight_leaves_again_with_the_clients_next_check(prefer: Setup) -> None:
    """A client that checks again is there: the handshake does not wait for its timer."""
    world = World(link=LINK, prefer=prefer)
    peer = Peer(CLIENT)
    session = world.call(peer)
    assert world.until(lambda: down(world, "dtls"), 1)
    world.connect(RELAY, Link(loss=1.0), 5)  # nothing arrives any more, and timers double
    world.run(4.3)
    world.connect(RELAY, LINK, 6)
    peer.check(peer.routes[0], world.now)
    world.carry(peer)
    asked_us = world.us
    world.run(LINK.delay_s + 0.001)
    (flight,) = down(world, "dtls", asked_us)
    assert flight.us - asked_us == pytest.approx(LINK.delay_s * SECOND_US, abs=2)
    assert world.until(lambda: session.state == "live", 0.2)


def test_media_that_came_before_the_keys_is_heard() -> None:
    """The client's first packets overtake the end of its handshake: a few are held and echoed."""
    world = World(link=LINK)
    peer = Peer(CLIENT)
    session = world.call(peer)
    assert world.until(lambda: peer.dtls and peer.dtls.state == "connected", 3)
    finished = [each for each in peer.out if each[2][0] < 64]
    assert session.state != "live"
    peer.out.clear()
    early = [peer.media.packet(b"early %d" % number) for number in range(6)]
    world.serve([((CLIENT, RELAY), datagram) for datagram in early])
    world.run(0.02)
    assert world.books()["up_held"] == 4
    assert world.books()["up_no_keys"] == 2
    peer.out += finished
    world.carry(peer)
    world.run(1)
    assert [each.header.payload for each in peer.media.heard] == [b"early 0", b"early 1", b"early 2", b"early 3"]


def test_what_is_held_outlives_the_timers_of_the_set_up() -> None:
    """Our requests are repeated meanwhile, and frames are looked for; what is held are no frames yet."""
    world = World(link=LINK)
    peer = Peer(CLIENT)
    peer.answers = False
    session = world.call(peer)
    assert world.until(lambda: peer.dtls and peer.dtls.state == "connected", 3)
    finished = [each for each in peer.out if each[2][0] < 64]
    peer.out.clear()
    world.connect(RELAY, Link(loss=1.0), 5)
    world.serve([((CLIENT, RELAY), peer.media.packet(b"early"))])
    requests = sum(each.datagram[:2] == b"\0\1" for each in world.seen)
    world.run(0.8)
    assert sum(each.datagram[:2] == b"\0\1" for each in world.seen) > requests
    assert session.state == "handshaking"
    world.connect(RELAY, LINK, 6)
    peer.answers = True
    peer.out += finished
    world.carry(peer)
    assert world.until(lambda: peer.media.heard or session.state == "gone", 3)
    assert peer.media.heard[0].header.payload == b"early"


# --- the end ---


@pytest.mark.parametrize("checked_for_s", [0, 3, 47])
def test_consent_expires_thirty_seconds_after_the_last_answer(checked_for_s: float) -> None:
    """RFC 7675, 5.1. Media does not count: it is no consent. Nor do checks: they may be copies, and here they go on."""
    world, peer, session = live()
    world.run(checked_for_s)
    peer.answers = False
    peer.media.speaking = True
    last = max(each.us for each in world.seen if each.up and each.datagram[:2] == b"\1\1") / SECOND_US
    ended(world, session)
    assert session.reason == "consent_expired"
    assert world.now - last == pytest.approx(CONSENT_S, abs=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_consent_does_not_expire_on_a_bad_network(seed: int) -> None:
    """A third of the requests and answers is lost, for ten minutes."""
    world = World(seed, link=LINK)
    peer = Peer(CLIENT, seed=seed)
    session = world.call(peer)
    assert world.until(lambda: session.stages.proven and session.state == "live", 5)
    world.change(RELAY, Link(loss=0.3), Link(loss=0.3))
    world.run(600)
    assert session.state == "live"
    requests = [each for each in world.seen if not each.up and each.datagram[:2] == b"\0\1"]
    assert len(requests) < 600 / 2


def test_our_requests_keep_their_pace() -> None:
    """On a good network one every five seconds, and none that is not answered."""
    world, peer, session = live()
    since = peer.routes[0].requests
    world.run(60)
    assert 10 <= peer.routes[0].requests - since <= 12
    assert world.view(session).rtt_ms == pytest.approx(60, abs=0.1)


def test_without_any_check_a_call_ends_after_thirty_seconds() -> None:
    world = World(link=LINK)
    peer = Peer(CLIENT)
    peer.checks = False
    session = world.call(peer)
    assert ended(world, session) == pytest.approx(CONSENT_S, abs=0.05)
    assert session.reason == "no_check"
    assert world.seen == []
    assert totals(world) == {"ended_no_check": 1}


def test_a_handshake_that_never_ends_is_given_up() -> None:
    world = World(link=LINK, prefer="passive")
    peer = Peer(CLIENT)
    session = world.call(peer)
    assert peer.dtls is not None
    peer.dtls.start(0.0)
    peer.dtls.take_datagrams()
    peer.dtls.state = "closed"
    ended(world, session, 40)
    assert session.reason == "dtls_timeout"


def test_a_bye_and_silence_end_a_call_after_a_grace() -> None:
    world, peer, session = live()
    peer.media.report(world.now, bye=True)
    world.carry(peer)
    silence(peer)
    assert ended(world, session) == pytest.approx(BYE_GRACE_S + LINK.delay_s, abs=0.05)
    assert session.reason == "bye"


def test_a_bye_of_a_client_that_goes_on_checking_ends_nothing() -> None:
    """Only its microphone was switched off. It checks every 2.5 s."""
    world, peer, session = live()
    for _ in range(3):
        peer.media.report(world.now, bye=True)
        world.carry(peer)
        world.run(2 * BYE_GRACE_S)
        assert session.state == "live"
    silence(peer)
    ended(world, session)
    assert session.reason == "consent_expired"


@roles
def test_close_notify_ends_a_call_at_once(prefer: Setup) -> None:
    world, peer, session = live(prefer)
    peer.close(world.now)
    world.carry(peer)
    assert ended(world, session) < RTT_S
    assert session.reason == "close_notify"
    world.run(1)
    assert peer.media.byes == 1


@roles
def test_a_hang_up_is_said_in_dtls_and_in_rtcp_and_checks_are_refused_from_then_on(prefer: Setup) -> None:
    world, peer, session = live(prefer)
    peer.media.speaking = True
    world.run(1)
    assert world.hangup(peer)
    assert session.state == "gone"
    assert session.reason == "hangup"
    assert not world.hangup(peer)
    world.run(LINK.delay_s + FRAME_S)
    assert peer.dtls is not None
    assert peer.dtls.state == "closed"
    assert peer.media.byes == 1
    heard = len(peer.media.heard)
    world.run(2 * SLOW_S)
    # The error is authentic, or the client would not have taken it.
    assert set(peer.routes[0].errors) == {403}
    assert peer.wrong == []
    assert len(peer.media.heard) == heard
    counters = world.books()
    assert counters["up_gone"] == len(peer.routes[0].errors)
    assert counters["up_no_path"] > 0
    assert totals(world) == {"ended_hangup": 1}


def test_the_goodbye_is_the_last_that_leaves() -> None:
    world, peer, _ = live()
    since_us = world.us
    world.hangup(peer)
    assert [each.kind for each in world.seen if not each.up and each.us == since_us] == ["dtls", "rtp"]


def test_a_call_is_ended_by_a_tool_or_for_all() -> None:
    world, peer, session = live()
    assert world.slot.request_hangup(session.place.index, session.place.serial)
    world.calls.obey_tools(world.now)
    world.serve()
    assert session.reason == "admin"
    assert not world.slot.request_hangup(session.place.index, session.place.serial)
    other = world.call(Peer(("198.51.100.8", 1)))
    world.calls.end_all("drained", world.now)
    world.serve()
    assert other.reason == "drained"
    assert totals(world) == {"ended_admin": 1, "ended_drained": 1}
    world.run(1)
    assert peer.dtls is not None
    assert peer.dtls.state == "closed"


@roles
def test_a_wrong_fingerprint_ends_the_call_without_keys(prefer: Setup) -> None:
    """Whoever shows another certificate than the offer names is a man in the middle."""
    world = World(link=LINK, prefer=prefer)
    peer = Peer(CLIENT, certificate=identity("ecdsa", 1))
    honest = peer.identity
    peer.identity = identity("ecdsa", 2)
    offer = peer.offer()
    peer.identity = honest
    created = world.calls.create(offer, world.now, world.now)
    peer.call_id = created.call_id
    peer.accept(created.answer, world.now)
    world.clients[CLIENT] = peer
    session = world.session(peer)
    ended(world, session, 5)
    assert session.reason == "dtls_failed"
    assert "fingerprint" in session.dtls.failure
    assert session.dtls.keys is None
    assert session.pair is None
    assert peer.dtls is not None
    assert peer.dtls.keys is None
    counters = world.books()
    assert counters["down_sent_rtp"] == counters["down_sent_rtcp"] == 0


def test_an_offer_without_srtp_in_its_handshake_fails() -> None:
    world = World(link=LINK)
    peer = Peer(CLIENT, profiles=())
    session = world.call(peer)
    ended(world, session, 5)
    assert session.reason == "dtls_failed"
    assert "SRTP" in session.dtls.failure
