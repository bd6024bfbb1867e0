"""Bounds on new flows: eight of a token in the whole relay, and a rate for each network they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.slot import Slot
from tests.support.harness import (
    LOCAL,
    LOCAL6,
    OTHER,
    SECOND,
    SECRET,
    WILDCARD,
    WILDCARD6,
    Relay,
    Settings,
    memory_of,
    token,
)
from tests.support.oracle import Address
from tests.support.packets import RTP, answer, check, framed

MOST = 8
FLOWS = 64


def client(number: int) -> Address:
    """Each in a network of its own."""
    return f"10.{number >> 8 & 255}.{number & 255}.7", 5000


def workers(number: int) -> list[Relay]:
    """Of one relay: each reads the others' tables."""
    slots = [Slot.create(memory_of(FLOWS), FLOWS, SECRET) for _ in range(number)]
    return [
        Relay(Settings(max_flows=FLOWS, siblings=[other for other in slots if other is not slot]), slot)
        for slot in slots
    ]


def fill(relay: Relay, clients: Sequence[int], *, established: bool, serial: int = 1) -> None:
    for number in clients:
        assert relay.up(check(token(serial=serial)), client(number))[0] == "opened"
        if established:
            assert relay.down(framed(client(number), LOCAL, answer()))[0] == "established"


def opened(relay: Relay, number: int, serial: int = 1) -> str:
    return relay.up(check(token(serial=serial)), client(number))[0]


def flows(*relays: Relay) -> int:
    return sum(len(relay.slot.flow_list()) for relay in relays)


# --- a token ---


def test_a_token_has_eight_flows_in_all_workers_together() -> None:
    one, other = workers(2)
    fill(one, range(5), established=True)
    fill(other, range(5, 8), established=True)
    assert opened(one, 8) == opened(other, 9) == "token_full"
    assert flows(one, other) == MOST
    assert opened(one, 10, serial=2) == "opened"


def test_a_worker_pushes_out_its_own_half_open_flow_first() -> None:
    one, other = workers(2)
    fill(one, range(2), established=False)
    fill(other, range(2, 8), established=False)
    one.tick += 1
    assert opened(one, 8) == "opened"
    assert flows(one) == 2
    assert flows(other) == 6
    other.harness.hear()
    assert flows(other) == 6


def test_a_sibling_makes_room_at_its_next_tick() -> None:
    one, other = workers(2)
    fill(other, range(4), established=True)
    fill(other, range(4, 8), established=False)
    assert opened(one, 8) == "token_full"
    other.harness.hear()
    assert flows(other) == 7
    assert other.slot.events()["flows_evicted"] == 1
    assert all(other.flow(client(number)) is not None for number in range(4))
    assert opened(one, 8) == "opened"
    other.harness.hear()
    assert flows(one, other) == MOST


def test_what_is_alive_is_not_let_go_for_a_sibling() -> None:
    one, other = workers(2)
    fill(other, range(8), established=True)
    for _ in range(3):
        assert opened(one, 8) == "token_full"
        other.harness.hear()
    assert flows(other) == 8
    one.tick += 4 * SECOND
    other.tick = one.tick
    one.harness.hear()
    assert opened(one, 8) == "token_full"
    other.harness.hear()
    assert flows(other) == 7
    assert opened(one, 8) == "opened"


def test_one_ask_a_tick_for_each_token() -> None:
    one, other = workers(2)
    fill(other, range(8), established=False)
    for _ in range(100):
        assert opened(one, 8) == "token_full"
    other.harness.hear()
    assert flows(other) == 7
    one.harness.hear()
    fill(other, [9], established=False)
    assert opened(one, 8) == "token_full"
    other.harness.hear()
    assert flows(other) == 7


def test_more_asks_than_are_kept_cost_nothing_but_themselves() -> None:
    one, other = workers(2)
    for serial in range(1, 5):
        fill(other, range(100 * serial, 100 * serial + 8), established=False, serial=serial)
    for serial in range(1, 5):
        assert opened(one, 99, serial=serial) == "token_full"
    for _ in range(50):
        one.harness.hear()  # a tick of its own: the next ask is a new one
        assert opened(one, 98, serial=4) == "token_full"
    other.harness.hear()
    assert flows(other) == 4 * 8 - 8  # the newest 15 asks are of one token, and took all that it had


def test_a_restart_takes_no_flow_beyond_the_eight() -> None:
    """The token of a restart has its eight elsewhere: the flow keeps its old one, and is forwarded as before."""
    one, other = workers(2)
    fill(other, range(8), established=True, serial=2)
    fill(one, [20], established=True)
    one.tick += 13 * SECOND
    assert opened(one, 20, serial=2) == "restart"
    assert one.down(framed(client(20), LOCAL, answer()))[0] == "answer"
    assert opened(one, 20, serial=2) == "restart"
    assert opened(one, 20) == "check"


steps = st.tuples(
    st.integers(0, 2),
    st.integers(0, 40),
    st.integers(1, 2),
    st.sampled_from(["check", "check", "answer", "wait", "hear"]),
)


@given(st.lists(steps, max_size=120))
def test_never_more_than_eight(script: list[tuple[int, int, int, str]]) -> None:
    relays = workers(3)
    for worker, number, serial, what in script:
        relay = relays[worker]
        if what == "check":
            relay.up(check(token(serial=serial)), client(100 * worker + number))
        elif what == "answer":
            relay.down(framed(client(100 * worker + number), LOCAL, answer()))
        elif what == "hear":
            relay.harness.hear()
        else:
            for each in relays:
                each.tick += SECOND
        held = Counter(flow["nonce"] for each in relays for flow in each.slot.flow_list())
        assert all(each <= MOST for nonce, each in held.items() if nonce)


