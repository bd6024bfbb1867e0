"""Where a call's packets go: to the client, wherever it moves, and to nobody else, whatever a sniffer sends again.

The sniffer has every datagram of the call and can send from any address; what he cannot do is receive at the client's.
`flow_of` tells which flow each packet down took; all is seen at the relay.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.peer import FAST_S, SLOW_S, Address, Peer, Route
from tests.support.peer_media import FRAME_S
from tests.support.world import CLIENT, RELAYS, SECOND_US, Link, Seen, World
from transceiver.session import Session

LINK = Link(delay_s=0.03)
RTT_S = 2 * LINK.delay_s
ELSEWHERE: Address = ("198.51.100.99", 40_000)
SNIFFER: Address = ("203.0.113.66", 6666)
FIRST, SECOND = RELAYS


def talking(
    *, relays: int = 1, link: Link = LINK, peer: Peer | None = None, sessions: int = 4
) -> tuple[World, Peer, Session]:
    """A call that is up and speaks, all of its routes proven."""
    world = World(link=link, relays=relays, sessions=sessions)
    peer = peer or Peer(CLIENT)
    session = world.call(peer)
    peer.media.speaking = True
    assert world.until(lambda: peer.media.heard and session.state == "live", 5)
    world.run(1)
    assert len(proven(world, session)) == relays
    return world, peer, session


def proven(world: World, session: Session) -> list[dict[str, object]]:
    paths = world.engine.debug(session.place.index)["paths"]
    assert isinstance(paths, list)
    return [path for path in paths if path["proven"]]


def down(world: World, kind: str = "rtp", after_us: int = 0) -> list[Seen]:
    return [each for each in world.seen if not each.up and each.kind == kind and each.us >= after_us]


def sniffed(world: World, client: Address = CLIENT) -> bytes:
    """The newest check of that address."""
    checks = [each for each in world.seen if each.up and each.client == client and each.datagram[:2] == b"\0\1"]
    return checks[-1].datagram


def inject(world: World, datagram: bytes, client: Address, relay: Address = FIRST) -> None:
    """As if it came from that address, at once."""
    world.serve([((client, relay), datagram)])


def longest_gap_s(peer: Peer, after: float, until: float) -> float:
    times = [after, *(each.at for each in peer.media.heard if after <= each.at <= until), until]
    return max(later - sooner for sooner, later in zip(times, times[1:], strict=False))


def hears_again(world: World, peer: Peer, after: float) -> bool:
    return world.until(lambda: peer.media.heard[-1].at > after, 6)


# --- the client moves ---


def test_a_client_that_moves_hears_again_within_a_round_trip_of_its_check() -> None:
    """It knows that it moved, and checks at once."""
    world, peer, session = talking()
    moved_us = world.us
    world.move(peer, ELSEWHERE)
    world.run(3)
    check = next(each for each in world.seen if each.up and each.client == ELSEWHERE and each.kind == "stun")
    first = next(each for each in down(world, after_us=moved_us) if each.client == ELSEWHERE)
    assert first.us - check.us <= (RTT_S + 2 * FRAME_S) * SECOND_US
    assert longest_gap_s(peer, moved_us / SECOND_US, world.now) <= 2 * RTT_S + FAST_S + 2 * FRAME_S
    assert world.view(session).client == f"{ELSEWHERE[0]}:{ELSEWHERE[1]}"


def test_a_client_whose_nat_moves_it_hears_again_after_its_next_check() -> None:
    """It knows nothing, and goes on as before: media of a new address is nobody's until a check has come from it."""
    world, peer, session = talking()
    moved_us = world.us
    due = peer.routes[0].next_check
    world.move(peer, ELSEWHERE)
    peer.routes[0].next_check = due
    peer.routes[0].answered_at = moved_us / SECOND_US
    world.run(2 * SLOW_S)
    assert longest_gap_s(peer, moved_us / SECOND_US, world.now) <= SLOW_S + 2 * RTT_S + 2 * FRAME_S
    assert world.books()["up_no_path"] > 0
    gone = [each for each in down(world, after_us=moved_us + 4 * SECOND_US) if each.client != ELSEWHERE]
    assert gone == []


