"""Binding messages as they are read: RFC 5769's samples whole, truncated, extended and with every bit flipped, and each
rule of the walk. All that the parser says of any message here is compared with tests/support/bindings.py.

What is written, other implementations and the fuzz target are in test_wire_binding_peers.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from typing import Any

import pytest

from _fastpath.wire import binding
from tests.support import bindings, packets
from tests.support.bindings import (
    CONTROLLED,
    CONTROLLING,
    ERROR,
    ERROR_CODE,
    FINGERPRINT,
    INDICATION,
    INTEGRITY,
    INTEGRITY_SHA256,
    MAPPED,
    PRIORITY,
    REQUEST,
    SOFTWARE,
    SUCCESS,
    USE_CANDIDATE,
    USERNAME,
    sealed,
)
from tests.support.packets import TRANSACTION, Attribute, attribute, extensions, truncations

VECTOR = packets.load_vectors("stun_rfc5769.json")
PASSWORD = VECTOR["password"].encode()
LONG_TERM = VECTOR["long_term"]
LONG_TERM_KEY = hashlib.md5(":".join(LONG_TERM[each] for each in ("username", "realm", "password")).encode()).digest()
SAMPLES = {
    "2.1 request": (bytes.fromhex(VECTOR["message"]), PASSWORD),
    "2.2 IPv4 response": (bytes.fromhex(VECTOR["responses"][0]["message"]), PASSWORD),
    "2.3 IPv6 response": (bytes.fromhex(VECTOR["responses"][1]["message"]), PASSWORD),
    "2.4 long-term request": (bytes.fromhex(LONG_TERM["message"]), LONG_TERM_KEY),
}

GOOG_NETWORK_INFO = 0xC057
NAME: Attribute = (USERNAME, b"evtj:h6vY")

samples = pytest.mark.parametrize(("message", "key"), SAMPLES.values(), ids=SAMPLES)


def result_of(message: bytes) -> str:
    """Of our parser, after the plain-Python one was found to agree with all it says."""
    result, fields = binding.parse(message)
    assert (result, fields and astuple(fields)) == bindings.parse(message)
    return result


def parsed(message: bytes) -> binding.Fields:
    fields = binding.parse(message)[1]
    assert fields is not None
    return fields


def is_accepted(message: bytes, key: bytes = PASSWORD) -> bool:
    return result_of(message) == "ok" and binding.verify(message, key)


# --- RFC 5769 ---


@samples
def test_a_sample_is_accepted(message: bytes, key: bytes) -> None:
    assert is_accepted(message, key)
    assert bindings.verify(message, key)
    assert not binding.verify(message, key + b"x")


def test_what_the_sample_request_says() -> None:
    message, _ = SAMPLES["2.1 request"]
    name = VECTOR["username"].encode()
    at = message.index(bytes.fromhex("00080014"))
    assert astuple(parsed(message)) == (REQUEST, TRANSACTION, name, at, 0x6E0001FF, False, False, True, 0)


@pytest.mark.parametrize("response", VECTOR["responses"], ids=lambda each: each["section"])
def test_our_success_says_what_the_sample_response_says(response: dict[str, Any]) -> None:
    """It is the sample without SOFTWARE."""
    message = bytes.fromhex(response["message"])
    (address,) = [value for _, kind, value in bindings.split(message) or [] if kind == MAPPED]
    written = binding.success(TRANSACTION, tuple(response["address"]), PASSWORD)
    assert written == sealed(SUCCESS, [(MAPPED, address)], PASSWORD)


@samples
def test_a_sample_truncated_at_every_length(message: bytes, key: bytes) -> None:
    for cut in truncations(message):
        assert result_of(cut) == "malformed", len(cut)
        assert not binding.verify(cut, key), len(cut)


@samples
def test_a_sample_truncated_with_its_length_field_made_right(message: bytes, key: bytes) -> None:
    """It is accepted only where all that is cut off is FINGERPRINT, which MESSAGE-INTEGRITY does not cover."""
    accepted = [len(cut) for cut in map(bindings.with_length, truncations(message)) if is_accepted(cut, key)]
    assert accepted == [len(message) - 8] * (message[-8:-4] == bytes.fromhex("80280004"))


@samples
def test_a_sample_with_trailing_bytes(message: bytes, key: bytes) -> None:
    for longer in extensions(message):
        assert result_of(longer) == "malformed", len(longer)
        assert not binding.verify(longer, key), len(longer)


@samples
def test_a_sample_with_trailing_bytes_that_its_length_field_counts(message: bytes, key: bytes) -> None:
    """Behind FINGERPRINT nothing may stand; behind MESSAGE-INTEGRITY alone an attribute that nobody looks at."""
    for longer in map(bindings.with_length, extensions(message)):
        zeros = longer[len(message) :] in (bytes(4), bytes(8))
        assert is_accepted(longer, key) == (zeros and message[-8:-6] != b"\x80\x28"), len(longer)


@samples
def test_every_bit_of_a_sample(message: bytes, key: bytes) -> None:
    """Refused, but for the type of FINGERPRINT: without that name it is an attribute nobody looks at."""
    at = message.index(bytes.fromhex("80280004")) if message[-8:-6] == b"\x80\x28" else len(message)
    for bit in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        assert is_accepted(bytes(flipped), key) == (bit // 8 in (at, at + 1)), bit


# --- the header ---


@pytest.mark.parametrize("kind", [REQUEST, INDICATION, SUCCESS, ERROR])
def test_kinds(kind: int) -> None:
    message = sealed(kind, [NAME], PASSWORD)
    assert is_accepted(message)
    assert parsed(message).kind == kind


@pytest.mark.parametrize("kind", [0x0000, 0x0002, 0x0003, 0x0010, 0x0100, 0x0113, 0x4001, 0x8001, 0xC101, 0x0200])
def test_other_methods(kind: int) -> None:
    """Among them 0x0200, libwebrtc's GOOG_PING, which it sends only to who said it understands it."""
    assert result_of(sealed(kind, [NAME], PASSWORD)) == "malformed"


