"""The rules of the route cache, without Redis and without a clock: when Redis is asked at all (`Breaker`), what is
still to be written (`Backlog`), what of the flow table is written again and when (`Walk`), and what is counted
(`Stats`).

Redis holds copies: whatever of it is lost, dropped here or refused there, the walk writes again. So every queue may be
short, and no failure needs more than to be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from _fastpath.exchange import Route

CLOSED, HALF_OPEN, OPEN = range(3)


Row = tuple[bytes, bytes, bytes, int]  # a flow's key, 36 bytes, and its route


class Breaker:
    """Whether Redis is asked. It opens on an error, or when answers are slow several times in a row; then one question
    after a while is a probe (half-open), and its answer closes it."""

    FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 2.0
    SLOW_S, SLOW_MOST = 0.1, 3  # a flow is to be back 100 ms after its first packet
    STEADY_S = 5.0  # closed for so long, the next trouble is another one

    def __init__(self) -> None:
        self.state = CLOSED
        self.changed_s = 0.0
        self._wait_s = self.FIRST_WAIT_S
        self._slow = 0

    @property
    def due_s(self) -> float:
        """When an open one lets a probe pass."""
        return self.changed_s + self._wait_s

    def allows(self, now: float) -> bool:
        if self.state == OPEN and now >= self.due_s:
            self.state = HALF_OPEN
        return self.state != OPEN

    def succeeded(self, now: float, took_s: float) -> None:
        self._slow = self._slow + 1 if took_s > self.SLOW_S else 0
        if self._slow >= self.SLOW_MOST or (self._slow and self.state == HALF_OPEN):
            self.failed(now)
        elif self.state == HALF_OPEN:
            self.state, self.changed_s = CLOSED, now

    def failed(self, now: float) -> None:
        again = self.state == HALF_OPEN or (self.state == CLOSED and now - self.changed_s < self.STEADY_S)
        fresh = self.state == CLOSED and not again
        self._wait_s = self.FIRST_WAIT_S if fresh else min(2 * self._wait_s, self.LONGEST_WAIT_S)
        self.state, self.changed_s, self._slow = OPEN, now, 0


class Backlog:
    """What is to be written behind: the newest word on each flow, for as many as there is room for."""

    MOST = 16_384
    DELAY_S = 0.02  # so that what comes together goes together

    def __init__(self) -> None:
        self._writes: dict[bytes, Route] = {}
        self._removals: dict[bytes, None] = {}
        self._since_s: float | None = None

    def __len__(self) -> int:
        return len(self._writes) + len(self._removals)

    def established(self, key: bytes, route: Route, now: float) -> bool:
        """False: it has no room."""
        self._removals.pop(key, None)
        if key not in self._writes and len(self) >= self.MOST:
            return False
        self._writes[key] = route
        self._begin(now)
        return True

    def ended(self, key: bytes, now: float) -> bool:
        self._writes.pop(key, None)
        if key not in self._removals and len(self) >= self.MOST:
            return False
        self._removals[key] = None
        self._begin(now)
        return True

    def due_s(self) -> float | None:
        return None if self._since_s is None else self._since_s + self.DELAY_S

    def take(self, most: int) -> tuple[list[Row], list[bytes]]:
        """Up to `most` of each, oldest first; the rest is due at once."""
        writes = [(key, *self._writes.pop(key)) for key in list(self._writes)[:most]]
        removals = list(self._removals)[:most]
        for key in removals:
            del self._removals[key]
        if not len(self):
            self._since_s = None
        return writes, removals

    def clear(self) -> int:
        """How many were dropped."""
        dropped = len(self)
        self._writes.clear()
        self._removals.clear()
        self._since_s = None
        return dropped

    def _begin(self, now: float) -> None:
        if self._since_s is None:
            self._since_s = now


class Walk:
    """Round and round through the flow table, number by number, evenly: a lap in `period_s`, or a hurried one when
    Redis has lost what it had. So each live flow is written about once in a period, and nothing is remembered of any.
    """

    HURRIED_S = 5.0  # with the breaker's longest wait, less than ten seconds
    SLOWEST_HURRIED, FASTEST = 2_000.0, 25_000.0  # numbers a second
    LOOK_S = 0.1
    LOOK_HURRIED_S = 0.01

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._next = 0
        self._at_s = 0.0  # up to when numbers were taken
        self._hurried = 0  # so many more

    @property
    def hurried(self) -> bool:
        return self._hurried > 0

    def hurry(self, now: float, used: int) -> None:
        """One lap from where it is: one that is begun again and again comes around all the same."""
        self._hurried = used
        self._at_s = now

    def take(self, now: float, used: int, most: int) -> tuple[int, int]:
        """(first number, how many) that are due now; of a table in which numbers up to `used` have been in use."""
        if self._next >= used:
            self._next = 0
        if not used:
            self._at_s = now
        if now < self.due_s(used):
            return self._next, 0
        rate = self._rate(used)
        count = min(int((now - self._at_s) * rate + 1e-6), most, used - self._next)
        self._at_s = max(self._at_s + count / rate, now - most / rate)
        self._hurried = max(0, self._hurried - count)
        first, self._next = self._next, self._next + count
        return first, count

    def due_s(self, used: int) -> float:
        """When it is worth looking again."""
        look_s = self.LOOK_HURRIED_S if self.hurried else self.LOOK_S
        return self._at_s + max(look_s, 1 / self._rate(used) if used else 1.0)

    def _rate(self, used: int) -> float:
        if self.hurried:
            return min(max(used / self.HURRIED_S, self.SLOWEST_HURRIED), self.FASTEST)
        return min(max(used, 1) / self._period_s, self.FASTEST)


class Counted(Protocol):
    """Where the counts are kept: the slot, which outlives its workers."""

    def cache_stats(self) -> dict[str, int]: ...
    def set_cache_stat(self, name: str, value: int) -> None: ...


class Stats:
    """What the metrics say of the cache. Counts go on where a predecessor stopped."""

    def __init__(self, kept: Counted, bounds_us: Sequence[int]) -> None:
        self._kept = kept
        self._values = kept.cache_stats()
        self._shown = dict(self._values)
        self._bounds_us = bounds_us

    def count(self, name: str, by: int = 1) -> None:
        self._values[name] += by

    def set(self, name: str, value: int) -> None:
        self._values[name] = value

    def looked_up(self, keys: int, took_s: float) -> None:
        took_us = int(took_s * 1e6)
        self.count("lookups", keys)
        self.count("lookup_us", took_us * keys)
        for bound in self._bounds_us:
            if took_us <= bound:
                self.count(f"lookup_us_le_{bound}", keys)

    def values(self) -> Mapping[str, int]:
        return self._values

    def publish(self) -> None:
        for name in self._changed():
            self._kept.set_cache_stat(name, self._values[name])
            self._shown[name] = self._values[name]

    def _changed(self) -> Iterable[str]:
        return [name for name, value in self._values.items() if self._shown[name] != value]
