"""A launcher's control socket: what passes between it and one that is to follow it, or an operator's command.

A Unix socket of the kind that keeps messages whole (SOCK_SEQPACKET), in a directory that is closed to others. A message
is a JSON object whose `is` names it, and may bring descriptors along. Rules:
  1. Only processes of this user, and root's, are heard; the kernel says whose they are.
  2. Nothing here waits but `Channel.wait`, which a launcher that serves others never calls: SIGIO tells it that there
     is something to read, as all its waiting is for signals (`relay.runtime.launcher`).
  3. Paths are taken below the directory's descriptor: a socket's own path could not be longer than 107 bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

NAME = "control.sock"

_MESSAGE_MOST = 1 << 16
_DESCRIPTORS_MOST = 32
_BACKLOG = 8
_CONNECT_TIMEOUT = struct.pack("ll", 5, 0)  # struct timeval; a launcher whose queue is full has no time for us
_CREDENTIALS = struct.Struct("3i")  # struct ucred


class ChannelLost(Exception):
    """Nobody is at the other end, or nobody that can be understood."""


class Message(NamedTuple):
    kind: str
    fields: dict[str, Any]
    descriptors: list[int]

    def text(self, name: str) -> str:
        return str(self.fields.get(name, ""))

    def close(self) -> None:
        """Of a message that nobody wants."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Channel:
    """One connection. `pid` is the process at its other end, 0 if it cannot be seen from here. On the connecting side
    it is the one that began to listen, which may have handed its socket to another one since."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.pid, self.uid, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )

    @classmethod
    def connect(cls, directory: int) -> Self:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _CONNECT_TIMEOUT)
        try:
            sock.connect(_path(directory))
        except OSError as error:
            sock.close()
            raise ChannelLost(f"nobody answers there: {error.strerror}") from None
        return cls(sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, kind: str, descriptors: Sequence[int] = (), /, **fields: object) -> None:
        data = json.dumps({"is": kind, **fields}).encode()
        try:
            socket.send_fds(self._sock, [data], list(descriptors), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ChannelLost(f"it does not hear: {error.strerror}") from None

    def receive(self) -> Message | None:
        """The next message; None when there is none yet."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._sock, _MESSAGE_MOST, _DESCRIPTORS_MOST)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelLost(f"its end is closed: {error.strerror}") from None
        for descriptor in descriptors:  # `recv_fds` passes no flags on before Python 3.12, so none to the kernel
            os.set_inheritable(descriptor, False)
        try:
            if not data:
                raise ChannelLost("its end is closed")
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ChannelLost("it sent more than fits, or descriptors that this process has no room for")
            return _read(data, descriptors)
        except ChannelLost:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def wait(self, timeout_s: float) -> Message:
        """The same, but waits."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise ChannelLost(f"it says nothing for {timeout_s:g} s")
        message = self.receive()
        if message is None:
            raise ChannelLost("it said nothing")
        return message

    def close(self) -> None:
        self._sock.close()


def _read(data: bytes, descriptors: list[int]) -> Message:
    try:
        fields: Any = json.loads(data)
        kind = fields.pop("is")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ChannelLost("it sends what is no message") from None
    return Message(str(kind), fields, descriptors)


class Listener:
    """Where a launcher hears. It may be handed to another one, together with whoever waits in its queue."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    @classmethod
    def open(cls, directory: int) -> Self:
        """In a directory that is ours alone: what has that name is of a launcher that is gone."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=directory)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.bind(_path(directory))
        sock.listen(_BACKLOG)
        return cls(sock)

    def accept(self) -> Channel | None:
        """The next one that may speak to us; its messages are told by SIGIO from here on."""
        while True:
            try:
                sock, _ = self.sock.accept()
            except OSError:  # nobody is there, or not any more, or there are no descriptors left
                return None
            channel = Channel(sock)
            if channel.uid in (0, os.geteuid()):
                tell_by_signal(channel)
                return channel
            channel.close()

    def close(self) -> None:
        self.sock.close()


def tell_by_signal(sock: socket.socket | Channel) -> None:
    """SIGIO for this process whenever there is something to read, or the other end is closed. Look once afterwards:
    of what came before nothing is told."""
    fcntl.fcntl(sock.fileno(), fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sock.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags | os.O_ASYNC)


def _path(directory: int) -> str:
    return f"/proc/self/fd/{directory}/{NAME}"
