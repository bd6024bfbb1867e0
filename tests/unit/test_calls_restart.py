"""ICE restarts: the session stays, its keys stay, and no check of a living call is ever told that the call is gone.

A 403 ends a call in Chromium within one check. So whichever of its tokens a client still uses, and in whatever order
its checks arrive: the newest two and the one in use are answered, older ones at worst with silence.
"""

from __future__ import annotations

import random

import pytest

from _fastpath.wire import binding
from tests.support.dtls_peers import identity
from tests.support.peer import Peer, read_answer
from tests.support.peer_media import FRAME_S
from tests.support.world import CLIENT, ICE_KEY, RELAYS, SECOND_US, Link, World
from transceiver.calls import RESTARTS_MOST
from transceiver.http.calls import Refused
from transceiver.ice import derive_pwd
from transceiver.session import Session

LINK = Link(delay_s=0.03)
RELAY = next(iter(RELAYS))


def talking(*, loss: float = 0.0) -> tuple[World, Peer, Session]:
    world = World(link=Link(loss=loss, delay_s=0.03))
    peer = Peer(CLIENT)
    session = world.call(peer)
    peer.media.speaking = True
    assert world.until(lambda: peer.media.heard and session.state == "live", 10)
    return world, peer, session


def verdict_of(world: World, check: bytes, client: tuple[str, int] = CLIENT) -> str:
    before = world.slot.counters()
    world.serve([((client, RELAY), check)])
    after = world.slot.counters()
    (name,) = (each for each in after if each.startswith("up_") and after[each] != before[each])
    return name.removeprefix("up_")


class Offers:
    """The credentials of a call, in the order in which they were given: checks with any of them."""

    def __init__(self, world: World, peer: Peer) -> None:
        self.world, self.peer = world, peer
        self.known = [peer.remote]

    def restart(self) -> None:
        self.peer.renew()
        answer = self.world.calls.restart(self.peer.call_id, self.peer.offer())
        self.world.serve()
        self.known.append(read_answer(answer))

    def check(self, which: int) -> bytes:
        remote = self.known[which]
        assert remote is not None
        return binding.request(
            self.peer.random.randbytes(12), f"{remote.ufrag}:{self.peer.ufrag}".encode(), remote.pwd.encode(),
            priority=1, tie_breaker=1, controlling=True,
        )  # fmt: skip


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_restart_changes_nothing_but_the_credentials(loss: float) -> None:
    world, peer, session = talking(loss=loss)
    keys, pair = session.dtls.keys, session.pair
    tokens = {session.token}
    for _ in range(4):
        since_us, heard = world.us, len(peer.media.heard)
        world.restart(peer)
        assert peer.remote is not None
        tokens.add(peer.remote.ufrag)
        world.run(6)
        assert peer.routes[0].answers > 0
        assert peer.routes[0].errors == []
        assert len(peer.media.heard) - heard > 0.7 * 6 / FRAME_S
        assert all(each.client == CLIENT for each in world.seen if each.us > since_us)
    assert len(tokens) == 5
    assert session.dtls.keys is keys
    assert session.pair is pair
    assert session.restarts == 4
    assert world.books()["up_gone"] == 0
    assert world.meter.worst <= 3
    assert peer.wrong == []


def test_a_restart_on_another_address() -> None:
    """Why clients restart: the network has changed."""
    world, peer, session = talking()
    world.move(peer, ("203.0.113.9", 9))
    world.restart(peer)
    moved_us = world.us
    world.run(2)
    assert world.view(session).client == "203.0.113.9:9"
    assert any(
        each.at < moved_us / SECOND_US + 0.25 for each in peer.media.heard if each.at > moved_us / SECOND_US + 0.1
    )


def test_a_copy_of_an_old_check_does_not_end_a_restarted_call() -> None:
    """The client has forgotten its old credentials. As a sniffer uses them we ask under them too, but not only."""
    world, peer, session = talking()
    old = next(each.datagram for each in world.seen if each.up and each.datagram[:2] == b"\0\1")
    world.run(2)
    world.restart(peer)
    peer.credentials = {peer.ufrag: peer.pwd}
    world.run(1)
    peer.wrong.clear()
    for _ in range(80):
        assert verdict_of(world, old) == "check"
        world.run(0.5)
    assert session.state == "live"
    assert set(peer.wrong) == {"a request that is not for us"}
    assert peer.routes[0].requests > 4


def test_the_old_credentials_count_until_the_new_ones_do_and_after() -> None:
    """Checks that are under way when the answer arrives, and those of a client that never takes it."""
    world, peer, _ = talking()
    offers = Offers(world, peer)
    offers.restart()
    assert verdict_of(world, offers.check(0)) == "check"
    assert verdict_of(world, offers.check(1)) == "check"
    assert verdict_of(world, offers.check(0)) == "check"
    offers.restart()
    for which in (0, 1, 2, 1, 0):
        assert verdict_of(world, offers.check(which)) == "check"


