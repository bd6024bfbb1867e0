"""One to three sibling workers of a relay, without sockets, and what must be true of them after each step.

The rig knows of each flow which owners an authentic token has named for it; all that leaves is held against that:

- up, a datagram goes to one of these, whole, behind its own header; a check of another token than the flow's own goes
  to the owner of that very token;
- down, a datagram goes to the client it names, whole, only if its sender is the flow's next hop or contends for it;
- what a worker that was killed in a batch has not sent, its successor does, or gives up when too many died in it.

The rest (books, counts, indexes, references, owners, flows of a token) is `_fastpath._testing_audit`. A single worker
may be given the model of tests/support/model.py, which then has to agree on all verdicts, datagrams and flows.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from _fastpath._testing import Harness
from _fastpath._testing_audit import Audit
from _fastpath.forward import Forwarder
from _fastpath.slot import Slot
from tests.fuzz import relay_inputs as inputs
from tests.fuzz.relay_hold import Ledger, way_of
from tests.support import oracle
from tests.support.harness import (
    BACKENDS,
    OTHER,
    OWNER,
    PUBLICS,
    SECRET,
    STRANGER,
    UpPacket,
    memory_of,
    networks,
    publics,
)
from tests.support.model import Model
from tests.support.oracle import Address

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ALLOWED, LISTENING = networks(BACKENDS), publics()
DOWN = -1  # where else the index of a public socket stands
RESUMES_MOST = 3
FORWARDED = {
    "up": {"media", "check", "opened", "restart", "contended", "adopted", "recovered"},
    "down": {"media", "answer", "established", "moved", "recovered"},
}
OF_ANOTHER_TOKEN = {"opened", "restart", "contended"}

DownPacket = tuple[Address, bytes]
Pair = tuple[Address, Address]
UpSent = tuple[Address, bytes]
DownSent = tuple[int, Address, str | None, bytes]


@dataclass
class Held:
    """A batch that a worker was killed in."""

    public: int
    up: Sequence[UpPacket] = ()
    down: Sequence[DownPacket] = ()
    sent: Iterable[int] = ()
    deaths: int = 0
    verdicts: Sequence[str] = ()


@dataclass
class Worker:
    number: int
    harness: Harness
    ring: int  # of the keys in force
    coming: int
    dead: bool = False
    held: Held | None = None
    leaving: dict[int, UpSent | DownSent] | None = None  # of a batch from the hold that it was killed in: what was sent


@dataclass
class Shape:
    """What kind of relay it is."""

    workers: int = 1
    modelled: bool = False
    max_flows: int = 12
    max_half_open: int = 1000
    max_new_per_network_s: float = 0
    max_new_per_token_s: float = 0
    internal_version: int = 4
    clock: int = 1000
    cache: bool = False
    lookups_per_s: float = 0


@dataclass
class Rig:
    shape: Shape
    ring: int = 0  # of the keys that the file holds
    named: dict[Pair, set[Address]] = field(default_factory=dict)
    lately: deque[tuple[Pair, Address]] = field(default_factory=lambda: deque(maxlen=8))  # went up, to whom

    def __post_init__(self) -> None:
        self.clock = self.shape.clock
        self.first: list[tuple[str, object, bytes]] = []  # what the model made of the batch a worker died in
        self.slots = [
            Slot.create(memory_of(self.shape.max_flows), self.shape.max_flows, SECRET)
            for _ in range(self.shape.workers)
        ]
        self.owners = [OWNER, OTHER, inputs.EDGE, *([inputs.OWNER6] if self.shape.internal_version == 6 else [])]
        if self.shape.cache:
            self.owners.append(STRANGER)
        self.audit = Audit(self.slots, self.owners, cached=self.shape.cache)
        self.ledger = Ledger(self)
        self.workers = [self.start(number) for number in range(self.shape.workers)]
        self.model = self.its_model() if self.shape.modelled else None

    def start(self, number: int) -> Worker:
        """A worker on its slot, which may be a dead one's; it reads the newest keys."""
        forwarder = Forwarder(
            self.slots[number],
            siblings=[slot for slot in self.slots if slot is not self.slots[number]],
            keyring=inputs.KEYRINGS[self.ring],
            backends=ALLOWED,
            publics=LISTENING,
            internal=(-1, FAMILIES[self.shape.internal_version]),
            max_half_open=self.shape.max_half_open,
            max_new_per_network_s=self.shape.max_new_per_network_s,
            max_new_per_token_s=self.shape.max_new_per_token_s,
            cache=self.shape.cache,
            lookups_per_s=self.shape.lookups_per_s,
        )
        harness = Harness(forwarder, self.clock)
        return Worker(number, harness, self.ring, self.ring)

    def its_model(self) -> Model:
        return Model(
            keys=inputs.RINGS[self.ring],
            backends=BACKENDS,
            publics=PUBLICS,
            max_flows=self.shape.max_flows,
            max_half_open=self.shape.max_half_open,
            internal_version=self.shape.internal_version,
            tick=self.clock,
        )

    def wait(self, ticks: int) -> None:
        """Ticks are 32 bits, here as there. Workers look at the clock when they have something to do."""
        self.clock = (self.clock + ticks) % (1 << 32)

    def living(self, number: int, late: bool = False) -> Worker:
        """That worker, or its successor if it is dead, at the present time; or in a round that began a while ago."""
        number %= len(self.workers)
        if self.workers[number].dead:
            self.succeed(number)
        worker = self.workers[number]
        if not late:
            worker.harness.tick = self.clock
        if self.model:
            self.model.tick = worker.harness.tick
        return worker

    # --- what the launcher and the cold thread do, and a worker between two batches ---

    def rotate(self, ring: int) -> None:
        """The file of keys is another one; workers have it from their next round on."""
        self.ring = ring
        for worker in self.workers:
            worker.coming = ring
            worker.harness.forwarder.set_keys(inputs.KEYRINGS[ring])

    def take_keys(self, worker: Worker) -> None:
        worker.harness.round()
        worker.ring = worker.coming
        if self.model:
            self.model.keys = inputs.RINGS[worker.ring]

    def drain(self, on: bool) -> None:
        for slot in self.slots:
            slot.draining = on
        if self.model:
            self.model.draining = on

    def sweep(self, worker: Worker, budget: int) -> None:
        freed = worker.harness.sweep(budget)
        assert freed <= budget
        if self.model:
            assert freed == self.model.sweep(budget)

    def check(self) -> None:
        self.audit.check([worker.number for worker in self.workers if worker.leaving is not None])
        self.ledger.check()

    def end(self) -> None:
        """All the dead have successors, and the model knows the same flows."""
        for number in range(len(self.workers)):
            self.living(number)
        self.check()
        if self.model:
            found = {(each["client"], each["local"], each["owner"], each["seen"]) for each in self.slots[0].flow_list()}
            assert found == {(each.client, each.local, each.owner, each.seen) for each in self.model.flows.values()}
            counted = {name: n for name, n in self.slots[0].counters().items() if n and not name.startswith("batch")}
            assert counted == {name: n for name, n in self.model.counters.items() if n}

    # --- packets ---

    def note(self, worker: Worker, packets: Sequence[UpPacket]) -> None:
        """Owners that authentic tokens name, for the flows that they come from."""
        for client, local, datagram in packets:
            text = inputs.token_in(datagram)
            key_id, owner = inputs.AUTHENTIC.get(text, (-1, OWNER)) if text else (-1, OWNER)
            if key_id in inputs.RINGS[worker.ring] and owner in self.owners:
                self.named.setdefault((client, local), set()).add(owner)

    def up(self, worker: Worker, packets: Sequence[UpPacket], public: int) -> None:
        self.note(worker, packets)
        results = worker.harness.up(packets, public)
        if self.model:
            assert results == self.model.up(packets, public)
        for packet, (verdict, sent) in zip(packets, results, strict=True):
            self.went_up(worker, packet, verdict, sent)
        self.ledger.put(worker, "up", packets, [verdict for verdict, _ in results])
        self.ledger.left(worker, worker.harness.take_left())

    def went_up(self, worker: Worker, packet: UpPacket, verdict: str, sent: UpSent | None) -> None:
        client, local, datagram = packet
        assert (sent is not None) == (verdict in FORWARDED["up"]), verdict
        if sent is None:
            return
        target, frame = sent
        assert frame == inputs.header(client, local) + datagram
        assert target in self.named.get((client, local), ()), (target, packet)
        if verdict in OF_ANOTHER_TOKEN:
            key_id, owner = inputs.AUTHENTIC[inputs.token_in(datagram) or b""]
            assert key_id in inputs.RINGS[worker.ring]
            # The flow's own next hop for a restart, which the route cache may have set apart from its owner.
            assert owner == target or verdict == "restart" and self.shape.cache
        self.lately.append(((client, local), target))

    def down(self, worker: Worker, packets: Sequence[DownPacket]) -> None:
        alone = inputs.flow_named(packets[0][1][: oracle.SPP_BYTES]) if len(packets) == 1 else None
        before = [self.hops(each, alone) for each in range(len(self.workers))] if alone else []
        results = worker.harness.down(packets)
        if self.model:
            assert results == self.model.down(packets)
        for packet, (verdict, sent) in zip(packets, results, strict=True):
            self.went_down(packet, verdict, sent)
        self.ledger.put(worker, "down", packets, [verdict for verdict, _ in results])
        if alone and results[0][1]:
            sender = endpoint(packets[0][0])
            own = before[worker.number]
            assert sender in own if own else any(each and each[0] == sender for each in before)
            after = self.hops(worker.number, alone)
            assert after is not None
            assert after[0] == sender

    def hops(self, worker: int, flow: Pair) -> tuple[bytes, bytes] | None:
        return self.audit.hops(worker, inputs.header(*flow)[2:])

    def went_down(self, packet: DownPacket, verdict: str, sent: DownSent | None) -> None:
        sender, datagram = packet
        assert (sent is not None) == (verdict in FORWARDED["down"]), verdict
        if sent is None:
            return
        public, client, source, payload = sent
        flow = inputs.flow_named(datagram[: oracle.SPP_BYTES])
        assert flow is not None
        assert payload == datagram[oracle.SPP_BYTES :]
        assert client == flow[0]
        assert PUBLICS[public].port == flow[1][1]
        assert (source or PUBLICS[public].address) == flow[1][0]
        assert sender in self.named.get(flow, ()), packet

    def unsent(self, worker: Worker, held: Held) -> None:
        """A batch whose sends are all refused."""
        self.receive(worker, held)
        if self.model:
            for verdict, _, datagram in self.modelled(self.model, held):
                self.count(held, "send_refused" if verdict in FORWARDED[way_of(held)] else verdict, datagram)
        worker.harness.send()

    def receive(self, worker: Worker, held: Held) -> None:
        if held.public == DOWN:
            worker.harness.take_down(held.down)
        else:
            self.note(worker, held.up)
            worker.harness.take_up(held.up, held.public)

    # --- death ---

    def kill(self, worker: Worker, held: Held | None, sent: int = -1) -> None:
        """Between two batches, or when one was received, or (with `sent`) when so many of it were sent."""
        worker.dead, worker.held = True, held
        if held is None:
            return
        self.receive(worker, held)
        self.first = self.modelled(self.model, held) if self.model and sent >= 0 else []
        if sent >= 0:
            left = worker.harness.mark_sent(sent, max(held.public, 0))
            assert len(left) <= sent
            held.sent = left.keys()
            self.ledger.decided(worker, held)

    def tear(self, worker: Worker, flow: Pair) -> None:
        """Killed while it made that flow; without one, just killed."""
        worker.dead = True
        if self.hops(worker.number, flow):
            worker.harness.tear(*flow)
            if self.model:
                del self.model.flows[oracle.spp_key(*flow)]

    def die_again(self, number: int) -> None:
        """A successor of a dead worker dies before it has done anything."""
        number %= len(self.workers)
        dead = self.workers[number]
        if dead.dead:
            self.workers[number] = self.start(number)
            again = self.workers[number]
            again.dead, again.held, again.leaving = True, dead.held, dead.leaving
            if dead.held:
                dead.held.deaths += 1

    def succeed(self, number: int) -> None:
        held, leaving = self.workers[number].held, self.workers[number].leaving
        worker = self.workers[number] = self.start(number)
        if leaving is not None:
            self.ledger.inherit(worker, leaving)
        if self.model:
            self.model.repair()
            self.model.keys, self.model.tick = inputs.RINGS[self.ring], self.clock
        if held is None:
            return
        packets = held.up or held.down
        given_up = held.deaths + 1 >= RESUMES_MOST
        self.note(worker, held.up)
        results = worker.harness.finish()
        expected = self.expected(held, given_up) if self.model else [verdict for verdict, _ in results]
        assert [verdict for verdict, _ in results] == expected
        for i, (packet, (verdict, sent)) in enumerate(zip(packets, results, strict=True)):
            if i in held.sent:
                assert sent is None
                assert verdict in FORWARDED[way_of(held)]
            elif given_up:
                assert sent is None
            elif held.public == DOWN:
                self.went_down(packet, verdict, sent)  # type: ignore[arg-type]
            else:
                self.went_up(worker, packet, verdict, sent)  # type: ignore[arg-type]
        self.ledger.resumed(worker, held, [verdict for verdict, _ in results])

    # --- the model ---

    def modelled(self, model: Model, held: Held) -> list[tuple[str, object, bytes]]:
        """The model's decisions on a batch, not counted: (verdict, target, datagram)."""
        if held.public == DOWN:
            return [(*model.route_down(*packet), packet[1]) for packet in held.down]
        return [(*self.routed_up(model, packet, held.public), packet[2]) for packet in held.up]

    def routed_up(self, model: Model, packet: UpPacket, public: int) -> tuple[str, object]:
        client, local, datagram = packet
        return model.route_up(client, model.local_of(local, public), datagram, public)

    def expected(self, held: Held, given_up: bool) -> list[str]:
        """Verdicts of a batch that a successor finishes: what was refused or sent stays, the rest is decided anew."""
        assert self.model
        verdicts = []
        datagrams = [packet[2] for packet in held.up] or [packet[1] for packet in held.down]
        for i, datagram in enumerate(datagrams):
            verdict = self.first[i][0] if self.first else "media"
            if i not in held.sent and verdict in FORWARDED[way_of(held)]:
                verdict = "abandoned" if given_up else self.again(held, i)
            verdicts.append(verdict)
            self.count(held, verdict, datagram)
        return verdicts

    def again(self, held: Held, i: int) -> str:
        assert self.model
        if held.public == DOWN:
            return self.model.route_down(*held.down[i])[0]
        return self.routed_up(self.model, held.up[i], held.public)[0]

    def count(self, held: Held, verdict: str, datagram: bytes) -> None:
        assert self.model
        kept = min(len(datagram), 1984)
        self.model.count(way_of(held), verdict, max(0, kept - oracle.SPP_BYTES) if held.public == DOWN else kept)


def endpoint(address: Address) -> bytes:
    return oracle.mapped(address[0]) + address[1].to_bytes(2, "big")
