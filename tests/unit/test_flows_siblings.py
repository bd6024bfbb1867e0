"""Flows of sibling workers: which are adopted, by what packet, and with what state.

The kernel may hand a flow's packets to another worker of the relay when the set of sockets changes; that one then
reads its siblings' tables. All through the Harness: two relays whose slots share a secret.
"""

from __future__ import annotations

import pytest

from _fastpath.slot import Slot
from tests.support.harness import (
    CLIENT,
    KEYS,
    LOCAL,
    OTHER,
    OWNER,
    SECOND,
    SECRET,
    STRANGER,
    Relay,
    Settings,
    assert_books_balance,
    memory_of,
    token,
)
from tests.support.model import FLOWS_PER_TOKEN
from tests.support.oracle import Address
from tests.support.packets import RTP, answer, check, framed

BASE = 0x0A000001  # 10.0.0.1


def client(number: int) -> Address:
    return f"10.0.{number >> 8 & 255}.{number & 255}", 5000


def siblings(max_flows: int = 64, secret: bytes = SECRET) -> tuple[Relay, Relay]:
    """(one that has flows, one that looks them up there)."""
    one = Relay(Settings(max_flows=max_flows), Slot.create(memory_of(max_flows), max_flows, secret))
    other = Relay(Settings(siblings=(one.slot,)))
    other.tick = one.tick
    return one, other


def test_a_siblings_flow_is_adopted_by_media() -> None:
    one, other = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    original = one.flow()
    other.tick += 5
    assert other.up(RTP) == ("adopted", (OWNER, framed(CLIENT, LOCAL, RTP)))
    assert other.up(RTP)[0] == "media"
    adopted = other.flow()
    assert adopted is not None
    assert original is not None
    assert adopted == original | {"seen": other.tick, "opened": other.tick}
    assert one.flow() == original
    assert other.slot.events()["flows_adopted"] == 1
    assert other.up(check(token()))[0] == "check"


def test_a_siblings_flow_is_adopted_by_a_check_of_a_retired_key() -> None:
    one, _ = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    other = Relay(Settings(siblings=(one.slot,), keys={3: KEYS[3]}))
    assert other.up(check(token()))[0] == "check"
    assert other.up(check(token(serial=2)))[0] == "token_key"
    assert other.slot.tokens()[0, "flow"] == 1


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (token(serial=2, key_id=6), "token_key"),
        (token()[:-4] + "AAAA", "token_forged"),
        (token()[:-1] + "B", "no_token"),
        ("A" + token()[1:], "token_version"),
    ],
)
def test_a_siblings_flow_is_not_adopted_by_a_check_that_is_refused(text: str, verdict: str) -> None:
    """Nor by one of a retired key that is not the flow's own."""
    one, other = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    assert other.up(check(text)) == (verdict, None)
    assert_nothing_adopted(other)


def test_a_siblings_flow_is_adopted_by_another_authentic_token() -> None:
    one, other = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    assert other.up(check(token(serial=2)))[0] == "restart"
    assert other.up(check(token()))[0] == "check"
    assert other.slot.events()["flows_adopted"] == 1


def assert_nothing_adopted(relay: Relay) -> None:
    assert relay.slot.flow_list() == []
    assert relay.slot.events()["flows_adopted"] == 0


def test_a_siblings_flow_silent_for_too_long_is_not_adopted() -> None:
    one, other = siblings()
    one.harness.open(CLIENT, LOCAL, OWNER, 1)
    other.tick += 30 * SECOND + 1
    assert other.up(RTP) == ("no_flow", None)
    assert other.down(framed(CLIENT, LOCAL, RTP)) == ("no_flow", None)
    assert_nothing_adopted(other)
    other.tick -= 1
    assert other.up(RTP)[0] == "adopted"


