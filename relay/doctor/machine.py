"""The machine as the checks see it: all that `relay doctor` reads of it passes through here.

Nothing is changed: files are read, Redis is asked how it is, and sockets are opened that are closed at once and never
listen. `root` stands
before the paths of the kernel's files; tests put another machine's there, and override what is no file.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from relay.runtime import cgroups, cpus, keys
from relay.runtime.cgroups import Group
from relay.runtime.config import Address
from relay.runtime.errors import ConfigError, RuntimeFault
from relay.runtime.redis_client import RedisClient
from relay.runtime.redis_url import RedisPlace
from relay.runtime.sockets import bind, open_udp, prepare

_CLOCK_MONOTONIC_COARSE = 6  # <linux/time.h>; Python's time module lacks it


class Buffers(NamedTuple):
    """What a socket got, in the units that were asked for."""

    receive: int
    send: int


class Machine:
    """This one."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    # ---- files of the kernel

    def read_text(self, path: str) -> str:
        """What stands in a file such as `/proc/meminfo`; nothing where there is none, or none for us."""
        try:
            return (self._root / path.lstrip("/")).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def read_number(self, path: str) -> int | None:
        text = self.read_text(path)
        return int(text) if text.isdecimal() else None

    def groups(self, controller: str) -> Iterator[Group]:
        return cgroups.groups(controller, self._root / "sys/fs/cgroup", self._root / "proc/self/cgroup")

    # ---- this process

    def cpu_quota(self) -> float | None:
        return cpus.quota(self._root / "sys/fs/cgroup", self._root / "proc/self/cgroup")

    def affinity(self) -> list[int]:
        return cpus.allowed()

    def file_limits(self) -> tuple[int, int]:
        """Soft and hard; -1 is none."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    def user(self) -> int:
        return os.geteuid()

    # ---- what the kernel would do

    def buffers(self, asked: int) -> Buffers:
        """Of a socket that is prepared as the relay's are: CAP_NET_ADMIN counts, net.core.rmem_max counts without."""
        with open_udp(socket.AF_INET) as probe:
            prepare(probe, asked)
            given = [probe.getsockopt(socket.SOL_SOCKET, each) for each in (socket.SO_RCVBUF, socket.SO_SNDBUF)]
        return Buffers(*(size // 2 for size in given))  # the kernel books twice as much

    def bind_fault(
        self, address: Address, option: str, kind: socket.SocketKind, *, both_families: bool = False
    ) -> RuntimeFault | None:
        """Why the relay could not have that address, from an attempt that is undone at once."""
        try:
            probe = socket.socket(address.family, kind | socket.SOCK_CLOEXEC)
        except OSError as error:
            return ConfigError(f"no such socket here: {error.strerror}", where=f"{option} {address}")
        with probe:
            if address.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
            # As where it will listen: connections in TIME_WAIT keep nobody out, but somebody who listens does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
            try:
                bind(probe, address, option)
            except RuntimeFault as fault:
                return fault
        return None

    def coarse_resolution_s(self) -> float:
        return time.clock_getres(_CLOCK_MONOTONIC_COARSE)

    # ---- other machines

    def redis_info(self, place: RedisPlace) -> list[dict[str, str]]:
        """What each server there says of itself; RedisDown."""
        client = RedisClient(place)
        try:
            return client.info()
        finally:
            client.close()

    # ---- directories

    def lstat(self, path: Path) -> os.stat_result | None:
        """Of itself, where it is a link; nothing where it is not, or not for us to see."""
        try:
            return path.lstat()
        except OSError:
            return None

    def may_write(self, directory: Path) -> bool:
        return os.access(directory, os.W_OK | os.X_OK)

    def free_bytes(self, directory: Path) -> int:
        room = os.statvfs(directory)
        return room.f_bavail * room.f_frsize

    def slot_bytes_in(self, directory: Path) -> int:
        return sum(file.stat().st_size for file in directory.glob("slot-*"))

    def file_system(self, directory: Path) -> str:
        """Its type, such as tmpfs. Mounts hide those before them."""
        mounts = (line.split() for line in self.read_text("/proc/self/mounts").splitlines())
        found = [(Path(words[1]), words[2]) for words in mounts if directory.resolve().is_relative_to(words[1])]
        return max(reversed(found), key=lambda each: len(each[0].parts), default=(directory, "unknown"))[1]

    # ---- the operator's files

    def stat(self, path: Path) -> os.stat_result:
        return path.stat()

    def key_fault(self, path: Path) -> ConfigError | None:
        try:
            keys.load(path)
        except ConfigError as error:
            return error
        return None
