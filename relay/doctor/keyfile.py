"""The check of the key file: ours to read, nobody else's to read or to replace."""

from __future__ import annotations

import stat
from pathlib import Path

from relay.doctor.findings import Finding, ok, problem
from relay.doctor.machine import Machine
from relay.runtime.errors import ConfigError
from relay.settings import Settings

_NAME = "key-file"


def check_key_file(machine: Machine, settings: Settings) -> Finding:
    path = settings.route_key_file
    fault = machine.key_fault(path)
    if fault is not None:
        return problem(_NAME, f"{fault.where}: {fault.what}", _mend(fault, path, machine.user()))
    open_to_all = _replaceable(machine, path)
    if open_to_all is not None:
        mend = "Whoever replaces the keys makes tokens of his own. Keep others out of the directory:"
        found = f"everybody may write to {open_to_all}, and so replace {path}"
        return problem(_NAME, found, f"{mend}\n  chmod o-w {open_to_all}")
    return ok(_NAME, f"{path}, readable by user {machine.user()} and valid")


def _mend(fault: ConfigError, path: Path, user: int) -> str:
    if "Permission denied" in fault.what:
        return f"Give it to the relay's user, here {user}, who must reach it as well:\n  chown {user} {path}"
    public = f"\n  chmod 600 {path}" if "everybody" in fault.what else ""
    return f"{fault.mend[:1].upper()}{fault.mend[1:]}.{public}"


def _replaceable(machine: Machine, path: Path) -> Path | None:
    """The directory above the file in which everybody could rename or remove what leads to it.

    The sticky bit allows that to the owners of file and directory alone, so it is enough if these are we or root; the
    volumes of Kubernetes' secrets are such directories.
    """
    trusted = {0, machine.user()}
    inner = path.resolve()
    for directory in inner.parents:
        facts = machine.stat(directory)
        safe = facts.st_mode & stat.S_ISVTX and {facts.st_uid, machine.stat(inner).st_uid} <= trusted
        if facts.st_mode & stat.S_IWOTH and not safe:
            return directory
        inner = directory
    return None