def test_a_restart_before_the_first_check() -> None:
    """The client never uses its first answer; what it uses is kept, however many more restarts it asks for."""
    world = World(link=LINK)
    peer = Peer(CLIENT)
    world.call(peer)
    peer.checks = False
    offers = Offers(world, peer)
    offers.restart()
    for _ in range(5):
        assert verdict_of(world, offers.check(1)) == "check"
        offers.restart()


def test_the_newest_two_are_answered_however_many_there_were() -> None:
    """The client has used the first alone so far: none of the later ones may push it out, nor each other too soon."""
    world, peer, _ = talking()
    offers = Offers(world, peer)
    for _ in range(12):
        offers.restart()
        assert verdict_of(world, offers.check(0)) == "check"
    assert verdict_of(world, offers.check(-2)) == "check"
    assert verdict_of(world, offers.check(-1)) == "check"


@pytest.mark.parametrize("seed", range(40))
def test_no_order_of_restarts_and_checks_tells_a_living_call_that_it_is_gone(seed: int) -> None:
    world, peer, session = talking()
    peer.checks = False
    offers = Offers(world, peer)
    choice = random.Random(seed)
    in_use = 0
    for _ in range(80):
        if choice.random() < 0.3 and len(offers.known) <= RESTARTS_MOST:
            offers.restart()
            continue
        recent = choice.random() < 0.7
        which = choice.randrange(max(0, len(offers.known) - 2) if recent else 0, len(offers.known))
        verdict = verdict_of(world, offers.check(which), choice.choice([CLIENT, ("198.51.100.7", 50_001)]))
        assert verdict in ("check", "stun_unknown"), which
        # A client that has begun with one answer does not go back to one of before.
        if which >= in_use:
            if which >= len(offers.known) - 2 or which == in_use:
                assert verdict == "check", (which, in_use, len(offers.known))
            in_use = which if verdict == "check" else in_use
    assert world.books()["up_gone"] == 0
    world.hangup(peer)
    assert session.state == "gone"
    assert {verdict_of(world, offers.check(which)) for which in range(len(offers.known))} == {"gone"}


def test_the_most_restarts_of_a_call() -> None:
    world, peer, _ = talking()
    offers = Offers(world, peer)
    for _ in range(RESTARTS_MOST):
        offers.restart()
    with pytest.raises(Refused) as caught:
        offers.restart()
    assert caught.value.status == 429
    known = {verdict_of(world, offers.check(which)) for which in range(len(offers.known))}
    assert known == {"check", "stun_unknown"}
    assert verdict_of(world, offers.check(0)) == "check"
    assert verdict_of(world, offers.check(-1)) == "check"


def test_what_is_no_restart_is_refused_and_the_call_goes_on() -> None:
    world, peer, session = talking()
    other = Peer(CLIENT, seed=9, certificate=identity("ecdsa", 5))
    for offer, status in ((other.offer(), 422), ("v=0\r\n", 400)):
        with pytest.raises(Refused) as caught:
            world.calls.restart(peer.call_id, offer)
        assert caught.value.status == status
    with pytest.raises(Refused) as caught:
        world.calls.restart("no such call", peer.offer())
    assert caught.value.status == 404
    heard = len(peer.media.heard)
    world.run(2)
    assert session.state == "live"
    assert len(peer.media.heard) > heard + 90


def test_a_token_of_an_earlier_generation_is_gone_and_of_a_later_one_is_nobodys() -> None:
    """A successor at this address answers for its predecessor's calls; a reply to a call not yet made would kill it."""
    world, peer, _ = talking()
    minter = world.minter
    for ahead, expected in ((0, "gone"), (-1, "gone"), (-2000, "gone"), (1, "stun_unknown"), (2000, "stun_unknown")):
        token = minter.keyring.mint(1, minter.owner, minter.cluster, (minter.generation + ahead) % 4096)
        pwd = derive_pwd(ICE_KEY, token).encode()
        check = binding.request(bytes(12), f"{token}:x".encode(), pwd, priority=1, tie_breaker=1, controlling=True)
        assert verdict_of(world, check) == expected, ahead
    elsewhere = minter.keyring.mint(1, ("10.2.0.1", 7001), minter.cluster, minter.generation)
    check = binding.request(bytes(12), f"{elsewhere}:x".encode(), b"whatever", priority=1, tie_breaker=1)
    assert verdict_of(world, check) == "stun_unknown"
    assert peer.media.refused == []
