"""A worker is killed, or hands its slot over, while packets are on hold: each leaves once, in order, and is counted."""

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

from _fastpath._testing_audit import Audit
from _fastpath.exchange import LOOKUP, Ask, Route
from _fastpath.forward import Forwarder
from _fastpath.slot import Slot
from _fastpath.wire.envelope import pack_endpoint
from relay.runtime.sockets import kernel_drops
from tests.support.harness import (
    CLIENT,
    LOCAL,
    OWNER,
    SECOND,
    SECRET,
    WILDCARD,
    Left,
    Relay,
    Settings,
    Sockets,
    assert_books_balance,
    memory_of,
    token,
)
from tests.support.packets import check, framed
from tests.support.relays import until

INTERNAL = 255
COUNT = 6
FLOW = (CLIENT, LOCAL)


def payload(number: int) -> bytes:
    return b"\x80\x00" + number.to_bytes(2, "big") + bytes(4) + b"SSRC" + b"media" * (60 * (number % 2))


class World:
    """A slot whose memory a test can look into, and the workers that come one after the other."""

    def __init__(self) -> None:
        self.memory = memory_of(64)
        self.slot = Slot.create(self.memory, 64, SECRET)
        self.relay = self.successor()

    def successor(self, *, cache: bool = True, tick: int = 1000) -> Relay:
        self.relay = Relay(Settings(cache=cache), self.slot, tick)
        return self.relay

    def hold(self, count: int = COUNT) -> None:
        for number in range(count):
            self.relay.up(payload(number))
            self.relay.down(framed(CLIENT, LOCAL, payload(number)))

    def check(self) -> None:
        Audit([self.slot], [OWNER]).check()
        assert_books_balance(self.slot)

    def word(self, at: int, size: int) -> int:
        return int.from_bytes(self.memory[at : at + size], "little")

    @property
    def hold_at(self) -> int:
        return self.word(72, 8)


@pytest.fixture
def world() -> World:
    return World()


def sent_of(left: list[Left]) -> dict[str, list[bytes]]:
    """What left, by direction: payloads in order."""
    ways: dict[str, list[bytes]] = {"up": [], "down": []}
    for way, flow, verdict, sent in left:
        assert (flow, verdict) == (FLOW, "recovered")
        assert sent is not None
        ways[way].append(sent[-1][38:] if way == "up" else sent[-1])
    return ways


ALL = [payload(number) for number in range(COUNT)]


def test_what_waited_is_asked_for_again_and_leaves_in_order(world: World) -> None:
    world.hold()
    relay = world.successor()
    world.check()
    assert relay.asked() == [FLOW]
    assert relay.slot.held() == {"packets": 2 * COUNT, "flows": 1}
    relay.up(payload(COUNT))
    assert sent_of(relay.known()) == {"up": [*ALL, payload(COUNT)], "down": ALL}
    counted = relay.counted()
    assert (counted["packets_up"], counted["packets_down"]) == (COUNT + 1, COUNT)
    world.check()


def test_it_has_another_half_second(world: World) -> None:
    world.hold(1)
    relay = world.successor(tick=1000 + SECOND)
    relay.tick += SECOND // 2
    assert relay.turn() == []
    relay.tick += 1
    assert {verdict for _, _, verdict, _ in relay.turn()} == {"hold_expired"}


def test_what_nobody_knew_is_still_remembered(world: World) -> None:
    world.hold(1)
    world.relay.unknown()
    relay = world.successor()
    assert relay.up(payload(1)) == ("no_route", None)
    assert relay.asked() == []


def test_without_a_cache_it_goes_by_a_flow_or_ends(world: World) -> None:
    world.hold(1)
    left = world.successor(cache=False).turn()
    assert [(way, verdict) for way, _, verdict, _ in left] == [("up", "hold_expired"), ("down", "hold_expired")]
    assert world.slot.held() == {"packets": 0, "flows": 0}
    world.check()


def test_killed_in_the_batch_that_is_being_held(world: World) -> None:
    """Decided, not counted: what is on hold is dealt with, the rest is decided by the successor."""
    relay = world.relay
    relay.up(check(token()), ("198.51.100.9", 1))
    media = [(("198.51.100.9", 1), LOCAL, payload(9)), (CLIENT, LOCAL, payload(0)), (CLIENT, LOCAL, payload(1))]
    relay.harness.take_up(media)
    assert relay.harness.mark_sent(0) == {}
    relay = world.successor()
    assert [verdict for verdict, _ in relay.harness.finish()] == ["media", "held", "held"]
    world.check()
    assert sent_of(relay.known())["up"] == [payload(0), payload(1)]
    assert relay.counted()["packets_up"] == 4
    world.check()


@pytest.mark.parametrize("datagram", [payload(1), check(token())], ids=["media", "check"])
def test_killed_between_holding_a_packet_and_its_verdict(world: World, datagram: bytes) -> None:
    """It is found in the batch without a verdict, and on hold, too: it leaves once."""
    relay = world.relay
    relay.up(payload(0))
    relay.harness.take_up([(CLIENT, LOCAL, datagram)])
    relay.harness.mark_sent(0)
    assert relay.harness.verdicts() == ["held"]
    world.memory[world.word(48, 8) + 64] = 0
    relay = world.successor()
    assert [verdict for verdict, _ in relay.harness.finish()] == ["held"]
    left = relay.harness.take_left() + relay.known()
    assert sorted(verdict for _, _, verdict, _ in left) == sorted(
        ["recovered", "recovered" if datagram == payload(1) else "opened"]
    )
    assert relay.counted()["packets_up"] == 2
    world.check()


