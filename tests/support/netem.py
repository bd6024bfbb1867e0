"""A bad network in memory: datagrams are lost, doubled, delayed and thereby reordered, by a seed.

Time is the caller's: `send` takes it, `due` says when there is something to `deliver`. `side` is any name for who is
to receive; the network only hands it back. Two runs with the same seed and the same calls are the same run.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Side = TypeVar("Side", bound=Hashable)


@dataclass
class Netem(Generic[Side]):
    """Each datagram arrives `delay_s`, give or take up to `jitter_s`, after it was sent, if it arrives."""

    seed: int
    loss: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    sent: int = 0
    lost: int = 0
    _way: list[tuple[float, int, Side, bytes]] = field(default_factory=list)
    _order: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def send(self, now: float, side: Side, datagram: bytes) -> None:
        self.sent += 1
        if self._random.random() < self.loss:
            self.lost += 1
            return
        for _ in range(2 if self._random.random() < self.duplicate else 1):
            late = self.delay_s + self.jitter_s * self._random.uniform(-1, 1)
            heapq.heappush(self._way, (now + max(late, 0.0), self._order, side, datagram))
            self._order += 1

    def due(self) -> float | None:
        return self._way[0][0] if self._way else None

    def deliver(self, now: float) -> list[tuple[Side, bytes]]:
        """Everything that has arrived by now, in the order of arrival."""
        arrived = []
        while self._way and self._way[0][0] <= now:
            _, _, side, datagram = heapq.heappop(self._way)
            arrived.append((side, datagram))
        return arrived
