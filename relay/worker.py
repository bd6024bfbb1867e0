"""One worker process: the hot thread, which forwards, and the cold one, which watches and reports.

The hot thread is the process's main thread, pinned, and runs `Forwarder.run` without the GIL from start to end. The
cold thread is niced and not pinned; it may be as slow as it likes: nothing the hot thread does waits for it.
Sockets and memory are the launcher's (`slots`); a worker opens no socket and no memory.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Sequence

from _fastpath.forward import Forwarder
from _fastpath.slot import TICKS_PER_SECOND
from _fastpath.wire.envelope import mapped
from relay.runtime import cpus
from relay.runtime.config import Network
from relay.runtime.log import event
from relay.settings import Settings
from relay.slots import WorkerSlot, kernel_drops

log = logging.getLogger("ufrag.relay.worker")

REPORT_S = 1.0
FRESH_HEART_S = 3.0  # a worker beats at least four times a second
COLD_NICENESS = 10


class Worker:
    """The launcher's view of worker `index` (relay.runtime.launcher.Child)."""

    essential = True

    def __init__(self, index: int, settings: Settings, slots: Sequence[WorkerSlot]) -> None:
        self.name = f"worker {index}"
        self._settings = settings
        self._slots = slots
        self._own = slots[index]
        self._cpu = settings.plan.pins[index]

    def prepare(self) -> None:
        """A new epoch: should a predecessor still run, it stops at its next round."""
        self._own.slot.next_epoch()

    def started(self, pid: int, restarts: int) -> None:
        self._own.slot.pid = pid
        self._own.slot.restarts = restarts

    def heart_age_s(self, now: float) -> float | None:
        return heart_age_s(self._own, now)

    def main(self, alive_fd: int) -> int:
        for other in self._slots:
            if other is not self._own:
                other.close()
        forwarder = self._forwarder()
        Cold(self._own, alive_fd).start()
        if self._cpu is not None:
            self._pin(self._cpu)
        ending = forwarder.run()
        event(log, logging.INFO, "worker ends", worker=self._own.index, why=ending)
        return 0

    def _forwarder(self) -> Forwarder:
        settings = self._settings
        return Forwarder(
            self._own.slot,
            siblings=[other.slot for other in self._slots if other is not self._own],
            keyring=settings.route_keys.keyring(),
            backends=[_masked(network) for network in settings.backends],
            publics=[public.bound for public in self._own.publics],
            internal=(self._own.internal.fileno(), int(settings.internal.family)),
            wake=self._own.wake,
            max_half_open=settings.max_half_open,
            flow_timeout_s=settings.flow_timeout_s,
            half_open_timeout_s=settings.half_open_timeout_s,
        )

    def _pin(self, cpu: int) -> None:
        try:
            cpus.pin(cpu)
        except OSError as error:  # taken away since the start, by a cpuset: slower, but no reason to end
            event(log, logging.WARNING, "cannot pin", worker=self._own.index, cpu=cpu, error=str(error))


def _masked(network: Network) -> tuple[bytes, int]:
    """As the forwarder wants it: 16 prefix bytes, and how many bits of them count."""
    return mapped(str(network.network_address)), network.prefixlen + (96 if network.version == 4 else 0)


def heart_age_s(own: WorkerSlot, now: float) -> float:
    """Seconds since the hot thread's last round. Ticks are 32 bits; an age is their difference, which may pass zero."""
    ticks = (int(now * TICKS_PER_SECOND) - own.slot.heart) & 0xFFFFFFFF
    return ticks / TICKS_PER_SECOND if ticks < 0x80000000 else 0.0


def stale_workers(slots: Sequence[WorkerSlot]) -> list[int]:
    """Those whose hot thread has not been heard of lately."""
    now = time.monotonic()
    return [own.index for own in slots if heart_age_s(own, now) > FRESH_HEART_S]


class Cold(threading.Thread):
    """Once a second: what the kernel dropped, how busy the hot thread was. Ends the process when the launcher is
    gone."""

    def __init__(self, own: WorkerSlot, alive_fd: int) -> None:
        super().__init__(name="cold", daemon=True)
        self._own = own
        self._alive_fd = alive_fd
        self._hot_clock = time.pthread_getcpuclockid(threading.get_ident())  # of the creating thread, the hot one

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), COLD_NICENESS)
        poll = select.poll()
        poll.register(self._alive_fd, select.POLLIN)
        wall, busy = time.monotonic(), time.clock_gettime(self._hot_clock)
        while not poll.poll(REPORT_S * 1000):
            now, used = time.monotonic(), time.clock_gettime(self._hot_clock)
            self._report((used - busy) / max(now - wall, 1e-9))
            wall, busy = now, used
        os._exit(0)

    def _report(self, busy_ratio: float) -> None:
        self._own.slot.busy_ratio = min(1.0, busy_ratio)
        for index, (_, sock) in enumerate(self._own.sockets()):
            self._own.slot.set_socket_drops(index, kernel_drops(sock))