def test_a_client_that_moves_to_and_fro_under_loss() -> None:
    """Twenty moves; every one of them ends with the echo heard again."""
    world, peer, _ = talking(link=Link(loss=0.1, delay_s=0.03, jitter_s=0.01))
    for number in range(20):
        world.move(peer, ("198.51.100.99", 40_000 + number % 11))
        assert hears_again(world, peer, world.now + RTT_S), number
        world.run(0.5)
    assert world.meter.worst <= 3
    assert peer.wrong == []


# --- what a sniffer can do ---


def undisturbed(world: World, peer: Peer, session: Session, since_us: int, others: tuple[Address, ...] = ()) -> None:
    """The call went on as if nothing was; `others` have calls of their own."""
    assert longest_gap_s(peer, since_us / SECOND_US, world.now) <= RTT_S + 2 * FRAME_S
    for kind in ("rtp", "dtls"):
        assert {each.client for each in down(world, kind, since_us)} <= {CLIENT, *others}
    assert session.state == "live"
    assert world.meter.worst <= 3


def test_a_check_replayed_from_elsewhere_moves_nothing() -> None:
    world, peer, session = talking()
    since_us, check = world.us, sniffed(world)
    for _ in range(1000):
        inject(world, check, SNIFFER)
        world.run(0.004)
    undisturbed(world, peer, session, since_us)
    assert world.meter.up[SNIFFER] == 1000 * len(check)
    assert SNIFFER not in world.meter.verified


def test_a_check_replayed_from_many_addresses_evicts_no_live_path() -> None:
    world, peer, session = talking(relays=2)
    since_us, check = world.us, sniffed(world)
    before = [(path["number"], path["key"]) for path in proven(world, session)]
    for number in range(1000):
        inject(world, check, ("203.0.113.66", 1000 + number), (FIRST, SECOND)[number % 2])
        world.run(0.004)
    undisturbed(world, peer, session, since_us)
    assert [(path["number"], path["key"]) for path in proven(world, session)] == before
    assert world.view(session).paths <= 8


def test_a_quiet_path_that_the_client_still_checks_is_not_evicted_either() -> None:
    """It carries nothing, yet may be needed: a check of it within ten seconds keeps it."""
    world, peer, session = talking(relays=2)
    peer.selected = peer.routes[0]
    check = sniffed(world)
    for number in range(600):
        inject(world, check, ("203.0.113.66", 1000 + number))
        world.run(0.05)
    assert len(proven(world, session)) == 2


def test_everything_replayed_from_elsewhere_is_dropped() -> None:
    """Media, reports and handshake packets, from an address without a check and from one with a replayed one."""
    world, peer, session = talking()
    peer.media.reporting = True
    world.run(2)
    since_us = world.us
    captured = [each.datagram for each in world.seen if each.up and each.kind != "stun"]
    for client in (SNIFFER, ("203.0.113.67", 1)):
        for datagram in captured:
            inject(world, datagram, client)
        world.run(0.5)
        inject(world, sniffed(world), ("203.0.113.67", 1))
    undisturbed(world, peer, session, since_us)
    counters = world.books()
    assert counters["up_no_path"] == len(captured)
    assert counters["up_srtp_replayed"] > len(captured) / 2
    assert peer.media.refused == []


@pytest.mark.parametrize("per_second", [100, 1000])
def test_a_sniffer_does_not_keep_a_moving_client_away(per_second: int) -> None:
    """He sends a check from a new address each time, so that no path lives for a round trip, while the client moves."""
    world, peer, _ = talking()
    check, moved = sniffed(world), world.now
    world.move(peer, ELSEWHERE)
    for number in range(per_second):
        inject(world, check, ("203.0.113.66", 1000 + number))
        world.run(1 / per_second)
    assert longest_gap_s(peer, moved, world.now) <= 2 * RTT_S + FAST_S + 2 * FRAME_S
    assert world.meter.worst <= 3


