r"""Fuzz target: the whole relay but for its sockets, driven by a stream of steps over one to three sibling workers.

Bytes are a relay's shape and then steps: datagrams up and down of every kind, good, spoilt and raw, alone and in
batches; time; what a worker does between batches; keys that change; draining; workers killed anywhere and their
successors. After every step what tests/fuzz/relay_rig.py and `_fastpath._testing_audit` say must hold. Starting workers
costs as much as many steps, so an input may ask for random steps behind its own. The corpus is corpus/relay;
tests/unit/test_fuzz_relay.py runs it, with mutations. Ten million steps, after `./scripts/sanitize_check`:

    PYTHONPATH=build/sanitize/site PYTHONSAFEPATH=1 \
        ./scripts/sanitize_check --python -m tests.fuzz.run relay --steps 10000000 --seconds 3600
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz import relay_inputs as inputs
from tests.fuzz.relay_hold import INTERNAL
from tests.fuzz.relay_rig import DOWN, Held, Rig, Shape, Worker
from tests.fuzz.stream import Stream
from tests.support.harness import UpPacket
from tests.support.oracle import Address

TRACED_ONE_IN = 32  # for run.py: a traced step takes five times as long, and most lines are reached soon
MOST_STEPS = 400
MOST_MODELLED = 80  # the model is plain Python
MODELLED_ONE_IN = 40  # shapes; of the corpus it is one in four
JUMPS = (
    *[0, 1, 1, 5, 16, 48, 49, 60, 81, 100, 160, 161, 191, 192, 193, 400, 480, 481],
    *[(1 << 16) + 50, 1 << 31, (1 << 32) - 481, (1 << 32) - 1],
)
STEP_BYTES = 12  # or rather less
CLOCKS = (1000, (1 << 32) - 200, 1 << 31)


class Machine:
    def __init__(self, data: bytes) -> None:
        self.stream = Stream(data)
        self.rig = Rig(self.shape())
        self.most = MOST_MODELLED if self.rig.model else MOST_STEPS
        self.random_steps, self.seed = self.stream.byte(), self.stream.byte() << 8 | self.stream.byte()

    def shape(self) -> Shape:
        workers, sizes, more = (self.stream.byte() for _ in range(3))
        modelled = workers % MODELLED_ONE_IN == 0
        return Shape(
            workers=1 if modelled else (2, 3, 3, 1)[workers % 4],
            modelled=modelled,
            max_flows=(12, 20, 6, 40)[sizes % 4],
            max_half_open=(1000, 10, 4, 1000)[sizes // 4 % 4],
            max_new_per_network_s=0 if modelled else (0, 0, 0.01)[sizes // 16 % 3],
            max_new_per_token_s=0 if modelled else (0, 4, 0, 0.5)[(sizes + more) % 4],
            internal_version=(4, 6)[more % 2],
            clock=CLOCKS[more // 2 % 3],
            cache=not modelled and more // 8 % 2 == 1,
            lookups_per_s=(0, 0, 40, 400)[more // 16 % 4],
        )

    def worker(self) -> Worker:
        number = self.stream.byte()
        return self.rig.living(number, late=number >= 192)

    # --- datagrams ---

    def payload(self, known: list[bytes]) -> bytes:
        """One of these; or spoilt, or any bytes at all."""
        byte, chosen = self.stream.byte, self.stream.byte()
        if chosen < 200:
            return known[chosen % len(known)]
        if chosen < 215:
            return self.stream.take(byte() % 64)
        data = bytearray(known[byte() % len(known)])
        if chosen < 240 and data:
            data[byte() % len(data)] ^= 1 << byte() % 8
        elif chosen < 250:
            del data[byte() % (len(data) + 1) :]
        else:
            data += bytes(byte() % 9)
        return bytes(data)

    def up_packet(self, socket: int, local: Address) -> UpPacket:
        first = self.stream.byte()
        clients = inputs.CLIENTS6 if ":" in local[0] else inputs.CLIENTS4
        known = inputs.OTHERS if first >= 176 else inputs.CHECKS
        return clients[first % len(clients)], local, self.payload(known)

    def down_packet(self) -> tuple[Address, bytes]:
        """Of anybody to anybody; a whole header, or a spoilt or raw datagram."""
        where, chosen = self.stream.byte(), self.stream.byte()
        senders = inputs.SENDERS[self.rig.shape.internal_version]
        _, local = inputs.PLACES[where & 63]
        clients = inputs.CLIENTS6 if ":" in local[0] else inputs.CLIENTS4
        frame = inputs.header(clients[chosen % len(clients)], local) + self.payload(inputs.PAYLOADS)
        return senders[chosen // 16 % len(senders)], frame if where < 240 else self.payload([frame])

    def reply(self) -> tuple[Address, bytes]:
        """An owner's packet to one of the flows whose packets it had."""
        which = self.stream.byte()
        lately = self.rig.lately
        if not lately:
            return self.down_packet()
        flow, owner = lately[-1 - which % len(lately)]
        payload = self.payload(inputs.PAYLOADS) if which >= 128 else inputs.PAYLOADS[0]
        return owner, inputs.header(*flow) + payload

    def batch(self) -> Held:
        shape = self.stream.byte()
        count = 1 + (shape >> 1) % 12
        if shape & 1:
            return Held(DOWN, down=[self.reply() if shape & 96 else self.down_packet() for _ in range(count)])
        socket, local = inputs.PLACES[self.stream.byte() & 63]
        return Held(socket, up=[self.up_packet(socket, local) for _ in range(count)])

    # --- steps ---

    def up(self) -> None:
        worker = self.worker()
        socket, local = inputs.PLACES[self.stream.byte() & 63]
        self.rig.up(worker, [self.up_packet(socket, local)], socket)

    def follow(self) -> None:
        """From a client that was forwarded lately."""
        worker, which = self.worker(), self.stream.byte()
        known = inputs.OTHERS if which >= 128 else inputs.CHECKS
        if lately := self.rig.lately:
            (client, local), _ = lately[-1 - which % len(lately)]
            self.rig.up(worker, [(client, local, self.payload(known))], inputs.SOCKET_OF[local])

    def down(self) -> None:
        self.rig.down(self.worker(), [self.down_packet()])

    def answer(self) -> None:
        self.rig.down(self.worker(), [self.reply()])

    def many(self) -> None:
        worker, batch = self.worker(), self.batch()
        if batch.public == DOWN:
            self.rig.down(worker, batch.down)
        else:
            self.rig.up(worker, batch.up, batch.public)

    def unsent(self) -> None:
        """Not with a cache: what becomes of each packet is not told."""
        worker, batch = self.worker(), self.batch()
        if not self.rig.shape.cache:
            self.rig.unsent(worker, batch)

    def answers(self) -> None:
        """The route cache answers; mostly the worker hears it at once."""
        worker, chosen, said = self.worker(), self.stream.byte(), self.stream.byte()
        if self.rig.shape.cache:
            self.rig.ledger.hear(worker, chosen, said)
            if chosen & 3:
                self.rig.ledger.turn(worker)

    def leave(self) -> None:
        """Killed while packets leave the hold."""
        worker, where = self.worker(), self.stream.byte()
        if self.rig.shape.cache:
            public = INTERNAL if where & 1 else inputs.PLACES[where >> 2][0]
            self.rig.ledger.die(worker, public, (where >> 2) % 8 if where & 2 else -1)

    def wait(self) -> None:
        self.rig.wait(JUMPS[self.stream.byte() % len(JUMPS)])

    def tick(self) -> None:
        self.rig.wait(self.stream.byte() % 32)

    def between(self) -> None:
        """What a worker does between two batches."""
        worker, what = self.worker(), self.stream.byte()
        if what & 1:
            worker.harness.hear()
        if what & 2:
            self.rig.take_keys(worker)
        if what & 12:
            self.rig.sweep(worker, what >> 2)
        if what & 16:
            self.rig.ledger.turn(worker)

    def rotate(self) -> None:
        self.rig.rotate(self.stream.byte() % len(inputs.RINGS))

    def drain(self) -> None:
        self.rig.drain(self.stream.byte() & 3 == 3)

    def kill(self) -> None:
        worker, how = self.worker(), self.stream.byte()
        if how & 3 == 0 and self.rig.lately:
            self.rig.tear(worker, self.rig.lately[-1 - (how >> 2) % len(self.rig.lately)][0])
        else:
            self.rig.kill(worker, self.batch() if how & 3 > 1 else None, (how >> 3) % 8 if how & 4 else -1)

    def die_again(self) -> None:
        self.rig.die_again(self.stream.byte())

    def run(self) -> int:
        steps: tuple[Callable[[], None], ...] = (
            *[self.up] * 7, *[self.follow] * 4, *[self.answer] * 5, *[self.down] * 2, *[self.many] * 3, self.unsent,
            *[self.wait] * 2, self.tick, *[self.between] * 3, self.rotate, self.drain, self.kill, self.die_again,
            *[self.answers] * 4, self.leave,
        )  # fmt: skip
        made = 0
        for stream in (self.stream, Stream(random.Random(self.seed).randbytes(STEP_BYTES * self.random_steps))):
            self.stream = stream
            while made < self.most and not stream.over:
                steps[stream.byte() % len(steps)]()
                self.rig.check()
                made += 1
        self.rig.end()
        return made


def one(data: bytes) -> int:
    """How many steps it was."""
    return Machine(data).run()