def test_a_siblings_flow_heard_of_since_this_round_began_is_adopted() -> None:
    """Each worker reads the clock once a round; a sibling's may have begun a tick later. Nor is its owner dead."""
    one, other = siblings()
    one.up(check(token()))
    one.tick += 1
    one.down(framed(CLIENT, LOCAL, answer()))
    one.up(RTP)
    assert other.tick < one.tick
    assert other.up(RTP)[0] == "adopted"
    assert other.up(check(token(OTHER)))[0] == "contended"
    assert other.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "owner_live"


def test_a_check_finds_a_siblings_flow_too_old_and_opens_its_own() -> None:
    one, other = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    other.tick += 30 * SECOND + 1
    assert other.up(check(token()))[0] == "opened"
    assert other.slot.events()["flows_adopted"] == 0


def test_a_flow_of_a_socket_that_is_not_here_is_not_adopted() -> None:
    """The relay listens on four; the sibling was started with another list."""
    one, other = siblings()
    one.harness.open(CLIENT, LOCAL, OWNER, 1, socket=4)
    one.harness.open(client(1), LOCAL, OWNER, 2, socket=3)
    assert other.up(RTP) == ("no_flow", None)
    assert other.down(framed(CLIENT, LOCAL, RTP)) == ("no_flow", None)
    assert_nothing_adopted(other)
    assert other.up(RTP, client(1))[0] == "adopted"


def test_a_siblings_flow_of_a_token_that_is_full_here_is_not_adopted() -> None:
    one, other = siblings()
    for number in range(8):
        other.up(check(token()), client(number))
        other.down(framed(client(number), LOCAL, answer()))
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    assert other.up(RTP) == ("no_flow", None)
    assert other.up(check(token())) == ("token_full", None)
    assert len(other.slot.flow_list()) == 8


def test_a_siblings_flow_is_adopted_by_a_packet_down() -> None:
    one, other = siblings()
    one.harness.open(CLIENT, LOCAL, OWNER, 1)
    assert other.down(framed(CLIENT, LOCAL, RTP)) == ("media", (0, CLIENT, LOCAL[0], RTP))
    assert other.flow() is not None


def test_a_siblings_flow_is_not_adopted_for_a_stranger() -> None:
    one, other = siblings()
    one.harness.open(CLIENT, LOCAL, OWNER, 1)
    assert other.down(framed(CLIENT, LOCAL, RTP), STRANGER) == ("no_flow", None)
    assert other.down(framed(CLIENT, LOCAL, answer()), STRANGER) == ("no_flow", None)
    assert_nothing_adopted(other)


def test_torn_and_half_open_flows_of_a_sibling_are_not_adopted() -> None:
    one, other = siblings()
    for number, established in ((1, True), (2, False), (3, True)):
        one.harness.open(client(number), LOCAL, OWNER, number, established)
    one.harness.tear(client(1), LOCAL)
    verdicts = [other.up(RTP, client(number))[0] for number in (1, 2, 3, 4)]
    assert verdicts == ["no_flow", "no_flow", "adopted", "no_flow"]


def test_a_flow_freed_by_the_sibling_is_not_adopted() -> None:
    one, other = siblings()
    one.harness.open(CLIENT, LOCAL, OWNER, 1)
    one.tick += 31 * SECOND
    assert one.harness.sweep(64) == 1
    assert other.up(RTP)[0] == "no_flow"


def test_a_sibling_of_another_relay_is_not_understood() -> None:
    """Another secret places flows elsewhere."""
    one, other = siblings(secret=bytes(16))
    one.harness.open(CLIENT, LOCAL, OWNER, 1)
    assert other.up(RTP)[0] == "no_flow"


def test_adopting_into_a_full_table() -> None:
    one, _ = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    other = Relay(Settings(max_flows=1, siblings=(one.slot,)))
    other.harness.open(STRANGER, LOCAL, OWNER, 7)
    assert other.up(RTP)[0] == "no_flow"
    assert other.up(check(token()))[0] == "table_full"
    assert other.down(framed(CLIENT, LOCAL, RTP))[0] == "no_flow"
    assert other.slot.events()["flows_adopted"] == 0


