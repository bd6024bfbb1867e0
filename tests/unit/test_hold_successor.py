"""A worker is killed, or hands its slot over, while packets are on hold: each leaves once, in order, and is counted."""

from __future__ import annotations

import random

import pytest

from _fastpath._testing_audit import Audit
from _fastpath.exchange import Route
from _fastpath.slot import Slot
from _fastpath.wire.envelope import pack_endpoint
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
    assert_books_balance,
    memory_of,
    token,
)
from tests.support.packets import check, framed

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