def ready(world: World) -> None:
    """The answer was heard, and nothing has left yet."""
    world.hold()
    route = Route(pack_endpoint(OWNER), pack_endpoint(OWNER), 1 << 40)
    [ask] = world.relay.harness.forwarder.take_asks(9)
    assert world.relay.harness.forwarder.answer(ask.key, route)
    world.relay.harness.answers()


def finished(world: World) -> dict[str, list[bytes]]:
    """What a successor sends: the batch it found, then what it still has on hold."""
    relay = world.successor()
    if relay.harness.resumed():
        relay.harness.finish()
    left = relay.turn()
    if relay.slot.held()["packets"]:
        [_] = relay.asked()
        left += relay.known()
    world.check()
    assert relay.slot.held() == {"packets": 0, "flows": 0}
    return sent_of(left)


@pytest.mark.parametrize("source", [WILDCARD, INTERNAL])
@pytest.mark.parametrize("sent", range(-1, COUNT + 1))
def test_killed_while_they_leave(world: World, source: int, sent: int) -> None:
    """With the batch open (-1), or when so many had been sent: each leaves once, and is counted once."""
    ready(world)
    assert world.relay.harness.take_released(source) == COUNT
    gone = len(world.relay.harness.mark_sent(sent)) if sent >= 0 else 0
    relay = world.successor()
    assert relay.slot.held()["packets"] == COUNT
    results = relay.harness.finish()
    assert [verdict for verdict, _ in results] == ["recovered"] * COUNT
    again = [result[-1] for _, result in results if result is not None]
    assert [bytes(each)[38 if source == WILDCARD else 0 :] for each in again] == ALL[gone:]
    relay.harness.take_left()
    left = sent_of(relay.known())
    assert left == ({"up": [], "down": ALL} if source == WILDCARD else {"up": ALL, "down": []})
    counted = relay.counted()
    assert (counted["up_recovered"], counted["down_recovered"]) == (COUNT, COUNT)
    world.check()


def test_killed_when_they_were_counted_but_not_forgotten(world: World) -> None:
    ready(world)
    assert world.relay.harness.take_released(WILDCARD) == COUNT
    world.relay.harness.step_released(WILDCARD)
    relay = world.successor()
    assert relay.slot.held()["packets"] == COUNT
    assert sent_of(relay.known()) == {"up": [], "down": ALL}
    world.check()


def test_killed_before_the_batch_was_open(world: World) -> None:
    """Its number stands in the packets already, and there is no such batch: they wait."""
    ready(world)
    number = world.word(world.word(48, 8), 8)
    assert world.relay.harness.take_released(WILDCARD) == COUNT
    batch_at = world.word(48, 8)
    for now, stage in ((number, 0), (number + 1, 0)):
        world.memory[batch_at : batch_at + 12] = now.to_bytes(8, "little") + stage.to_bytes(4, "little")
        relay = world.successor()
        assert relay.harness.resumed() == 0
        assert relay.slot.held()["packets"] == 2 * COUNT
        world.check()
        number -= 1 if now == number else 0
    assert sent_of(relay.known()) == {"up": ALL, "down": ALL}


def test_a_packet_that_kills_its_workers_is_given_up(world: World) -> None:
    ready(world)
    world.relay.harness.take_released(WILDCARD)
    for _ in range(2):
        world.successor()
    assert [verdict for verdict, _ in world.successor().harness.finish()] == ["abandoned"] * COUNT
    world.relay.harness.take_left()
    assert sent_of(world.relay.known()) == {"up": [], "down": ALL}
    world.check()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_lies_there_does_no_harm(world: World, seed: int) -> None:
    """Words of the hold written over: the successor takes what is whole of it, and goes on."""
    world.hold()
    for number in range(20):
        world.relay.up(payload(number), (f"198.51.100.{number}", 9))
    chance = random.Random(seed)
    at = world.hold_at
    entries = [at + 64 + 4096 * 4 + 64 * each for each in range(4096) if world.word(at + 64 + 4 * each, 4)]
    places = [at + 16, at + 20, *(entry + field for entry in entries for field in (36, 44, 52, 54))]
    places += [at + 64 + 4096 * 68 + 256 * block + field for block in range(1, 40) for field in (0, 2, 4, 6, 8)]
    for place in chance.sample(places, 12):
        world.memory[place : place + 2] = chance.choice((b"\0\0", b"\xff\xff", chance.randbytes(2)))
    relay = world.successor()
    world.check()
    relay.tick += SECOND
    relay.turn()
    assert relay.slot.held() == {"packets": 0, "flows": 0}
    relay.up(payload(1), ("198.51.100.200", 9))
    assert sent_flows(relay.known(client=("198.51.100.200", 9))) == [("198.51.100.200", 9)]
    world.check()


def sent_flows(left: list[Left]) -> list[tuple[str, int]]:
    return [client for _, (client, _), verdict, _ in left if verdict == "recovered"]


# --- with sockets ---


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


@pytest.mark.native
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


@pytest.mark.native
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


@pytest.mark.native
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
