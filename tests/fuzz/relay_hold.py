"""What fuzz_relay knows of packets on hold: which there are in each slot, in what order; and what the route cache says.

A packet that was held leaves once, in the order it came, whatever happens to the workers in between; whither is checked
by the rig, like any other's. A check that opens the flow of packets on hold goes first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from _fastpath.exchange import LOOKUP, Route
from _fastpath.wire.envelope import key_of, pack_endpoint, unpack_key
from tests.fuzz import relay_inputs as inputs
from tests.support import oracle
from tests.support.harness import STRANGER, Left, UpPacket
from tests.support.oracle import Address

if TYPE_CHECKING:
    from tests.fuzz.relay_rig import DownPacket, Held, Rig, Worker

INTERNAL = 255
Pair = tuple[Address, Address]
# What the cache may say: a session's owner and nonce, as its tokens name them; sessions without one; others' owners.
SAID: list[tuple[Address, int]] = [
    *[(owner, (1 + at) << 40) for at, (owner, _) in enumerate(inputs.MINTED)],
    *[(owner, 0) for owner, _ in inputs.MINTED[:3]],
    *[(STRANGER, 77), (inputs.FOREIGN, 78), (("10.1.255.255", 0), 79)],
]


class Ledger:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.waiting: dict[tuple[int, str, Pair], deque[tuple[Address, bytes]]] = {}
        self.keys: deque[bytes] = deque(maxlen=8)  # asked for lately

    # --- in ---

    def put(self, worker: Worker, way: str, packets: Sequence[UpPacket | DownPacket], verdicts: Sequence[str]) -> None:
        """Those of a batch that were put on hold. Its first check of a flow goes before what waits."""
        checked: set[Pair] = set()
        for packet, verdict in zip(packets, verdicts, strict=True):
            if verdict == "held":
                flow, origin, datagram = self.read(way, packet)
                queue = self.waiting.setdefault((worker.number, way, flow), deque())
                is_check = way == "up" and inputs.token_in(datagram) is not None
                if is_check and flow not in checked:
                    checked.add(flow)
                    queue.appendleft((origin, datagram))
                else:
                    queue.append((origin, datagram))

    def read(self, way: str, packet: UpPacket | DownPacket) -> tuple[Pair, Address, bytes]:
        """(flow, who sent it, datagram)."""
        if way == "up":
            client, local, datagram = packet  # type: ignore[misc]
            return (client, local), client, datagram
        sender, frame = packet  # type: ignore[misc]
        flow = inputs.flow_named(frame[: oracle.SPP_BYTES])
        assert flow is not None
        return flow, sender, frame

    # --- out ---

    def left(self, worker: Worker, items: Sequence[Left]) -> None:
        for way, flow, verdict, sent in items:
            origin, datagram = self.waiting[worker.number, way, flow].popleft()
            if way == "up":
                self.rig.went_up(worker, (*flow, datagram), verdict, sent)  # type: ignore[arg-type]
            else:
                self.rig.went_down((origin, datagram), verdict, sent)  # type: ignore[arg-type]

    def check(self) -> None:
        """Packets of a batch that a worker died in may be in it alone, or on hold, too."""
        for worker in self.rig.workers:
            if worker.leaving is not None:
                continue
            count = sum(len(queue) for (number, _, _), queue in self.waiting.items() if number == worker.number)
            assert self.rig.slots[worker.number].held()["packets"] == count

    # --- what the cache says ---

    def hear(self, worker: Worker, chosen: int, said: int) -> None:
        """An answer about a flow that was asked for, or about any. It is heard at the next turn."""
        asks = worker.harness.forwarder.take_asks(1 << 16)
        self.keys.extend(ask.key for ask in asks if ask.kind == LOOKUP)
        key = self.keys[chosen % len(self.keys)] if self.keys and chosen < 224 else key_of(*any_flow(chosen))
        if said < 40:
            worker.harness.forwarder.answer(key, None)
        elif said < 60:
            worker.harness.forwarder.unavailable(key)
        else:
            owner, nonce = SAID[said % len(SAID)]
            next_hop = owner if said < 240 else SAID[chosen % len(SAID)][0]
            worker.harness.forwarder.answer(key, Route(pack_endpoint(owner), pack_endpoint(next_hop), nonce))
            if {owner, next_hop} <= set(self.rig.owners):
                self.rig.named.setdefault(unpack_key(key), set()).add(next_hop)

    def turn(self, worker: Worker) -> None:
        self.left(worker, worker.harness.turn())

    # --- death ---

    def die(self, worker: Worker, public: int, sent: int) -> None:
        """Killed while packets leave the hold: with the batch of that socket open, or when so much of it was sent."""
        worker.harness.answers()
        worker.dead = True
        if worker.harness.take_released(public):
            worker.leaving = worker.harness.mark_sent(sent, public) if sent >= 0 else {}

    def inherit(self, worker: Worker, before: Mapping[int, object]) -> None:
        """What a successor does with such a batch: what was sent is not sent again."""
        worker.harness.finish()
        items = worker.harness.take_left()
        self.left(worker, [(*item[:3], before.get(at, item[3])) for at, item in enumerate(items)])  # type: ignore[misc]

    def decided(self, worker: Worker, held: Held) -> None:
        """A batch that a worker was killed in: what it had put on hold by then."""
        held.verdicts = worker.harness.verdicts()
        self.put(worker, way_of(held), held.up or held.down, held.verdicts)

    def resumed(self, worker: Worker, held: Held, verdicts: Sequence[str]) -> None:
        """The rest of it."""
        before = held.verdicts or [""] * len(verdicts)
        new = ["" if old == "held" else verdict for old, verdict in zip(before, verdicts, strict=True)]
        self.put(worker, way_of(held), held.up or held.down, new)
        self.left(worker, worker.harness.take_left())


def way_of(held: Held) -> str:
    return "down" if held.down else "up"


def any_flow(chosen: int) -> Pair:
    return inputs.CLIENTS4[chosen % len(inputs.CLIENTS4)], inputs.PLACES[chosen & 63][1]