@pytest.mark.parametrize("per_second", [100, 1000])
def test_nor_a_client_that_calls(per_second: int) -> None:
    """He has the first check before the transceiver has."""
    world, peer = World(link=LINK), Peer(CLIENT)
    world.call(peer)
    peer.media.speaking = True
    check = peer.binding_request(bytes(12), 1)
    for number in range(per_second):
        inject(world, check, ("203.0.113.66", 1000 + number))
        world.run(1 / per_second)
    assert peer.media.heard[0].at < world.us / SECOND_US - 1 + 10 * RTT_S
    assert world.meter.worst <= 3
    assert {each.client for each in down(world)} == {CLIENT}


# --- two relays ---


def routes(world: World, since_us: int, before_us: int | None = None) -> set[Address]:
    """The relays that media came down by."""
    return {each.relay for each in down(world, after_us=since_us) if before_us is None or each.us < before_us}


@pytest.mark.parametrize("place", [0, 1])
def test_media_stays_where_the_client_puts_it(place: int) -> None:
    """Both routes are checked with USE-CANDIDATE for a minute, as Firefox does at first and others at times."""
    world, peer, _ = talking(relays=2)
    peer.selected = peer.routes[place]
    world.run(0.2)
    since_us = world.us
    world.run(60)
    assert peer.routes[0].checks > 20
    assert peer.routes[1].checks > 20
    assert routes(world, since_us) == {peer.routes[place].relay}
    assert longest_gap_s(peer, since_us / SECOND_US, world.now) <= 2 * FRAME_S


def test_media_follows_the_client_to_another_route_and_stays() -> None:
    world, peer, session = talking(relays=2)
    for place in (1, 0, 1):
        peer.selected = peer.routes[place]
        since_us = world.us
        world.run(10)
        there_us = since_us + round((LINK.delay_s + 2 * FRAME_S) * SECOND_US)
        assert routes(world, there_us) == {peer.routes[place].relay}
        assert world.view(session).relay == f"{peer.routes[place].relay[0]}:{peer.routes[place].relay[1]}"


def test_late_packets_of_the_old_route_do_not_bring_it_back() -> None:
    """The old route is 300 ms slow: its last packets come behind the first ones of the new."""
    world, peer, _ = talking(relays=2)
    world.connect(FIRST, Link(delay_s=0.3), 77)
    peer.selected = peer.routes[0]
    world.run(3)
    peer.selected = peer.routes[1]
    since_us = world.us
    world.run(3)
    flows = [each.relay for each in down(world, after_us=since_us)]
    switch = flows.index(SECOND)
    assert switch < 5
    assert set(flows[switch:]) == {SECOND}
    late = [
        each for each in world.seen if each.up and each.kind == "rtp" and each.relay == FIRST and each.us > since_us
    ]
    assert len(late) > 10


@pytest.mark.parametrize("better", [0, 1])
def test_without_media_of_the_client_the_better_nominated_route_is_taken(better: int) -> None:
    """A client that only listens: what the application says goes by the route of the higher priority, for a minute."""
    world = World(link=LINK, relays=2)
    peer = Peer(CLIENT)
    session = world.call(peer)
    peer.routes[better].priority += 1 << 20
    assert world.until(lambda: session.state == "live" and len(proven(world, session)) == 2, 5)
    since_us = world.us
    for number in range(1200):
        assert world.engine.write_frame(session.place.index, b"word", timestamp=960 * number)
        world.engine.pump(session.place.index, session.place.serial)
        world.serve()
        world.run(0.05)
    assert routes(world, since_us) == {peer.routes[better].relay}
    assert len(peer.media.heard) == 1200


