"""Owners and next hops by number: every packet goes to the very owner its token or its flow names, however numbers are
given out.

A slot of up to 2,079 flows names 64 owners, so these tests run out of numbers quickly. Numbers that no flow refers to
are collected between two batches, once a tick at most, when somebody could not be given one: the Harness does it where
it sweeps. What a worker sends to is read from the message it would pass to the kernel.
"""

from __future__ import annotations

import random

import pytest

from tests.support.harness import LOCAL, SECOND, Relay, Settings, token
from tests.support.oracle import Address
from tests.support.packets import RTP, answer, check, framed

MOST_OWNERS = 64


def owner(number: int) -> Address:
    return f"10.1.{number >> 8}.{number & 255}", 4000 + number


def client(number: int) -> Address:
    return f"198.51.100.{number & 255}", 1000 + number


def full_relay(owners: int = MOST_OWNERS) -> Relay:
    """Each client has its own owner."""
    relay = Relay(Settings(max_flows=200))
    for number in range(owners):
        assert relay.up(check(token(owner(number))), client(number))[0] == "opened"
    return relay


def collect(relay: Relay) -> None:
    """What a worker does between two batches, once a tick."""
    relay.harness.sweep(0)


def named(relay: Relay) -> set[object]:
    """The owners that flows refer to."""
    flows = relay.slot.flow_list()
    return {flow[name] for flow in flows for name in ("owner", "next_hop", "pending_owner")} - {None}


def test_each_flow_goes_to_its_own_owner() -> None:
    relay = full_relay()
    for number in range(MOST_OWNERS):
        verdict, sent = relay.up(RTP, client(number))
        assert sent is not None
        assert (verdict, sent[0]) == ("media", owner(number))
    assert relay.up(check(token(owner(99))), client(99)) == ("peers_full", None)
    assert named(relay) == {owner(number) for number in range(MOST_OWNERS)}


def test_a_known_owner_needs_no_new_number() -> None:
    relay = full_relay()
    verdict, sent = relay.up(check(token(owner(5), serial=2)), client(99))
    assert sent is not None
    assert (verdict, sent[0]) == ("opened", owner(5))


def test_numbers_of_owners_without_flows_are_used_again() -> None:
    relay = full_relay()
    for number in range(10, MOST_OWNERS):
        relay.down(framed(client(number), LOCAL, answer()), owner(number))
    relay.tick += 6 * SECOND
    assert relay.harness.sweep(200) == 10
    assert relay.up(check(token(owner(100))), client(100)) == ("peers_full", None)
    collect(relay)
    for number in range(100, 110):
        verdict, sent = relay.up(check(token(owner(number))), client(number))
        assert sent is not None
        assert (verdict, sent[0]) == ("opened", owner(number))
    assert relay.up(check(token(owner(111))), client(111)) == ("peers_full", None)
    collect(relay)
    assert relay.up(check(token(owner(111))), client(111)) == ("peers_full", None)
    for number in [*range(10, MOST_OWNERS), *range(100, 110)]:
        assert relay.up(RTP, client(number)) == ("media", (owner(number), framed(client(number), LOCAL, RTP)))


def test_an_owner_that_only_contends_keeps_its_number() -> None:
    relay = full_relay(MOST_OWNERS - 1)
    assert relay.up(check(token(owner(200))), client(0))[0] == "contended"
    assert relay.up(check(token(owner(201))), client(99)) == ("peers_full", None)
    collect(relay)
    assert relay.up(check(token(owner(201))), client(99)) == ("peers_full", None)
    assert relay.down(framed(client(0), LOCAL, answer()), owner(200))[0] == "moved"
    collect(relay)
    assert relay.up(check(token(owner(201))), client(99))[0] == "opened"
    assert relay.up(RTP, client(0)) == ("media", (owner(200), framed(client(0), LOCAL, RTP)))


