"""A small service manager for tests: what systemd does for a Type=notify service with a socket unit.

It receives sd_notify's messages, with the pid that the kernel says they come from, and starts a process with
NOTIFY_SOCKET, WATCHDOG_USEC and LISTEN_FDS as systemd would. It keeps the sockets, so that they outlive the process.

`python service_manager.py 100,101 NAME:NAME COMMAND...` is the last step of that: descriptors become 3, 4, ... and
LISTEN_PID the pid of what is run.
"""

from __future__ import annotations

import array
import fcntl
import itertools
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from benchmarks.support import Process

    AnyProcess = TypeVar("AnyProcess", bound=Process)

PATIENCE_S = 20.0
_ABOVE = 100  # where descriptors are out of the way of 3, 4, ...
_DESCRIPTORS_MOST = 253  # SCM_MAX_FD
_CREDENTIALS = struct.Struct("3i")
_numbers = itertools.count()


class Message(NamedTuple):
    pid: int
    fields: dict[str, str]
    at_s: float


class ServiceManager:
    def __init__(self, path: str = "") -> None:
        """`path`: of the socket; without it, one without a file."""
        self.address = path or f"@ufrag-test-{os.getpid()}-{next(_numbers)}"
        self.messages: list[Message] = []
        self.stored: list[tuple[str, socket.socket]] = []  # the newest first, as systemd has them
        self._sockets: list[socket.socket] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(path or "\0" + self.address[1:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._sock, *self._sockets, *(sock for _, sock in self.stored)):
            sock.close()

    def next(self, timeout_s: float = PATIENCE_S) -> Message | None:
        """The next message; None if none comes in time. Descriptors that are not to be stored are closed, which is how
        a barrier is answered."""
        if not select.select([self._sock], [], [], timeout_s)[0]:
            return None
        space = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _DESCRIPTORS_MOST)
        data, ancillary, _, _ = self._sock.recvmsg(8192, space)
        pid, descriptors = 0, array.array("i")
        for _, kind, value in ancillary:
            if kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(value)[0]
            elif kind == socket.SCM_RIGHTS:
                descriptors.frombytes(value)
        fields = dict(line.partition("=")[::2] for line in data.decode().splitlines())
        self._store(fields, descriptors)
        self.messages.append(Message(pid, fields, time.monotonic()))
        return self.messages[-1]

    def _store(self, fields: dict[str, str], descriptors: Iterable[int]) -> None:
        name = fields.get("FDNAME", "")
        if "FDSTOREREMOVE" in fields:
            for each in [each for each in self.stored if each[0] == name]:
                self.stored.remove(each)
                each[1].close()
        for descriptor in descriptors:
            if "FDSTORE" in fields:
                sock = socket.socket(fileno=fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ABOVE))
                self.stored.insert(0, (name, sock))
            os.close(descriptor)

    def wait_for(self, name: str) -> Message:
        """The next message that has a field of this name."""
        while (message := self.next()) is not None:
            if name in message.fields:
                return message
        raise AssertionError(f"no {name} after {self.messages}")

    def named(self, name: str) -> list[Message]:
        """Those received so far that have such a field."""
        return [message for message in self.messages if name in message.fields]

    def opens(self, kind: socket.SocketKind, host: str = "127.0.0.1", port: int = 0, **unit: bool) -> socket.socket:
        """A socket as a socket unit opens it; `unit` may say `shared=False` (ReusePort=), `only_ipv6=False`."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, kind) as low:
            sock = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _ABOVE))
        self._sockets.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, unit.get("shared", True))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, unit.get("only_ipv6", True))
        sock.bind((host, port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def manages(self, process: AnyProcess, *sockets: socket.socket, watchdog_s: float = 0.0) -> AnyProcess:
        """The same process, to be started by this service manager, with these sockets of its and what is stored."""
        process.environment = {"NOTIFY_SOCKET": self.address}
        if watchdog_s:
            process.environment["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        given = [*((f"unit-{index}", sock) for index, sock in enumerate(sockets)), *self.stored]
        if given:
            process.descriptors = tuple(sock.fileno() for _, sock in given)
            numbers = ",".join(map(str, process.descriptors))
            process.by(sys.executable, os.path.abspath(__file__), numbers, ":".join(name for name, _ in given))
        return process


def become(numbers: str, names: str, *command: str) -> None:
    descriptors = [int(number) for number in numbers.split(",")]
    for index, descriptor in enumerate(descriptors):
        os.dup2(descriptor, 3 + index, inheritable=True)
        os.close(descriptor)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(descriptors)), LISTEN_FDNAMES=names)
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(*sys.argv[1:])
