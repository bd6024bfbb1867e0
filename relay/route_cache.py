"""The route cache's thread in a worker: between the hot thread, which asks and tells, and Redis, which may be anything.

A round takes what the hot thread said, answers look-ups in one round trip, and then does a little more with Redis: new
flows written, ended ones removed, a piece of the walk, or a look at the marks. The hot thread never waits for any of
it: what it wants to know it asks through a ring, and what is on hold leaves after half a second anyway.

What Redis has is known by marks: they are set first, then all live flows are written in a hurried lap, and as long as
the marks are there the slow laps are enough. They are missing after a flush or a restart; they are set again after any
trouble. While they cannot be set (no memory, no right to write) nothing else is written either, and look-ups go on.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from _fastpath.exchange import LOOKUP, Route
from relay.redis_store import RedisStore, Written
from relay.routes import CLOSED, HALF_OPEN, OPEN, Backlog, Breaker, Counted, Row, Stats, Walk
from relay.runtime.log import event
from relay.runtime.redis_client import RedisDown

log = logging.getLogger("ufrag.relay.routes")

ASKS_MOST = 1024  # of one round, and so look-ups of one round trip
WRITES_MOST = 256  # of one round trip: some milliseconds, for which look-ups wait
LOOK_FOR_MARKS_S = 1.0
HURRY_AGAIN_S = 2.0  # marks that keep vanishing (keys are evicted) are no reason to set them without end
NICENESS = 5
SAY_AGAIN_S = 10.0

_Result = TypeVar("_Result")


class Ask(Protocol):
    """What the hot thread says (_fastpath.exchange)."""

    @property
    def kind(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def route(self) -> Route | None: ...


class Asker(Protocol):
    """The hot thread, as its Forwarder shows it."""

    @property
    def asks_fd(self) -> int: ...
    def take_asks(self, most: int) -> Sequence[Ask]: ...
    def answer_all(self, answers: Iterable[tuple[bytes, Route | None]]) -> int: ...
    def unavailable_all(self, keys: Iterable[bytes]) -> int: ...


class Hot(Asker, Protocol):
    @property
    def writes(self) -> bool: ...


class Table(Counted, Protocol):
    """A slot's flows."""

    @property
    def heart(self) -> int: ...
    @property
    def flows_used(self) -> int: ...
    def live_flows(self, first: int, most: int, tick: int, flow_ticks: int) -> list[Row]: ...
    def has_flow(self, key: bytes) -> bool: ...


