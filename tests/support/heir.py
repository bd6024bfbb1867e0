"""A new relay that meets its end, or another's, at a given step of a takeover.

`python -m tests.support.heir STEP WHAT start --takeover ...` is `relay start --takeover ...` until then. STEP is a
phase of `relay.taking`; WHAT is done once it has come so far:

    die          SIGKILL to its launcher
    freeze       SIGSTOP to its launcher
    freeze-all   SIGSTOP to its workers, then to its launcher
    bereave      SIGKILL to the launcher of the old relay
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.native_build import ROOT
from relay import cli, taking
from tests.support.relays import Relay


def command(relay: Relay, step: str, what: str) -> list[str]:
    """To follow a relay with the options of `relay`."""
    start = [word for word in relay.command[relay.command.index("start") :] if word != "--takeover"]
    return [sys.executable, "-m", "tests.support.heir", step, what, *start, "--takeover"]


@contextmanager
def heir(relay: Relay, step: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """One that does this when it has come so far; what it says is logged with the test."""
    with subprocess.Popen(command(relay, step, what), cwd=ROOT, stderr=sys.stderr, text=True) as process:
        yield process
        process.kill()


def main(step: str, what: str, arguments: list[str]) -> None:
    tend = taking.Taking.tend

    done: list[str] = []

    def look(self: taking.Taking) -> None:
        if self.phase.value == step and not done:
            done.append(step)
            act(what, self.old_pid)

    def tend_and_end(self: taking.Taking, now: float) -> None:
        look(self)
        tend(self, now)
        look(self)

    taking.Taking.tend = tend_and_end  # type: ignore[method-assign]
    cli.main(arguments)


def act(what: str, old_pid: int) -> None:
    if what == "freeze-all":
        for worker in psutil.Process().children():
            os.kill(worker.pid, signal.SIGSTOP)
    number = signal.SIGSTOP if what.startswith("freeze") else signal.SIGKILL
    os.kill(old_pid if what == "bereave" else os.getpid(), number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
