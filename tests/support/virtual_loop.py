"""An event loop in virtual time: whole sessions, with their timers, run in no time and always the same.

`VirtualLoop` is asyncio's selector loop whose clock stands still while there is something to do and jumps to the next
timer when there is not. Sockets work, but nothing of the outside world may be waited for with a timer running: the
clock would jump past it. A loop that has neither work nor timers fails after `STUCK_S` real seconds, in place of a test
that hangs.

`run(coroutine)` is `asyncio.run` on such a loop. Called by tests of everything that asyncio drives.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

STUCK_S = 10.0
T = TypeVar("T")


class Stuck(Exception):
    """Nothing is left that could ever happen."""


class Jumping(selectors.DefaultSelector):
    """A selector that never waits for a timer: it says how long it would have waited."""

    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(STUCK_S if timeout is None else 0)
        if not ready and timeout is None:
            raise Stuck(f"no work and no timer for {STUCK_S} s")
        if not ready and timeout is not None:
            self.skipped_s += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.skipped_s

    def timers(self) -> int:
        """How many timers are running; cancelled ones stay in the loop's heap for a while, but keep nothing alive."""
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)
