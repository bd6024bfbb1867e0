"""Two ends of data channels and the link between them, in memory: `Ours` on either side, or `Theirs`, plain aiortc.

A `Wire` carries SCTP packets both ways with a delay, and loses and reorders them as its seed says. Everything happens
in the running loop, a `VirtualLoop` in general; `until` awaits what a callback brings about. aiortc takes the time
from the system for its measurements; `LoopClock` is to be put in place of its module `time`.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport

from transceiver.sctp import Channel, DataChannels
from transceiver.sctp_association import Link
from transceiver.sctp_budget import PROCESS, Budget

PATIENCE_S = 600.0  # of virtual time
Message = str | bytes


class LoopClock:
    @staticmethod
    def time() -> float:
        return asyncio.get_running_loop().time()


class Wire:
    """One direction of a link."""

    def __init__(self, *, loss: float = 0, delay_s: float = 0.02, jitter_s: float = 0, seed: int = 1) -> None:
        self.loss = loss
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.random = random.Random(seed)
        self.latest_s = 0.0
        self.carried: list[bytes] = []
        self.deliver: Callable[[bytes], object] = lambda packet: None

    def send(self, packet: bytes) -> None:
        self.carried.append(packet)
        if self.random.random() >= self.loss:
            loop = asyncio.get_running_loop()
            at = loop.time() + self.delay_s + self.random.random() * self.jitter_s
            if not self.jitter_s:
                # The loop keeps no order among timers of the same moment.
                at = self.latest_s = max(at, self.latest_s + 1e-6)
            loop.call_at(at, lambda: self.deliver(packet))


class End(ABC):
    """What both kinds of end keep of what happened, in order."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self.opened: list[Any] = []
        self.closed: list[Any] = []
        self.messages: list[tuple[Any, Message]] = []

    def note(self, where: list[Any], what: object) -> None:
        where.append(what)
        self.happened.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.happened.clear()
                await self.happened.wait()

    def received(self) -> list[Message]:
        return [message for _, message in self.messages]

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def open(self, label: str, **options: Any) -> Any: ...

    @abstractmethod
    def receive(self, packet: bytes) -> object: ...

    @abstractmethod
    async def close(self) -> None: ...


class Ours(End):
    def __init__(
        self,
        role: Any,
        send: Callable[[bytes], None],
        *,
        remote_max_message: int = 262_144,
        budget: Budget = PROCESS,
    ) -> None:
        super().__init__()
        self.channels = DataChannels(
            budget=budget,
            dtls_role=role,
            remote_port=5000,
            remote_max_message=remote_max_message,
            send=send,
            on_open=lambda channel: self.note(self.opened, channel),
            on_message=lambda channel, message: self.note(self.messages, (channel, message)),
            on_close=lambda channel: self.note(self.closed, channel),
        )

    def start(self) -> None:
        self.channels.start()

    def open(self, label: str, **options: Any) -> Channel:
        return self.channels.open(label, **options)

    def receive(self, packet: bytes) -> None:
        self.channels.receive(packet)

    async def close(self) -> None:
        self.channels.close()


class Theirs(End):
    def __init__(self, role: str, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self.tasks: set[asyncio.Task[None]] = set()
        self.transport = RTCSctpTransport(cast(RTCDtlsTransport, Link(role, send)), 5000)
        self.transport.on("datachannel", self.watch)
        self.transport.on("datachannel", lambda channel: self.note(self.opened, channel))

    def watch(self, channel: RTCDataChannel) -> None:
        channel.on("message", lambda message: self.note(self.messages, (channel, message)))
        channel.on("open", lambda: self.note(self.opened, channel))
        channel.on("close", lambda: self.note(self.closed, channel))

    def task(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def start(self) -> None:
        self.task(self.transport.start(RTCSctpCapabilities(maxMessageSize=262_144), 5000))

    def open(self, label: str, **options: Any) -> RTCDataChannel:
        names = {"max_retransmits": "maxRetransmits", "max_packet_life_time": "maxPacketLifeTime"}
        parameters = RTCDataChannelParameters(label=label, **{names.get(key, key): options[key] for key in options})
        channel = RTCDataChannel(self.transport, parameters)
        self.watch(channel)
        return channel

    def receive(self, packet: bytes) -> None:
        self.task(self.transport._handle_data(packet))

    async def close(self) -> None:
        await self.transport.stop()


Peer = type[Ours] | type[Theirs]


class Pair:
    """Ours and its peer, joined and started."""

    def __init__(
        self,
        role: str = "server",
        peer: Peer = Ours,
        *,
        seed: int = 1,
        loss: float = 0,
        delay_s: float = 0.02,
        jitter_s: float = 0,
    ) -> None:
        self.up = Wire(loss=loss, delay_s=delay_s, jitter_s=jitter_s, seed=seed)
        self.down = Wire(loss=loss, delay_s=delay_s, jitter_s=jitter_s, seed=seed + 1)
        self.ours = Ours(role, self.down.send)
        self.peer: Any = peer("client" if role == "server" else "server", self.up.send)
        self.up.deliver, self.down.deliver = self.ours.receive, self.peer.receive

    def start(self) -> Pair:
        self.ours.start()
        self.peer.start()
        return self

    async def close(self) -> None:
        self.ours.channels.close()
        await self.peer.close()


async def joined(
    role: str = "server",
    peer: Peer = Ours,
    *,
    seed: int = 1,
    loss: float = 0,
    jitter_s: float = 0,
    delay_s: float = 0.02,
) -> Pair:
    """A pair with one channel, opened by the peer: `opened[0]` on both sides."""
    pair = Pair(role, peer, seed=seed, loss=loss, jitter_s=jitter_s, delay_s=delay_s).start()
    pair.peer.open("first")
    await pair.ours.until(lambda: pair.ours.opened)
    await pair.peer.until(lambda: pair.peer.opened)
    return pair