class RouteCache:
    """One round at a time; `clock` is any monotonic one."""

    def __init__(
        self, asker: Asker, table: Table, others: Sequence[Table], store: RedisStore, *,
        flow_ticks: int, period_s: float, bounds_us: Sequence[int], clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._asker, self._table, self._others, self._store = asker, table, others, store
        self._flow_ticks, self._clock = flow_ticks, clock
        self._breaker, self._backlog, self._walk = Breaker(), Backlog(), Walk(period_s)
        self._stats = Stats(table, bounds_us)
        self._period_s = period_s
        self._marked = False  # the marks have been set, and were there when last looked for
        self._marks_due_s = self._marks_old_s = self._hurried_s = clock() - HURRY_AGAIN_S
        self._said_s, self._trouble_told = self._hurried_s - SAY_AGAIN_S, False

    def round(self) -> float:
        """Returns how many seconds may pass until the next one, if nothing is asked meanwhile."""
        lookups = self._listen()
        if self._breaker.allows(self._clock()):
            if self._breaker.state == HALF_OPEN:
                self._probe()
            if lookups and self._breaker.state == CLOSED:
                self._look_up(lookups)
                lookups = []
            if self._breaker.state == CLOSED:
                self._keep()
        if lookups:
            self._stats.count("unavailable", len(lookups))
            self._asker.unavailable_all(lookups)
        if self._breaker.state != CLOSED:
            self._drop_backlog()
        self._stats.set("breaker", self._breaker.state)
        self._stats.set("writes_waiting", len(self._backlog))
        self._stats.publish()
        return max(0.0, self._due_s() - self._clock())

    def close(self) -> None:
        self._store.close()

    # ---- the hot thread's words

    def _listen(self) -> list[bytes]:
        """The keys of flows that are looked for; news go to the backlog."""
        now, lookups = self._clock(), []
        for ask in self._asker.take_asks(ASKS_MOST):
            if ask.kind == LOOKUP:
                lookups.append(ask.key)
            elif not (
                self._backlog.established(ask.key, ask.route, now)
                if ask.route is not None
                else self._backlog.ended(ask.key, now)
            ):
                self._stats.count("writes_dropped")
        return lookups

    def _look_up(self, keys: list[bytes]) -> None:
        began = self._clock()
        found = self._ask(lambda: self._store.look_up(keys))
        if found is None:
            self._stats.count("unavailable", len(keys))
            self._asker.unavailable_all(keys)
            return
        self._stats.looked_up(len(keys), self._clock() - began)
        answers = [(key, None if isinstance(each, ValueError) else each) for key, each in zip(keys, found, strict=True)]
        self._asker.answer_all(answers)
        hits = sum(route is not None for _, route in answers)
        self._stats.count("hits", hits)
        self._stats.count("misses", len(keys) - hits)
        self._stats.count("bad_values", sum(isinstance(each, ValueError) for each in found))

    # ---- what Redis is to have

    def _keep(self) -> None:
        now = self._clock()
        if now >= self._marks_due_s:
            self._tend_marks(now)
        elif not self._marked:
            self._drop_backlog()  # the lap after the marks writes all there is
        elif (due_s := self._backlog.due_s()) is not None and now >= due_s:
            self._write_backlog()
        else:
            first, count = self._walk.take(now, self._table.flows_used, WRITES_MOST)
            rows = self._table.live_flows(first, count, self._table.heart, self._flow_ticks) if count else []
            if rows:
                self._write(rows)

    def _write_backlog(self) -> None:
        rows, ended = self._backlog.take(WRITES_MOST)
        if rows and not self._write(rows):
            return
        tables = (self._table, *self._others)
        gone = [key for key in ended if not any(table.has_flow(key) for table in tables)]
        if gone:
            self._stats.count("removals", self._ask(lambda: self._store.remove(gone)) or 0)

    def _write(self, rows: Sequence[Row]) -> bool:
        written = self._ask(lambda: self._store.write(rows))
        if written is None:
            return False
        self._stats.count("writes", written.done)
        if written.refused:
            self._stats.count("writes_dropped", written.refused)
            self._refused(written)
        return not written.refused

    def _tend_marks(self, now: float) -> None:
        """Look for them, or set them; then all live flows are written once more, soon."""
        self._marks_due_s = now + LOOK_FOR_MARKS_S
        if self._marked:
            there = self._ask(self._store.has_marks)
            if there is None or (there and now - self._marks_old_s < self._period_s):
                return
            if not there:
                self._marked = False
                self._stats.count("losses")
                self._say("redis has lost what was written")
        if not self._marked and now - self._hurried_s < HURRY_AGAIN_S:
            self._marks_due_s = self._hurried_s + HURRY_AGAIN_S
            return
        written = self._ask(self._store.set_marks)
        if written is None:
            return
        if written.refused:
            self._refused(written)
            return
        self._marks_old_s = now
        if not self._marked:
            self._marked, self._hurried_s = True, now
            self._walk.hurry(now, self._table.flows_used)

    def _refused(self, written: Written) -> None:
        """Nothing is written until marks can be."""
        self._marked = False
        self._marks_due_s = self._clock() + LOOK_FOR_MARKS_S
        self._say("redis refuses writes", error=written.why)

    def _drop_backlog(self) -> None:
        self._stats.count("writes_dropped", self._backlog.clear())

    # ---- Redis, and when it is not there

    def _probe(self) -> None:
        if self._ask(self._store.has_marks) is not None and self._breaker.state == CLOSED:
            self._marked, self._marks_due_s = False, self._clock()
            if self._trouble_told:
                self._trouble_told = False
                event(log, logging.INFO, "redis answers")

    def _ask(self, question: Callable[[], _Result]) -> _Result | None:
        """None: no answer, and the breaker is open."""
        before, began = self._breaker.state, self._clock()
        try:
            result = question()
        except RedisDown as error:
            self._breaker.failed(self._clock())
            self._stats.count("errors")
            self._opened(before, str(error))
            return None
        now = self._clock()
        self._breaker.succeeded(now, now - began)
        if self._breaker.state == OPEN:
            self._opened(before, "its answers are slow")
        return result

    def _opened(self, before: int, why: str) -> None:
        self._marked = False
        if before == CLOSED:
            self._stats.count("breaker_opened")
            self._say("redis is not asked for now", error=why)

    def _say(self, message: str, **fields: object) -> None:
        """Trouble that comes and goes is not told each time."""
        now = self._clock()
        if now - self._said_s >= SAY_AGAIN_S:
            self._said_s, self._trouble_told = now, True
            event(log, logging.WARNING, message, **fields)

    def _due_s(self) -> float:
        if self._breaker.state != CLOSED:
            return self._breaker.due_s
        dues = [self._marks_due_s]
        if self._marked:
            dues.append(self._walk.due_s(self._table.flows_used))
        if (backlog_s := self._backlog.due_s()) is not None:
            dues.append(backlog_s)
        return min(dues)


class RouteCacheThread(threading.Thread):
    """Rounds for as long as the process lives, and its hot thread is the one that writes the slot. One that fails for a
    reason of ours is told, and is not the last."""

    PAUSE_S = 1.0
    NOT_OURS_S = 0.005

    def __init__(self, hot: Hot, make: Callable[[], RouteCache]) -> None:
        super().__init__(name="routes", daemon=True)
        self._hot = hot
        self._make = make
        self._cache: RouteCache | None = None

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        poll = select.poll()
        poll.register(self._hot.asks_fd, select.POLLIN)
        wait_s = 0.0
        while True:
            poll.poll(min(wait_s, self.PAUSE_S) * 1000)
            try:
                wait_s = self._round()
            except Exception:
                log.exception("a round of the route cache failed")
                time.sleep(self.PAUSE_S)

    def _round(self) -> float:
        """Before the slot is ours another process does this, and after it was: with counts that go on from ours."""
        if not self._hot.writes:
            if self._cache is not None:
                self._cache.close()
            self._cache = None
            time.sleep(self.NOT_OURS_S)  # not by poll: asks that nobody takes any more would end it at once
            return 0.0
        if self._cache is None:
            self._cache = self._make()
        return self._cache.round()
