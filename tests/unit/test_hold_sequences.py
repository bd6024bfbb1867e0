"""A relay with a route cache and its model live through the same: every verdict, datagram, flow, look-up and piece of
news is equal after each step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath._testing_audit import Audit
from _fastpath.exchange import ENDED, ESTABLISHED, LOOKUP, Route
from _fastpath.wire.envelope import key_of, pack_endpoint
from tests.support import harness, packets
from tests.support.harness import OF_THE_CACHE, OTHER, OWNER, PUBLICS, SECRET, STRANGER, Relay, Settings
from tests.support.model_hold import UNAVAILABLE, Answer, HoldModel
from tests.support.oracle import Address
from tests.unit.test_decide_sequences import (
    CLIENTS,
    FOREIGN,
    JUMPS,
    LOCALS,
    assert_same,
    client_numbers,
    down_packets,
    local_numbers,
    random_down,
    random_index,
    random_up,
    up_packets,
)

KINDS = {LOOKUP: "lookup", ESTABLISHED: "established", ENDED: "ended"}
# Nobody; the sessions of two owners as their tokens name them; flows that had been through a restart; not allowed.
ANSWERS: list[Answer] = [
    *[None, None, UNAVAILABLE, (OWNER, 1 << 40), (OWNER, 1 << 40), (OWNER, 2 << 40), (OTHER, 1 << 40)],
    *[(OWNER, 0), (OTHER, 0), (STRANGER, 5), (FOREIGN, 1 << 40)],
]

answers = st.tuples(client_numbers, local_numbers, st.sampled_from(ANSWERS)).map(
    lambda drawn: (CLIENTS[drawn[0]], (LOCALS[drawn[1]], 3478), drawn[2])
)
batches = st.lists(up_packets, min_size=1, max_size=12)
steps = st.one_of(
    *[st.tuples(st.just("up"), batches)] * 3,
    st.tuples(st.just("bound"), st.lists(up_packets, min_size=1, max_size=3)),
    *[st.tuples(st.just("down"), st.lists(down_packets, min_size=1, max_size=12))] * 3,
    *[st.tuples(st.just("turn"), st.lists(answers, max_size=6))] * 3,
    *[st.tuples(st.just("wait"), st.sampled_from((1, 5, 9, 33, *JUMPS)))] * 2,
    st.tuples(st.just("sweep"), st.just(0)),
    st.tuples(st.just("repair"), st.just(0)),
    st.tuples(st.just("drain"), st.sampled_from((0, 0, 1, 2))),
)


class Pair:
    """A relay and its model, fed the same."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.relay = Relay(settings)
        self.model = HoldModel(
            keys=self.relay.keys,
            backends=settings.backends,
            publics=PUBLICS,
            max_flows=settings.max_flows,
            max_half_open=settings.max_half_open,
            tick=self.relay.tick,
            secret=SECRET,
        )
        self.audit = Audit([self.relay.slot], [OWNER, OTHER, STRANGER], cached=True)

    def step(self, what: str, given: object) -> None:
        match what, given:
            case "up", list(batch):
                self.passed(self.relay.harness.up(batch), self.model.up(batch, harness.WILDCARD))
            case "bound", list(batch):
                self.passed(self.relay.harness.up(batch, harness.BOUND), self.model.up(batch, harness.BOUND))
            case "down", list(batch):
                self.passed(self.relay.harness.down(batch), self.model.down(batch))
            case "turn", list(heard):
                for each in heard:
                    self.tell(*each)
                assert self.relay.harness.turn() == self.model.turn(heard)
            case "wait", int(ticks):
                self.model.tick = self.relay.tick = (self.model.tick + ticks) % (1 << 32)
            case "sweep", _:
                budget = self.settings.max_flows
                assert self.relay.harness.sweep(budget) == self.model.sweep(budget)
            case "repair", _:
                self.relay = Relay(self.settings, self.relay.slot, self.model.tick)
                self.model.repair()
            case "drain", int(how):
                self.relay.slot.draining = self.model.draining = how
            case _:
                pytest.fail(f"no such step: {what}")
        self.compare()

    def passed(self, real: Sequence[object], modelled: Sequence[object]) -> None:
        """A batch, and what left the hold behind it."""
        assert real == modelled
        self.model.leave()
        assert self.relay.harness.take_left() == self.model.left
        self.model.left = []

    def tell(self, client: Address, local: Address, said: Answer) -> None:
        forwarder, key = self.relay.harness.forwarder, key_of(client, local)
        if said == UNAVAILABLE:
            assert forwarder.unavailable(key)
            return
        assert said is None or isinstance(said, tuple)
        route = Route(pack_endpoint(said[0]), pack_endpoint(said[0]), said[1]) if said else None
        assert forwarder.answer(key, route)

    def compare(self) -> None:
        assert_same(self.relay, self.model)
        told = [(KINDS[ask.kind], ask.key) for ask in self.relay.harness.forwarder.take_asks(1 << 20)]
        assert sorted(told) == sorted(self.model.told)
        self.model.told.clear()
        waiting = self.model.waiting.values()
        held = {"packets": sum(len(wait.packets) for wait in waiting), "flows": len(waiting)}
        assert self.relay.slot.held() == held
        for name in ("flows_recovered", "answers_refused"):
            assert self.relay.slot.events()[name] == self.model.events[name]
        self.audit.check()


