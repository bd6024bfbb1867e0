"""One child process: what the program says of it, what the launcher keeps of it, and its own first steps.

`live` is all that runs between the fork and the program's code. Its rules:
  1. It never returns and never raises: the frames above it are the launcher's, whose clean-up would end the other
     children.
  2. The child dies with the launcher, twice over: by PR_SET_PDEATHSIG (at once, whatever it is doing), and by an
     end-of-file at `alive_fd`, which it should watch, since that also tells that the launcher stops.
  3. It ignores SIGTERM, SIGINT and SIGHUP: terminals and service managers signal whole groups, and only the
     launcher decides what such a signal means.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import NoReturn, Protocol

from relay.runtime.errors import EXIT_FAILURE, RuntimeFault
from relay.runtime.log import event

log = logging.getLogger("ufrag.runtime.child")

HANDLED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO})

_COMM_LIMIT = 15  # bytes; the kernel keeps 16 with the closing zero
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_UNUSED = (ctypes.c_ulong(0),) * 3
_libc = ctypes.CDLL(None, use_errno=True)  # opened here, so that a child need not look for it


class Child(Protocol):
    """What a program gives for each of its processes."""

    @property
    def name(self) -> str:
        """For logs and process lists: `worker 0`, `admin`."""

    @property
    def essential(self) -> bool:
        """Whether a drain waits for this child to end."""

    def prepare(self) -> None:
        """In the launcher, right before each fork."""

    def main(self, alive_fd: int) -> int:
        """In the child; the result is its exit status. End-of-file at `alive_fd`: end now."""

    def heart_age_s(self, now: float) -> float | None:
        """Age of the last heart beat at `now` (CLOCK_MONOTONIC); None: not watched."""

    def started(self, pid: int, restarts: int) -> None:
        """In the launcher, right after each fork; `restarts` is 0 the first time."""


@dataclass(slots=True)
class Record:
    """What the launcher keeps of one child. It lives (pid), waits for a fork (due_s), is down, or finished (none of
    these)."""

    child: Child
    pid: int | None = None
    due_s: float | None = None
    born_s: float = 0.0
    restarts: int = -1  # so that the first fork makes it 0
    short_lives: int = 0
    killed: bool = False
    down: bool = False  # not to be forked until it is called back

    @property
    def finished(self) -> bool:
        return self.pid is None and self.due_s is None and not self.down


def restart_delay_s(short_lives: int) -> float:
    """The wait before a fork, after so many short lives in a row: 0, then 50 ms doubling up to 1 s."""
    return 0.0 if short_lives < 2 else min(1.0, 0.05 * 2.0 ** min(short_lives - 2, 10))


def describe_exit(code: int) -> str:
    """`exit status 1`, `signal 9 (SIGKILL)`, from a code as `os.waitstatus_to_exitcode` gives it."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"


def process_name(program: str, name: str) -> str:
    """At most 15 bytes for process lists: `ufrag-worker-0`; a name too long goes without its prefix."""
    short = name.replace(" ", "-")
    full = f"{program}-{short}"
    fitting = full if len(full.encode()) <= _COMM_LIMIT else short
    return fitting.encode()[:_COMM_LIMIT].decode(errors="ignore")


def flush_streams() -> None:
    """Before a fork, else both processes write what was buffered; before `os._exit`, which flushes nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def live(child: Child, program: str, launcher_pid: int, alive_read: int, alive_write: int) -> NoReturn:
    """Be `child`, to the end of this process."""
    status = EXIT_FAILURE
    try:
        _die_with(launcher_pid)
        os.close(alive_write)
        _prctl(_PR_SET_NAME, ctypes.c_char_p(process_name(program, child.name).encode()))
        _leave_signals_to_the_launcher()
        status = child.main(alive_read)
    except RuntimeFault as fault:
        event(log, logging.ERROR, str(fault), child=child.name)
        status = fault.exit_status
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else EXIT_FAILURE
    except BaseException:  # whatever it is, it may not reach the launcher's frames (rule 1)
        log.exception("child failed", extra={"fields": {"child": child.name}})
    finally:
        flush_streams()
        os._exit(status & 0xFF)


def _die_with(launcher_pid: int) -> None:
    """A launcher that ended before the prctl call would never be noticed by it: look once more afterwards."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != launcher_pid:
        os._exit(EXIT_FAILURE)


def _leave_signals_to_the_launcher() -> None:
    """Ignore first and unblock then; what came in between is discarded. SIGCHLD is of no interest here either."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def _prctl(option: int, argument: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if _libc.prctl(option, argument, *_UNUSED) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