def test_an_adopted_flow_moves_only_like_any_other() -> None:
    """When its owner last answered is adopted with it."""
    one, other = siblings()
    one.up(check(token()))
    one.down(framed(CLIENT, LOCAL, answer()))
    other.tick += 11 * SECOND
    assert other.up(check(token(OTHER)))[0] == "contended"
    assert other.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "owner_live"
    other.tick += SECOND
    assert other.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "moved"
    assert_books_balance(other.slot)


def test_among_several_siblings_the_flow_is_found() -> None:
    slots = []
    for number in range(5):
        one = Relay()
        one.harness.open(client(number), LOCAL, (f"10.1.0.{number + 1}", 4000), number)
        slots.append(one.slot)
    other = Relay(Settings(siblings=slots))
    sent = [other.up(RTP, client(number))[1] for number in range(5)]
    assert [each and each[0] for each in sent] == [(f"10.1.0.{number + 1}", 4000) for number in range(5)]


def test_a_sibling_full_of_flows_is_searched_within_bounds() -> None:
    """What stands further than the bound is not found; nothing hangs, nothing wrong is adopted."""
    one, other = siblings(max_flows=3072)
    assert one.harness.fill(3072, BASE, 5000, LOCAL, OWNER) == 3072
    results = other.harness.up([(client(number), LOCAL, RTP) for number in range(1, 65)])
    assert {verdict for verdict, _ in results} <= {"adopted", "no_flow"}
    assert sum(verdict == "adopted" for verdict, _ in results) > 50


def test_a_copy_that_does_not_fit_hides_no_other() -> None:
    """Two siblings have the flow, the first one's is long silent: it had it before the kernel last moved it."""
    first, second = siblings()[0], siblings()[0]
    for each in (first, second):
        each.up(check(token()))
        each.down(framed(CLIENT, LOCAL, answer()))
    second.tick += 31 * SECOND
    second.up(RTP)
    third = Relay(Settings(siblings=(first.slot, second.slot)))
    third.tick = second.tick
    assert third.up(RTP) == ("adopted", (OWNER, framed(CLIENT, LOCAL, RTP)))


# ---- orphans: slots that no worker has any more


def test_an_orphans_flow_is_adopted_and_counts_for_nobody() -> None:
    """Its copy would stay for ever: nothing expires where no worker is."""
    one, _ = siblings()
    for number in range(FLOWS_PER_TOKEN):
        one.up(check(token()), client(number))
        one.down(framed(client(number), LOCAL, answer()))
    other = Relay(Settings(orphans=(one.slot,)))
    other.tick = one.tick
    assert other.up(RTP, client(0))[0] == "adopted"
    verdicts = [other.up(check(token()), client(100 + number))[0] for number in range(1, FLOWS_PER_TOKEN)]
    assert verdicts == ["opened"] * (FLOWS_PER_TOKEN - 1)
    assert other.slot.events()["flows_evicted"] == 0


def test_of_several_copies_the_one_heard_of_last_is_adopted() -> None:
    """The kernel moved the flow twice: what it left first may lead to an owner that it has no more."""
    relays = [siblings()[0] for _ in range(3)]
    for number, (relay, tick) in enumerate(zip(relays, (20, 40, 30), strict=True)):
        relay.tick += tick
        relay.up(check(token(serial=number)))
        relay.down(framed(CLIENT, LOCAL, answer()))
    first, second, third = (relay.slot for relay in relays)
    for given in (Settings(siblings=(first, second, third)), Settings(siblings=(first,), orphans=(third, second))):
        other = Relay(given)
        other.tick = relays[1].tick
        assert other.up(RTP)[0] == "adopted"
        assert other.up(check(token(serial=1)))[0] == "check"
        assert other.up(check(token(serial=0)))[0] == "restart"
