"""A worker with a route cache: packets of flows that nobody here knows are held, asked for, and leave in order."""

from __future__ import annotations

import os

import pytest

from _fastpath.exchange import ENDED, ESTABLISHED, LOOKUP, Route
from _fastpath.wire.envelope import key_of, pack_endpoint, unpack_endpoint, unpack_key
from tests.support.harness import (
    CLIENT,
    LOCAL,
    OTHER,
    OWNER,
    SECOND,
    STRANGER,
    Relay,
    Settings,
    token,
)
from tests.support.packets import RTP, answer, check, framed

FLOW = (CLIENT, LOCAL)
FOREIGN = ("10.2.0.1", 4000)


def cached(**more: object) -> Relay:
    return Relay(Settings(cache=True, **more))  # type: ignore[arg-type]


def payload(number: int) -> bytes:
    """Media whose place in its stream shows."""
    return b"\x80\x00" + number.to_bytes(2, "big") + bytes(4) + b"SSRC" + b"media"


# --- up ---


def test_the_first_packet_is_held_and_its_flow_asked_for_once() -> None:
    relay = cached()
    assert relay.up(payload(1)) == ("held", None)
    assert relay.up(payload(2)) == ("held", None)
    assert relay.asked() == [FLOW]
    assert relay.slot.held() == {"packets": 2, "flows": 1}
    assert relay.counted() == {"held": 2}


def test_what_was_held_leaves_in_order_before_anything_later() -> None:
    relay = cached()
    for number in range(5):
        relay.up(payload(number))
    left = relay.known()
    assert [verdict for _, _, verdict, _ in left] == ["recovered"] * 5
    assert [sent[0] for *_, sent in left if sent] == [OWNER] * 5
    assert [sent[-1][38:] for *_, sent in left if sent] == [payload(number) for number in range(5)]
    assert relay.up(payload(5))[0] == "media"
    assert relay.slot.held() == {"packets": 0, "flows": 0}
    assert relay.slot.events()["flows_recovered"] == 1
    assert relay.counted() == {
        "held": 5,
        "up_recovered": 5,
        "up_media": 1,
        "packets_up": 6,
        "bytes_up": 6 * len(payload(0)),
    }


@pytest.mark.parametrize("length", [12, 216, 217, 470, 471, 1984])
def test_packets_of_any_length_leave_as_they_came(length: int) -> None:
    relay = cached()
    datagram = (payload(1) + os.urandom(length))[:length]
    relay.up(datagram)
    [(_, flow, verdict, sent)] = relay.known()
    assert (flow, verdict) == (FLOW, "recovered")
    assert sent is not None
    assert sent[-1][38:] == datagram


def test_nobody_knows_and_that_is_remembered_for_a_while() -> None:
    relay = cached()
    relay.up(RTP)
    assert relay.unknown() == [("up", FLOW, "no_route", None)]
    relay.asked()
    assert relay.up(RTP) == ("no_route", None)
    relay.tick += 2 * SECOND
    assert relay.up(RTP) == ("no_route", None)
    assert relay.asked() == []
    relay.tick += 1
    assert relay.up(RTP) == ("held", None)
    assert relay.asked() == [FLOW]


def test_half_a_second_without_an_answer_ends_it_and_the_next_packet_asks_again() -> None:
    relay = cached()
    relay.up(RTP)
    relay.tick += SECOND // 2
    assert relay.turn() == []
    relay.tick += 1
    assert relay.turn() == [("up", FLOW, "hold_expired", None)]
    relay.up(RTP)
    assert relay.asked() == [FLOW, FLOW]


def test_a_cache_that_cannot_be_asked_is_not_held_against_the_flow() -> None:
    relay = cached()
    relay.up(RTP)
    assert relay.unavailable() == [("up", FLOW, "hold_expired", None)]
    assert relay.up(RTP) == ("held", None)


def test_a_late_answer_still_makes_the_flow() -> None:
    relay = cached()
    relay.up(RTP)
    relay.tick += SECOND
    relay.turn()
    assert relay.known() == []
    assert relay.up(RTP)[0] == "media"


def test_sixteen_packets_of_a_flow_and_no_more() -> None:
    relay = cached()
    assert [relay.up(payload(number))[0] for number in range(18)] == ["held"] * 16 + ["hold_full"] * 2
    assert len(relay.known()) == 16


# --- down ---


