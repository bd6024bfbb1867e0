"""What the associations of one process may hold for their peers, all together.

Each of them is bounded by itself (`sctp_inbound`, `sctp_association`), to some megabytes that a large message or a slow
link needs for a moment. Thousands of peers that all take their part for good would take the machine's memory: beyond
the budget an association that holds more than little is cut off, and those that hold little go on.
"""

from __future__ import annotations

MOST_BYTES = 256 << 20
SPARED_BYTES = 64 << 10


class Budget:
    def __init__(self, most_bytes: int = MOST_BYTES, spared_bytes: int = SPARED_BYTES) -> None:
        self._most_bytes = most_bytes
        self._spared_bytes = spared_bytes
        self.held_bytes = 0

    def admits(self, before_bytes: int, now_bytes: int) -> bool:
        """One association holds so much now, and held so much when it last said so; whether it may go on."""
        self.held_bytes += now_bytes - before_bytes
        return self.held_bytes <= self._most_bytes or now_bytes <= self._spared_bytes


PROCESS = Budget()
