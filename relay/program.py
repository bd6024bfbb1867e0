"""The relay as the launcher runs it: slots, a worker for each, and the admin process.

Here the pieces meet: what a signal to the launcher means for the slots' words (drain, stop), and what the admin
port says of them.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Sequence

from relay.metrics import families
from relay.runtime import admin
from relay.runtime.launcher import Child
from relay.runtime.log import event
from relay.runtime.metrics import CONTENT_TYPE, render
from relay.settings import Settings
from relay.slots import SMALL_PACKET_BYTES, WorkerSlot, buffer_got, open_slots
from relay.worker import Worker, stale_workers

log = logging.getLogger("ufrag.relay")


class RelayProgram:
    """relay.runtime.launcher.Program."""

    def __init__(self, settings: Settings) -> None:
        admin_socket = admin.listen(settings.admin)
        self.slots = open_slots(settings)
        workers: list[Child] = [Worker(own.index, settings, self.slots) for own in self.slots]
        self.children: Sequence[Child] = [*workers, AdminChild(admin_socket, self.slots)]
        self._announce(settings)

    def drain(self) -> None:
        for own in self.slots:
            own.slot.draining = True

    def drained(self) -> bool:
        return all(sum(own.slot.flows().values()) == 0 for own in self.slots)

    def stop(self) -> None:
        for own in self.slots:
            own.slot.stopping = True
            own.ring()

    def reload(self) -> None:
        """Nothing is read again while running: said, so that nobody waits for new keys to be taken."""
        event(log, logging.WARNING, "nothing is reloaded, keys included", mend="restart the relay")

    def _announce(self, settings: Settings) -> None:
        asked, got = settings.recv_buffer, buffer_got(self.slots)
        event(log, logging.INFO, "workers", plan=settings.plan.explanation)
        event(log, logging.INFO, "listening", public=[str(a) for a in settings.listen], admin=str(settings.admin),
              internal=[f"{own.internal.getsockname()[0]}:{own.internal.getsockname()[1]}" for own in self.slots],
              backends=[str(network) for network in settings.backends])  # fmt: skip
        event(log, logging.INFO if got >= asked else logging.WARNING, "receive buffer",
              asked=asked, got=got, small_packets=2 * got // SMALL_PACKET_BYTES,
              **({} if got >= asked else {"mend": f"sysctl -w net.core.rmem_max={asked}"}))  # fmt: skip


class AdminChild:
    """The process behind --admin; its sockets to clients are none of the workers'."""

    name = "admin"
    essential = False

    def __init__(self, sock: socket.socket, slots: Sequence[WorkerSlot]) -> None:
        self._sock = sock
        self._slots = slots

    def prepare(self) -> None:
        pass

    def started(self, pid: int, restarts: int) -> None:
        pass

    def heart_age_s(self, now: float) -> float | None:
        return None

    def main(self, alive_fd: int) -> int:
        for own in self._slots:
            own.close()
        routes = {"/metrics": self._metrics, "/livez": self._live, "/readyz": self._ready}
        admin.serve(self._sock, {**routes, "/live": self._live, "/ready": self._ready}, alive_fd)
        return 0

    def _metrics(self) -> admin.Answer:
        return 200, CONTENT_TYPE, render(families(self._slots))

    def _live(self) -> admin.Answer:
        return 200, "text/plain", b"ok\n"

    def _ready(self) -> admin.Answer:
        """Ready: every worker beats, and new flows are taken."""
        state = {
            "draining": any(own.slot.draining for own in self._slots),
            "stale_workers": stale_workers(self._slots),
        }
        ready = not state["draining"] and not state["stale_workers"]
        return 200 if ready else 503, "application/json", json.dumps({"ready": ready, **state}).encode() + b"\n"
