"""The check of the state directory: ours alone, large enough, and in memory."""

from __future__ import annotations

import stat
from pathlib import Path

from relay.doctor.findings import Finding, ok, problem, shown, warning
from relay.doctor.machine import Machine
from relay.settings import Settings
from relay.state import bytes_needed, place

_NAME = "state-dir"
_IN_MEMORY = {"tmpfs", "ramfs"}


def check_state_dir(machine: Machine, settings: Settings) -> Finding:
    path = place(settings)
    if path is None:
        return ok(_NAME, "none: flows end with the relay's processes")
    facts = machine.lstat(path)
    fault = _missing(machine, path) if facts is None else _unfit(machine, path, facts.st_mode, facts.st_uid)
    return fault or _room(machine, settings, path, path.parent if facts is None else path)


def _missing(machine: Machine, path: Path) -> Finding | None:
    if machine.may_write(path.parent):
        return None
    mend = f"Make it for the relay's user, here {machine.user()}:\n  install -d -o {machine.user()} -m 700 {path}"
    return problem(_NAME, f"cannot make {path}: {path.parent} is not there, or not ours to write", mend)


def _unfit(machine: Machine, path: Path, mode: int, owner: int) -> Finding | None:
    if not stat.S_ISDIR(mode):
        return problem(_NAME, f"{path} is a symbolic link or no directory", "Name the directory itself.")
    if owner != machine.user():
        found = f"{path} belongs to user {owner}, the relay is user {machine.user()}"
        return problem(_NAME, found, f"Give it to the relay's user, or name another:\n  chown {machine.user()} {path}")
    if mode & 0o077:
        return problem(_NAME, f"others than its owner may use {path}", f"Keep them out:\n  chmod 700 {path}")
    return None


def _room(machine: Machine, settings: Settings, path: Path, there: Path) -> Finding:
    """Files of slots that lie there now are taken on or removed."""
    need, room = bytes_needed(settings), machine.free_bytes(there) + machine.slot_bytes_in(path)
    kind = machine.file_system(there)
    found = f"{shown(need)} needed, {shown(room)} free ({path}, {kind})"
    if room < need:
        mend = "Make it larger (--shm-size of docker, a volume of medium Memory in Kubernetes), or name another place. "
        mend += "Flows end with the relay's processes where there is none:\n"
        return problem(_NAME, found, f"{mend}  mount -o remount,size={need >> 20}M {there}\n  --state-dir none")
    if kind not in _IN_MEMORY:
        mend = "What workers write there is written to a disk, too, for which they are stopped again and again. Name a "
        return warning(_NAME, found, f"{mend}tmpfs:\n  --state-dir /dev/shm/NAME")
    return ok(_NAME, found)
