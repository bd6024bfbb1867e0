"""NTP time and round trips: the example of RFC 3550, wraps, clamps, aiortc's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath import reception
from _fastpath.reception import ReceptionView

# --- round trips ---


def test_the_example_of_rfc_3550() -> None:
    """6.4.1, figure 2: sent at b44d:b705:2000:0000, held for 5.25 s, back at b710:8000: 6.125 s."""
    sent = 0xB44DB70520000000
    assert reception.ntp_middle(sent) == 0xB7052000
    assert reception.round_trip(0xB7108000, 0xB7052000, 0x00054000) == 6_125_000


def test_a_round_trip_is_never_negative() -> None:
    assert reception.round_trip(1000, 900, 100) == 0
    assert reception.round_trip(1000, 900, 101) == 0
    assert reception.round_trip(1000, 1001, 0) == 0
    assert reception.round_trip(1000, 900, 0xFFFFFFFF) == 101 * 10**6 >> 16
    assert reception.round_trip(1000, 900, 0x80000000) == 0


def test_a_round_trip_fits_32_bits() -> None:
    """Whatever the peer says: half the range of the numbers is 9 hours."""
    assert reception.round_trip(0x7FFFFFFF, 0xFFFFFFFF, 1) == 0xFFFFFFFF
    assert reception.round_trip(0x10C6F7A2, 1, 0) == 0xFFFFFFFF
    assert reception.round_trip(0x10C6F7A1, 1, 0) == 0x10C6F7A0 * 10**6 >> 16


def test_a_round_trip_over_the_wrap() -> None:
    assert reception.round_trip(0x00004000, 0xFFFFC000, 0x4000) == 250_000


def test_no_round_trip_without_an_sr() -> None:
    assert reception.round_trip(0x10000, 0, 0) == 0


@given(st.integers(0, 2**40), st.integers(0, 60_000_000), st.integers(0, 10_000_000))
def test_a_round_trip_there_and_back(sent_us: int, held_us: int, trip_us: int) -> None:
    """Through the peer's own reception: each of three numbers is cut to 1/65536 s."""
    sent = reception.ntp_middle(reception.ntp(sent_us)) or 1
    peer = ReceptionView(0, 0, 48_000)
    peer.sender(sent, sent_us)
    block = peer.block(sent_us + held_us)
    back = reception.ntp_middle(reception.ntp(sent_us + held_us + trip_us))
    measured = reception.round_trip(back, block.last_sr, block.delay_since_sr)
    assert measured == pytest.approx(trip_us, abs=3e6 / 65536)


# --- NTP time ---


def test_ntp_time() -> None:
    assert reception.ntp(0) == 2_208_988_800 << 32
    assert reception.ntp(500_000) == 2_208_988_800 << 32 | 0x80000000
    assert reception.ntp(999_999) & 0xFFFFFFFF == 999_999 * 2**32 // 10**6
    era = (2**32 - 2_208_988_800) * 10**6
    assert reception.ntp(era - 1) >> 32 == 0xFFFFFFFF
    assert reception.ntp(era) == 0


@given(st.lists(st.integers(0, 2**44), min_size=2, max_size=9))
def test_ntp_time_keeps_order_and_distance(times: list[int]) -> None:
    """Across eras too."""
    for one, other in pairwise(sorted(times)):
        distance = (reception.ntp(other) - reception.ntp(one)) % 2**64
        assert distance * 10**6 >> 32 == pytest.approx(other - one, abs=1)


@pytest.mark.native
@given(st.integers(0, 2_080_000_000 * 10**6))
def test_ntp_time_is_that_of_aiortc(unix_us: int) -> None:
    from aiortc.clock import datetime_to_ntp  # not there for every machine the tests run on

    moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=unix_us)
    assert reception.ntp(unix_us) == datetime_to_ntp(moment)
