"""A whole transceiver and its clients in one process and in virtual time: the hot thread's rounds (`MediaEngine.step`),
the real `Calls` with a real media slot, any number of clients, and a bad network between them.

The world is the relay too: it puts each datagram into the envelope and takes it out again, and fails the test if the
transceiver names a flow it was not asked from. Time, in whole microseconds, goes from event to event. `Meter` stands
where the relay's public socket is and weighs what leaves for an address before its client is proven against what came.

`World.call` sets up a call, `run` and `until` let time pass, `books` checks that every datagram was counted once. With
data channels, whose timers are asyncio's, the same is driven by `run_in_loop` in a `VirtualLoop`.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from _fastpath.media import MediaEngine
from _fastpath.media_slot import MediaSlot, SessionView, media_slot_bytes
from _fastpath.outcomes import IN
from _fastpath.wire import binding, envelope
from _fastpath.wire.demux import kind_of
from _fastpath.wire.token import Keyring
from tests.support.dtls_peers import identity
from tests.support.netem import Netem
from tests.support.peer import Address, Peer
from transceiver import srtp
from transceiver.answer import Setup
from transceiver.apps import Application, Echo
from transceiver.calls import Calls, Manner, Minter
from transceiver.session import Session
from transceiver.srtp_memory import contexts_known

KEYS = {1: bytes(range(32))}
ICE_KEY = bytes(range(50, 82))
OWN: Address = ("10.2.0.1", 7000)
CLUSTER, GENERATION = 3, 9
RELAY_NETWORKS = [(envelope.mapped("10.1.0.0"), 96 + 16)]
# Public address of each relay -> its internal one.
RELAYS: dict[Address, Address] = {("192.0.2.1", 3478): ("10.1.0.1", 9001), ("192.0.2.2", 3478): ("10.1.0.2", 9002)}
CLIENT: Address = ("198.51.100.7", 50_000)
START_US = 5_000_000_000
UNIX_US = 1_800_000_000_000_000
SECOND_US = 1_000_000
LOOP_STEP_US = 1000

Flow = tuple[Address, Address]  # client, relay's public address
Datagram = tuple[bytes, Address]  # with its envelope, and the internal address of a relay


class Client(Protocol):
    out: list[tuple[Address, Address, bytes]]

    def receive(self, own: Address, relay: Address, datagram: bytes, now: float) -> None: ...
    def next_timer(self) -> float | None: ...
    def handle_timer(self, now: float) -> None: ...


class Seen(NamedTuple):
    """A datagram at the relay, on its way up or down."""

    us: int
    up: bool
    client: Address
    relay: Address
    kind: str
    datagram: bytes


@dataclass(frozen=True)
class Link:
    """One way, both ways alike."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.03
    jitter_s: float = 0.0

    def network(self, seed: int) -> Netem[Flow]:
        return Netem(seed, self.loss, self.duplicate, self.delay_s, self.jitter_s)


@dataclass
class Meter:
    """Bytes of payload for each client address, until an authentic answer has come from it."""

    up: dict[Address, int] = field(default_factory=dict)
    down: dict[Address, int] = field(default_factory=dict)
    verified: set[Address] = field(default_factory=set)
    worst: float = 0.0

    def note(self, seen: Seen) -> None:
        if seen.client in self.verified:
            return
        side = self.up if seen.up else self.down
        side[seen.client] = side.get(seen.client, 0) + len(seen.datagram)
        if not seen.up:
            self.worst = max(self.worst, self.ratio(seen.client))

    def ratio(self, client: Address) -> float:
        came = self.up.get(client, 0)
        return self.down.get(client, 0) / came if came else float("inf") * self.down.get(client, 0)


