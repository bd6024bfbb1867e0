"""The whole relay, without sockets, against the model: random clients, tokens, owners, answers, forgeries and time.

Each example is a list of steps; after every one, each verdict, each packet sent, the flow table, the events, the
token outcomes and the counters are those of tests/support/model.py. The table is small, so that full tables, full
half-open bounds, evictions and re-used numbers all happen within one example. `repair` makes a new worker on the same
memory.
"""

from __future__ import annotations

import dataclasses
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.verdicts import VERDICTS_BY_NUMBER
from tests.support import harness, packets
from tests.support.harness import OF_THE_CACHE, OTHER, OWNER, STRANGER, Relay, Settings, assert_books_balance, token
from tests.support.model import Flow, Model
from tests.support.oracle import Address

FOREIGN: Address = ("10.2.0.1", 4000)
OWNER6: Address = ("fd00:1::3", 4000)

# One token has more clients than a token may have flows; the owners share few clients, so they contend.
TOKENS = (
    *[token(OWNER, serial) for serial in (1, 1, 1, 2)],
    *[token(OTHER, serial) for serial in (1, 2)],
    token(OWNER, 1, key_id=3),
    token(OWNER, 1, key_id=6),
    token(FOREIGN, 1),
    token(("10.1.0.1", 0), 1),
    token(OWNER6, 1),
    "A" + token(OWNER, 1)[1:],
    token(OWNER, 1)[:-3] + "AAA",
    "IYICo2VW",
)
CLIENTS: tuple[Address, ...] = (
    *[(f"198.51.100.{host}", 50000) for host in range(1, 11)],
    ("198.51.100.1", 50001),
    ("198.51.100.1", 0),
    ("169.254.1.1", 50000),
)
LOCALS = ("192.0.2.1", "192.0.2.2", "192.0.2.255")
SENDERS = (OWNER, OWNER, OWNER, OTHER, OTHER, STRANGER)
MEDIA = (
    packets.RTP,
    packets.RTCP,
    packets.DTLS,
    packets.stun(packets.BINDING_INDICATION),
    b"\x80",
    b"\x7fGET",
    b"\0" * 40,
)
ANSWERS = (packets.answer(), packets.answer(), packets.RTP, packets.answer(packets.BINDING_ERROR), packets.DTLS)
JUMPS = (0, 1, 5, 48, 49, 60, 81, 100, 191, 192, 193, 400, 481, (1 << 16) + 50, (1 << 32) - 100)

# As many clients of one token as it may have flows, and their owner's answers.
CROWD = [(client, (LOCALS[0], 3478), packets.check(TOKENS[0])) for client in CLIENTS[:8]]
CROWD_ANSWERED = [(OWNER, packets.framed(client, local, packets.answer())) for client, local, _ in CROWD]


def mostly(first: range, everything: int) -> st.SearchStrategy[int]:
    """An index, of the first ones more often than not."""
    return st.one_of(st.sampled_from(first), st.integers(0, everything - 1))


client_numbers = mostly(range(4), len(CLIENTS))
local_numbers = mostly(range(1), len(LOCALS))
up_packets = st.tuples(
    client_numbers,
    local_numbers,
    st.one_of(
        mostly(range(6), len(TOKENS)).map(lambda i: packets.check(TOKENS[i])),
        mostly(range(6), len(TOKENS)).map(lambda i: packets.check(TOKENS[i])),
        st.sampled_from(MEDIA),
    ),
).map(lambda drawn: (CLIENTS[drawn[0]], (LOCALS[drawn[1]], 3478), drawn[2]))
down_packets = st.tuples(
    st.sampled_from(SENDERS), client_numbers, local_numbers, st.sampled_from(ANSWERS), st.integers(0, 20)
).map(lambda drawn: (drawn[0], down_frame(*drawn[1:])))


def down_frame(client: int, local: int, payload: bytes, spoil: int) -> bytes:
    """One in ten is no good frame."""
    frame = packets.framed(CLIENTS[client], (LOCALS[local], 3478), payload)
    return {0: frame[:38], 1: b"\x55\x46" + frame[2:]}.get(spoil, frame)


steps = st.one_of(
    st.tuples(st.just("up"), st.lists(up_packets, min_size=1, max_size=12)),
    st.tuples(st.just("up"), st.lists(up_packets, min_size=1, max_size=12)),
    st.tuples(st.just("bound"), st.lists(up_packets, min_size=1, max_size=3)),
    st.tuples(st.just("down"), st.lists(down_packets, min_size=1, max_size=12)),
    st.tuples(st.just("down"), st.lists(down_packets, min_size=1, max_size=12)),
    st.sampled_from([("up", CROWD), ("down", CROWD_ANSWERED)]),
    st.tuples(st.just("wait"), st.sampled_from(JUMPS)),
    st.tuples(st.just("wait"), st.sampled_from(JUMPS)),
    st.tuples(st.just("sweep"), st.just(0)),
    st.tuples(st.just("repair"), st.just(0)),
    st.tuples(st.just("drain"), st.booleans()),
)


