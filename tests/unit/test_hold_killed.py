"""Workers with sockets are killed, or hand their slot over, while packets are on hold: each arrives, in order, and is
counted once.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from _fastpath.exchange import LOOKUP, Ask, Route
from _fastpath.forward import Forwarder
from _fastpath.slot import Slot
from _fastpath.wire.envelope import pack_endpoint
from relay.runtime.sockets import kernel_drops
from tests.support.harness import SECRET, Sockets, assert_books_balance, memory_of
from tests.support.relays import until
from tests.unit.test_hold_successor import payload

pytestmark = pytest.mark.native


class Live:
    """Workers with sockets, and whoever answers for the cache."""

    def __init__(self) -> None:
        self.sockets = Sockets()
        self.memory = mmap.mmap(-1, len(memory_of(1024)))
        self.slot = Slot.create(self.memory, 1024, SECRET)
        self.threads: list[threading.Thread] = []

    def thread(self, epoch: int = 0) -> Forwarder:
        forwarder = self.sockets.worker(self.slot, epoch, cache=True)
        self.threads.append(threading.Thread(target=forwarder.run, daemon=True))
        self.threads[-1].start()
        return forwarder

    def child(self) -> int:
        """A worker in a process of its own, which asks nobody."""
        if pid := os.fork():
            return pid
        try:
            self.sockets.worker(self.slot, cache=True).run()
        finally:
            os._exit(1)

    def asked(self, forwarder: Forwarder) -> Ask:
        asks: list[Ask] = []
        until(lambda: asks.extend(forwarder.take_asks(9)) or bool(asks))  # type: ignore[func-returns-value]
        return asks[0]

    def close(self) -> None:
        self.slot.writer_died()
        self.slot.epoch = 1 << 62
        self.slot.stopping = True
        os.eventfd_write(self.sockets.wake, 1)
        for thread in self.threads:
            thread.join(5)
        self.sockets.close()


@pytest.fixture
def live() -> Iterator[Live]:
    made = Live()
    yield made
    made.close()


def answer_in_order(live: Live, forwarder: Forwarder, count: int) -> None:
    """The cache knows the flow: all arrives in order, what is sent after the answer last."""
    owner = live.sockets.owner.getsockname()
    ask = live.asked(forwarder)
    assert forwarder.answer(ask.key, Route(pack_endpoint(owner), pack_endpoint(owner), 7))
    arrived: list[bytes] = []
    until(lambda: arrived.extend(live.sockets.arrived()) or len(arrived) >= count)  # type: ignore[func-returns-value]
    assert [each[38:] for each in arrived] == [payload(number) for number in range(count)]
    until(lambda: live.slot.counters()["up_recovered"] == count)
    assert_books_balance(live.slot)


def test_a_worker_is_killed_while_packets_wait(live: Live) -> None:
    worker = live.child()
    client = live.sockets.client()
    for number in range(5):
        client.sendto(payload(number), live.sockets.local)
    until(lambda: live.slot.held()["packets"] == 5)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    client.sendto(payload(5), live.sockets.local)
    live.slot.writer_died()
    answer_in_order(live, live.thread(live.slot.next_epoch()), 6)
    client.close()


def test_a_slot_is_handed_over_while_packets_wait(live: Live) -> None:
    live.thread()
    client = live.sockets.client()
    for number in range(5):
        client.sendto(payload(number), live.sockets.local)
    until(lambda: live.slot.held()["packets"] == 5)
    number = live.slot.epoch_ahead()
    newcomer = live.thread(number)
    until(lambda: live.slot.warm == number)
    live.slot.epoch = number
    os.eventfd_write(live.sockets.wake, 1)
    answer_in_order(live, newcomer, 5)
    client.close()


KILLS = 40
FLOWS_A_KILL = 12


def taken(live: Live) -> int:
    """How many packets were taken from the public socket."""
    return live.slot.counters()["packets_up"] + live.slot.held()["packets"]


def answering(live: Live, chance: random.Random) -> int:
    """A worker in a process of its own, whose cache knows every flow."""
    if pid := os.fork():
        return pid
    try:
        forwarder = live.sockets.worker(live.slot, cache=True)
        owner = pack_endpoint(live.sockets.owner.getsockname())

        def answer() -> None:
            while select.select([forwarder.asks_fd], [], [])[0]:
                asks = forwarder.take_asks(99)
                time.sleep(chance.random() * 0.001)
                forwarder.answer_all((ask.key, Route(owner, owner, 0)) for ask in asks if ask.kind == LOOKUP)

        threading.Thread(target=answer, daemon=True).start()
        forwarder.run()
    finally:
        os._exit(1)


@pytest.mark.parametrize("kills", [3, pytest.param(KILLS, marks=pytest.mark.full)])
def test_killed_anywhere_with_packets_on_hold(live: Live, kills: int) -> None:
    """New flows all the time, workers that live for some milliseconds: each packet is counted once and, for all that
    were sent, arrives, in order; twice only where its worker died before it had noted the first time."""
    chance = random.Random(5)
    arrived: list[bytes] = []
    clients = [live.sockets.client() for _ in range(kills * FLOWS_A_KILL)]
    for first in range(0, len(clients), FLOWS_A_KILL):
        worker = answering(live, chance)
        for number in range(4):
            for client in clients[first : first + FLOWS_A_KILL]:
                client.sendto(payload(number), live.sockets.local)
            time.sleep(chance.random() * 0.002)
        # No more may wait in the sockets than they have room for.
        until(lambda first=first: taken(live) >= 4 * (first - FLOWS_A_KILL))  # type: ignore[misc]
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        arrived += live.sockets.arrived()
        live.slot.writer_died()
        live.slot.next_epoch()
    worker = answering(live, chance)
    until(lambda: live.slot.counters()["packets_up"] >= 4 * len(clients) and live.slot.held()["packets"] == 0)
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    counters, dropped = live.slot.counters(), kernel_drops(live.sockets.owner)
    seen: dict[int, list[bytes]] = {client.getsockname()[1]: [] for client in clients}
    for frame in arrived + live.sockets.arrived():
        numbers = seen[int.from_bytes(frame[34:36], "big")]
        if frame[38:] not in numbers:
            numbers.append(frame[38:])
    for client in clients:
        client.close()
    assert counters["packets_up"] == 4 * len(clients)
    late = counters["up_hold_expired"]  # of a machine that stood still for half a second
    # What many workers left on hold may come at once, and be more than the owner's socket has room for.
    assert sum(map(len, seen.values())) >= 4 * len(clients) - late - dropped
    for numbers in seen.values():
        assert numbers == sorted(numbers, key=lambda each: each[2:4])
    assert_books_balance(live.slot)