# --- a network ---


def rated(most_per_s: float) -> Relay:
    return Relay(Settings(max_flows=400, max_new_per_network_s=most_per_s))


def opens(relay: Relay, address: str, serials: count[int]) -> int:
    """How many flows open from there until one is refused; each has a token of its own."""
    local, socket = (LOCAL6, WILDCARD6) if ":" in address else (LOCAL, WILDCARD)
    for done in range(100):
        serial = next(serials)
        verdict = relay.up(check(token(serial=serial)), (address, 1000 + serial), local, socket)[0]
        if verdict == "prefix_full":
            return done
        assert verdict == "opened"
    return 100


@pytest.mark.parametrize(
    ("first", "same", "another"),
    [
        ("198.51.100.1", "198.51.100.254", "198.51.101.1"),
        ("2001:db8:0:1::1", "2001:db8:0:ff:ffff::1", "2001:db8:0:100::1"),
    ],
)
def test_a_network_opens_flows_at_its_rate(first: str, same: str, another: str) -> None:
    relay, serials = rated(10), count(1)
    assert opens(relay, first, serials) == 20
    assert opens(relay, same, serials) == 0
    assert opens(relay, another, serials) == 20
    relay.tick += SECOND
    assert opens(relay, same, serials) == 10
    relay.tick += 100 * SECOND
    assert opens(relay, first, serials) == 20


def test_a_low_rate_still_lets_a_client_try_all_its_addresses() -> None:
    assert opens(rated(0.1), "198.51.100.1", count(1)) == 16


def test_without_a_rate_there_is_no_bound() -> None:
    assert opens(rated(0), "198.51.100.1", count(1)) == 100


def test_a_refused_flow_pushes_out_none() -> None:
    relay = rated(0.1)
    fill(relay, range(8), established=False)
    for port in range(30):
        relay.up(check(token(serial=100 + port)), ("198.51.100.1", 1000 + port))
    before = relay.slot.flow_list()
    assert relay.up(check(token()), ("198.51.100.1", 1))[0] == "prefix_full"
    assert relay.slot.flow_list() == before


def test_flows_that_are_there_are_not_bounded() -> None:
    relay = rated(0.1)
    assert opens(relay, "198.51.100.1", count(1)) == 16
    assert relay.up(check(token(serial=1)), ("198.51.100.1", 1001))[0] == "check"
    assert relay.up(RTP, ("198.51.100.1", 1001))[0] == "media"


def test_the_rate_outlives_the_wrap_of_ticks() -> None:
    relay, serials = rated(10), count(1)
    relay.tick = 2**32 - 1
    assert opens(relay, "198.51.100.1", serials) == 20
    relay.tick = 0
    assert opens(relay, "198.51.100.1", serials) == 20


# --- what a token asks for ---

PER_S, AT_ONCE = 32, 96


def asking() -> Relay:
    return Relay(Settings(max_flows=400, max_new_per_token_s=PER_S))


def test_a_sprayed_token_is_refused_before_it_costs_anything() -> None:
    relay = asking()
    fill(relay, [0], established=True, serial=2)
    verdicts = Counter(opened(relay, number) for number in range(1, 200))
    assert verdicts == {"opened": AT_ONCE, "token_busy": 199 - AT_ONCE}
    before = relay.slot.flow_list()
    assert opened(relay, 200) == "token_busy"
    assert relay.slot.flow_list() == before
    relay.tick += SECOND
    assert Counter(opened(relay, number) for number in range(200, 300)) == {"opened": PER_S, "token_busy": 100 - PER_S}
    assert opened(relay, 300, serial=3) == "opened"  # whoever else comes anew


@pytest.mark.parametrize(("owner", "verdict"), [(None, "restart"), (OTHER, "contended")])
def test_checks_from_the_addresses_of_others_are_bounded_by_their_token(owner: Address | None, verdict: str) -> None:
    relay = asking()
    clients = [client(number) for number in range(50)]
    for number, each in enumerate(clients):
        fill(relay, [number], established=True, serial=100 + number)
        assert relay.up(RTP, each)[0] == "media"
    spoofed = check(token(serial=1) if owner is None else token(owner, serial=1))
    verdicts = Counter(relay.up(spoofed, each)[0] for _ in range(10) for each in clients)
    assert verdicts == {verdict: AT_ONCE, "token_busy": 500 - AT_ONCE}
    for number, each in enumerate(clients):
        assert relay.up(check(token(serial=100 + number)), each)[0] == "check"
        assert relay.up(RTP, each)[0] == "media"
    # A client's own restart has a token of its own, and nothing of this counts against it.
    assert relay.up(check(token(serial=500)), clients[0])[0] == "restart"


def test_a_restart_on_all_paths_is_never_too_fast() -> None:
    """Each path tried twenty times a second for half a second, then twice a second till the old token is forgotten."""
    relay = asking()
    fill(relay, range(8), established=True)
    restarted = check(token(serial=2))
    verdicts: Counter[str] = Counter()
    for tick in range(13 * SECOND):
        relay.tick += 1
        if tick < SECOND // 2 or tick % (SECOND // 2) == 0:
            verdicts.update(relay.up(restarted, client(number))[0] for number in range(8))
    assert verdicts.keys() == {"restart"}


def test_flows_of_the_token_itself_cost_nothing() -> None:
    relay = asking()
    fill(relay, [0], established=True)
    assert {relay.up(check(token(serial=1)), client(0))[0] for _ in range(500)} == {"check"}
    assert relay.slot.flow_list()
