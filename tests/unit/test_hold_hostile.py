"""Hostile input at a relay with a route cache. The policy is that of test_hostile, and:

1. What waits leaves only by a flow: one that the cache knows, with an owner inside --backends, or one that an authentic
   check opens. Nobody who sends a packet chooses where one goes.
2. An answer that is no route of ours opens nothing, and one that comes late, twice or unasked does no harm.
3. Holding changes no verdict of what is refused before: only what had no flow is held, and each packet is counted once.
"""

from __future__ import annotations

from collections import Counter

import pytest

from _fastpath._testing_audit import Audit
from _fastpath.wire.envelope import key_of
from tests.support.harness import CLIENT, LOCAL, OTHER, OWNER, SECOND, STRANGER, Relay, Settings, token
from tests.support.oracle import Address
from tests.support.packets import DTLS, RTCP, RTP, answer, check, framed, stun
from tests.unit.test_hostile import HEADS, sweep

FOREIGN: Address = ("10.2.0.1", 4000)


def cached() -> Relay:
    return Relay(Settings(cache=True))


def audit(relay: Relay) -> None:
    Audit([relay.slot], [OWNER, OTHER, STRANGER], cached=True).check()


@pytest.mark.parametrize("name", HEADS)
def test_up_every_length(name: str) -> None:
    """The verdict is that of a relay without a cache, but where that knows no flow; and nothing leaves."""
    plain, relay = Relay(), cached()
    wrong = []
    for datagram in sweep(HEADS[name]):
        expected = plain.up(datagram)
        found = relay.up(datagram)
        if expected[0] == "no_flow":
            expected = ("held", None)
            if found[0] == "held":
                [(_, _, verdict, sent)] = relay.unavailable()
                assert (verdict, sent) == ("hold_expired", None)
        if found != expected:
            wrong.append((len(datagram), found[0], expected[0]))
    assert wrong == []
    same = {each: n for each, n in relay.counted().items() if each not in ("held", "up_hold_expired")}
    assert same == {each: n for each, n in plain.counted().items() if each != "up_no_flow"}
    audit(relay)


@pytest.mark.parametrize("sender", [OWNER, STRANGER, FOREIGN, ("10.1.2.3", 0), ("224.0.0.1", 5)])
@pytest.mark.parametrize("head", [b"", b"\x56\xec", framed(CLIENT, LOCAL, b""), framed(CLIENT, ("192.0.2.1", 1), b"")])
def test_down_every_length(sender: Address, head: bytes) -> None:
    relay = cached()
    verdicts: Counter[str] = Counter()
    for datagram in sweep(head):
        verdict, sent = relay.down(datagram, sender)
        assert sent is None
        if verdict == "held":
            assert sender in (OWNER, STRANGER)
            assert [each[2:] for each in relay.unknown()] == [("no_route", None)]
            relay.tick += 3 * SECOND
        verdicts[verdict] += 1
    assert set(verdicts) <= {"held", "bad_envelope", "truncated", "no_route", "not_next_hop"}
    audit(relay)


@pytest.mark.parametrize("payload", [RTP, RTCP, DTLS, answer(), stun(0x0011)])
def test_what_waits_goes_where_the_cache_says_and_nowhere_else(payload: bytes) -> None:
    """Others that name the same flow meanwhile, up and down, change nothing."""
    relay = cached()
    relay.up(payload)
    relay.up(check(token()[:-4] + "AAAA"))
    relay.up(check("A" + token()[1:]))
    relay.up(check(token(FOREIGN)))
    relay.down(framed(CLIENT, LOCAL, answer()), STRANGER)
    relay.down(framed(CLIENT, LOCAL, answer()), FOREIGN)
    left = relay.known(OWNER)
    assert [(way, verdict) for way, _, verdict, _ in left] == [("up", "recovered"), ("down", "not_next_hop")]
    assert [sent[0] for *_, sent in left if sent] == [OWNER]
    audit(relay)


def test_answers_that_nobody_asked_for() -> None:
    """From the cache's own side: late ones, the same again, another one, of a flow that is half-open or established."""
    relay = cached()
    relay.known(OWNER)
    relay.known(OTHER)
    relay.unknown()
    relay.unavailable()
    flow = relay.flow()
    assert flow is not None
    assert (flow["owner"], relay.up(RTP)[0]) == (OWNER, "media")
    elsewhere = ("198.51.100.9", 9)
    relay.up(check(token(serial=9)), elsewhere)
    relay.known(OTHER, elsewhere)
    flow = relay.flow(elsewhere)
    assert flow is not None
    assert (flow["owner"], flow["state"]) == (OWNER, "half_open")
    audit(relay)


@pytest.mark.parametrize("local", [("192.0.2.9", 3478), ("192.0.2.9", 3480), ("2001:db8::9", 444), ("192.0.2.1", 0)])
def test_answers_for_addresses_of_others(local: Address) -> None:
    """192.0.2.9:3478 is a wildcard's, the others nobody's."""
    relay = cached()
    relay.known(OWNER, local=local)
    ours = local == ("192.0.2.9", 3478)
    assert len(relay.slot.flow_list()) == ours
    assert relay.slot.events()["answers_refused"] == (not ours)
    audit(relay)


def test_a_full_table_refuses_what_the_cache_knows() -> None:
    relay = Relay(Settings(cache=True, max_flows=3))
    clients = [(f"198.51.100.{number}", 9) for number in range(5)]
    verdicts = []
    for number, client in enumerate(clients):
        relay.up(RTP, client)
        verdicts += [verdict for _, _, verdict, _ in relay.known(client=client, nonce=number + 1)]
    assert verdicts == ["recovered"] * 3 + ["no_route"] * 2
    assert relay.slot.events()["answers_refused"] == 2
    audit(relay)


@pytest.mark.parametrize("bad", [b"", bytes(35), bytes(37)])
def test_keys_and_routes_of_other_sizes_are_refused(bad: bytes) -> None:
    forwarder = cached().harness.forwarder
    with pytest.raises(ValueError, match="36 bytes"):
        forwarder.answer(bad, None)
    with pytest.raises(ValueError, match="36 bytes"):
        forwarder.answer(key_of(CLIENT, LOCAL), (bad, bytes(18), 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="36 bytes"):
        forwarder.unavailable(bad)
    with pytest.raises(ValueError, match="36 bytes"):
        cached().slot.has_flow(bad)


def test_more_answers_than_there_is_room_for() -> None:
    """The rest is not taken, and said so."""
    relay = cached()
    key = key_of(CLIENT, LOCAL)
    taken = relay.harness.forwarder.answer_all([(key, None)] * 20_000)
    assert 10_000 < taken < 11_000
    assert not relay.harness.forwarder.answer(key, None)
    for _ in range(12):  # 1,024 a round
        relay.turn()
    assert relay.harness.forwarder.answer(key, None)


def test_a_session_that_contends_for_a_flow_from_the_cache() -> None:
    """Its owner counts as alive for as long as one that has just answered."""
    relay = cached()
    relay.up(RTP)
    relay.known(OWNER)
    assert relay.up(check(token(OTHER)))[0] == "contended"
    assert relay.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "owner_live"
    relay.tick += 12 * SECOND
    relay.up(RTP)
    assert relay.down(framed(CLIENT, LOCAL, answer()), OTHER)[0] == "moved"
    audit(relay)
