"""Data channels between two ends in memory: ours and ours, ours and aiortc's own transport as the peer.

Every test runs in virtual time, over a link with a delay; some links lose a tenth of the packets and reorder the rest.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.support.sctp_pair import Message, Ours, Pair, Peer, Theirs, joined
from tests.support.sctp_puppet import Puppet, data
from tests.support.virtual_loop import VirtualLoop, run
from transceiver.sctp import MAX_MESSAGE_BYTES, Channel, ChannelError, DataChannels

MESSAGES: tuple[Message, ...] = ("text", b"bytes", "", b"", "ümläut \U0001f600", b"\0", bytes(MAX_MESSAGE_BYTES))

PEERS = pytest.mark.parametrize("peer", [Ours, Theirs])
ROLES = pytest.mark.parametrize("role", ["client", "server"])


# Channels


@PEERS
@ROLES
def test_either_side_opens_and_the_dtls_client_has_the_even_numbers(role: str, peer: Peer) -> None:
    async def scene() -> None:
        pair = Pair(role, peer).start()
        mine = pair.ours.open("from us: ä", protocol="json", ordered=False, max_retransmits=2)
        theirs = pair.peer.open("from them", protocol="p", max_packet_life_time=300)
        await pair.ours.until(lambda: len(pair.ours.opened) == 2)
        await pair.peer.until(lambda: len(pair.peer.opened) == 2)
        assert mine.id == (0 if role == "client" else 1)
        assert theirs.id == 1 - mine.id
        there = next(each for each in pair.peer.opened if each.id == mine.id)
        assert (there.label, there.protocol, there.ordered, there.maxRetransmits) == ("from us: ä", "json", False, 2)
        here = next(each for each in pair.ours.opened if each.id == theirs.id)
        assert (here.label, here.protocol, here.ordered, here.maxPacketLifeTime) == ("from them", "p", True, 300)
        assert (here.state, mine.state, pair.ours.channels.state) == ("open", "open", "connected")
        await pair.close()

    run(scene())


@PEERS
@ROLES
def test_messages_arrive_as_they_were_sent(role: str, peer: Peer) -> None:
    async def scene() -> None:
        pair = await joined(role, peer)
        for message in MESSAGES:
            pair.ours.opened[0].send(message)
            pair.peer.opened[0].send(message)
        await pair.ours.until(lambda: len(pair.ours.messages) == len(MESSAGES))
        await pair.peer.until(lambda: len(pair.peer.messages) == len(MESSAGES))
        assert pair.ours.received() == list(MESSAGES)
        assert pair.peer.received() == list(MESSAGES)
        assert pair.ours.opened[0].buffered_bytes == 0
        assert pair.ours.channels.malformed == 0
        await pair.close()

    run(scene())


@PEERS
@pytest.mark.parametrize("closer", ["ours", "peer"])
def test_a_channel_closes_on_both_sides_and_its_number_is_free_again(closer: str, peer: Peer) -> None:
    async def scene() -> None:
        pair = await joined("server", peer)
        number = pair.peer.opened[0].id
        pair.peer.opened[0].send("last words")
        getattr(pair, closer).opened[0].close()
        await pair.ours.until(lambda: pair.ours.closed)
        await pair.peer.until(lambda: pair.peer.closed)
        assert pair.ours.closed[0].state == "closed"
        # Nobody wants to hear what arrives after closing; who is closed upon hears what was sent before.
        assert pair.ours.received() == (["last words"] if closer == "peer" else [])
        again = pair.peer.open("again")
        await pair.ours.until(lambda: len(pair.ours.opened) == 2)
        assert again.id == number
        with pytest.raises(ChannelError, match="closed"):
            pair.ours.closed[0].send("too late")
        await pair.close()

    run(scene())


def test_a_channel_may_be_opened_before_the_start_and_is_no_good_until_the_peer_knows_it() -> None:
    async def scene() -> None:
        pair = Pair()
        channel = pair.ours.open("early")
        assert (channel.state, channel.id) == ("connecting", None)
        with pytest.raises(ChannelError, match="connecting"):
            channel.send("too early")
        pair.start()
        await pair.ours.until(lambda: pair.ours.opened == [channel])
        channel.send("now")
        await pair.peer.until(lambda: pair.peer.received() == ["now"])
        await pair.close()

    run(scene())


@pytest.mark.parametrize(
    "options",
    [
        {"max_retransmits": 1, "max_packet_life_time": 1},
        {"max_retransmits": -1},
        {"max_packet_life_time": 1 << 32},
        {"protocol": "p" * 5000},
        {"protocol": "\ud800"},
    ],
)
def test_a_channel_that_cannot_be_is_refused(options: dict[str, object]) -> None:
    async def scene() -> None:
        pair = Pair()
        with pytest.raises(ChannelError):
            pair.ours.open("x", **options)
        assert pair.ours.channels._association.channels() == []

    run(scene())


def test_at_most_256_channels_are_ours() -> None:
    async def scene() -> None:
        pair = Pair().start()
        for number in range(256):
            pair.ours.open(str(number))
        with pytest.raises(ChannelError, match="256"):
            pair.ours.open("one more")
        await pair.ours.until(lambda: len(pair.ours.opened) == 256)
        assert len({channel.id for channel in pair.ours.opened}) == 256
        await pair.close()

    run(scene())


@pytest.mark.parametrize(("remote", "most"), [(1000, 1000), (0, MAX_MESSAGE_BYTES), (1 << 30, MAX_MESSAGE_BYTES)])
def test_a_message_is_as_long_as_both_sides_allow(remote: int, most: int) -> None:
    async def scene() -> None:
        pair = Pair()
        pair.ours.channels._remote = (5000, remote)
        pair.start().peer.open("x")
        await pair.ours.until(lambda: pair.ours.opened)
        pair.ours.opened[0].send(bytes(most))
        with pytest.raises(ChannelError, match=str(most)):
            pair.ours.opened[0].send(bytes(most + 1))
        with pytest.raises(ChannelError, match="UTF-8"):
            pair.ours.opened[0].send("\ud800")
        await pair.close()

    run(scene())


# Callbacks and the end


def test_callbacks_may_send_open_and_close() -> None:
    async def scene() -> None:
        pair = Pair()
        ours: list[DataChannels] = []

        def on_message(channel: Channel, message: Message) -> None:
            channel.send(message)
            if message == "open another":
                ours[0].open("another")
            if message == "end":
                ours[0].close()
                ours[0].close()

        def on_open(channel: Channel) -> None:
            channel.send(f"welcome to {channel.label}")

        ours.append(
            DataChannels(
                dtls_role="server",
                remote_port=5000,
                remote_max_message=0,
                send=pair.down.send,
                on_open=on_open,
                on_message=on_message,
                on_close=pair.ours.closed.append,
            )
        )
        pair.up.deliver = ours[0].receive
        ours[0].start()
        pair.peer.start()
        channel = pair.peer.open("first")
        await pair.peer.until(lambda: channel.state == "open")
        channel.send("open another")
        await pair.peer.until(lambda: len(pair.peer.opened) == 2)
        channel.send("end")
        channel.send("not heard any more")
        await pair.peer.until(lambda: len(pair.peer.closed) == 2)
        assert pair.peer.received() == ["welcome to first", "open another", "welcome to another", "end"]
        assert [each.label for each in pair.ours.closed] == ["first", "another"]
        assert ours[0].state == "closed"

    run(scene())


def test_no_callback_is_called_within_another() -> None:
    async def scene() -> None:
        puppet = Puppet().join()
        puppet.open()
        steps: list[str] = []

        def on_message(channel: Channel, message: Message) -> None:
            steps.append(f"begin {message!r}")
            channel.send("an answer")
            steps.append(f"end {message!r}")

        on_open, _, on_close = puppet.ours.channels._callbacks or pytest.fail("closed")
        puppet.ours.channels._callbacks = (on_open, on_message, on_close)
        puppet.say(data(puppet.tsn, b"1", sequence=1), data(puppet.tsn + 1, b"2", sequence=2))
        assert steps == ["begin b'1'", "end b'1'", "begin b'2'", "end b'2'"]
        puppet.ours.channels.close()

    run(scene())


def test_what_is_closed_knows_nobody_and_does_not_start() -> None:
    class Session:
        def send(self, packet: bytes) -> None: ...

        def on_message(self, channel: Channel, message: Message) -> None: ...

        def on_event(self, channel: Channel) -> None: ...

    async def scene() -> None:
        session = Session()
        channels = DataChannels(
            dtls_role="client",
            remote_port=5000,
            remote_max_message=0,
            send=session.send,
            on_open=session.on_event,
            on_message=session.on_message,
            on_close=session.on_event,
        )
        freed = weakref.ref(session)
        channels.close()
        del session
        assert freed() is None
        channels.start()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert (loop.timers(), channels.state) == (0, "closed")

    run(scene())


def test_an_error_of_a_callback_is_its_callers() -> None:
    async def scene() -> None:
        pair = await joined()

        heard: list[Message] = []

        def broken(channel: Channel, message: Message) -> None:
            heard.append(message)
            if message == "x":
                raise ZeroDivisionError

        callbacks = pair.ours.channels._callbacks
        assert callbacks
        pair.ours.channels._callbacks = (callbacks[0], broken, callbacks[2])
        pair.up.deliver = lambda packet: None
        pair.peer.opened[0].send("x")
        pair.peer.opened[0].send("y")
        pair.ours.receive(pair.up.carried[-1])
        with pytest.raises(ZeroDivisionError):
            pair.ours.receive(pair.up.carried[-2])
        assert (pair.ours.channels.state, heard) == ("connected", ["x"])
        await asyncio.sleep(0)
        assert heard == ["x", "y"]
        await pair.close()

    run(scene())


def test_send_may_close_but_not_call_back_otherwise() -> None:
    async def scene() -> None:
        pair = await joined()
        refused: list[str] = []

        def send(packet: bytes) -> None:
            with pytest.raises(RuntimeError, match="from within") as error:
                pair.ours.receive(pair.up.carried[-1])
            refused.append(str(error.value))
            pair.ours.channels.close()

        pair.ours.channels._link.send = send
        pair.ours.opened[0].send("x")
        await pair.ours.until(lambda: pair.ours.closed)
        assert refused
        assert (pair.ours.channels.state, pair.ours.channels.failure) == ("closed", "")
        await pair.close()

    run(scene())


def test_a_send_that_fails_ends_the_association_and_leaves_no_timer() -> None:
    async def scene() -> None:
        pair = await joined()

        def send(packet: bytes) -> None:
            raise OSError("no way out")

        pair.ours.channels._link.send = send
        with pytest.raises(OSError, match="no way out"):
            pair.ours.opened[0].send("x")
        assert pair.ours.channels.state == "closed"
        assert "no way out" in pair.ours.channels.failure

    run(scene())


@PEERS
def test_the_peers_end_closes_every_channel_even_with_data_under_way(peer: Peer) -> None:
    async def scene() -> None:
        pair = await joined("server", peer)
        pair.ours.opened[0].send(bytes(200_000))
        waiting = pair.ours.open("never answered")
        await pair.peer.close()
        await pair.ours.until(lambda: len(pair.ours.closed) == 2)
        assert (waiting.state, pair.ours.channels.state) == ("closed", "closed")
        assert pair.ours.channels._association._inbound_streams == {}
        carried = len(pair.down.carried)
        pair.ours.receive(pair.up.carried[0])
        await asyncio.sleep(100)
        assert len(pair.down.carried) == carried, "nothing is sent any more"
        with pytest.raises(ChannelError, match="closed"):
            pair.ours.open("too late")

    run(scene())


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        yield loop


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_thousand_associations_leave_nothing_behind(end: str, loop: VirtualLoop) -> None:
    """Not even garbage: what is closed is freed at once, the collector is off."""

    async def one() -> None:
        pair = await joined(delay_s=0.001)
        pair.ours.opened[0].send(bytes(3000))
        pair.up.loss = 1  # so that timers are running
        pair.ours.open("half open")
        await asyncio.sleep(0.01)
        if end == "abort":
            pair.up.loss = 0
            pair.peer.channels.close()
            await asyncio.sleep(0.01)
        pair.ours.channels.close()
        pair.peer.channels.close()
        pair.up.deliver = pair.down.deliver = lambda packet: None

    async def many(count: int) -> tuple[int, int, int]:
        for _ in range(count):
            await one()
        await asyncio.sleep(0.1)
        return len(asyncio.all_tasks()), loop.timers(), len(gc.get_objects())

    loop.run_until_complete(many(20))
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        before = loop.run_until_complete(many(20))
        after = loop.run_until_complete(many(1000))
    finally:
        gc.enable()
        gc.unfreeze()
    assert (after[0], after[1]) == (1, 0)
    assert after[2] - before[2] < 500, "half an object an association"
