"""The system calls that launchers live on: signals, forks, ends of processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from relay.runtime.children import HANDLED
from relay.runtime.errors import EXIT_FAILURE, RuntimeFault

_LONGEST_WAIT_S = 3600.0  # the kernel's type ends somewhere; waking once an hour costs nothing


class Kernel:
    """The system calls the launcher lives on; a virtual one takes its place in tests."""

    def settle(self) -> None:
        """Make this process fit to be a launcher."""
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise RuntimeFault(f"the launcher has {threads} threads", mend="whatever starts one must do so in a child")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited as ignored, it would reap our children itself
        block_signals()

    def now(self) -> float:
        return time.monotonic()

    def wait(self, timeout_s: float | None) -> int | None:
        """The next signal; None when there was none in time."""
        if timeout_s is None:
            return signal.sigwaitinfo(HANDLED).si_signo
        caught = signal.sigtimedwait(HANDLED, min(timeout_s, _LONGEST_WAIT_S))
        return caught.si_signo if caught else None

    def fork(self) -> int:
        return os.fork()

    def reap(self, pid: int) -> int | None:
        """The exit code of `pid` (negative: the signal), None while it lives."""
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # somebody else took the status; the child is gone all the same
            return EXIT_FAILURE
        return os.waitstatus_to_exitcode(status) if ended else None

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def block_signals() -> None:
    """Hold SIGTERM, SIGINT, SIGHUP and SIGCHLD until `Launcher.run` takes them. They stay blocked after it: a
    second SIGTERM that comes while the program leaves must not spoil its exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