@pytest.mark.parametrize("length", [0, 84, 87, 89, 92, 0xFFFF])
def test_a_length_field_that_is_not_the_datagrams(length: int) -> None:
    message, _ = SAMPLES["2.1 request"]
    assert result_of(message[:2] + length.to_bytes(2, "big") + message[4:]) == "malformed"


def test_a_length_that_is_no_multiple_of_four() -> None:
    for more in range(1, 4):
        assert result_of(bindings.with_length(sealed(REQUEST, [NAME], PASSWORD) + bytes(more))) == "malformed"


# --- what has to be there ---


@pytest.mark.parametrize(
    ("kind", "attributes", "key", "result"),
    [
        (REQUEST, [], PASSWORD, "no_username"),
        (REQUEST, [], None, "no_username"),
        (REQUEST, [NAME], None, "no_integrity"),
        (SUCCESS, [], PASSWORD, "ok"),
        (SUCCESS, [], None, "no_integrity"),
        (ERROR, [(ERROR_CODE, b"\0\0\x04\x00")], None, "no_integrity"),
        (INDICATION, [], PASSWORD, "ok"),
        (INDICATION, [], None, "no_integrity"),
    ],
)
@pytest.mark.parametrize("with_fingerprint", [True, False])
def test_username_and_integrity(
    kind: int, attributes: list[Attribute], key: bytes | None, result: str, with_fingerprint: bool
) -> None:
    message = sealed(kind, attributes, key, with_fingerprint=with_fingerprint)
    assert result_of(message) == result
    assert binding.verify(message, PASSWORD) == (key is not None)


def test_a_username_after_message_integrity_is_none() -> None:
    assert result_of(sealed(REQUEST, [], PASSWORD, after=[NAME])) == "no_username"


@pytest.mark.parametrize(("size", "result"), [(0, "ok"), (1, "ok"), (512, "ok"), (513, "malformed")])
def test_length_of_the_username(size: int, result: str) -> None:
    assert result_of(sealed(REQUEST, [(USERNAME, b"u" * size)], PASSWORD)) == result


def test_a_wrong_fingerprint_is_told_before_anything_but_the_structure() -> None:
    for attributes in ([NAME], [], [(0x7FFF, b"")]):
        message = sealed(REQUEST, attributes, PASSWORD)
        assert result_of(message[:-1] + bytes([message[-1] ^ 1])) == "bad_fingerprint"


@pytest.mark.parametrize("sort", [0x0000, 0x0002, 0x0003, 0x0007, 0x000B, 0x001B, 0x0022, 0x0026, 0x4008, 0x7FFF])
def test_an_unknown_attribute_that_must_be_understood(sort: int) -> None:
    message = sealed(REQUEST, [NAME, (sort, b"abc")], PASSWORD)
    assert result_of(message) == "unknown_required"
    assert binding.verify(message, PASSWORD)
    assert result_of(sealed(REQUEST, [(sort, b"")], PASSWORD)) == "no_username"
    assert result_of(sealed(REQUEST, [NAME, (sort, b"")], None)) == "no_integrity"


@pytest.mark.parametrize("sort", [0x8000, 0x8003, SOFTWARE, 0x802B, GOOG_NETWORK_INFO, 0xC001, 0xFF00, 0xFFFF])
@pytest.mark.parametrize("value", [b"", b"\x00\x0a\x03\xe7", b"\xff" * 255])
def test_an_unknown_attribute_that_need_not_be_understood(sort: int, value: bytes) -> None:
    """Nor is it ever repeated to the sender: what we write has no room for it."""
    message = sealed(REQUEST, [(sort, value), NAME], PASSWORD)
    assert is_accepted(message)
    assert parsed(message).username == NAME[1]


@pytest.mark.parametrize("sort", sorted(bindings.KNOWN_AND_IGNORED))
def test_attributes_of_rfc_8489_that_mean_nothing_here(sort: int) -> None:
    assert is_accepted(sealed(REQUEST, [NAME, (sort, b"abc")], PASSWORD))


# --- order, repetition, sizes ---


