"""A slot goes from one worker to the next while packets come: two Forwarders on one slot and its sockets.

Each runs in a thread of its own (the loop holds no GIL), as the workers of two launchers do in processes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from _fastpath.forward import Forwarder
from _fastpath.slot import Slot
from tests.support.harness import SECRET, Sockets, assert_books_balance, memory_of, token
from tests.support.packets import check
from tests.support.relays import until

pytestmark = pytest.mark.native

LINGER_S = 0.25


class Worker(threading.Thread):
    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__(daemon=True)
        self.forwarder = forwarder
        self.ending = ""

    def run(self) -> None:
        self.ending = self.forwarder.run()


class World:
    """A slot, its sockets, and as many workers as a test wants."""

    def __init__(self) -> None:
        self.sockets = Sockets()
        self.memory = memory_of(64)
        self.slot = Slot.create(self.memory, 64, SECRET)
        self.workers: list[Worker] = []

    def worker(self, epoch: int = 0) -> Worker:
        worker = Worker(self.sockets.worker(self.slot, epoch))
        self.workers.append(worker)
        worker.start()
        return worker

    def first(self) -> Worker:
        worker = self.worker()
        until(lambda: worker.forwarder.writes)
        return worker

    def newcomer(self) -> tuple[Worker, int]:
        number = self.slot.epoch_ahead()
        worker = self.worker(number)
        until(lambda: self.slot.warm == number)
        return worker, number

    def turn_of(self, number: int) -> None:
        self.slot.epoch = number
        os.eventfd_write(self.sockets.wake, 1)

    def set_established(self, count: int) -> None:
        """A word that is derived of the flows; whoever repairs counts anew."""
        flows_at = int.from_bytes(self.memory[32:40], "little")
        self.memory[flows_at + 16 : flows_at + 20] = count.to_bytes(4, "little")

    def close(self) -> None:
        self.slot.writer_died()
        self.slot.epoch = 1 << 62
        self.slot.stopping = True
        os.eventfd_write(self.sockets.wake, 1)
        for worker in self.workers:
            worker.join(5)
        self.sockets.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_a_newcomer_waits_until_its_turn_comes(world: World) -> None:
    old = world.first()
    new, number = world.newcomer()
    assert (number, world.slot.writer) == (1 << 32, 1)
    heart = world.slot.heart
    until(lambda: world.slot.heart != heart)  # the old one goes on
    assert not new.forwarder.writes
    world.turn_of(number)
    old.join(5)
    until(lambda: new.forwarder.writes)
    assert (old.ending, old.forwarder.writes, world.slot.writer) == ("superseded", False, number)
    world.slot.stopping = True
    os.eventfd_write(world.sockets.wake, 1)
    new.join(5)
    assert (new.ending, world.slot.writer) == ("stopped", 0)


def test_twenty_turns_lose_nothing(world: World) -> None:
    """Each packet arrives once and in order."""
    world.first()
    sent = 0
    over = threading.Event()
    owner = world.sockets.owner.getsockname()
    world.sockets.owner.sendto(check(token(owner)), world.sockets.local)

    def send() -> None:
        nonlocal sent
        while not over.is_set():
            world.sockets.owner.sendto(b"\x80" + sent.to_bytes(19), world.sockets.local)
            sent += 1
            time.sleep(0.0002)

    until(lambda: world.slot.counters()["up_opened"] == 1)
    sender = threading.Thread(target=send)
    sender.start()
    seen: list[bytes] = []
    for _ in range(20):
        worker, number = world.newcomer()
        world.turn_of(number)
        until(lambda worker=worker: worker.forwarder.writes)  # type: ignore[misc]
        seen += world.sockets.arrived()
    over.set()
    sender.join()
    until(lambda: world.slot.counters()["packets_up"] == sent + 1)
    seen += world.sockets.arrived()
    assert [each[-19:] for each in seen[1:]] == [number.to_bytes(19) for number in range(sent)]
    assert [worker.ending for worker in world.workers[:-1]] == ["superseded"] * 20
    assert_books_balance(world.slot)


def test_a_worker_takes_its_slot_back_when_nobody_comes(world: World) -> None:
    old = world.first()
    began = time.monotonic()
    world.turn_of(world.slot.epoch_ahead())
    until(lambda: world.slot.writer == 0)
    until(lambda: old.forwarder.writes)
    assert LINGER_S <= time.monotonic() - began < LINGER_S + 0.5
    until(lambda: world.slot.epoch == 1)
    heart = world.slot.heart
    until(lambda: world.slot.heart != heart)
    assert old.is_alive()


def test_a_launcher_calls_a_lingering_worker_back(world: World) -> None:
    old = world.first()
    began = time.monotonic()
    world.turn_of(world.slot.epoch_ahead())
    while world.slot.writer != 0:
        assert time.monotonic() - began < 5
    world.slot.epoch = 1
    until(lambda: old.forwarder.writes)
    assert time.monotonic() - began < LINGER_S


def test_a_newcomer_that_came_too_late_waits_again(world: World) -> None:
    """The one before has taken the slot back, and gives it when it is asked again."""
    old = world.first()
    number = world.slot.epoch_ahead()
    world.turn_of(number)
    until(lambda: world.slot.writer == 0)
    until(lambda: old.forwarder.writes and world.slot.epoch == 1)
    new = world.worker(number)
    until(lambda: world.slot.warm == number)
    assert (old.is_alive(), new.is_alive(), world.slot.writer) == (True, True, 1)
    world.turn_of(number)
    until(lambda: new.forwarder.writes)


def test_a_newcomer_waits_for_a_dead_writer_until_somebody_says_so(world: World) -> None:
    """And then builds anew what the dead one may have left half done."""
    pid = os.fork()
    if pid == 0:
        world.sockets.worker(world.slot).run()
        os._exit(0)
    until(lambda: world.slot.writer == 1)
    new, number = world.newcomer()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    world.set_established(7)
    world.turn_of(number)
    world.slot.writer_died(2)
    assert world.slot.writer == 1  # that was somebody else
    world.slot.writer_died(1)
    until(lambda: new.forwarder.writes)
    until(lambda: world.slot.flows()["established"] == 0)


def test_who_comes_after_one_that_let_go_repairs_nothing(world: World) -> None:
    world.first()
    new, number = world.newcomer()
    world.set_established(7)
    world.turn_of(number)
    until(lambda: new.forwarder.writes)
    heart = world.slot.heart
    until(lambda: world.slot.heart != heart)
    assert world.slot.flows()["established"] == 7


def test_whoever_is_no_longer_wanted_ends_at_once(world: World) -> None:
    world.first()
    new, _ = world.newcomer()
    world.turn_of(world.slot.epoch_ahead() * 2)
    new.join(5)
    assert new.ending == "superseded"


def test_a_worker_that_stops_leaves_nobody_as_writer(world: World) -> None:
    first = world.first()
    world.slot.stopping = True
    os.eventfd_write(world.sockets.wake, 1)
    first.join(5)
    assert (first.ending, world.slot.writer) == ("stopped", 0)
    world.slot.writer_died()
    assert world.slot.writer == 0


def test_numbers_of_a_newcomer_are_ahead_of_all_restarts() -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    for _ in range(5):
        slot.next_epoch()
    ahead = slot.epoch_ahead()
    assert slot.next_epoch() < ahead
    slot.epoch = ahead
    assert slot.next_epoch() == ahead + 1
    assert slot.epoch_ahead() == 2 * ahead