def test_what_an_owner_sends_is_held_too_and_leaves_by_the_right_socket() -> None:
    relay = cached()
    assert relay.down(framed(CLIENT, LOCAL, payload(1))) == ("held", None)
    assert relay.up(payload(9)) == ("held", None)
    [ask] = relay.harness.forwarder.take_asks(9)
    assert (ask.kind, unpack_key(ask.key), ask.down) == (LOOKUP, FLOW, True)
    up, down = relay.known()
    assert up[:3] == ("up", FLOW, "recovered")
    assert down == ("down", FLOW, "recovered", (0, CLIENT, LOCAL[0], payload(1)))


def test_only_owners_are_asked_for_and_only_addresses_of_ours() -> None:
    relay = cached()
    assert relay.down(framed(CLIENT, LOCAL, RTP), FOREIGN) == ("not_next_hop", None)
    assert relay.down(framed(CLIENT, ("192.0.2.1", 1), RTP)) == ("no_route", None)
    assert relay.asked() == []


def test_whoever_is_not_the_next_hop_has_waited_in_vain() -> None:
    relay = cached()
    relay.down(framed(CLIENT, LOCAL, RTP), STRANGER)
    assert [verdict for _, _, verdict, _ in relay.known()] == ["not_next_hop"]


# --- answers ---


@pytest.mark.parametrize(("owner", "next_hop"), [(FOREIGN, OWNER), (OWNER, FOREIGN), (("10.1.2.3", 0), OWNER)])
def test_an_answer_that_leads_elsewhere_is_refused_and_remembered(
    owner: tuple[str, int], next_hop: tuple[str, int]
) -> None:
    relay = cached()
    relay.up(RTP)
    left = relay.known(owner, next_hop=next_hop)
    assert left == [("up", FLOW, "no_route", None)]
    assert relay.slot.events()["answers_refused"] == 1
    assert relay.flow() is None
    assert relay.up(RTP) == ("no_route", None)


def test_next_hop_and_owner_may_differ() -> None:
    relay = cached()
    relay.up(RTP)
    [(*_, sent)] = relay.known(OWNER, next_hop=OTHER)
    assert sent is not None
    assert sent[0] == OTHER
    flow = relay.flow()
    assert flow is not None
    assert (flow["owner"], flow["next_hop"], flow["state"]) == (OWNER, OTHER, "established")


def test_a_verified_token_of_the_same_session_is_the_flows_own_at_once() -> None:
    relay = cached()
    relay.up(RTP)
    relay.known(nonce=1 << 40)
    assert relay.up(check(token(serial=1)))[0] == "check"
    assert relay.up(check(token(serial=1)))[0] == "check"
    tokens = {key: count for key, count in relay.slot.tokens().items() if count}
    assert tokens == {(0, "verified"): 1, (0, "flow"): 1}
    flow = relay.flow()
    assert flow is not None
    assert flow["nonce"] == 1 << 40


@pytest.mark.parametrize(("text", "verdict"), [(token(serial=2), "restart"), (token(OTHER, serial=1), "contended")])
def test_another_sessions_token_is_not(text: str, verdict: str) -> None:
    relay = cached()
    relay.up(RTP)
    relay.known(nonce=1 << 40)
    assert relay.up(check(text))[0] == verdict


def test_a_session_has_no_more_than_eight_flows_from_the_cache() -> None:
    relay = cached()
    clients = [("198.51.100.7", 50000 + number) for number in range(9)]
    verdicts = []
    for client in clients:
        relay.up(RTP, client)
        verdicts += [verdict for _, _, verdict, _ in relay.known(client=client)]
    assert verdicts == ["recovered"] * 8 + ["no_route"]
    relay.up(RTP, ("198.51.100.8", 1))
    assert relay.known(client=("198.51.100.8", 1), nonce=7)[0][2] == "recovered"


# --- a check meanwhile ---


def test_a_check_that_opens_the_flow_lets_go_what_waits_before_anything_later() -> None:
    relay = cached()
    relay.up(payload(1))
    packets = [(CLIENT, LOCAL, each) for each in (payload(2), check(token()), payload(3))]
    assert [verdict for verdict, _ in relay.up_all(packets)] == ["held"] * 3
    left = relay.turn()
    assert [verdict for _, _, verdict, _ in left] == ["opened", "recovered", "recovered", "recovered"]
    assert [sent[-1][38:] for *_, sent in left[1:] if sent] == [payload(1), payload(2), payload(3)]
    assert relay.unknown() == []
    assert relay.up(RTP)[0] == "media"