def run(settings: Settings, script: list[tuple[str, object]]) -> HoldModel:
    pair = Pair(settings)
    for what, given_ in script:
        pair.step(what, given_)
    return pair.model


@given(script=st.lists(steps, max_size=40), max_flows=st.integers(6, 20), max_half_open=st.integers(3, 24))
def test_relay_and_model_agree(script: list[tuple[str, object]], max_flows: int, max_half_open: int) -> None:
    run(Settings(max_flows=max_flows, max_half_open=max_half_open, cache=True), script)


def random_answer(random: Random) -> tuple[Address, Address, Answer]:
    local = (LOCALS[random_index(random, 1, len(LOCALS))], 3478)
    return CLIENTS[random_index(random, 6, len(CLIENTS))], local, random.choice(ANSWERS)


def random_step(random: Random) -> tuple[str, object]:
    kinds = ("up", "bound", "down", "turn", "wait", "sweep", "repair", "drain")
    what = random.choices(kinds, (40, 5, 40, 30, 20, 3, 2, 2))[0]
    count = random.randint(1, 12)
    match what:
        case "up" | "bound":
            return what, [random_up(random) for _ in range(count)]
        case "down":
            return what, [random_down(random) for _ in range(count)]
        case "turn":
            return what, [random_answer(random) for _ in range(random.randint(0, 6))]
        case "wait":
            return what, random.choice((0, 0, 1, 1, 5, 9, 60, 191, 192))
        case "drain":
            return what, random.choice((0, 0, 0, 1, 2))
    return what, 0


# What chance rarely brings together: more packets of a flow than may wait, each way.
PLACE = ("203.0.113.250", 1), (LOCALS[0], 3478)
FIRST: list[tuple[str, object]] = [
    ("up", [(*PLACE, packets.RTP)] * 18),
    *[("wait", 9), ("turn", [])],
    ("down", [(OWNER, packets.framed(*PLACE, packets.RTP))] * 18),
]


@pytest.mark.long
def test_a_long_life_agrees_and_meets_what_a_cache_is_for() -> None:
    random = Random(1)
    counted: Counter[str] = Counter()
    for _ in range(2):
        script = FIRST + [random_step(random) for _ in range(600)]
        model = run(Settings(max_flows=14, max_half_open=10, cache=True), script)
        counted += model.counters + model.events
    of_the_cache = {f"{way}_{reason}" for way, reason in OF_THE_CACHE} - {"up_lookup_limited", "down_lookup_limited"}
    assert of_the_cache <= counted.keys()
    assert counted["flows_recovered"] > 20
    assert counted["answers_refused"] > 20
