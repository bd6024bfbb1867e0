"""Rings against a plain model: what goes in comes out, in order and whole; what is in is never overwritten; a record
that has no room is refused, and there always is room when the ring is empty and the record small enough.

The model is a queue and one number: how much of the ring is taken, gaps at its end included.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from _fastpath._testing_media import RingView

HEADER = 8
STARTS = [0, 8, 48, (1 << 32) - 8, (1 << 32) - 64, (1 << 31) - 16]


def record_bytes(length: int) -> int:
    return HEADER + (length + 7) // 8 * 8


class Model:
    """Positions as they are on paper: unbounded numbers."""

    def __init__(self, size: int, start: int) -> None:
        self.size, self.head, self.tail = size, start, start
        self.records: deque[tuple[int, bytes]] = deque()  # where each begins, and its bytes

    def place_of(self, length: int) -> int | None:
        """Where a record would begin; None when it has no room."""
        needed = record_bytes(length)
        to_end = self.size - self.head % self.size
        at = self.head if needed <= to_end else self.head + to_end
        return at if at + needed - self.tail <= self.size else None

    def write(self, record: bytes) -> bool:
        at = self.place_of(len(record))
        if at is not None:
            self.head = at + record_bytes(len(record))
            self.records.append((at, record))
        return at is not None

    def peek(self) -> bytes | None:
        """A gap before the oldest record is free as soon as that was looked at."""
        if not self.records:
            return None
        self.tail, record = self.records[0]
        return record

    def pop(self) -> None:
        at, record = self.records.popleft()
        self.tail = at + record_bytes(len(record))


class RingMachine(RuleBasedStateMachine):
    @initialize(size=st.sampled_from([64, 128, 256, 4096]), start=st.sampled_from(STARTS))
    def begin(self, size: int, start: int) -> None:
        self.size = size
        self.ring, self.model = RingView(size, start), Model(size, start)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        record = data.draw(st.binary(max_size=min(self.size, 200)))
        assert self.ring.write(record) == self.model.write(record)

    @rule(data=st.data())
    def fill_exactly(self, data: st.DataObject) -> None:
        """Up to the very end of the ring, or the very last free byte."""
        to_end = self.size - self.model.head % self.size
        length = data.draw(
            st.sampled_from([to_end - HEADER, to_end, self.model.tail + self.size - self.model.head - 8])
        )
        record = bytes([length % 251]) * max(length, 0)
        assert self.ring.write(record) == self.model.write(record)

    @rule(length=st.integers(0, 300))
    def reserve_and_leave(self, length: int) -> None:
        """What is not committed is nothing, and is overwritten by the next."""
        assert self.ring.reserve(length) == (self.model.place_of(length) is not None)

    @precondition(lambda self: self.model.records)
    @rule()
    def pop(self) -> None:
        self.ring.pop()
        self.model.pop()

    @rule()
    def empty(self) -> None:
        while self.model.records:
            assert self.ring.peek() == self.model.peek()
            self.ring.pop()
            self.model.pop()

    @invariant()
    def agrees(self) -> None:
        assert self.ring.peek() == self.model.peek()
        assert self.ring.untouched()
        assert self.ring.room() == self.size - (self.model.head - self.model.tail)


TestRing = RingMachine.TestCase


@pytest.mark.parametrize("start", STARTS)
def test_a_long_stream_through_a_small_ring(start: int) -> None:
    """Positions pass 2^32 and the end of the ring many times."""
    ring = RingView(256, start)
    waiting: deque[bytes] = deque()
    for number in range(5000):
        record = bytes([number % 256]) * (number * 7 % 90)
        while not ring.write(record):
            assert ring.peek() == waiting.popleft()
            ring.pop()
        waiting.append(record)
    while waiting:
        assert ring.peek() == waiting.popleft()
        ring.pop()
    assert ring.peek() is None
    assert ring.room() == 256


@given(length=st.integers(0, 4096 - HEADER), first=st.integers(0, 4096 - HEADER))
def test_an_empty_ring_takes_whatever_fits_before_or_after_its_end(length: int, first: int) -> None:
    ring = RingView(4096)
    assert ring.write(bytes(first))
    ring.pop()
    to_end = 4096 - record_bytes(first) % 4096
    needed = record_bytes(length)
    assert ring.write(b"x" * length) == (needed <= to_end or needed + to_end <= 4096)
