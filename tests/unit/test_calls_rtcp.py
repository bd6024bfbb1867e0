"""What reports say of a call agrees with what the network did to it: round trip, losses and jitter, both ways.

The measure is the world's own record of what was sent and what arrived, and RFC 3550's formula for jitter in floating
point; both are told nothing by the code under test. The client sends an SR a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from _fastpath.media_slot import SessionView
from tests.support.peer import Peer
from tests.support.peer_media import FRAME_S
from tests.support.world import CLIENT, RELAYS, SECOND_US, Link, World
from transceiver.session import Session

RELAY = next(iter(RELAYS))
SECONDS = 30
REPORT_S = 2.5  # the longest between two reports


def call(up: Link, down: Link, seconds: float = SECONDS) -> tuple[World, Peer, Session]:
    """A call set up on a good network; then both ways become what they are told."""
    world, peer = World(), Peer(CLIENT)
    session = world.call(peer)
    peer.media.speaking = peer.media.reporting = True
    assert world.until(lambda: peer.media.heard and session.state == "live", 5)
    world.change(RELAY, up, down)
    world.run(seconds)
    return world, peer, session


def jitters_ms(transits_s: Sequence[float]) -> list[float]:
    """RFC 3550, 6.4.1, of arrival less sending, in order of arrival: after each packet but the first."""
    found = [0.0]
    for before, after in pairwise(transits_s):
        found.append(found[-1] + (1e3 * abs(after - before) - found[-1]) / 16)
    return found[1:]


def transits_up(world: World) -> list[float]:
    """The client's frames are 20 ms apart on its clock: its sequence number is when it spoke."""
    media = [each for each in world.seen if each.up and each.kind == "rtp" and each.datagram[1] & 0x7F == 111]
    return [each.us / SECOND_US - int.from_bytes(each.datagram[2:4], "big") * FRAME_S for each in media]


def lost_down(world: World, peer: Peer) -> int:
    sent = sum(not each.up and each.kind == "rtp" and each.datagram[1] & 0x7F == 111 for each in world.seen)
    return sent - len(peer.media.heard)


def settled(world: World, peer: Peer, session: Session) -> SessionView:
    """Silence, then everything that is under way arrives and is reported."""
    peer.media.speaking = False
    world.run(REPORT_S + 1)
    return world.view(session)


@pytest.mark.parametrize("delay_s", [0.005, 0.06, 0.25])
def test_round_trip(delay_s: float) -> None:
    """Of both: ours from its reports, the client's from ours. The two clocks differ by three years."""
    world, peer, session = call(Link(delay_s=delay_s), Link(delay_s=delay_s), 8)
    assert world.view(session).rtt_ms == pytest.approx(2000 * delay_s, abs=1)
    assert peer.media.round_trips_us[-1] / 1e3 == pytest.approx(2000 * delay_s, abs=1)


def test_round_trip_follows_the_network() -> None:
    world, peer, session = call(Link(delay_s=0.02), Link(delay_s=0.02), 6)
    world.change(RELAY, Link(delay_s=0.15), Link(delay_s=0.05))
    world.run(6)
    assert world.view(session).rtt_ms == pytest.approx(200, abs=1)
    assert peer.media.round_trips_us[-1] / 1e3 == pytest.approx(200, abs=1)


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.1, 0.3])
def test_losses(loss: float) -> None:
    world, peer, session = call(Link(loss=loss), Link(loss=loss / 2))
    last = settled_on_a_good_network(world, peer, session)
    sent, heard = peer.media.sent, last.packets_up
    assert last.lost_up == sent - heard
    assert last.lost_down == lost_down(world, peer)
    assert last.lost_up == pytest.approx(loss * SECONDS / FRAME_S, rel=0.35, abs=2)
    assert (last.lost_down > 0) == (loss > 0)
    # And the client is told the same of its own stream.
    block = next(each.block for each in reversed(peer.media.reports) if each.block is not None)
    assert block.lost == last.lost_up


def settled_on_a_good_network(world: World, peer: Peer, session: Session) -> SessionView:
    """The last packets and reports are not lost, so that both sides know all."""
    world.change(RELAY, Link(), Link())
    world.run(1)
    return settled(world, peer, session)