def test_a_refused_flow_holds_its_number_until_the_next_collection_only() -> None:
    """Checks that are turned away for another reason cannot use up the numbers."""
    relay = Relay(Settings(max_flows=200, max_half_open=1))
    verdicts = [relay.up(check(token(owner(number))), client(number))[0] for number in range(MOST_OWNERS + 5)]
    assert verdicts == ["opened"] + ["half_open_full"] * (MOST_OWNERS - 1) + ["peers_full"] * 5
    collect(relay)
    assert relay.up(check(token(owner(99))), client(99))[0] == "half_open_full"


def test_a_draining_relay_gives_no_numbers() -> None:
    relay = Relay(Settings(max_flows=200))
    relay.slot.draining = True
    verdicts = {relay.up(check(token(owner(number))), client(number))[0] for number in range(MOST_OWNERS + 5)}
    assert verdicts == {"draining"}
    relay.slot.draining = False
    assert relay.up(check(token(owner(99))), client(99))[0] == "opened"


def test_a_successor_counts_references_anew() -> None:
    relay = full_relay()
    relay.harness.tear(client(3), LOCAL)
    successor = Relay(relay.settings, relay.slot)
    assert successor.up(check(token(owner(99))), client(99))[0] == "opened"
    assert successor.up(check(token(owner(98))), client(98))[0] == "peers_full"
    assert successor.up(RTP, client(4)) == ("media", (owner(4), framed(client(4), LOCAL, RTP)))


def test_a_successor_counts_contenders_too() -> None:
    relay = full_relay(MOST_OWNERS - 1)
    assert relay.up(check(token(owner(200))), client(0))[0] == "contended"
    successor = Relay(relay.settings, relay.slot)
    assert successor.up(check(token(owner(201))), client(99)) == ("peers_full", None)
    collect(successor)
    assert successor.up(check(token(owner(201))), client(99)) == ("peers_full", None)
    assert successor.down(framed(client(0), LOCAL, answer()), owner(200))[0] == "moved"


def test_a_successor_collects_before_its_first_packet() -> None:
    relay = full_relay()
    relay.tick += 6 * SECOND
    assert relay.harness.sweep(200) == MOST_OWNERS
    successor = Relay(relay.settings, relay.slot)
    for number in range(200, 200 + MOST_OWNERS):
        assert successor.up(check(token(owner(number))), client(number))[0] == "opened"


# --- within one batch ---


def test_a_number_is_not_given_anew_while_a_packet_waits_for_it() -> None:
    """Packets of one batch are sent together at its end: whoever the first ones go to must stay who he is until then.

    One flow is contended by three owners in turn while only two numbers are free: the first has no flow any more when
    the third comes, but its packet is not sent yet.
    """
    relay = full_relay(MOST_OWNERS - 2)
    contenders = [owner(300 + n) for n in range(3)]
    results = relay.up_all([(client(0), LOCAL, check(token(each))) for each in contenders])
    sent = [result[1] and result[1][0] for result in results]
    assert sent[:2] == contenders[:2]
    assert sent[2] in (contenders[2], None)


@pytest.mark.long
def test_under_churn_every_packet_goes_where_its_token_says() -> None:
    """Ninety owners for 64 numbers, flows opening, moving and expiring; refusals only when all numbers are in use."""
    relay = Relay(Settings(max_flows=300))
    rng = random.Random(5)
    refused = 0
    for step in range(6000):
        at, to = rng.randrange(80), owner(rng.randrange(90))
        packet = (client(at), LOCAL, check(token(to)))
        verdict, sent = relay.harness.up([packet])[0]
        if verdict == "peers_full":
            collect(relay)
            verdict, sent = relay.harness.up([packet])[0]
        if verdict == "peers_full":
            refused += 1
            assert len(named(relay)) == MOST_OWNERS, step
        else:
            assert sent == (to, framed(client(at), LOCAL, check(token(to)))), step
            relay.harness.down([(to, framed(client(at), LOCAL, answer()))])
        relay.tick += rng.choice((0, 0, 1, 8))
        relay.harness.sweep(20)
    assert refused > 10