def test_what_follows_message_integrity_is_ignored() -> None:
    unauthenticated = [(PRIORITY, b"1234"), (USE_CANDIDATE, b""), (0x7FFF, b""), (ERROR_CODE, b"x"), (INTEGRITY, b"")]
    message = sealed(REQUEST, [NAME], PASSWORD, after=unauthenticated)
    assert is_accepted(message)
    assert parsed(message).priority is None
    assert not parsed(message).use_candidate


@pytest.mark.parametrize("size", [16, 20, 32])
def test_message_integrity_sha256_is_ignored(size: int) -> None:
    other = (INTEGRITY_SHA256, b"\xaa" * size)
    assert is_accepted(sealed(REQUEST, [NAME], PASSWORD, after=[other]))
    assert is_accepted(sealed(REQUEST, [NAME, other], PASSWORD))
    assert result_of(sealed(REQUEST, [NAME, other], None)) == "no_integrity"


def test_of_two_the_first_counts() -> None:
    first = [NAME, (PRIORITY, b"\0\0\0\1"), (ERROR_CODE, b"\0\0\4\3")]
    again = [(USERNAME, b"c:d"), (PRIORITY, b"\0\0\0\2"), (ERROR_CODE, b"\0\0\5\0")]
    message = sealed(REQUEST, first + again, PASSWORD)
    fields = parsed(message)
    assert is_accepted(message)
    assert (fields.username, fields.priority, fields.error_code) == (NAME[1], 1, 403)


def test_an_empty_username_and_a_zero_priority_are_the_first_too() -> None:
    twice = [(USERNAME, b""), NAME, (PRIORITY, bytes(4)), (PRIORITY, b"1234")]
    fields = parsed(sealed(REQUEST, twice, PASSWORD))
    assert (fields.username, fields.priority) == (b"", 0)


@pytest.mark.parametrize("size", [0, 4, 16, 19, 21, 24, 32])
def test_message_integrity_of_another_size(size: int) -> None:
    assert result_of(sealed(REQUEST, [NAME, (INTEGRITY, bytes(size))], None)) == "malformed"


@pytest.mark.parametrize("size", [0, 3, 5, 8])
def test_fingerprint_of_another_size(size: int) -> None:
    message = sealed(REQUEST, [NAME], PASSWORD, after=[(FINGERPRINT, bytes(size))], with_fingerprint=False)
    assert result_of(message) == "malformed"


@pytest.mark.parametrize("last", [(SOFTWARE, b""), (SOFTWARE, b"ufrag"), (FINGERPRINT, bytes(4)), (0x7FFF, b"")])
def test_fingerprint_must_be_the_last(last: Attribute) -> None:
    whole = sealed(REQUEST, [NAME], PASSWORD)
    assert result_of(bindings.with_length(whole + attribute(*last))) == "malformed"


def test_fingerprint_before_message_integrity() -> None:
    covered = sealed(REQUEST, [NAME], None)
    late = covered + attribute(INTEGRITY, bindings.integrity(covered, PASSWORD))
    assert result_of(bindings.with_length(late)) == "malformed"


@pytest.mark.parametrize(
    ("sort", "right"), [(PRIORITY, 4), (USE_CANDIDATE, 0), (CONTROLLED, 8), (CONTROLLING, 8)], ids=hex
)
def test_attributes_of_one_size(sort: int, right: int) -> None:
    for size in range(13):
        result = result_of(sealed(REQUEST, [NAME, (sort, bytes(size))], PASSWORD))
        assert result == ("ok" if size == right else "malformed"), size


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"\0\0\4\3", 403),
        (b"\0\0\3\0", 300),
        (b"\0\0\6\x63", 699),
        (b"\xff\xff\xfc\x57reason", 487),
        (b"\0\0\2\0", None),
        (b"\0\0\7\0", None),
        (b"\0\0\0\0", None),
        (b"\0\0\4\x64", None),
        (b"\0\0\4", None),
        (b"", None),
    ],
)
def test_error_codes(value: bytes, code: int | None) -> None:
    message = sealed(ERROR, [(ERROR_CODE, value)], PASSWORD)
    assert result_of(message) == ("malformed" if code is None else "ok")
    assert code is None or parsed(message).error_code == code


@pytest.mark.parametrize("count", [1, 28, 29, 30, 300])
def test_attributes_are_bounded(count: int) -> None:
    """32 with USERNAME, MESSAGE-INTEGRITY and FINGERPRINT."""
    result = "ok" if count + 3 <= binding.MOST_ATTRIBUTES else "malformed"
    assert result_of(sealed(REQUEST, [NAME, *[(SOFTWARE, b"")] * count], PASSWORD)) == result
    assert result_of(sealed(REQUEST, [NAME], PASSWORD, after=[(SOFTWARE, b"")] * count)) == result


@pytest.mark.parametrize("excess", [1, 2, 3, 4, 5, 1000, 0xFFFF - 12])
def test_an_attribute_that_claims_more_than_there_is(excess: int) -> None:
    for sort in (USERNAME, SOFTWARE, 0x7FFF):
        claim = sort.to_bytes(2, "big") + (12 + excess).to_bytes(2, "big") + b"a:b" + b"x" * 9
        assert result_of(bindings.header(REQUEST, len(claim)) + claim) == "malformed"
