"""Data channels of whole calls, over DTLS and a bad network, in the virtual loop whose timers SCTP has.

The client's end is the same SCTP as ours; what it does with other implementations is tests/unit/test_sctp.py's.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiortc import rtcsctptransport

from tests.support import virtual_loop
from tests.support.peer import Peer
from tests.support.sctp_pair import LoopClock
from tests.support.world import CLIENT, Link, World
from transceiver.answer import Setup
from transceiver.session import BYE_GRACE_S

BAD = Link(loss=0.1, duplicate=0.05, delay_s=0.03, jitter_s=0.01)

roles = pytest.mark.parametrize("prefer", ["active", "passive"])


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtcsctptransport, "time", LoopClock)


async def connect(world: World, peer: Peer) -> None:
    session = world.call(peer)
    assert await world.run_in_loop(lambda: peer.connected_at and session.state == "live", 20)
    peer.media.open_channels()


async def echoed(world: World, peer: Peer, messages: list[str | bytes], limit_s: float = 60) -> None:
    """Everything comes back, in order and once."""
    assert peer.media.channels is not None
    channel = peer.media.channels.open("words")
    assert await world.run_in_loop(lambda: channel.state == "open", 20)
    for message in messages:
        channel.send(message)
    done: Callable[[], bool] = lambda: len(peer.media.messages) >= len(messages)  # noqa: E731
    assert await world.run_in_loop(done, limit_s)
    assert peer.media.messages == messages


@roles
@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize("link", [Link(), BAD], ids=["a good network", "a bad one"])
def test_messages_come_back(prefer: Setup, audio: bool, link: Link) -> None:
    async def main() -> None:
        world = World(5, link=link, prefer=prefer)
        peer = Peer(CLIENT, audio=audio, data=True)
        peer.media.speaking = audio
        await connect(world, peer)
        await echoed(world, peer, ["hello", b"bytes", "", b"\0" * 20_000, *(f"word {n}" for n in range(20))])
        session = world.session(peer)
        totals = world.slot.totals()
        assert totals["messages_up"] == 24
        assert (len(peer.media.heard) > 10) == audio
        peer.media.channels.close()  # type: ignore[union-attr]
        assert world.hangup(peer)
        assert session.state == "gone"
        assert session.channels is None
        world.books()
        assert world.meter.worst <= 3

    virtual_loop.run(main())


@roles
def test_channels_outlive_a_move_and_a_restart(prefer: Setup) -> None:
    async def main() -> None:
        world = World(6, link=Link(loss=0.05), prefer=prefer)
        peer = Peer(CLIENT, audio=False, data=True)
        await connect(world, peer)
        await echoed(world, peer, ["before"])
        world.move(peer, ("198.51.100.99", 9))
        world.restart(peer)
        peer.media.messages.clear()
        await echoed(world, peer, ["after"], 30)
        assert world.books()["up_gone"] == 0
        world.hangup(peer)
        assert await world.run_in_loop(lambda: peer.dtls and peer.dtls.state == "closed", 5)

    virtual_loop.run(main())


def test_a_client_that_never_answers_gets_no_more_than_it_pays_for() -> None:
    """Its handshake is done, and its SCTP knocks; when it does answer at last, all is well."""

    async def main() -> None:
        world = World(7)
        peer = Peer(CLIENT, audio=False, data=True)
        peer.answers = False
        await connect(world, peer)
        await world.run_in_loop(lambda: False, 10)
        assert world.meter.worst <= 3
        assert CLIENT not in world.meter.verified
        peer.answers = True
        await echoed(world, peer, ["at last"])
        world.hangup(peer)

    virtual_loop.run(main())


@pytest.mark.parametrize("stays", [True, False])
def test_the_end_of_sctp_and_silence_end_a_call_after_a_grace(stays: bool) -> None:
    """As after RTCP's BYE: some clients end the association when they leave, and say nothing else. Who goes on checking
    only has no data channels any more."""

    async def main() -> None:
        world = World(8)
        peer = Peer(CLIENT, audio=True, data=True)
        await connect(world, peer)
        await echoed(world, peer, ["hello"])
        session = world.session(peer)
        assert peer.media.channels is not None
        peer.media.channels.close()
        assert await world.run_in_loop(lambda: session.channels is not None and session.channels.state == "closed", 1)
        peer.checks = peer.answers = stays
        closed = world.now
        if stays:
            assert not await world.run_in_loop(lambda: session.state != "live", 2 * BYE_GRACE_S)
            world.hangup(peer)
        else:
            assert await world.run_in_loop(lambda: session.state == "gone", 2 * BYE_GRACE_S)
            assert world.now - closed == pytest.approx(BYE_GRACE_S, abs=0.1)
        assert session.reason == ("hangup" if stays else "bye")

    virtual_loop.run(main())
