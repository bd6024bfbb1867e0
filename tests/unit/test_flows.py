"""The flow table: capacity, re-use, expiry, churn, eviction, repair, siblings, and the tick's wrap-around.

All through the Harness, that is, by the code a worker runs. What is looked for after each change is found through the
hot path: a media packet of a known flow leaves to its owner.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import settings

from _fastpath.slot import Slot, flow_bytes, slot_bytes
from tests.support import oracle
from tests.support.harness import (
    CLIENT,
    LOCAL,
    OTHER,
    OWNER,
    SECOND,
    SECRET,
    STRANGER,
    Relay,
    Settings,
    memory_of,
    token,
)
from tests.support.model import Flow, Model
from tests.support.oracle import Address
from tests.support.packets import RTP, answer, check, framed

WRAP = 1 << 32
BASE = 0x0A000001  # 10.0.0.1
LIVE, HOLD = 3 * SECOND, 12 * SECOND


def client(number: int) -> Address:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5000


def found(relay: Relay, clients: Iterable[Address], local: Address = LOCAL) -> list[bool]:
    """Whether media of each is forwarded to the owner, in batches as large as the arena."""
    packets = [(each, local, RTP) for each in clients]
    results = [result for at in range(0, len(packets), 512) for result in relay.harness.up(packets[at : at + 512])]
    assert all(sent is None or sent[0] == OWNER for _, sent in results)
    return [verdict == "media" for verdict, _ in results]


def known(relay: Relay, clients: Iterable[Address]) -> list[bool]:
    """Whether each has a flow, asked without touching it: why a stranger's packet down is refused tells."""
    packets = [(STRANGER, framed(each, LOCAL, RTP)) for each in clients]
    return [{"not_next_hop": True, "no_flow": False}[verdict] for verdict, _ in relay.harness.down(packets)]


# --- capacity ---


@pytest.mark.parametrize("max_flows", [1000, 1023, 1024, 1025, 98305, 131072, 131073, 196609, 1_000_000, 4_000_000])
def test_a_flow_takes_at_most_128_bytes(max_flows: int) -> None:
    assert flow_bytes(max_flows) <= 128


@pytest.mark.parametrize("max_flows", [1, 2, 11, 12, 13, 48, 100, 768, 769, 3000])
def test_it_takes_as_many_flows_as_it_has(max_flows: int) -> None:
    relay = Relay(Settings(max_flows=max_flows))
    assert relay.harness.fill(max_flows + 5, BASE, 5000, LOCAL, OWNER) == max_flows
    assert relay.slot.flows() == {"established": max_flows, "half_open": 0}
    assert found(relay, map(client, range(1, max_flows + 6))) == [True] * max_flows + [False] * 5
    assert relay.up(check(token())) == ("table_full", None)
    assert relay.slot.events()["flows_created"] == max_flows


def test_freed_numbers_are_used_again() -> None:
    relay = Relay(Settings(max_flows=100))
    for generation in range(5):
        relay.tick += 31 * SECOND
        assert relay.harness.sweep(200) == (100 if generation else 0)
        assert relay.slot.flows() == {"established": 0, "half_open": 0}
        base = BASE + 1000 * generation
        assert relay.harness.fill(150, base, 5000, LOCAL, OWNER) == 100
        first = base - BASE + 1
        assert all(found(relay, map(client, range(first, first + 100))))
        assert not any(found(relay, map(client, range(1, first))))


@pytest.mark.parametrize("number", [0, 1, 1 << 22, (1 << 22) + 1, -1])
def test_sizes_that_no_slot_has(number: int) -> None:
    if number in (1, 1 << 22):
        assert slot_bytes(number) > 0
        return
    with pytest.raises(ValueError, match="1 to 4194304 flows"):
        slot_bytes(number)


# --- expiry ---


@pytest.mark.parametrize(("established", "timeout"), [(True, 30 * SECOND), (False, 5 * SECOND)])
@pytest.mark.parametrize("start", [1000, WRAP - 1, WRAP - 20, WRAP - 5 * SECOND])
def test_a_flow_lives_its_timeout_and_not_a_tick_longer(established: bool, timeout: int, start: int) -> None:
    relay = Relay()
    relay.tick = start
    assert relay.harness.open(CLIENT, LOCAL, OWNER, 1, established)
    relay.tick = start + timeout
    assert relay.harness.sweep(64) == 0
    relay.tick = start + timeout + 1
    assert relay.harness.sweep(64) == 1
    assert relay.slot.flow_list() == []


