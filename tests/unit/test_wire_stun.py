"""USERNAME of a Binding Request: RFC 5769's sample whole, truncated and extended; each rule of the walk; mutations and
the oracle.
"""

from __future__ import annotations

import hmac
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire.stun import RESULTS, username_of
from tests.support import oracle, packets
from tests.support.packets import BINDING_REQUEST, PRIORITY, SOFTWARE, USERNAME, stun

VECTOR = packets.load_vectors("stun_rfc5769.json")
SAMPLE = bytes.fromhex(VECTOR["message"])


def with_length(message: bytes, length: int) -> bytes:
    return message[:2] + length.to_bytes(2, "big") + message[4:]


# --- RFC 5769, 2.1 ---


def test_the_sample_request() -> None:
    assert username_of(SAMPLE) == ("ok", VECTOR["username"].encode())


def test_the_sample_is_transcribed_without_error() -> None:
    """Its own MESSAGE-INTEGRITY (HMAC-SHA1) and FINGERPRINT (CRC-32) say so."""
    at = SAMPLE.index(bytes.fromhex("00080014"))
    covered = with_length(SAMPLE[:at], at - 20 + 24)
    assert hmac.digest(VECTOR["password"].encode(), covered, "sha1") == SAMPLE[at + 4 : at + 24]
    assert (zlib.crc32(SAMPLE[:-8]) ^ 0x5354554E).to_bytes(4, "big") == SAMPLE[-4:]


def test_the_sample_truncated_at_every_length() -> None:
    for message in packets.truncations(SAMPLE):
        assert username_of(message) == ("malformed", b""), len(message)
        assert oracle.username_of(message) == ("malformed", b""), len(message)


def test_the_sample_truncated_with_its_length_field_made_right() -> None:
    """Then it is cut only where an attribute is: before USERNAME it has none, behind it is as good as whole."""
    seen = set()
    for message in packets.truncations(SAMPLE):
        if len(message) >= 20:
            message = with_length(message, len(message) - 20)
            assert username_of(message) == oracle.username_of(message), len(message)
            seen.add(username_of(message)[0])
    assert seen == {"ok", "malformed", "no_username"}


def test_the_sample_with_trailing_bytes() -> None:
    for message in packets.extensions(SAMPLE):
        assert username_of(message) == ("malformed", b""), len(message)


@pytest.mark.parametrize("length", [0, 84, 87, 89, 92, 0xFFFF])
def test_a_length_field_that_is_not_the_datagrams(length: int) -> None:
    assert username_of(with_length(SAMPLE, length)) == ("malformed", b"")


def test_every_bit_of_the_sample() -> None:
    """A flipped bit changes USERNAME, is refused, or stands where nobody looks: as the oracle says."""
    for at in range(len(SAMPLE) * 8):
        message = bytearray(SAMPLE)
        message[at // 8] ^= 1 << at % 8
        assert username_of(bytes(message)) == oracle.username_of(bytes(message)), at


# --- the rules of the walk ---


@pytest.mark.parametrize("kind", [0x0000, 0x0002, 0x0011, 0x0101, 0x0111, 0x0003])
def test_anything_but_a_binding_request_is_not_looked_at(kind: int) -> None:
    assert username_of(stun(kind, [(USERNAME, b"a:b")])) == ("malformed", b"")


def test_the_first_username_counts() -> None:
    assert username_of(stun(BINDING_REQUEST, [(USERNAME, b"a:b"), (USERNAME, b"c:d")])) == ("ok", b"a:b")


@pytest.mark.parametrize("size", range(9))
def test_padding_of_attributes_before_it(size: int) -> None:
    assert username_of(stun(BINDING_REQUEST, [(SOFTWARE, b"x" * size), (USERNAME, b"a:b")])) == ("ok", b"a:b")


@pytest.mark.parametrize(
    ("size", "result"),
    [(0, "ok"), (1, "ok"), (511, "ok"), (512, "ok"), (513, "long_username"), (1500, "long_username")],
)
def test_length_of_the_username(size: int, result: str) -> None:
    assert username_of(stun(BINDING_REQUEST, [(USERNAME, b"u" * size)])) == (
        result,
        b"u" * size if result == "ok" else b"",
    )


@pytest.mark.parametrize(("before", "result"), [(15, "ok"), (16, "malformed"), (17, "malformed"), (300, "malformed")])
def test_attributes_before_it_are_bounded(before: int, result: str) -> None:
    message = stun(BINDING_REQUEST, [(PRIORITY, b"")] * before + [(USERNAME, b"a:b")])
    assert username_of(message)[0] == result


@pytest.mark.parametrize(
    ("count", "result"), [(0, "no_username"), (15, "no_username"), (16, "no_username"), (17, "malformed")]
)
def test_without_a_username(count: int, result: str) -> None:
    assert username_of(stun(BINDING_REQUEST, [(PRIORITY, b"1234")] * count)) == (result, b"")


@pytest.mark.parametrize("excess", [1, 2, 3, 4, 5, 1000, 0xFFFF - 12])
def test_an_attribute_that_claims_more_than_there_is(excess: int) -> None:
    value = b"a:b" + b"x" * 9
    attribute = USERNAME.to_bytes(2, "big") + (len(value) + excess).to_bytes(2, "big") + value
    message = (
        BINDING_REQUEST.to_bytes(2, "big") + len(attribute).to_bytes(2, "big") + oracle.COOKIE + bytes(12) + attribute
    )
    assert username_of(message) == ("malformed", b"")


# --- against the oracle ---

values = st.one_of(st.binary(max_size=12), st.binary(min_size=500, max_size=520))
attributes = st.tuples(st.sampled_from([USERNAME, USERNAME, PRIORITY, SOFTWARE, 0]), values)


@given(st.lists(attributes, max_size=20))
def test_agrees_with_the_oracle_on_whole_messages(given_: list[tuple[int, bytes]]) -> None:
    message = stun(BINDING_REQUEST, given_)
    assert username_of(message) == oracle.username_of(message)


@given(st.lists(attributes, max_size=6), st.data())
def test_agrees_with_the_oracle_on_mutated_ones(given_: list[tuple[int, bytes]], data: st.DataObject) -> None:
    message = bytearray(stun(BINDING_REQUEST, given_))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    for each in (bytes(message), cut, with_length(cut, max(0, len(cut) - 20) & 0xFFFF)):
        assert username_of(each) == oracle.username_of(each)
        assert username_of(each)[0] in RESULTS


@given(st.binary(max_size=120))
def test_agrees_with_the_oracle_on_anything(body: bytes) -> None:
    message = BINDING_REQUEST.to_bytes(2, "big") + len(body).to_bytes(2, "big") + oracle.COOKIE + bytes(12) + body
    assert username_of(message) == oracle.username_of(message)
    assert username_of(body) == oracle.username_of(body)
