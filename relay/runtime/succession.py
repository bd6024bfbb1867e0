"""What a launcher asks about one before it and one after it. `Succession` itself stands alone: nobody came before,
nobody will follow. A program that can be upgraded while it runs has one of its own (`relay.succession`).
"""

from __future__ import annotations

import enum

from relay.runtime.children import Child
from relay.runtime.errors import EXIT_DRAINED


class Fate(enum.Enum):
    """Of a child that has ended."""

    AGAIN = "it is forked again"
    LATER = "it stays down until it is called back: another launcher may have its work"
    GONE = "it has done its work, and is none of the program's children any more"


class Succession:
    owns = True  # False: what the children do is another launcher's affair still, and so are the words they read
    leaving = False  # this launcher has to end, and touches nothing
    exit_status = EXIT_DRAINED  # if it leaves

    def tend(self, now: float, *, ending: bool) -> None:
        """At each of the launcher's rounds. `ending`: it drains."""

    def due_s(self, now: float) -> float | None:
        """When to be asked again, should there be no signal before; SIGIO is one."""
        return None

    def fate(self, child: Child, code: int) -> Fate:
        """Of a child that just ended."""
        return Fate.AGAIN

    def calls_back(self, child: Child) -> bool:
        """Whether one that stays down is needed after all; asked at each round."""
        return True

    def abort(self, why: str, now: float) -> None:
        """The launcher was told to end: whatever is under way fails."""