@pytest.mark.parametrize("start", [1000, WRAP - 100])
def test_packets_in_either_direction_keep_a_flow(start: int) -> None:
    relay = Relay()
    relay.tick = start
    relay.harness.open(CLIENT, LOCAL, OWNER, 1)
    for step in range(1, 10):
        relay.tick = start + step * 29 * SECOND
        assert relay.harness.sweep(64) == 0
        assert (relay.up(RTP) if step % 2 else relay.down(framed(CLIENT, LOCAL, RTP)))[0] == "media"


def test_packets_of_others_do_not_keep_a_flow() -> None:
    relay = Relay()
    relay.harness.open(CLIENT, LOCAL, OWNER, 1)
    relay.tick += 29 * SECOND
    assert relay.down(framed(CLIENT, LOCAL, RTP), STRANGER)[0] == "not_next_hop"
    assert relay.up(check(token()[:-4] + "AAAA"))[0] == "token_forged"
    relay.tick += 2 * SECOND
    assert relay.harness.sweep(64) == 1


def test_a_sweep_looks_at_its_budget_only_and_goes_round() -> None:
    relay = Relay(Settings(max_flows=100))
    relay.harness.fill(100, BASE, 5000, LOCAL, OWNER)
    relay.tick += 31 * SECOND
    assert [relay.harness.sweep(30) for _ in range(5)] == [30, 30, 30, 10, 0]


def test_an_empty_table_is_swept_in_peace() -> None:
    assert Relay(Settings(max_flows=1)).harness.sweep(1000) == 0


def test_the_owners_hold_passes_the_wrap_around() -> None:
    relay = Relay()
    relay.tick = WRAP - SECOND
    relay.up(check(token()))
    relay.down(framed(CLIENT, LOCAL, answer()))
    relay.up(check(token(OTHER)))
    relay.tick = 11 * SECOND - 1
    assert relay.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "owner_live"
    relay.tick = 11 * SECOND
    assert relay.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "moved"


# --- churn ---


def churn_flow(model: Model, who: Address, token_number: int, established: bool) -> Flow:
    now = model.tick
    return Flow(-1, who, LOCAL, 0, OWNER, b"%d" % token_number, bytes(6), now, now, now, now, established)


@pytest.mark.long
@pytest.mark.parametrize(("tokens", "share"), [(1_000_000, 1000), (12, 300)], ids=["a token each", "few tokens"])
def test_indexes_under_long_churn(tokens: int, share: int) -> None:
    """Opening, expiring, evicting at random on a small table: it stays what a dict is, and its indexes stay short.

    No two flows are equally old: between those the order would be that of the last rebuild.
    """
    relay = Relay(Settings(max_flows=48))
    model = relay.model()
    rng = random.Random(7)
    steps = min(share * settings().max_examples, 1_000_000)
    for step in range(steps):
        who = client(rng.randrange(1, 150))
        flow = churn_flow(model, who, rng.randrange(tokens), rng.random() < 0.5)
        key = oracle.spp_key(who, LOCAL)
        if key not in model.flows:
            opened = relay.harness.open(who, LOCAL, OWNER, fingerprint(flow.token), flow.established)
            assert opened == model.open(flow), step
        model.tick = relay.tick = (model.tick + rng.choice((1, 1, 8, 40))) % WRAP
        assert relay.harness.sweep(3) == model.sweep(3), step
        if step % 1000 == 0:
            compare(relay, model)
    compare(relay, model)
    if steps >= 30_000:
        assert relay.slot.events()["index_rebuilds"] > 0


@pytest.mark.long
def test_restarts_without_end_keep_the_index_by_token_short() -> None:
    """A flow changes its token as often as its old one rests, and no flow is opened meanwhile to clean up."""
    relay = Relay(Settings(max_flows=12))
    for port in range(10):
        relay.up(check(token(serial=port)), (CLIENT[0], 1000 + port))
    for serial in range(100, 3000):
        who = (CLIENT[0], 1000 + serial % 10)
        relay.tick += HOLD + 1
        assert relay.up(check(token(serial=serial)), who)[0] == "restart"
        assert relay.down(framed(who, LOCAL, answer()))[0] in ("established", "answer")
        assert relay.up(check(token(serial=serial)), who)[0] == "check"
        _, by_token, words = relay.harness.index_words()
        assert by_token <= words * 7 // 8 + 1, serial
    assert relay.slot.events()["index_rebuilds"] > 0
    assert relay.slot.flows() == {"established": 10, "half_open": 0}


def fingerprint(token_text: bytes) -> int:
    """Any spread of 64 bits will do."""
    return random.Random(token_text).getrandbits(64)


