"""Hostile input. The policy, for datagrams from anybody (up) and from whoever can reach the internal socket (down):

1. Every datagram of any length and content gets exactly one verdict and is counted once; none raises, none is read
   beyond its end.
2. What is not a well-formed check with an authentic token makes no flow and changes none.
3. Nothing leaves for an address that did not write first (down), nor for an owner no authentic token named (up).
4. One datagram in is at most one out, longer than it came by the envelope only (up), shorter by it (down).
5. A flow somebody else has is not moved, closed, or kept from its owner by what a stranger sends.

Reachability before authentication: anybody reaches the demux, the STUN walk and the token check, which allocate
nothing; the flow table is reached with any address, but only read; only the holder of an authentic token makes an
entry, eight at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.verdicts import VERDICTS_BY_NUMBER
from tests.support import oracle, packets
from tests.support.harness import (
    CLIENT,
    KEYS,
    LOCAL,
    MOST,
    OTHER,
    OWNER,
    SECOND,
    STRANGER,
    Relay,
    Settings,
    UpPacket,
    assert_books_balance,
    token,
)
from tests.support.oracle import Address
from tests.support.packets import BINDING_REQUEST, RTP, USERNAME, answer, check, framed, stun

LENGTHS = (*range(101), *range(MOST - 45, MOST + 6), 2047, 2048, 2049, 4096, 65507)
FORWARDS = {(way, reason) for way, forwarded, reason in VERDICTS_BY_NUMBER if forwarded}
KNOWN: Address = ("203.0.113.5", 5000)

# A first byte of every range of RFC 7983 and of every gap between them, and heads that get further.
HEADS = {
    **{
        f"first byte {first}": bytes([first])
        for first in (0, 1, 3, 4, 15, 16, 19, 20, 22, 63, 64, 79, 80, 127, 128, 191, 192, 255)
    },
    "STUN header": packets.stun(BINDING_REQUEST),
    "a whole check": check(token()),
    "a check with a forged token": check(token()[:-4] + "AAAA"),
    "a check of another server": check("evtj"),
    "RTP": RTP[:12],
    "DTLS": packets.DTLS,
    "the internal leg's own frame": framed(CLIENT, LOCAL, RTP),
}


def established(relay: Relay, client: Address = KNOWN) -> None:
    assert relay.up(check(token(serial=77)), client)[0] == "opened"
    assert relay.down(framed(client, LOCAL, answer()))[0] == "established"


def sweep(head: bytes, fills: Iterable[int] = (0x00, 0xFF)) -> Iterator[bytes]:
    """The head cut or filled up to every length."""
    for fill in fills:
        for length in LENGTHS:
            yield head[:length] + bytes([fill]) * (length - len(head))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("client", [CLIENT, KNOWN], ids=["unknown source", "known source"])
def test_up_every_length(name: str, client: Address) -> None:
    """Verdict and counter of each are the model's; all that differ are reported together."""
    relay = Relay()
    model = relay.model()
    established(relay)
    model.up([(KNOWN, LOCAL, check(token(serial=77)))], 0)
    model.down([(OWNER, framed(KNOWN, LOCAL, answer()))])
    wrong = []
    for datagram in sweep(HEADS[name]):
        before = relay.slot.counters()
        result, expected = relay.up(datagram, client), model.up([(client, LOCAL, datagram)], 0)[0]
        after = relay.slot.counters()
        if result != expected or after[f"up_{expected[0]}"] != before[f"up_{expected[0]}"] + 1:
            wrong.append((len(datagram), result[0], expected[0]))
    assert wrong == []
    assert relay.counted() == {counter: value for counter, value in model.counters.items() if value}
    opened = model.counters["up_opened"] - 1
    assert len(relay.slot.flow_list()) == 1 + opened
    assert opened == (1 if (name, client) == ("a whole check", CLIENT) else 0)


