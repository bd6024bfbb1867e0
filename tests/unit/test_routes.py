"""The rules of the route cache in virtual time: when Redis is asked, what is still to be written, how the walk goes."""

from __future__ import annotations

import pytest

from _fastpath.exchange import Route
from relay.routes import CLOSED, HALF_OPEN, OPEN, Backlog, Breaker, Stats, Walk

ROUTE = Route(bytes(18), bytes(18), 1)
OTHER = Route(bytes(18), bytes(18), 2)


def key(number: int) -> bytes:
    return number.to_bytes(36, "big")


# ---- the breaker


def test_the_breaker_opens_on_an_error_and_lets_a_probe_pass_later() -> None:
    breaker = Breaker()
    assert breaker.allows(100.0)
    breaker.failed(100.0)
    assert (breaker.state, breaker.allows(100.2)) == (OPEN, False)
    assert breaker.allows(100.25)
    assert breaker.state == HALF_OPEN
    breaker.succeeded(100.3, 0.001)
    assert (breaker.state, breaker.allows(100.3)) == (CLOSED, True)


def test_probes_that_fail_come_more_rarely_up_to_two_seconds() -> None:
    breaker, now, waits = Breaker(), 100.0, []
    breaker.failed(now)
    for _ in range(6):
        waits.append(breaker.due_s - now)
        now = breaker.due_s
        assert breaker.allows(now)
        breaker.failed(now)
    assert waits == pytest.approx([0.25, 0.5, 1, 2, 2, 2])


def test_trouble_that_comes_back_at_once_is_the_same_trouble() -> None:
    breaker = Breaker()
    breaker.failed(100.0)
    breaker.allows(100.25)
    breaker.succeeded(100.25, 0.001)
    breaker.failed(101.0)
    assert breaker.due_s == pytest.approx(101.5)
    breaker.allows(101.5)
    breaker.succeeded(101.5, 0.001)
    breaker.failed(101.5 + Breaker.STEADY_S)
    assert breaker.due_s == pytest.approx(101.75 + Breaker.STEADY_S)


def test_slow_answers_open_the_breaker_when_they_are_several_in_a_row() -> None:
    breaker = Breaker()
    for took_s in (0.11, 0.11, 0.01, 0.11, 0.11):
        breaker.succeeded(100.0, took_s)
    assert breaker.state == CLOSED
    breaker.succeeded(100.0, 0.11)
    assert breaker.state == OPEN
    breaker.allows(breaker.due_s)
    breaker.succeeded(breaker.due_s, 0.11)
    assert breaker.state == OPEN, "a slow probe proves nothing"


# ---- the backlog


def test_the_backlog_keeps_the_newest_word_on_each_flow() -> None:
    backlog = Backlog()
    assert backlog.due_s() is None
    backlog.established(key(1), ROUTE, 10.0)
    backlog.ended(key(2), 10.01)
    backlog.established(key(2), ROUTE, 10.01)
    backlog.established(key(1), OTHER, 10.01)
    backlog.established(key(3), ROUTE, 10.01)
    backlog.ended(key(3), 10.01)
    assert backlog.due_s() == 10.0 + Backlog.DELAY_S
    assert len(backlog) == 3
    assert backlog.take(1) == ([(key(1), *OTHER)], [key(3)])
    assert backlog.due_s() == 10.0 + Backlog.DELAY_S
    assert backlog.take(9) == ([(key(2), *ROUTE)], [])
    assert (backlog.due_s(), len(backlog)) == (None, 0)


def test_the_backlog_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backlog, "MOST", 3)
    backlog = Backlog()
    assert [backlog.established(key(number), ROUTE, 1.0) for number in range(2)] == [True, True]
    assert [backlog.ended(key(number), 1.0) for number in (5, 6)] == [True, False]
    assert not backlog.established(key(7), ROUTE, 1.0)
    assert backlog.established(key(0), OTHER, 1.0), "what is there already can be renewed"
    assert (backlog.clear(), backlog.due_s(), len(backlog)) == (3, None, 0)


# ---- the walk


def walked(walk: Walk, used: int, begin_s: float, end_s: float, most: int = 256) -> list[tuple[float, int]]:
    """(when, number) of each number taken, looking whenever it is due."""
    now, found = begin_s, []
    while now < end_s:
        first, count = walk.take(now, used, most)
        found += [(now, number) for number in range(first, first + count)]
        now = max(now + 0.001, walk.due_s(used))
    return found


def test_a_lap_takes_a_period_and_comes_by_each_number_once() -> None:
    walk = Walk(30.0)
    walk.take(1000.0, 3000, 256)
    found = [number for _, number in walked(walk, 3000, 1000.0, 1060.0)]
    assert len(found) == pytest.approx(6000, abs=300)
    assert found == [(found[0] + at) % 3000 for at in range(len(found))]


def test_a_hurried_lap_of_a_hundred_thousand_flows_takes_five_seconds() -> None:
    walk = Walk(30.0)
    walk.hurry(1000.0, 100_000)
    lap = walked(walk, 100_000, 1000.0, 1005.2)[:100_000]
    assert [number for _, number in lap] == list(range(100_000))
    assert 4.9 < lap[-1][0] - 1000.0 < 5.2
    assert not walk.hurried


def test_a_hurried_lap_of_few_flows_is_a_moment() -> None:
    walk = Walk(30.0)
    walk.hurry(1000.0, 100)
    assert [number for _, number in walked(walk, 100, 1000.0, 1000.1)[:100]] == list(range(100))


def test_laps_that_are_hurried_again_and_again_come_around() -> None:
    walk = Walk(30.0)
    found = set()
    for second in range(1000, 1007):
        walk.hurry(float(second), 50_000)
        found |= {number for _, number in walked(walk, 50_000, float(second), second + 1.0)}
    assert len(found) == 50_000


def test_a_walk_that_was_held_up_does_not_catch_up_at_once() -> None:
    walk = Walk(30.0)
    walk.take(1000.0, 30_000, 256)
    assert walk.take(1100.0, 30_000, 256) == (256, 256)
    assert len(walked(walk, 30_000, 1100.0, 1101.0)) < 256 + 1000 + 256


def test_an_empty_table_is_looked_at_rarely() -> None:
    walk = Walk(30.0)
    assert walk.take(1000.0, 0, 256) == (0, 0)
    assert walk.due_s(0) == 1001.0
    assert walk.take(1001.0, 1, 256) == (0, 0)
    assert walk.take(1030.0, 1, 256) == (0, 1)


# ---- what is counted


class Kept:
    def __init__(self) -> None:
        self.values = {"lookups": 5, "hits": 0, "lookup_us": 0, "lookup_us_le_500": 5, "lookup_us_le_1000": 5}
        self.sets: list[str] = []

    def cache_stats(self) -> dict[str, int]:
        return dict(self.values)

    def set_cache_stat(self, name: str, value: int) -> None:
        self.sets.append(name)
        self.values[name] = value


def test_counts_go_on_where_a_predecessor_stopped_and_only_changes_are_stored() -> None:
    kept = Kept()
    stats = Stats(kept, (500, 1000))
    stats.looked_up(3, 0.0007)
    stats.looked_up(1, 0.002)
    stats.publish()
    assert kept.values == {
        "lookups": 9, "hits": 0, "lookup_us": 4100, "lookup_us_le_500": 5, "lookup_us_le_1000": 8,
    }  # fmt: skip
    assert sorted(kept.sets) == ["lookup_us", "lookup_us_le_1000", "lookups"]
    stats.publish()
    assert len(kept.sets) == 3
