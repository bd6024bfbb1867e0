"""Scripts that run while tests do, at idle priority.

Whoever needs a processor has it soon, but not at once: tests of what a machine can do at most have them `paused`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

MOST_S = 3600
groups: set[int] = set()  # of processes, one for each script


class Script:
    """One that was started. `output` takes both of its streams."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[str]) -> None:
        self._process = process
        self._output = output

    def result(self) -> tuple[int, str]:
        """Awaits its end: the exit status, and all it has said."""
        status = self._process.wait(MOST_S)
        self._output.seek(0)
        return status, self._output.read()


@contextmanager
def running(path: Path) -> Iterator[Script]:
    """If it has not ended by then, it is ended with all it has started."""
    with TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            [path], stdout=output, stderr=subprocess.STDOUT, preexec_fn=_be_idle, start_new_session=True
        )
        groups.add(process.pid)
        try:
            yield Script(process, output)
        finally:
            groups.discard(process.pid)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def paused() -> Iterator[None]:
    _signal(signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(signal.SIGCONT)


def _signal(number: signal.Signals) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(group, number)


def _be_idle() -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
