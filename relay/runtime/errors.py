"""The runtime's errors and the exit statuses of both programs.

An error of this tree reaches the operator as one line that says what is wrong, where, and how to mend it; the
program then ends with the error's `exit_status`. The split is by who must act: the operator (configuration, a
port in use) or us (a crash loop). Statuses follow sysexits.h, so service managers can be told which ones not to
restart: 78 stays wrong until somebody changes something, 75 may be right in a moment.
"""

from __future__ import annotations

EXIT_DRAINED = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_CRASH_LOOP = 70
EXIT_PORT_BUSY = 75
EXIT_CONFIG = 78


class RuntimeFault(Exception):
    """A reason for the whole program not to start, or to end."""

    exit_status: int = EXIT_FAILURE

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what = what
        self.where = where
        self.mend = mend
        super().__init__(what, where, mend)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.mend}" if self.mend else ""
        return f"{place}{self.what}{advice}"


class ConfigError(RuntimeFault):
    """The configuration or the machine does not allow what was asked; the operator must act."""

    exit_status = EXIT_CONFIG


class PortBusy(RuntimeFault):
    """Another process holds an address that is to be listened at."""

    exit_status = EXIT_PORT_BUSY


class StateBusy(RuntimeFault):
    """Another relay has the state directory."""

    exit_status = EXIT_PORT_BUSY


class CrashLoop(RuntimeFault):
    """A child ended too often, too soon after its start."""

    exit_status = EXIT_CRASH_LOOP
