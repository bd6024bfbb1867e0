"""What the launcher tells systemd: that the program is ready, reloads, stops, how it is, and that it is well.

The protocol is sd_notify(3): datagrams of `NAME=value` lines to the Unix socket that NOTIFY_SOCKET names. Without
one nothing here does anything. Rules:
  1. READY=1 when every essential child with a heart has beaten since its fork: sockets that are open are not yet a
     relay that forwards.
  2. WATCHDOG=1 at least twice in WATCHDOG_USEC, as long as no living child's heart is old. A worker that hangs is the
     launcher's own affair and replaced after five seconds; the watchdog is for what the launcher cannot mend: itself,
     and a worker that even SIGKILL does not end.
  3. A drain may take longer than TimeoutStopSec: STOPPING=1 comes with the time it needs.
  4. Only the main process speaks (NotifyAccess=main), and that is the launcher. At a live upgrade the old one names the
     new one as its last word, and until then the new one is silent.

A message that cannot be delivered costs a tenth of a second and is said again with the next: systemd that restarts
or hangs holds up nobody's packets. The socket is made for each message, so that no child inherits one.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import select
import socket
import struct
from collections.abc import Callable, MutableMapping, Sequence

from relay.runtime.children import Record
from relay.runtime.given import STORED
from relay.runtime.log import event
from relay.runtime.watch import FRESH_HEART_S

log = logging.getLogger("ufrag.runtime.systemd")

_STARTING_LOOK_S = 0.05  # between two looks whether all hearts beat
_STALE_LOOK_S = 0.25  # between two looks at a heart that is old: the watchdog's time is running
_STATUS_S = 5.0  # as long as nothing else is to be said
_SEND_TIMEOUT = struct.pack("ll", 0, 100_000)  # struct timeval
_BARRIER_MS = 1000


class ServiceManager:
    """systemd, or whoever speaks its protocol. `due_s` is when the launcher should call `tend` next; None: never."""

    def __init__(
        self, address: str = "", watchdog_s: float | None = None, status: Callable[[], str] = str, silent: bool = False
    ) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._status = status
        self._ready = False  # READY=1 was delivered
        self._reloading = False  # and is to be again, whoever beats by now
        self._ending = ""
        self._said = ""  # the status
        self._deaf = False  # the last message was not delivered
        self._stored: list[str] = []  # the names of the sockets that are kept
        self.due_s: float | None = 0.0 if address and not silent else None

    @classmethod
    def from_environment(
        cls,
        status: Callable[[], str] = str,
        *,
        successor: bool = False,
        environment: MutableMapping[str, str] = os.environ,
    ) -> ServiceManager:
        """`successor`: of a launcher that runs; silent until `speak`. WATCHDOG_PID then names the other one."""
        address = environment.get("NOTIFY_SOCKET", "")
        if address and address[0] not in "/@":
            event(log, logging.WARNING, "NOTIFY_SOCKET is of no kind known here", address=address)
            address = ""
        try:
            ours = successor or int(environment.get("WATCHDOG_PID") or os.getpid()) == os.getpid()
            watchdog_s = int(environment.get("WATCHDOG_USEC") or 0) / 1e6 if ours else 0.0
        except ValueError:
            event(log, logging.WARNING, "WATCHDOG_USEC and WATCHDOG_PID are no numbers, there will be no watchdog")
            watchdog_s = 0.0
        return cls(address, watchdog_s if watchdog_s > 0 else None, status, silent=successor)

    # Of the launcher's loop

    def tend(self, now: float, records: Sequence[Record]) -> None:
        """Say what is due."""
        if self.due_s is None or now < self.due_s:
            return
        lines = []
        begun = self._reloading or all(_has_beaten(record, now) for record in records)
        if begun and not self._ready and not self._ending:
            lines.append("READY=1")
        well = bool(self._ending) or all(_is_fresh(record, now) for record in records)
        if self._watchdog_s and well:
            lines.append("WATCHDOG=1")
        status = self._words()
        if status != self._said:
            lines.append(f"STATUS={status}")
        if lines and self._send(lines):
            self._ready = self._ready or "READY=1" in lines
            self._said = status
        self.due_s = now + self._pause_s(well)

    def _pause_s(self, well: bool) -> float:
        if not self._ready and not self._ending:
            return _STARTING_LOOK_S
        if self._watchdog_s is None:
            return _STATUS_S
        return min(_STATUS_S, self._watchdog_s / 2 if well and not self._deaf else _STALE_LOOK_S)

    def reload(self, now: float) -> None:
        """Before a reload; the next `tend` says that it is over. Not before the start is: READY=1 would end that."""
        if self._ready and not self._ending and self._send(["RELOADING=1", f"MONOTONIC_USEC={int(now * 1e6)}"]):
            self._ready, self._reloading, self.due_s = False, True, now

    def end(self, why: str, within_s: float) -> None:
        """The program drains or stops, within that time."""
        self._ending = why
        if self.due_s is not None:
            self._said = self._words()
            self._send(["STOPPING=1", f"STATUS={self._said}", f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}"])

    def _words(self) -> str:
        try:
            status = self._status()
        except Exception:  # words for a screen must not cost what is said for the watchdog
            log.exception("the status failed")
            status = ""
        words = f"{self._ending} ({status})" if self._ending else status
        return " ".join(words.split())  # a line is a field

    # Sockets that outlive all processes

    def store(self, sockets: Sequence[Sequence[socket.socket]], before: Sequence[str] = ()) -> None:
        """Have these kept, those of worker k at place k, and given to the next main process should this one be killed
        (`given`); again whenever there are others. What was kept so far goes, by this process and what `before` names:
        a socket of a worker that is no more would still get its share of the packets. How many are kept is
        FileDescriptorStoreMax= of the unit."""
        if self.due_s is None:
            return
        names = [f"{STORED}{index}" for index in range(len(sockets))]
        for name in sorted({*before, *self._stored, *names}):
            self._send(["FDSTOREREMOVE=1", f"FDNAME={name}"])
        self._stored = names
        for name, each in zip(names, sockets, strict=True):
            # Without FDPOLL=0 an ICMP error, which is nothing unusual, would be the end of it there.
            self._send(["FDSTORE=1", "FDPOLL=0", f"FDNAME={name}"], [sock.fileno() for sock in each])

    # Of a live upgrade

    def hand_over(self, pid: int) -> None:
        """`pid` is the main process from now on. When this returns systemd knows it, so this process may end."""
        if self.due_s is None:
            return
        if self._send([f"MAINPID={pid}"]):
            self._barrier()
        self.due_s = None

    def speak(self) -> None:
        """This process is the main process now."""
        self.due_s = 0.0 if self._address else None

    # Datagrams

    def _send(self, lines: list[str], descriptors: Sequence[int] = ()) -> bool:
        path = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
                sock.sendmsg(["\n".join(lines).encode()], rights, 0, path)
        except OSError as error:
            if not self._deaf:
                event(
                    log, logging.WARNING, "the service manager does not hear", address=self._address, error=str(error)
                )
            self._deaf = True
            return False
        self._deaf = False
        return True

    def _barrier(self) -> None:
        """Wait, though not for ever, until all messages were read: systemd then closes what it was sent."""
        read, write = os.pipe()
        with contextlib.closing(os.fdopen(read, "rb", buffering=0)) as ours:
            sent = self._send(["BARRIER=1"], [write])
            os.close(write)
            poll = select.poll()
            poll.register(ours, 0)  # which is for the end-of-file alone
            if not sent or not poll.poll(_BARRIER_MS):
                event(log, logging.WARNING, "the service manager did not confirm the new main process")


def _has_beaten(record: Record, now: float) -> bool:
    """Since its fork: the word of its heart may still be a predecessor's."""
    if not record.child.essential or record.finished:
        return True
    age_s = None if record.pid is None else record.child.heart_age_s(now)
    return record.pid is not None and (age_s is None or age_s < now - record.born_s)


def _is_fresh(record: Record, now: float) -> bool:
    """One that has ended is none: the launcher forks it again, or gives up by itself."""
    if record.pid is None:
        return True
    age_s = record.child.heart_age_s(now)
    return not record.killed and (age_s is None or min(age_s, now - record.born_s) < FRESH_HEART_S)