def compare(relay: Relay, model: Model) -> None:
    present = {flow.client for flow in model.flows.values()}
    assert {flow["client"] for flow in relay.slot.flow_list()} == present
    assert relay.slot.flows() == {"established": len(present) - model.half_open, "half_open": model.half_open}
    by_key, by_token, words = relay.harness.index_words()
    assert len(present) <= by_key <= words * 7 // 8 + 1
    assert by_token <= words * 7 // 8 + 1
    everybody = [client(number) for number in range(1, 150)]
    assert known(relay, everybody) == [each in present for each in everybody]


# --- flows of one token ---


def open_in_order(relay: Relay, states: str) -> None:
    """Flows of one token a second apart: `e`stablished and `h`alf-open ones."""
    for number, state in enumerate(states, start=1):
        assert relay.harness.open(client(number), LOCAL, OWNER, 42, state == "e")
        relay.tick += 1


def present(relay: Relay) -> list[int]:
    return sorted(int(str(flow["client"]).split(".")[3].split("'")[0]) for flow in relay.slot.flow_list())


@pytest.mark.parametrize(
    ("states", "left"),
    [
        ("hhhhhhhh", [2, 3, 4, 5, 6, 7, 8, 9]),
        ("eeeeeeee", [2, 3, 4, 5, 6, 7, 8, 9]),
        ("eeehehee", [1, 2, 3, 5, 6, 7, 8, 9]),
        ("heeeeeee", [2, 3, 4, 5, 6, 7, 8, 9]),
        ("eeeeeeeh", [1, 2, 3, 4, 5, 6, 7, 9]),
        ("eeeeeee", [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_the_ninth_flow_of_a_token_pushes_one_out(states: str, left: list[int]) -> None:
    """The half-open one unheard of for longest; when all are established, that of those."""
    relay = Relay()
    open_in_order(relay, states)
    relay.tick += LIVE
    assert relay.harness.open(client(len(states) + 1), LOCAL, OWNER, 42, False)
    assert present(relay) == left
    assert relay.slot.events()["flows_evicted"] == (1 if len(states) == 8 else 0)


def test_what_counts_is_when_it_was_last_heard_of() -> None:
    relay = Relay()
    open_in_order(relay, "eeeeeeee")
    relay.up(RTP, client(1))
    relay.tick += LIVE
    assert relay.harness.open(client(9), LOCAL, OWNER, 42, False)
    assert present(relay) == [1, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("state", "eh")
def test_of_flows_heard_of_at_the_same_time_the_newest_goes(state: str) -> None:
    relay = Relay()
    open_in_order(relay, state * 8)
    found(relay, map(client, range(1, 9)))
    relay.tick += LIVE + 1
    assert relay.harness.open(client(9), LOCAL, OWNER, 42, False)
    assert present(relay) == [1, 2, 3, 4, 5, 6, 7, 9]


@pytest.mark.parametrize("start", [1000, WRAP - 10])
def test_an_established_flow_heard_of_lately_is_not_pushed_out(start: int) -> None:
    """The newcomer is refused while all eight have been heard of within 3 s."""
    relay = Relay()
    relay.tick = start
    for number in range(1, 9):
        relay.harness.open(client(number), LOCAL, OWNER, 42)
    relay.tick = start + LIVE
    assert not relay.harness.open(client(9), LOCAL, OWNER, 42, False)
    assert present(relay) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert relay.slot.events()["flows_evicted"] == 0
    relay.tick = start + LIVE + 1
    assert relay.harness.open(client(9), LOCAL, OWNER, 42, False)
    assert len(present(relay)) == 8


def test_a_restart_joins_no_token_that_has_eight_flows() -> None:
    """And pushes none of them out, however silent they are."""
    relay = Relay()
    relay.up(check(token(serial=2)), STRANGER)
    for port in range(8):
        relay.up(check(token(serial=1)), (CLIENT[0], 1000 + port))
    relay.tick += HOLD + 1
    assert relay.up(check(token(serial=1)), STRANGER)[0] == "restart"
    assert relay.down(framed(STRANGER, LOCAL, answer()))[0] == "established"
    flow = relay.flow(STRANGER)
    assert flow is not None
    assert (flow["pending_owner"], flow["nonce"]) == (None, 2 << 40)
    assert relay.up(check(token(serial=2)), STRANGER)[0] == "check"
    assert (len(relay.slot.flow_list()), relay.slot.events()["flows_evicted"]) == (9, 0)


def test_after_a_restart_a_flow_is_one_of_its_new_token() -> None:
    relay = Relay()
    relay.up(check(token(serial=2)), STRANGER)
    relay.tick += HOLD + 1
    relay.up(check(token(serial=1)), STRANGER)
    relay.down(framed(STRANGER, LOCAL, answer()))
    flow = relay.flow(STRANGER)
    assert flow is not None
    assert flow["nonce"] == 0
    for port in range(8):
        relay.tick += LIVE
        assert relay.up(check(token(serial=1)), (CLIENT[0], 1000 + port))[0] == "opened"
        relay.down(framed((CLIENT[0], 1000 + port), LOCAL, answer()))
    assert relay.flow(STRANGER) is None


def test_a_token_pushes_out_only_its_own() -> None:
    relay = Relay(Settings(max_flows=200))
    relay.harness.fill(100, BASE + 100, 5000, LOCAL, OWNER)
    for number in range(50):
        assert relay.up(check(token()), ("198.51.100.7", 1000 + number))[0] == "opened"
    assert relay.slot.flows() == {"established": 100, "half_open": 8}
    assert all(found(relay, (client(number) for number in range(101, 201))))


def test_a_full_table_still_serves_a_token_that_has_eight() -> None:
    relay = Relay(Settings(max_flows=8))
    open_in_order(relay, "eeeeeeee")
    relay.tick += LIVE
    assert relay.harness.open(client(9), LOCAL, OWNER, 42, False)
    assert not relay.harness.open(client(10), LOCAL, OWNER, 43, False)


def test_the_clients_own_checks_cannot_push_out_another_session() -> None:
    """Nine addresses with one session's token, one with another's: the other one stays."""
    relay = Relay()
    relay.up(check(token(serial=2)), STRANGER)
    for port in range(9):
        relay.up(check(token(serial=1)), (CLIENT[0], 1000 + port))
    assert relay.flow(STRANGER) is not None
    assert relay.flow((CLIENT[0], 1000)) is None


# --- repair ---


def test_a_torn_flow_is_given_up_and_the_others_stay() -> None:
    relay = Relay(Settings(max_flows=20))
    relay.harness.fill(20, BASE, 5000, LOCAL, OWNER)
    for number in (1, 7, 20):
        relay.harness.tear(client(number), LOCAL)
    assert relay.harness.repair() == 3
    kept = [number not in (1, 7, 20) for number in range(1, 21)]
    assert found(relay, map(client, range(1, 21))) == kept
    assert relay.slot.flows() == {"established": 17, "half_open": 0}
    assert relay.harness.fill(9, BASE + 100, 5000, LOCAL, OWNER) == 3
    assert relay.harness.repair() == 0
    assert relay.slot.flows() == {"established": 20, "half_open": 0}


def test_a_successor_finds_every_flow_though_all_that_is_derived_is_garbage() -> None:
    """Indexes, free list and gauges are overwritten with noise before the next writer starts."""
    memory = memory_of(100)
    relay = Relay(Settings(max_flows=100), Slot.create(memory, 100, SECRET))
    relay.harness.fill(60, BASE, 5000, LOCAL, OWNER)
    relay.tick += 20 * SECOND
    found(relay, map(client, range(1, 31)))
    relay.tick += 20 * SECOND
    assert relay.harness.sweep(100) == 30
    flows_at = int.from_bytes(memory[32:40], "little")
    indexes_at, words = flows_at + 64 + 96 * 100, relay.harness.index_words()[2]
    memory[indexes_at : indexes_at + 8 * words] = random.Random(3).randbytes(8 * words)
    memory[flows_at + 12 : flows_at + 24] = b"\xee" * 12  # free_head, established, half_open
    successor = Relay(Settings(max_flows=100), relay.slot)
    assert successor.slot.flows() == {"established": 30, "half_open": 0}
    assert found(successor, map(client, range(1, 61))) == [True] * 30 + [False] * 30
    assert successor.harness.fill(99, BASE + 500, 5000, LOCAL, OWNER) == 70


def test_repair_keeps_sessions_together() -> None:
    """Chains of a token are rebuilt: its ninth flow still pushes out one of its own."""
    relay = Relay()
    open_in_order(relay, "eeeeeeee")
    relay.harness.open(client(100), LOCAL, OWNER, 7)
    tick = relay.tick
    relay = Relay(relay.settings, relay.slot)
    relay.tick = tick + LIVE
    relay.harness.open(client(9), LOCAL, OWNER, 42, False)
    assert present(relay) == [2, 3, 4, 5, 6, 7, 8, 9, 100]