def test_the_fraction_lost_is_of_the_last_interval() -> None:
    world, peer, session = call(Link(loss=0.25), Link())
    fractions = [each.block.fraction_lost / 256 for each in peer.media.reports if each.block is not None]
    assert sum(fractions[-8:]) / 8 == pytest.approx(0.25, abs=0.06)
    world.change(RELAY, Link(), Link())
    world.run(8)
    assert peer.media.reports[-1].block is not None
    assert peer.media.reports[-1].block.fraction_lost == 0
    assert session.state == "live"


@pytest.mark.parametrize("jitter_s", [0.0, 0.002, 0.008, 0.03])
def test_jitter(jitter_s: float) -> None:
    """30 ms give or take also reorder; the formula counts that the same way. A view is up to 16 packets old."""
    world, peer, session = call(Link(jitter_s=jitter_s, delay_s=0.05), Link(jitter_s=jitter_s / 2, delay_s=0.05))
    view = world.view(session)
    measured = jitters_ms(transits_up(world))
    assert any(view.jitter_up_ms == pytest.approx(each, rel=0.01, abs=0.05) for each in measured[-16:])
    # It wanders round the mean of the difference of two delays, two thirds of the width.
    assert view.jitter_up_ms == pytest.approx(1e3 * jitter_s * 2 / 3, rel=0.6, abs=0.2)
    last = settled(world, peer, session)
    assert peer.media.reception is not None
    # As the client says: its own statistics, in units of the RTP clock, came over in a report.
    assert last.jitter_down_ms == pytest.approx(peer.media.reception.jitter_us / 1e3, rel=0.01, abs=0.05)


def test_doubled_packets_are_no_gain() -> None:
    """SRTP takes none twice, so losses are not made up for by duplicates."""
    world, peer, session = call(Link(loss=0.1, duplicate=0.5), Link(duplicate=0.5))
    last = settled_on_a_good_network(world, peer, session)
    assert last.lost_up == peer.media.sent - last.packets_up
    assert last.lost_up > 0.05 * peer.media.sent
    assert world.books()["up_srtp_replayed"] > 500
    assert last.lost_down == 0


def test_reports_of_a_client_that_only_listens() -> None:
    """An RR is enough for the round trip; there is nothing to lose on the way up."""
    world, peer = World(), Peer(CLIENT)
    session = world.call(peer)
    peer.media.reporting = True
    assert world.until(lambda: session.state == "live", 5)
    for number in range(400):
        assert world.engine.write_frame(session.place.index, b"word", timestamp=960 * number)
        world.engine.pump(session.place.index, session.place.serial)
        world.serve()
        world.run(FRAME_S)
    view = world.view(session)
    assert view.rtt_ms == pytest.approx(60, abs=1)
    assert (view.packets_up, view.lost_up, view.packets_down) == (0, 0, 400)
    assert len(peer.media.heard) >= 398
    senders = [each.sender for each in peer.media.reports if each.sender is not None]
    assert senders[-1].packets <= 400
    assert senders[-1].octets == 4 * senders[-1].packets


def test_frames_leave_when_they_are_due() -> None:
    """An application writes ahead of time; checks, reports and our own requests have timers of their own meanwhile."""
    world, peer = World(application=Mute()), Peer(CLIENT)
    session = world.call(peer)
    assert world.until(lambda: session.state == "live" and session.stages.proven, 5)
    check = next(each.datagram for each in world.seen if each.up)
    due: list[int] = []
    for burst in range(40):
        for number in range(10):
            due.append(world.us + 5000 + 20_000 * number)
            frame = 10 * burst + number
            assert world.engine.write_frame(session.place.index, b"x", timestamp=960 * frame, at_us=due[-1])
        world.engine.pump(session.place.index, session.place.serial)
        world.serve()
        world.run(0.11)
        world.serve([((("203.0.113.66", 2000 + burst), RELAY), check)])
        world.run(0.09)
    world.run(0.1)
    left = [each.us for each in world.seen if not each.up and each.kind == "rtp" and each.datagram[1] & 0x7F == 111]
    assert len(left) == 400
    assert all(0 <= at - wanted <= 1001 for at, wanted in zip(left, due, strict=True))


class Mute:
    """An application that neither echoes nor speaks by itself."""

    audio_echo = False

    def opened(self, channel: object) -> None: ...
    def message(self, channel: object, message: object) -> None: ...
    def closed(self, channel: object) -> None: ...