class Pair:
    """A relay and its model, fed the same."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.relay = Relay(settings)
        self.model = self.relay.model()

    def step(self, what: str, given: object) -> None:
        match what, given:
            case "up", list(batch):
                assert self.relay.harness.up(batch) == self.model.up(batch, harness.WILDCARD)
            case "bound", list(batch):
                assert self.relay.harness.up(batch, harness.BOUND) == self.model.up(batch, harness.BOUND)
            case "down", list(batch):
                assert self.relay.harness.down(batch) == self.model.down(batch)
            case "wait", int(ticks):
                self.model.tick = self.relay.tick = (self.model.tick + ticks) % (1 << 32)
            case "sweep", _:
                budget = self.settings.max_flows
                assert self.relay.harness.sweep(budget) == self.model.sweep(budget)
            case "repair", _:
                self.relay = Relay(self.settings, self.relay.slot)
                self.relay.tick = self.model.tick
                self.model.repair()
            case "drain", bool(on):
                self.relay.slot.draining = self.model.draining = on
            case _:
                pytest.fail(f"no such step: {what}")
        assert_same(self.relay, self.model)


def assert_same(relay: Relay, model: Model) -> None:
    assert by_key(relay.slot.flow_list()) == by_key([described(flow) for flow in model.flows.values()])
    half_open = model.half_open
    assert relay.slot.flows() == {"established": len(model.flows) - half_open, "half_open": half_open}
    assert relay.counted() == {name: value for name, value in model.counters.items() if value}
    assert {key: value for key, value in relay.slot.tokens().items() if value} == dict(model.tokens)
    events = relay.slot.events()
    for name in ("flows_created", "flows_evicted", "flows_moved"):
        assert events[name] == model.events[name], name
    assert_books_balance(relay.slot)


def by_key(flows: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(flows, key=lambda flow: repr((flow["client"], flow["local"])))


def described(flow: Flow) -> dict[str, object]:
    """As `Slot.flow_list` says it."""
    fields = dataclasses.asdict(flow)
    for left_out in ("number", "token", "random", "pending_token", "checked", "established"):
        del fields[left_out]
    state = "established" if flow.established else "half_open"
    return fields | {"state": state, "next_hop": flow.owner, "nonce": int.from_bytes(flow.random, "little")}


def run(settings: Settings, script: list[tuple[str, object]]) -> Model:
    pair = Pair(settings)
    for what, given_ in script:
        pair.step(what, given_)
    return pair.model


@given(script=st.lists(steps, max_size=40), max_flows=st.integers(6, 20), max_half_open=st.integers(3, 24))
def test_relay_and_model_agree(script: list[tuple[str, object]], max_flows: int, max_half_open: int) -> None:
    run(Settings(max_flows=max_flows, max_half_open=max_half_open), script)


# --- one long life of a relay ---

# What chance rarely brings together: eight live flows of a token and a ninth client, a new session while it drains.
LAST: list[tuple[str, object]] = [
    *[("drain", False), ("wait", 481), ("sweep", 0), ("up", CROWD), ("down", CROWD_ANSWERED)],
    ("up", [(CLIENTS[8], (LOCALS[0], 3478), packets.check(TOKENS[0]))]),
    *[("drain", True), ("up", [(CLIENTS[9], (LOCALS[0], 3478), packets.check(TOKENS[4]))])],
]

# Needs siblings, sockets, or datagrams that the other tests sweep through.
OUT_OF_REACH = {
    *("up_adopted", "up_truncated", "up_peers_full", "up_stun_malformed", "up_no_username", "up_long_username"),
    *("up_send_buffer", "up_send_too_big", "up_send_refused", "down_truncated", "up_abandoned", "down_abandoned"),
    "up_token_busy",
    "up_prefix_full",
    *("down_send_buffer", "down_send_too_big", "down_send_refused"),
}


def random_step(random: Random) -> tuple[str, object]:
    what = random.choices(("up", "bound", "down", "wait", "sweep", "repair", "drain"), (40, 5, 40, 25, 3, 1, 2))[0]
    count = random.randint(1, 12)
    match what:
        case "up" | "bound":
            return what, [random_up(random) for _ in range(count)]
        case "down":
            return what, [random_down(random) for _ in range(count)]
        case "wait":
            return what, random.choice((0, 0, 0, 1, 1, 5, 60, 191, 192))
        case "drain":
            return what, random.random() < 0.3
    return what, 0


def random_index(random: Random, first: int, everything: int) -> int:
    return random.randrange(first) if random.random() < 0.7 else random.randrange(everything)


def random_up(random: Random) -> tuple[Address, Address, bytes]:
    local = (LOCALS[random_index(random, 1, len(LOCALS))], 3478)
    datagram = packets.check(TOKENS[random_index(random, 6, len(TOKENS))])
    if random.random() < 0.4:
        datagram = random.choice(MEDIA)
    return CLIENTS[random_index(random, 6, len(CLIENTS))], local, datagram


def random_down(random: Random) -> tuple[Address, bytes]:
    client, local = random_index(random, 6, len(CLIENTS)), random_index(random, 1, len(LOCALS))
    return random.choice(SENDERS), down_frame(client, local, random.choice(ANSWERS), random.randrange(20))


@pytest.mark.long
def test_a_long_life_agrees_and_meets_every_case() -> None:
    random = Random(1)
    model = run(Settings(max_flows=14, max_half_open=10), [random_step(random) for _ in range(1000)] + LAST)
    counted = set(model.counters) | {event for event, count in model.events.items() if count}
    reached = {f"{way}_{reason}" for way, _, reason in VERDICTS_BY_NUMBER if way} & counted
    unreached = {f"{way}_{reason}" for way, _, reason in VERDICTS_BY_NUMBER if way} - reached
    assert unreached == OUT_OF_REACH | {f"{way}_{reason}" for way, reason in OF_THE_CACHE}
    assert {"flows_created", "flows_evicted", "flows_moved", "retokened"} <= counted