@pytest.mark.parametrize("sender", [OWNER, STRANGER], ids=["the owner", "a stranger"])
@pytest.mark.parametrize(
    "head", [b"", b"\x56", b"\x56\xec", b"\x55\x46\x01\x00", framed(KNOWN, LOCAL, b""), framed(CLIENT, LOCAL, b"")]
)
def test_down_every_length(sender: Address, head: bytes) -> None:
    relay = Relay()
    established(relay)
    wrong = []
    for datagram in sweep(head):
        expected = expected_down(datagram, sender)
        before = relay.slot.counters()
        verdict, sent = relay.down(datagram, sender)
        after = relay.slot.counters()
        if verdict != expected or after[f"down_{expected}"] != before[f"down_{expected}"] + 1:
            wrong.append((len(datagram), verdict, expected))
        if expected == "media":
            assert sent == (0, KNOWN, LOCAL[0], datagram[38:])
        else:
            assert sent is None
    assert wrong == []
    assert len(relay.slot.flow_list()) == 1


def expected_down(datagram: bytes, sender: Address) -> str:
    if len(datagram) > MOST:
        return "truncated"
    opened = oracle.spp_unpack(datagram)
    if opened is None:
        return "bad_envelope"
    if opened[:2] != (KNOWN, LOCAL):
        return "no_flow"
    return "media" if sender == OWNER else "not_next_hop"


# --- a check, spoilt ---


