"""What a datagram is, by first byte and length: every first byte at every length around the limits, and the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire.demux import KINDS, kind_of
from tests.support import oracle, packets

COOKIE_AT_4 = bytes(3) + oracle.COOKIE


def test_every_first_byte_at_every_length_to_30() -> None:
    """With the cookie where STUN has it, which matters in the first range only."""
    for first in range(256):
        datagram = bytes([first]) + COOKIE_AT_4 + bytes(30)
        for length in range(31):
            assert kind_of(datagram[:length]) == oracle.kind_of(datagram[:length]), (first, length)


@pytest.mark.parametrize(
    ("first", "length", "kind"),
    [
        (0, 20, "stun"),
        (3, 20, "stun"),
        (0, 19, "too_short"),
        (4, 100, "unknown"),
        (15, 100, "unknown"),  # ZRTP begins at 16
        (16, 100, "unknown"),
        (19, 100, "unknown"),
        (20, 13, "dtls"),
        (63, 13, "dtls"),
        (22, 12, "too_short"),
        (64, 100, "unknown"),  # TURN channels
        (79, 100, "unknown"),
        (127, 100, "unknown"),
        (128, 8, "rtp"),
        (191, 8, "rtp"),
        (128, 7, "too_short"),
        (192, 100, "unknown"),  # QUIC
        (255, 100, "unknown"),
    ],
)
def test_limits_of_the_ranges(first: int, length: int, kind: str) -> None:
    assert kind_of((bytes([first]) + COOKIE_AT_4 + bytes(100))[:length]) == kind


def test_nothing_is_too_short() -> None:
    assert kind_of(b"") == "too_short"


@pytest.mark.parametrize("at", range(4, 8))
@pytest.mark.parametrize("bit", range(8))
def test_each_bit_of_the_cookie_counts(at: int, bit: int) -> None:
    message = bytearray(packets.stun(packets.BINDING_REQUEST))
    message[at] ^= 1 << bit
    assert kind_of(bytes(message)) == "bad_cookie"


@given(st.binary(max_size=60))
def test_agrees_with_the_oracle(datagram: bytes) -> None:
    assert kind_of(datagram) == oracle.kind_of(datagram)
    assert kind_of(datagram) in KINDS


@given(st.integers(0, 3), st.binary(min_size=3, max_size=3), st.binary(max_size=40))
def test_agrees_with_the_oracle_on_what_has_the_cookie(first: int, head: bytes, rest: bytes) -> None:
    datagram = bytes([first]) + head + oracle.COOKIE + rest
    assert kind_of(datagram) == oracle.kind_of(datagram)