def test_only_the_nominated_route_is_taken_while_there_is_no_media() -> None:
    world = World(link=LINK, relays=2)
    peer = Peer(CLIENT)
    session = world.call(peer)
    peer.routes[0].use_candidate = False
    assert world.until(lambda: session.state == "live" and len(proven(world, session)) == 2, 5)
    world.run(10)
    assert {each.relay for each in down(world, "rtp", world.us - 5 * SECOND_US)} == {peer.routes[1].relay}


def test_a_route_that_dies_is_left_for_the_other() -> None:
    """The client listens only; the route in use is not checked any more."""
    world, peer, session = talking(relays=2)
    peer.selected = peer.routes[0]
    world.run(1)
    peer.media.speaking = False
    peer.routes[0].next_check = None
    world.run(12)
    assert world.view(session).relay == f"{SECOND[0]}:{SECOND[1]}"


# --- one address, two calls ---


def second_call(world: World) -> tuple[Peer, Session]:
    """Of the same client address: a NAT's port used again, a page reloaded."""
    peer = Peer(CLIENT, seed=2)
    return peer, world.call(peer)


def test_the_address_of_a_call_that_vanished_is_the_new_ones_once_proven() -> None:
    world, old, session = talking()
    newer, fresh = second_call(world)
    newer.answers = False
    newer.media.speaking = True
    world.run(0.1)
    before = world.books()["up_rtp"]
    inject(world, old.media.packet(), CLIENT)
    world.run(2)
    assert world.books()["up_rtp"] == before + 1
    assert fresh.stages.proven is None
    newer.answers = True
    assert world.until(lambda: newer.media.heard and fresh.state == "live", 5)
    # The old one's packets are nobody's now, and its own are not sent there any more.
    inject(world, old.media.packet(), CLIENT)
    assert world.books()["up_srtp_forged"] > 0
    assert session.state == "live"


def test_an_old_calls_check_does_not_take_the_address_back() -> None:
    """Late, or sniffed and sent again: whoever proved the address last has it."""
    world, _, _ = talking()
    check = sniffed(world)
    newer, fresh = second_call(world)
    newer.media.speaking = True
    assert world.until(lambda: newer.media.heard and fresh.state == "live", 5)
    since_us = world.us
    for _ in range(500):
        inject(world, check, CLIENT)
        world.run(0.01)
    assert longest_gap_s(newer, since_us / SECOND_US, world.now) <= RTT_S + 2 * FRAME_S
    counters = world.books()
    assert counters["up_srtp_forged"] == 0


def attackers_check(world: World) -> Callable[[], bytes]:
    """Of a session of his own, which he holds elsewhere."""
    attacker = Peer(SNIFFER, seed=3)
    world.call(attacker)
    assert world.until(lambda: attacker.connected_at, 5)
    world.run(1)
    route: Route = attacker.routes[0]
    return lambda: attacker.binding_request(attacker.random.randbytes(12), route.priority)


def test_an_attackers_own_token_takes_no_packets_of_a_client() -> None:
    """Sent a thousand times as if from the client's address, in the midst of its call."""
    world, peer, session = talking()
    check = attackers_check(world)
    since_us = world.us
    for _ in range(1000):
        inject(world, check(), CLIENT)
        world.run(0.004)
    undisturbed(world, peer, session, since_us, (SNIFFER,))
    assert world.books()["up_srtp_forged"] == 0


def test_an_attackers_own_token_keeps_no_client_from_calling() -> None:
    """Sent before the client's first check, and all through its set-up."""
    world = World(link=LINK)
    check = attackers_check(world)
    inject(world, check(), CLIENT)
    peer = Peer(CLIENT)
    session = world.call(peer)
    peer.media.speaking = True
    started = world.now
    while not (peer.media.heard and session.state == "live"):
        inject(world, check(), CLIENT)
        world.run(0.01)
        assert world.now < started + 3
