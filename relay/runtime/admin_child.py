"""The admin process, as the launcher runs it: `admin.serve` as a child that no call depends on.

It is given its listening socket, its pages, and `leave`, which lets go of what the fork brought along and is none of
its business: the workers' sockets. What else a program wants to hear there it gives as `readers`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from relay.runtime import admin


class AdminChild:
    """relay.runtime.launcher.Child."""

    name = "admin"
    essential = False

    def __init__(
        self,
        sock: socket.socket,
        pages: admin.Pages,
        leave: Callable[[], None],
        readers: admin.Readers | None = None,
    ) -> None:
        self._sock = sock
        self._pages = pages
        self._leave = leave
        self._readers = readers

    def prepare(self) -> None:
        pass

    def started(self, pid: int, restarts: int) -> None:
        pass

    def heart_age_s(self, now: float) -> float | None:
        return None

    def main(self, alive_fd: int) -> int:
        self._leave()
        admin.serve(self._sock, self._pages, alive_fd, readers=self._readers)
        return 0
