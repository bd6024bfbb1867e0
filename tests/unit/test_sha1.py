"""SHA-1 and HMAC-SHA1 against the samples of RFC 3174 and RFC 2202, and against Python's own on every length around
the block boundaries, with keys on both sides of a block and the message split anywhere.
"""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.sha1 import digest, hmac_digest

# RFC 3174, 7.3: text, how many times, result.
SHA1_SAMPLES = [
    (b"abc", 1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
    (b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1, "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
    (b"a", 1_000_000, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
    (
        b"0123456701234567012345670123456701234567012345670123456701234567",
        10,
        "dea356a2cddd90c7a7ecedc5ebb563934f460452",
    ),
]

# RFC 2202, 3: key, data, result.
HMAC_SAMPLES = [
    (b"\x0b" * 20, b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
    (b"Jefe", b"what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    (b"\xaa" * 20, b"\xdd" * 50, "125d7342b9ac11cd91a39af48aa17b4f63f175d3"),
    (bytes(range(1, 26)), b"\xcd" * 50, "4c9007f4026250c6bc8414f9bf50c86c2d7235da"),
    (b"\x0c" * 20, b"Test With Truncation", "4c1a03424b55e07fe7f27be1d58bb9324a9a5a04"),
    (
        b"\xaa" * 80,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "aa4ae5e15272d00e95705637ce8a3b55ed402112",
    ),
    (
        b"\xaa" * 80,
        b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data",
        "e8e99d0f45237d786d6bbaa7965c7808bbff1a91",
    ),
]

TEXT = bytes(range(251)) * 3


@pytest.mark.parametrize(("text", "times", "expected"), SHA1_SAMPLES)
def test_samples_of_rfc_3174(text: bytes, times: int, expected: str) -> None:
    assert digest(text * times).hex() == expected


@pytest.mark.parametrize(("key", "data", "expected"), HMAC_SAMPLES)
def test_samples_of_rfc_2202(key: bytes, data: bytes, expected: str) -> None:
    assert hmac_digest(key, data).hex() == expected


def test_every_length_to_200() -> None:
    for length in range(201):
        data = TEXT[:length]
        assert digest(data) == hashlib.sha1(data).digest(), length
        assert hmac_digest(b"key", data) == hmac.digest(b"key", data, "sha1"), length


def test_every_length_of_key_to_200() -> None:
    """64 bytes are the last that are used as they stand."""
    for length in range(201):
        assert hmac_digest(TEXT[:length], b"data") == hmac.digest(TEXT[:length], b"data", "sha1"), length


def test_every_split_of_every_length_to_200() -> None:
    for length in range(201):
        data = TEXT[:length]
        expected = hmac.digest(b"key", data, "sha1")
        results = {hmac_digest(b"key", data[:at], data[at:]) for at in range(length + 1)}
        assert results == {expected}, length


@given(data=st.binary(max_size=700))
def test_digest_agrees_with_hashlib(data: bytes) -> None:
    assert digest(data) == hashlib.sha1(data).digest()


@given(key=st.binary(max_size=300), head=st.binary(max_size=300), rest=st.binary(max_size=300))
def test_hmac_agrees_with_hmac(key: bytes, head: bytes, rest: bytes) -> None:
    assert hmac_digest(key, head, rest) == hmac.digest(key, head + rest, "sha1")