def test_a_forged_check_lets_go_nothing() -> None:
    relay = cached()
    relay.up(payload(1))
    assert relay.up(check(token()[:-3] + "AAA"))[0] == "token_forged"
    assert relay.turn() == []
    assert relay.slot.held() == {"packets": 1, "flows": 1}


# --- news ---


def test_the_cache_hears_of_flows_that_are_established_and_that_end() -> None:
    relay = cached()
    relay.up(check(token(serial=3)))
    assert relay.harness.forwarder.take_asks(9) == []
    relay.down(framed(CLIENT, LOCAL, answer()))
    relay.down(framed(CLIENT, LOCAL, answer()))
    [ask] = relay.harness.forwarder.take_asks(9)
    owner = pack_endpoint(OWNER)
    assert ask == (ESTABLISHED, key_of(*FLOW), Route(owner, owner, 3 << 40), False)
    assert unpack_endpoint(owner) == OWNER
    relay.tick += 31 * SECOND
    relay.harness.sweep(64)
    [ask] = relay.harness.forwarder.take_asks(9)
    assert ask == (ENDED, key_of(*FLOW), None, False)


def test_the_cache_hears_of_a_flow_that_moved() -> None:
    relay = cached()
    relay.up(check(token()))
    relay.down(framed(CLIENT, LOCAL, answer()))
    relay.tick += 13 * SECOND
    relay.up(check(token(OTHER, serial=2)))
    relay.down(framed(CLIENT, LOCAL, answer()), OTHER)
    asks = relay.harness.forwarder.take_asks(9)
    assert [ask.route and unpack_endpoint(ask.route.owner) for ask in asks] == [OWNER, OTHER]


def test_live_flows_are_listed_for_whoever_writes_them_down() -> None:
    relay = cached()
    relay.up(check(token(serial=3)))
    assert relay.slot.live_flows(0, 64, relay.tick, 480) == []
    assert not relay.slot.has_flow(key_of(*FLOW))
    relay.down(framed(CLIENT, LOCAL, answer()))
    owner = pack_endpoint(OWNER)
    listed = [(key_of(*FLOW), owner, owner, 3 << 40)]
    assert relay.slot.live_flows(0, 64, relay.tick + 480, 480) == listed
    assert relay.slot.live_flows(0, 64, relay.tick + 481, 480) == []
    assert relay.slot.live_flows(0, 64, relay.tick - 1, 480) == listed
    assert relay.slot.live_flows(1, 64, relay.tick, 480) == []
    assert relay.slot.has_flow(key_of(*FLOW))


def test_what_the_caches_keeper_tells_is_read() -> None:
    relay = cached()
    relay.slot.set_cache_stat("hits", 7)
    assert relay.slot.cache_stats()["hits"] == 7
    with pytest.raises(ValueError, match="tuple.index"):
        relay.slot.set_cache_stat("nothing", 1)


# --- without a cache, and while draining ---


def test_without_a_cache_all_is_as_ever() -> None:
    relay = Relay()
    assert relay.harness.forwarder.asks_fd == -1
    assert relay.harness.forwarder.take_asks(9) == []
    assert not relay.harness.forwarder.answer(key_of(*FLOW), None)
    assert relay.up(RTP) == ("no_flow", None)
    assert relay.down(framed(CLIENT, LOCAL, RTP)) == ("no_flow", None)


def test_a_relay_that_pushes_its_clients_away_leaves_checks_unanswered_and_forwards_media() -> None:
    relay = Relay()
    relay.up(check(token()))
    relay.down(framed(CLIENT, LOCAL, answer()))
    relay.slot.draining = 2
    assert relay.slot.draining == 2
    elsewhere = ("198.51.100.9", 9)
    for text, client in ((token(), CLIENT), (token(serial=2), CLIENT), (token(), elsewhere), (token(OTHER), elsewhere)):
        assert relay.up(check(text), client) == ("draining", None)
    assert relay.up(check("x")) == ("no_token", None)
    assert relay.up(RTP)[0] == "media"
    assert relay.down(framed(CLIENT, LOCAL, RTP))[0] == "media"
    relay.slot.draining = 1
    assert relay.up(check(token()))[0] == "check"