class World:
    def __init__(
        self,
        seed: int = 1,
        *,
        link: Link | None = None,
        relays: int = 1,
        sessions: int = 4,
        prefer: Setup = "active",
        application: Application | None = None,
        max_new_per_s: float = 1e6,
    ) -> None:
        self.us = START_US
        self.relays = dict(list(RELAYS.items())[:relays])
        self.up: dict[Address, Netem[Flow]] = {}
        self.down: dict[Address, Netem[Flow]] = {}
        for place, relay in enumerate(self.relays):
            self.connect(relay, link or Link(), 1000 * seed + 2 * place)
        self.clients: dict[Address, Client] = {}
        self.seen: list[Seen] = []
        self.meter = Meter()
        keyring = Keyring(KEYS)
        self.slot = MediaSlot.create(mmap.mmap(-1, media_slot_bytes(sessions)), sessions)
        self.engine = MediaEngine(
            self.slot, secret=seed.to_bytes(16, "big"), keyring=keyring, ice_key=ICE_KEY, own=OWN,
            generation=GENERATION, relays=RELAY_NETWORKS, srtp=srtp.functions(), srtp_known=contexts_known(),
            now_us=self.us, unix_us=UNIX_US + self.us,
        )  # fmt: skip
        manner = Manner(
            identity=identity("ecdsa"),
            ice_key=ICE_KEY,
            profiles=srtp.PROFILES,
            prefer=prefer,
            application=application or Echo(),
            advertised=lambda: list(self.relays),
            max_new_per_s=max_new_per_s,
        )
        self.minter = Minter(keyring, 1, OWN, CLUSTER, GENERATION)
        self.calls = Calls(self.engine, self.slot, self.minter, manner)

    @property
    def now(self) -> float:
        return self.us / SECOND_US

    def connect(self, relay: Address, link: Link, seed: int) -> None:
        self.up[relay], self.down[relay] = link.network(seed), link.network(seed + 1)

    def change(self, relay: Address, up: Link, down: Link) -> None:
        """What is under way arrives as it would have; what is sent from now on has it better or worse."""
        for network, link in ((self.up[relay], up), (self.down[relay], down)):
            network.loss, network.duplicate = link.loss, link.duplicate
            network.delay_s, network.jitter_s = link.delay_s, link.jitter_s

    # Calls

    def call(self, peer: Peer) -> Session:
        """A call of this client's, whose checks begin at once."""
        created = self.calls.create(peer.offer(), self.now, self.now)
        self.serve()
        peer.call_id = created.call_id
        peer.accept(created.answer, self.now)
        self.clients[peer.own] = peer
        return self.session(peer)

    def restart(self, peer: Peer) -> None:
        peer.renew()
        peer.accept(self.calls.restart(peer.call_id, peer.offer()), self.now)
        self.serve()

    def hangup(self, peer: Peer) -> bool:
        found = self.calls.hangup(peer.call_id, self.now)
        self.serve()
        return found

    def move(self, peer: Peer, own: Address) -> None:
        """The client's address changes; nobody has the old one."""
        del self.clients[peer.own]
        peer.move(own, self.now)
        self.clients[own] = peer

    def session(self, peer: Peer) -> Session:
        session = self.calls.registry.find(peer.call_id)
        assert session is not None
        return session

    def view(self, session: Session) -> SessionView:
        return self.slot.session(session.place.index)

    # The transceiver and its relays

    def serve(self, arrived: Sequence[tuple[Flow, bytes]] = ()) -> None:
        """What the two threads do about these datagrams, about timers, and about whatever was asked of them."""
        self._send(self.engine.step(self.us, [self._wrapped(flow, datagram) for flow, datagram in arrived]))
        while self.calls.dispatch(self.now):
            self._send(self.engine.step(self.us))
        self.calls.handle_timers(self.now)
        self._send(self.engine.step(self.us))

    def _wrapped(self, flow: Flow, datagram: bytes) -> Datagram:
        client, relay = flow
        self._note(True, client, relay, datagram)
        return envelope.pack(client, relay) + datagram, self.relays[relay]

    def _send(self, datagrams: Sequence[Datagram]) -> None:
        for wrapped, to in datagrams:
            opened = envelope.unpack(wrapped)
            assert opened is not None
            client, relay, datagram = opened
            assert self.relays[relay] == to
            self._note(False, client, relay, datagram)
            self.down[relay].send(self.now, (client, relay), datagram)

    def _note(self, up: bool, client: Address, relay: Address, datagram: bytes) -> None:
        seen = Seen(self.us, up, client, relay, kind_of(datagram), datagram)
        self.seen.append(seen)
        self.meter.note(seen)
        if up and datagram[:2] == b"\x01\x01" and self._authentic(datagram, self.clients.get(client)):
            self.meter.verified.add(client)

    @staticmethod
    def _authentic(answer: bytes, client: Client | None) -> bool:
        passwords = client.credentials.values() if isinstance(client, Peer) else ()
        return any(binding.verify(answer, pwd.encode()) for pwd in passwords)

    # Time

    def next_us(self) -> int | None:
        """When something happens next."""
        times = [network.due() for side in (self.up, self.down) for network in side.values()]
        times += [self.calls.next_timer(), *(client.next_timer() for client in self.clients.values())]
        found = [int(at * SECOND_US) + 1 for at in times if at is not None]
        wait_us = self.engine.wait_us()
        return min([*found, *([self.us + wait_us] if wait_us >= 0 else [])], default=None)

    def round(self) -> None:
        """Everything that is due."""
        arrived = [each for network in self.up.values() for each in network.deliver(self.now)]
        self.serve(arrived)
        for network in self.down.values():
            for (client, relay), datagram in network.deliver(self.now):
                if client in self.clients:
                    self.clients[client].receive(client, relay, datagram, self.now)
        for each in list(self.clients.values()):
            due = each.next_timer()
            if due is not None and due <= self.now:
                each.handle_timer(self.now)
            self.carry(each)

    def carry(self, client: Client) -> None:
        """Takes what a client has made on its way."""
        for own, relay, datagram in client.out:
            self.up[relay].send(self.now, (own, relay), datagram)
        client.out.clear()

    def run(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def until(self, condition: Callable[[], object], limit_s: float) -> bool:
        """Lets time pass until the condition holds; False if it does not within the limit."""
        end = self.us + round(limit_s * SECOND_US)
        while not condition():
            due = self.next_us()
            if due is None or due > end:
                self.us = end
                return bool(condition())
            self.us = max(self.us, due)
            self.round()
        return True

    async def run_in_loop(self, condition: Callable[[], object], limit_s: float) -> bool:
        """The same with the running loop's clock as time. What the loop's timers make waits for 1 ms at most."""
        loop = asyncio.get_running_loop()
        start_us, start_s = self.us, loop.time()
        while not condition() and loop.time() < start_s + limit_s:
            due = self.next_us()
            wait_us = LOOP_STEP_US if due is None else min(max(due - self.us, 1), LOOP_STEP_US)
            await asyncio.sleep(wait_us / SECOND_US)
            self.us = max(self.us, start_us + round((loop.time() - start_s) * SECOND_US))
            self.round()
        return bool(condition())

    # What is asked at the end

    def books(self) -> dict[str, int]:
        """The counters, after the rule of the house: packets in = sum of outcomes."""
        counters = self.slot.counters()
        assert counters["packets_up"] == sum(counters[f"up_{outcome.name}"] for outcome in IN)
        assert counters["packets_up"] == sum(each.up for each in self.seen)
        assert counters["packets_down"] == sum(not each.up for each in self.seen)
        return counters

    def hello_after_answer(self) -> bool:
        """On every flow the answer to a check left before any DTLS."""
        first: dict[Flow, str] = {}
        for each in self.seen:
            if not each.up:
                first.setdefault((each.client, each.relay), each.kind)
        return all(kind == "stun" for kind in first.values())
