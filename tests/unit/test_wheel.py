"""The timing wheel against a plain model, a dict of due times: every timer comes, none before its tick, each once.

A timer beyond the wheel's four seconds comes early, by design: then whoever takes it sets it again, as the hot thread
does, and the test counts what is really due.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath._testing_media import WheelView

TICK_US = 1000
SLOTS = 4096
ITEMS = 12
FAR_US = (SLOTS - 1) * TICK_US

items = st.integers(0, ITEMS - 1)
delays = st.one_of(
    st.integers(0, 3 * TICK_US),
    st.integers(0, 200_000),
    st.integers(FAR_US - 2 * TICK_US, FAR_US + 2 * TICK_US),
    st.integers(0, 40_000_000),
)
steps = st.one_of(st.integers(0, 2500), st.integers(0, 300_000), st.integers(0, 20_000_000))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), items, delays),
        st.tuples(st.just("late"), items, delays),
        st.tuples(st.just("cancel"), items, st.just(0)),
        st.tuples(st.just("pass"), st.just(0), steps),
    ),
    max_size=60,
)


class Timers:
    """A wheel, and who sets far ones again."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self.wheel = WheelView(ITEMS, now_us)
        self.due: dict[int, int] = {}

    def set(self, item: int, due_us: int) -> None:
        self.wheel.set(item, due_us)
        self.due[item] = due_us

    def cancel(self, item: int) -> None:
        self.wheel.cancel(item)
        self.due.pop(item, None)

    def take(self) -> frozenset[int]:
        """All that is due now; what came early is set again."""
        found: list[int] = []
        for _ in range(20_000):
            item = self.wheel.take(self.now_us)
            if item is None:
                assert len(set(found)) == len(found)
                return frozenset(found)
            assert item in self.due, "a timer that nobody set"
            if self.due[item] > self.now_us:
                assert self.due[item] - self.now_us > 0
                self.wheel.set(item, self.due[item])
            else:
                found.append(item)
                del self.due[item]
        raise AssertionError("the wheel does not come to an end")


@given(start=st.sampled_from([0, 999, 1000, 123_456_789, (1 << 44) + 4095]), operations=operations)
def test_every_timer_comes_in_time(start: int, operations: list[tuple[str, int, int]]) -> None:
    timers = Timers(start)
    for name, item, value in operations:
        if name == "set":
            timers.set(item, timers.now_us + value)
        elif name == "late":
            timers.set(item, max(0, timers.now_us - value))
        elif name == "cancel":
            timers.cancel(item)
        else:
            timers.now_us += value
        # A timer is rounded up to its tick, and one that was set for the past is due at once.
        overdue = {item for item, due in timers.due.items() if -(-due // TICK_US) * TICK_US <= timers.now_us}
        early = {item for item, due in timers.due.items() if due > timers.now_us}
        taken = timers.take()
        assert overdue <= taken
        assert not early & taken
        if not timers.due:
            assert timers.wheel.empty()
    timers.now_us += 60_000_000
    left = set(timers.due)
    assert timers.take() == left
    assert timers.wheel.empty()


@given(delay=st.integers(0, FAR_US), others=st.lists(st.tuples(items, delays), max_size=8))
def test_waiting_as_long_as_it_says_meets_every_timer(delay: int, others: list[tuple[int, int]]) -> None:
    """`wheel_wait_ms` never sleeps past a timer, and never says 0 for nothing for ever."""
    timers = Timers(777)
    for item, value in others:
        timers.set(item, timers.now_us + value)
    timers.set(0, timers.now_us + delay)
    rounds = 0
    while timers.due:
        wait_ms = timers.wheel.wait_ms(timers.now_us, 250)
        assert 0 <= wait_ms <= 250
        first = min(timers.due.values())
        assert timers.now_us + wait_ms * 1000 <= -(-first // TICK_US) * TICK_US + TICK_US
        timers.now_us += wait_ms * 1000
        timers.take()
        rounds += 1
        assert rounds < 1000
    assert timers.wheel.wait_ms(timers.now_us, 250) == 250


@pytest.mark.parametrize("delay_us", [0, 1, 999, 1000, 1001, FAR_US, FAR_US + 1, 10 * FAR_US])
def test_never_before_its_tick(delay_us: int) -> None:
    timers = Timers(5_000_500)
    due = timers.now_us + delay_us
    timers.set(3, due)
    timers.now_us = due - 1
    assert timers.take() == set()
    timers.now_us = -(-due // TICK_US) * TICK_US
    assert timers.take() == {3}


def test_an_item_has_one_timer() -> None:
    timers = Timers(0)
    for delay in (50_000, 10_000, 90_000, 90_000):
        timers.set(1, delay)
    timers.now_us = 80_000
    assert timers.take() == set()
    timers.now_us = 90_000
    assert timers.take() == {1}
    timers.now_us = 10_000_000
    assert timers.take() == set()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=ITEMS, max_size=ITEMS), st.permutations(range(ITEMS)))
def test_many_in_one_slot_leave_in_any_order(slots: list[int], order: list[int]) -> None:
    wheel = WheelView(ITEMS, 0)
    for item, slot in enumerate(slots):
        wheel.set(item, slot * TICK_US)
    gone = order[: ITEMS // 2]
    for item in gone:
        wheel.cancel(item)
    found = []
    while (taken := wheel.take(10 * TICK_US)) is not None:
        found.append(taken)
    assert sorted(found) == sorted(set(range(ITEMS)) - set(gone))
    assert [slots[item] for item in found] == sorted(slots[item] for item in found)
    assert wheel.empty()
