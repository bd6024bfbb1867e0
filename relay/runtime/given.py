"""Sockets that a service manager opened for us: socket activation, as sd_listen_fds(3) has it.

They come as descriptors 3, 4, ... with LISTEN_FDS in the environment, and are found by what they are bound to: the
k-th of an address is for worker k. What they are for: packets wait in them while no relay runs at all, and a port
below 1024 needs no privilege of ours.

Whoever takes none of them opens its own; but one that nobody takes is an error (78). It would be a member of its
port's SO_REUSEPORT group that nobody reads, and the kernel would give it its share of the packets.

Our own sockets come back in the same way if we gave them into the service manager's store (`systemd.store`), named
`ufrag-<worker>`. Of these what nobody takes is closed: it is of an older configuration, and no mistake.
"""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from typing import NamedTuple

from relay.runtime.config import Address, endpoint
from relay.runtime.errors import ConfigError

STORED = "ufrag-"
_FIRST = 3  # SD_LISTEN_FDS_START
_KINDS = {socket.SOCK_DGRAM: "UDP", socket.SOCK_STREAM: "TCP"}
_FOR = "the sockets of the service manager"


class Given(NamedTuple):
    """A socket and what the service manager calls it, which is FileDescriptorName= of its unit."""

    name: str
    sock: socket.socket

    @property
    def place(self) -> tuple[int, str, int]:
        """Kind, address and port; of what is no UDP or TCP, something that nobody asks for."""
        if self.sock.family not in (socket.AF_INET, socket.AF_INET6):
            return 0, socket.AddressFamily(self.sock.family).name, 0
        return self.sock.type, *self.sock.getsockname()[:2]

    @property
    def worker(self) -> int:
        """Whose it was when it was stored; -1: it was not."""
        number = self.name.removeprefix(STORED)
        return int(number) if number != self.name and number.isascii() and number.isdigit() else -1

    def __str__(self) -> str:
        kind, host, port = self.place
        return (
            f"{self.name} ({_KINDS[socket.SocketKind(kind)]} {endpoint(host, port)})"
            if kind
            else f"{self.name} ({host})"
        )


class GivenSockets:
    """Those that nobody has taken yet."""

    def __init__(self, given: Iterable[Given] = ()) -> None:
        ordered = sorted(given, key=lambda each: each.worker)  # the store keeps no order
        self.stored = sorted({each.name for each in ordered if each.worker >= 0})
        self._left = list(_once_each(ordered))
        self._given = Counter(each.place for each in self._left)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ, first: int = _FIRST) -> GivenSockets:
        """Takes the variables away: they are for this process, and no program that it starts."""
        pid, count, names = (environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
        environment.pop("LISTEN_PIDFDID", None)
        if pid != str(os.getpid()):
            return cls()
        if not (count.isascii() and count.isdigit()):
            raise ConfigError(f"LISTEN_FDS is {count!r}", where=_FOR, mend="it is a number of descriptors")
        called = [*names.split(":"), *["unknown"] * int(count)] if names else ["unknown"] * int(count)
        return cls(_adopt(called[index], first + index) for index in range(int(count)))

    def gave(self, address: Address, kind: socket.SocketKind) -> int:
        """How many there were for this address at the start."""
        return self._given[(kind, *address.sockaddr)]

    def take(
        self, address: Address, kind: socket.SocketKind, option: str, *, shared: bool, only_ipv6: bool = False
    ) -> socket.socket | None:
        """The next one of this address, if there is one. `shared`: it must be one of a group."""
        place = (kind, *address.sockaddr)
        found = next((each for each in self._left if each.place == place), None)
        if found is None:
            return None
        self._left.remove(found)
        _refuse_if_unfit(found, f"{option} {address}", shared, only_ipv6)
        return found.sock

    def refuse_rest(self) -> None:
        """When all who want one had their turn."""
        for each in self._left:
            if each.worker >= 0:
                each.sock.close()
        self._left = [each for each in self._left if each.worker < 0]
        if self._left:
            what = f"nobody reads {', '.join(map(str, self._left))}"
            mend = "give an address once for each worker at most, and none that is not in the configuration"
            raise ConfigError(what, where=_FOR, mend=mend)


def _once_each(given: Iterable[Given]) -> Iterator[Given]:
    """Of a socket that came twice, from its unit and from the store, the first: two workers may not read one socket."""
    seen: set[int] = set()
    for each in given:
        inode = os.fstat(each.sock.fileno()).st_ino
        if inode in seen:
            each.sock.close()
        else:
            seen.add(inode)
            yield each


def _adopt(name: str, descriptor: int) -> Given:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError as error:
        raise ConfigError(
            f"descriptor {descriptor}: {error.strerror}", where=_FOR, mend="LISTEN_FDS is wrong"
        ) from None
    if not is_socket:
        mend = "FIFOs, files and queues are of no use here"
        raise ConfigError(f"{name}, descriptor {descriptor}, is no socket", where=_FOR, mend=mend)
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return Given(name, sock)


def _refuse_if_unfit(given: Given, where: str, shared: bool, only_ipv6: bool) -> None:
    """What cannot be changed once it is bound, or listens."""
    sock = given.sock
    if shared and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        raise ConfigError(f"{given} has no SO_REUSEPORT", where=where, mend="write ReusePort=yes in its unit")
    if only_ipv6 and sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        mend = "write BindIPv6Only=ipv6-only in its unit"
        raise ConfigError(f"{given} is for IPv4, too", where=where, mend=mend)
    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"{given} does not listen", where=where, mend="write Accept=no in its unit")
