"""How well a stream arrives: losses, order, wraps and jumps, jitter, and the report blocks that say so.

Compared with RFC 3550's own variables written out in Python (cycles and a 16-bit maximum, jitter as a float), and with
aiortc.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath import reception
from _fastpath.reception import ReceptionView
from _fastpath.wire.rtcp import Block

SSRC = 0xAABBCCDD
CLOCK = 48_000
FRAME = 960  # 20 ms
FRAME_US = 20_000
START_US = 1_700_000_000_000_000  # any time is as good as another


@dataclass
class Model:
    """RFC 3550 A.1, A.3 and A.8 to the letter, but for probation and for the float."""

    first: int
    clock: int = CLOCK
    jitter: float = 0.0

    def __post_init__(self) -> None:
        self.restart(self.first)

    def restart(self, sequence: int) -> None:
        self.base = self.maximum = sequence
        self.bad = 65537
        self.cycles = self.received = self.expected_prior = self.received_prior = 0
        self.last: tuple[int, float] | None = None

    def packet(self, sequence: int, timestamp: int, arrival_us: int) -> bool:
        delta = (sequence - self.maximum) % 65536
        if delta < 3000:
            self.cycles += 65536 if sequence < self.maximum else 0
            self.maximum = sequence
        elif delta <= 65536 - 100:
            if sequence != self.bad:
                self.bad = (sequence + 1) % 65536
                return False
            self.restart(sequence)
        self.received += 1
        arrival = arrival_us * self.clock / 1e6
        if self.last is not None:
            stamps = (timestamp - self.last[0] + 2**31) % 2**32 - 2**31
            self.jitter += (abs(arrival - self.last[1] - stamps) - self.jitter) / 16
        self.last = timestamp, arrival
        return True

    def expected(self) -> int:
        return self.cycles + self.maximum - self.base + 1

    def fraction(self) -> int:
        due, came = self.expected() - self.expected_prior, self.received - self.received_prior
        self.expected_prior, self.received_prior = self.expected(), self.received
        return max(0, due - came) * 256 // due if due else 0


@dataclass
class Stream:
    """A ReceptionView that is fed packets by number: what a sender with a frame every 20 ms would have sent."""

    first: int = 1000
    view: ReceptionView = field(init=False)

    def __post_init__(self) -> None:
        self.view = ReceptionView(SSRC, self.first & 0xFFFF, CLOCK)

    def get(self, *numbers: int) -> list[bool]:
        """Packets by number, counted from 0 at the first, each arriving when it is due."""
        return [
            self.view.packet(self.first + n & 0xFFFF, (n * FRAME - 5) & 0xFFFFFFFF, START_US + max(0, n) * FRAME_US)
            for n in numbers
        ]

    def block(self) -> Block:
        return self.view.block(START_US)


def fractions(stream: Stream, *intervals: Sequence[int]) -> list[int]:
    """Of each interval between two reports."""
    found = []
    for numbers in intervals:
        stream.get(*numbers)
        found.append(stream.block().fraction_lost)
    return found


# --- counting ---


def test_the_first_packet() -> None:
    stream = Stream(first=65535)
    assert stream.get(0) == [True]
    assert stream.block() == Block(SSRC, 0, 0, 65535, 0, 0, 0)
    assert (stream.view.received, stream.view.duplicates, stream.view.reordered) == (1, 0, 0)


def test_sequence_numbers_wrap() -> None:
    stream = Stream(first=65533)
    stream.get(*range(3 * 65536))
    assert stream.block() == Block(SSRC, 0, 0, 65533 + 3 * 65536 - 1, 0, 0, 0)


def test_what_is_missing_is_lost() -> None:
    stream = Stream(first=65530)
    stream.get(0, 1, 2, 4, 5, 9)
    assert stream.view.lost == 4


def test_a_fraction_is_of_the_interval() -> None:
    everything, half, most = range(100), range(100, 200, 2), [200, 255]
    assert fractions(Stream(), everything, half, [], most) == [0, 49 * 256 // 99, 0, 55 * 256 // 57]
    assert fractions(Stream(), [0, 2999]) == [2998 * 256 // 3000]


def test_what_comes_late_is_not_lost() -> None:
    stream = Stream()
    assert fractions(stream, [0, 1, 3], [2, 4], [6, 7, 5]) == [64, 0, 0]
    assert stream.view.lost == 0
    assert (stream.view.reordered, stream.view.duplicates) == (2, 0)


def test_before_the_first() -> None:
    """RFC 3550 expects from the first packet on: what was sent before and comes after makes the loss negative."""
    stream = Stream(first=1)
    stream.get(0, -1, -2)
    assert stream.view.lost == -2
    assert stream.block() == Block(SSRC, 0, -2, 1, stream.block().jitter, 0, 0)


def test_duplicates_make_losses_negative_and_fractions_0() -> None:
    stream = Stream()
    assert fractions(stream, [0, 1, 1, 2, 2], [4, 4, 4], [6]) == [0, 0, 128]
    assert stream.view.lost == -2
    assert stream.view.duplicates == 4


def test_duplicates_are_told_for_64_numbers() -> None:
    stream = Stream()
    stream.get(*range(100), 99, 36, 35)
    assert (stream.view.duplicates, stream.view.reordered) == (2, 1)
    stream.get(163, 100, 99)  # 100 is new, and 99 fell out of the window
    assert (stream.view.duplicates, stream.view.reordered) == (2, 3)
    stream.get(300, 300, 299)
    assert (stream.view.duplicates, stream.view.reordered) == (3, 4)
    stream.get(363, 300, 427, 363)  # 63 further the bit is the window's last, 64 further it is gone
    assert (stream.view.duplicates, stream.view.reordered) == (4, 5)


# --- jumps ---


@pytest.mark.parametrize(("to", "counted"), [(2999, True), (3000, False), (32768, False), (65536 - 99, True)])
def test_how_far_is_a_jump(to: int, counted: bool) -> None:
    stream = Stream(first=200)
    stream.get(0)
    assert stream.view.packet(200 + to & 0xFFFF, 0, START_US) == counted


def test_a_jump_backwards() -> None:
    stream = Stream()
    stream.get(*range(200))
    assert stream.get(100) == [True]
    assert stream.get(99) == [False]


def test_one_packet_does_not_confirm_a_jump() -> None:
    stream = Stream()
    assert stream.get(0, 10_000, 1, 20_000, 20_000, 20_002, 2) == [True, False, True, False, False, False, True]
    assert stream.block() == Block(SSRC, 0, 0, 1002, 0, 0, 0)


def test_the_next_packet_confirms_it_and_counts_begin_anew() -> None:
    stream = Stream()
    stream.get(0, 5)
    assert stream.view.lost == 4
    assert stream.get(20_000, 20_001) == [False, True]
    assert stream.block() == Block(SSRC, 0, 0, 21_001, 0, 0, 0)
    assert (stream.view.received, stream.view.duplicates) == (1, 0)
    assert stream.get(20_003, 6) == [True, False]
    assert stream.block().fraction_lost == 128


def test_a_jump_is_confirmed_once() -> None:
    stream = Stream()
    assert stream.get(0, 20_000, 20_001) == [True, False, True]
    assert stream.get(22_000, 24_000, 20_001) == [True, True, False]


def test_a_jump_over_the_wrap() -> None:
    stream = Stream(first=0)
    assert stream.get(0, 65535 - 1000, 65535 - 999) == [True, False, True]
    stream = Stream(first=10)
    assert stream.get(0, -50, -100, -99, -100) == [True, True, False, True, False]
    stream = Stream(first=30_000)
    assert stream.get(0, 35_535, 35_536) == [True, False, True]  # 65535, then 0
    assert stream.block().highest == 0


def test_a_new_timestamp_after_a_jump_is_no_jitter() -> None:
    view = ReceptionView(SSRC, 0, CLOCK)
    view.packet(0, 0, START_US)
    view.packet(20_000, 123_456_789, START_US + FRAME_US)
    view.packet(20_001, 123_456_789 + FRAME, START_US + 2 * FRAME_US)
    view.packet(20_002, 123_456_789 + 2 * FRAME, START_US + 3 * FRAME_US)
    assert view.block(START_US).jitter == 0


# --- jitter ---


def test_a_clockwork_has_no_jitter() -> None:
    stream = Stream()
    stream.get(*range(1000))
    assert stream.view.jitter_us == 0


def test_jitter_settles_at_the_mean_difference() -> None:
    """Every other packet 5 ms late: each differs by 5 ms from the one before, 240 units.

    A.8 rounds, which from below ends half a unit short.
    """
    view = ReceptionView(SSRC, 0, CLOCK)
    for n in range(400):
        view.packet(n, n * FRAME, START_US + n * FRAME_US + n % 2 * 5000)
    assert view.block(START_US).jitter == 239
    assert view.jitter_us == 239.5 * 1e6 // CLOCK


def test_no_product_of_time_and_clock_overflows() -> None:
    """One that did would jump where microseconds times 48,000 pass a multiple of 2^64."""
    view = ReceptionView(SSRC, 0, CLOCK)
    for n in range(10):
        view.packet(n, n * FRAME, 2**64 // CLOCK + (n - 5) * FRAME_US)
    assert view.block(START_US).jitter <= 1


arrivals = st.lists(st.integers(0, 80_000), min_size=2, max_size=150)


@given(arrivals, st.sampled_from([8000, 48_000, 90_000]), st.integers(0, 2**32 - 1), st.integers(0, 65535))
def test_jitter_is_that_of_the_float_model(delays: list[int], clock: int, stamp: int, first: int) -> None:
    """Arrivals are cut to units of the clock (1), the average is rounded at each step (1/2) and cut at the end (1)."""
    view, model = ReceptionView(SSRC, first, clock), Model(first, clock)
    for n, delay in enumerate(delays):
        sequence, timestamp = first + n & 0xFFFF, stamp + n * clock // 50 & 0xFFFFFFFF
        for each in (view, model):
            each.packet(sequence, timestamp, START_US + n * FRAME_US + delay)
        assert view.block(START_US).jitter == pytest.approx(model.jitter, abs=2.5)
    assert view.jitter_us == pytest.approx(model.jitter * 1e6 / clock, abs=2.5e6 / clock)


@pytest.mark.parametrize("step", [0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF])
def test_hostile_timestamps_stay_in_range(step: int) -> None:
    """The most that timestamps can differ is half their range, and so is the most that jitter can be."""
    view = ReceptionView(SSRC, 0, 1)
    for n in range(3000):
        view.packet(n, n * step & 0xFFFFFFFF, START_US)
    distance = min(step, 2**32 - step)
    assert distance - 1 <= view.block(START_US).jitter <= distance
    assert (view.jitter_us == 0xFFFFFFFF) == (distance > 4294)  # seconds


@pytest.mark.parametrize("arrival", [0, 1, 2**63, 2**64 - 1])
def test_any_arrival_is_a_time(arrival: int) -> None:
    view = ReceptionView(SSRC, 0, 2**32 - 1)
    assert view.packet(0, 0, START_US)
    assert view.packet(1, 0, arrival)
    assert view.jitter_us < 2**32


def test_a_clock_rate_of_0_divides_nothing() -> None:
    view = ReceptionView(SSRC, 0, 0)
    view.packet(0, 0, 0)
    view.packet(1, 0, 16_000_000)
    assert view.jitter_us == 1_000_000


# --- reports ---


def test_no_sr_yet() -> None:
    block = Stream().block()
    assert (block.last_sr, block.delay_since_sr) == (0, 0)


@pytest.mark.parametrize(
    ("later_us", "delay"),
    [
        (0, 0),
        (-1, 0),
        (15, 0),
        (16, 1),
        (500_000, 0x8000),
        (5_250_000, 0x00054000),
        (65_536_000_000, 0xFFFFFFFF),
        (10**13, 0xFFFFFFFF),
    ],
)
def test_the_last_sr_and_how_long_ago_it_came(later_us: int, delay: int) -> None:
    stream = Stream()
    stream.view.sender(0xB7052000, START_US)
    block = stream.view.block(START_US + later_us)
    assert (block.last_sr, block.delay_since_sr) == (0xB7052000, delay)


def test_an_sr_outlives_a_jump() -> None:
    stream = Stream()
    stream.get(0)
    stream.view.sender(0xB7052000, START_US - 1_000_000)
    stream.get(20_000, 20_001)
    assert (stream.block().last_sr, stream.block().delay_since_sr) == (0xB7052000, 0x10000)


def test_losses_are_clamped_to_24_bits() -> None:
    """2,998 lost before each packet: 2,799 packets later it is more than the field holds."""
    stream = Stream()
    stream.get(*range(0, 2999 * 2800, 2999))
    assert stream.block().lost == stream.view.lost == 0x7FFFFF
    assert stream.view.received == 2800


@pytest.mark.full
def test_duplicates_are_clamped_to_24_bits() -> None:
    view = ReceptionView(SSRC, 0, CLOCK)
    for _ in range(0x800003):
        view.packet(0, 0, START_US)
    assert view.lost == -0x800000


def test_its_size_is_known() -> None:
    """There are up to four to a session."""
    assert reception.RECEPTION_BYTES == 96


# --- against the model ---

steps = st.one_of(
    st.integers(0, 3),
    st.integers(-70, 70),
    st.sampled_from([2999, 3000, -99, -100, 32767, -32768]),
    st.integers(-40_000, 40_000),
)


@given(st.integers(0, 65535), st.lists(st.tuples(steps, st.booleans()), max_size=200))
def test_counts_as_the_rfc_counts(first: int, walk: list[tuple[int, bool]]) -> None:
    """Each step is relative to the packet before; sometimes there is a report."""
    view, model = ReceptionView(SSRC, first, CLOCK), Model(first)
    sequence = first
    for n, (step, report) in enumerate([(0, False), *walk]):
        sequence = sequence + step & 0xFFFF
        given_ = sequence, n * FRAME, START_US + n * FRAME_US
        assert view.packet(*given_) == model.packet(*given_)
        assert view.received == model.received
        assert view.lost == model.expected() - model.received
        if report:
            block = view.block(START_US)
            assert block.fraction_lost == model.fraction()
            assert block.highest == model.cycles + model.maximum


# --- against aiortc ---


@pytest.fixture(scope="module")
def aiortc() -> ModuleType:
    """Imported only where it is used: it is not there for every machine the tests run on."""
    import aiortc
    import aiortc.rtcrtpreceiver

    return aiortc


@pytest.mark.native
@given(st.integers(0, 65535), st.lists(st.tuples(st.integers(-3, 40), st.booleans()), max_size=100))
def test_loses_what_aiortc_loses(aiortc: ModuleType, first: int, walk: list[tuple[int, bool]]) -> None:
    view, other = ReceptionView(SSRC, first, CLOCK), aiortc.rtcrtpreceiver.StreamStatistics(CLOCK)
    sequence = first
    for step, report in [(0, False), *walk]:
        sequence = sequence + step & 0xFFFF
        view.packet(sequence, 0, START_US)
        other.add(aiortc.rtp.RtpPacket(sequence_number=sequence))
        assert view.lost == other.packets_lost
        if report:
            assert view.block(START_US).fraction_lost == other.fraction_lost