def test_every_bit_of_a_check() -> None:
    """No single bit but those the relay does not look at can be changed and still open a flow."""
    good = check(token())
    # Transaction id; USERNAME's length, as long as the colon is within it; the client's ufrag and what follows.
    unread = {*range(8, 20), 23, *range(good.index(b":") + 1, len(good))}
    for bit in range(len(good) * 8):
        datagram = bytearray(good)
        datagram[bit // 8] ^= 1 << bit % 8
        relay = Relay()
        verdict, _ = relay.up(bytes(datagram))
        assert verdict == relay.model().up([(CLIENT, LOCAL, bytes(datagram))], 0)[0][0], bit
        if verdict == "opened":
            assert bit // 8 in unread, bit
        else:
            assert relay.slot.flow_list() == [], bit
        assert relay.slot.counters()[f"up_{verdict}"] == 1, bit


def test_guessing_tokens_opens_nothing() -> None:
    relay = Relay()
    text = token()
    guesses = [text[:at] + c + text[at + 1 :] for at in range(1, 32) for c in oracle.ALPHABET if text[at] != c]
    verdicts: Counter[str] = Counter()
    for at in range(0, len(guesses), 512):
        batch = [(CLIENT, LOCAL, check(guess)) for guess in guesses[at : at + 512]]
        verdicts.update(verdict for verdict, _ in relay.up_all(batch))
    assert set(verdicts) == {"token_forged", "no_token"}
    assert relay.slot.flow_list() == []
    assert relay.slot.tokens()[0, "forged"] == verdicts["token_forged"]


@pytest.mark.parametrize(
    "username", [b"", b":", b":" * 33, b"a" * 32 + b":", b"I" * 32, b"I" * 48 + b":", b"\xff" * 33, b"\0" * 33 + b":"]
)
def test_usernames_that_are_no_token(username: bytes) -> None:
    relay = Relay()
    verdict, sent = relay.up(stun(BINDING_REQUEST, [(USERNAME, username)]))
    assert (verdict, sent) == (relay.model().up([(CLIENT, LOCAL, stun(BINDING_REQUEST, [(USERNAME, username)]))], 0)[0])
    assert sent is None
    assert relay.slot.counters()[f"up_{verdict}"] == 1


# --- what strangers cannot do ---


def test_a_sniffed_check_sent_from_elsewhere_opens_at_most_eight_flows_and_steals_none() -> None:
    relay = Relay()
    established(relay)
    for port in range(1, 100):
        relay.up(check(token(serial=77)), ("198.51.100.66", port))
    assert len(relay.slot.flow_list()) == 8
    assert relay.flow(KNOWN) is not None
    assert relay.down(framed(KNOWN, LOCAL, RTP)) == ("media", (0, KNOWN, LOCAL[0], RTP))


def test_a_spoofed_check_of_another_owner_does_not_move_a_live_flow() -> None:
    """The owner answers its own client's checks every few seconds; the rival never gets the flow."""
    relay = Relay()
    established(relay)
    for _ in range(100):
        relay.tick += 5 * SECOND
        assert relay.up(check(token(OTHER)), KNOWN)[0] == "contended"
        assert relay.down(framed(KNOWN, LOCAL, answer()), OTHER) == ("owner_live", None)
        assert relay.up(RTP, KNOWN) == ("media", (OWNER, framed(KNOWN, LOCAL, RTP)))
        assert relay.up(check(token(serial=77)), KNOWN)[0] == "check"
        assert relay.down(framed(KNOWN, LOCAL, answer()))[0] == "answer"
    flow = relay.flow(KNOWN)
    assert flow is not None
    assert flow["owner"] == OWNER


def test_a_sniffed_check_pushes_out_none_of_eight_live_flows() -> None:
    relay = Relay()
    paths = [("203.0.113.5", 5000 + number) for number in range(8)]
    for path in paths:
        established(relay, path)
    for _ in range(10):
        relay.tick += 2 * SECOND
        assert {relay.up(RTP, path)[0] for path in paths} == {"media"}
        assert relay.up(check(token(serial=77)), ("198.51.100.66", 1)) == ("token_full", None)


def test_a_spoofed_check_of_another_session_does_not_rename_a_live_flow() -> None:
    """An owner's answer does not say which check it is for; the client's own checks keep the flow its own."""
    relay = Relay()
    established(relay)
    for _ in range(20):
        relay.tick += 5 * SECOND
        assert relay.up(check(token(serial=78)), KNOWN)[0] == "restart"
        assert relay.down(framed(KNOWN, LOCAL, answer()))[0] == "answer"
        assert relay.up(check(token(serial=77)), KNOWN)[0] == "check"
    flow = relay.flow(KNOWN)
    assert flow is not None
    assert flow["nonce"] == 77 << 40


def test_a_flood_of_half_open_flows_is_bounded_and_established_ones_live() -> None:
    relay = Relay(Settings(max_flows=100, max_half_open=20))
    established(relay)
    verdicts = [relay.up(check(token(serial=n)), ("198.51.100.66", 1000 + n))[0] for n in range(200)]
    assert Counter(verdicts) == {"opened": 20, "half_open_full": 180}
    assert relay.up(RTP, KNOWN)[0] == "media"
    relay.tick += 6 * SECOND
    assert relay.harness.sweep(100) == 20
    assert relay.up(check(token(serial=999)), ("198.51.100.66", 1))[0] == "opened"


@given(st.lists(st.tuples(st.sampled_from([OWNER, OTHER, STRANGER]), st.binary(max_size=80)), max_size=30))
def test_nothing_leaves_for_those_who_never_wrote(frames: list[tuple[Address, bytes]]) -> None:
    relay = Relay()
    results = relay.down_all(frames + [(sender, oracle.SPP_MAGIC + frame) for sender, frame in frames])
    assert all(sent is None for _, sent in results)
    assert relay.slot.flow_list() == []


@given(
    st.lists(st.tuples(st.sampled_from([CLIENT, KNOWN, ("0.0.0.0", 1)]), st.binary(max_size=120)), max_size=30),
    st.booleans(),
)
def test_a_batch_of_anything_agrees_with_the_model(datagrams: list[tuple[Address, bytes]], spoilt_checks: bool) -> None:
    """Also with what is drawn put behind the head of a good check, so that it gets past the demux."""
    relay = Relay()
    model = relay.model()
    head = check(token())[:20] if spoilt_checks else b""
    batch: list[UpPacket] = [(client, LOCAL, head + rest) for client, rest in datagrams]
    batch.append((KNOWN, LOCAL, check(token())))
    results = relay.up_all(batch)
    assert results == model.up(batch, 0)
    for (_, _, datagram), (verdict, sent) in zip(batch, results, strict=True):
        assert (sent is not None) == (("up", verdict) in FORWARDS)
        if sent is not None:
            assert sent[0] == OWNER
            assert len(sent[1]) == len(datagram) + 38
    assert_books_balance(relay.slot)


def test_a_retired_key_opens_nothing_but_its_flows_live_on() -> None:
    """Rotation: a token equal to its flow's own needs no key any more."""
    relay = Relay()
    established(relay)
    after = Relay(Settings(keys={3: KEYS[3]}), relay.slot)
    assert after.up(check(token(serial=77)), KNOWN)[0] == "check"
    assert after.up(check(token(serial=77)), CLIENT) == ("token_key", None)
    assert after.up(check(token(serial=78)), KNOWN) == ("token_key", None)
