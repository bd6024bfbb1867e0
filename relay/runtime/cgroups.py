"""The control groups this process is in, and those above them: where their limits can be read.

A limit of a group holds for every group below it, so whoever wants the one in force reads them all and takes the
least. Versions 1 and 2 of cgroups name their files differently; which a directory is of comes with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class Group(NamedTuple):
    """A directory of the hierarchy that has (version 1) or may have (version 2) the controller asked for."""

    version: int
    directory: Path

    def read(self, name: str) -> str:
        """What stands in a file of it; nothing where there is none."""
        try:
            return (self.directory / name).read_text().strip()
        except OSError:
            return ""


def groups(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[Group]:
    """The process's own group first, then those above it, up to the mount; nothing where there are no cgroups."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and controllers == "":  # version 2 is the line with no controllers
            yield from (Group(2, each) for each in _upwards(root, path))
        elif controller in controllers.split(","):
            for mount in dict.fromkeys((controllers, controller)):
                yield from (Group(1, each) for each in _upwards(root / mount, path))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group and every one above it.

    In a container the path may be one of the host, of which only the mount's root is visible: whoever reads passes
    over absent levels. A path with `..` lies outside the cgroup namespace: what is above us there is at the mount's
    root.
    """
    parts = [] if ".." in path.split("/") else [part for part in path.split("/") if part]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])
