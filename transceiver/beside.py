"""Two transceivers on one machine, one coming and one going: the sockets that listen at --http are lent by one to the
other, so that none is ever closed while a connection waits in it.

Who runs offers them, in its admin process, at an abstract Unix socket whose name holds user, --http address and
process id; `transceiver start --beside` looks for such a name, of the youngest if there are several, and is given:

    a message of JSON      version, how many sockets, the generation of tokens, the session key
    then, for each socket, a message of one byte with its descriptor

From then on both accept from the same queues. One that drains stops accepting and leaves them to the other; what it
lent stays listening when it ends. Rules:
  1. Both sides look at the other's user id, as the kernel tells it, before anything else: the session key goes with it
     (calls of one are then found from the other, as from any host that has the same --session-key-file).
  2. Nothing is read from who connects, so nobody can hold up the admin process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.runtime.config import Address
from relay.runtime.errors import ConfigError, RuntimeFault
from relay.runtime.log import event

log = logging.getLogger("ufrag.transceiver.beside")

VERSION = 1
TIMEOUT_S = 2.0
NAMES = Path("/proc/net/unix")  # of this network namespace, which is also --http's
GENERATION_BITS = 12

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_MESSAGE_MOST = 4096
_SOCKETS_MOST = 1024


@dataclass(frozen=True)
class Lent:
    """What a transceiver gave to the one beside it."""

    pid: int
    http: tuple[socket.socket, ...]
    generation: int
    session_key: bytes


def later(own: int, other: int) -> int:
    """A generation later than `other`: our own, if it is."""
    half, every = 1 << (GENERATION_BITS - 1), (1 << GENERATION_BITS) - 1
    return own if 0 < ((own - other) & every) < half else (other + 1) & every


# The one that runs


class Offer:
    """The Unix socket, opened by the launcher; `lend` answers one that connects, in the admin process."""

    def __init__(self, http: Address) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.sock.bind(f"\0{_prefix(http)}{os.getpid()}")
        self.sock.listen(4)

    def lend(self, http: Sequence[socket.socket], generation: int, session_key: bytes) -> int | None:
        """The process id of who has it now; None: nobody."""
        with contextlib.suppress(OSError), self.sock.accept()[0] as connection:
            pid, uid = _peer(connection)
            if uid != os.geteuid():
                event(log, logging.WARNING, "another user asks for the sockets of --http", uid=uid, pid=pid)
                return None
            head = {"version": VERSION, "sockets": len(http), "generation": generation, "key": session_key.hex()}
            connection.send(json.dumps(head).encode())
            for sock in http:
                socket.send_fds(connection, [b"."], [sock.fileno()])
            return pid
        return None

    def close(self) -> None:
        self.sock.close()


# The one that comes


def borrow(http: Address) -> Lent | None:
    """What the youngest transceiver at this address lends; None: there is none."""
    found = [lent for name in _names(http) if (lent := _ask(name))]
    youngest = max(found, key=lambda lent: _started(lent.pid), default=None)
    for lent in found:
        if lent is not youngest:
            for sock in lent.http:
                sock.close()
    return youngest


def _names(http: Address) -> Iterator[str]:
    prefix = f"@{_prefix(http)}"
    for line in NAMES.read_text().splitlines():
        name = line.rpartition(" ")[2]
        if name.startswith(prefix) and name[len(prefix) :].isdigit():
            yield name[1:]


def _ask(name: str) -> Lent | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(f"\0{name}")
            pid, uid = _peer(connection)
            return _take(connection, pid) if uid == os.geteuid() else None
        except ConnectionRefusedError:
            return None  # it ends in this moment
        except (OSError, ValueError, KeyError, TypeError) as error:
            mend = "is it of this version, and well? `transceiver status` asks it"
            raise RuntimeFault(f"no sockets came: {error}", where=f"--beside, {name}", mend=mend) from None


def _take(connection: socket.socket, pid: int) -> Lent:
    head = json.loads(connection.recv(_MESSAGE_MOST))
    if head["version"] != VERSION:
        mend = "end the old one first"
        raise ConfigError(f"it speaks version {head['version']}, we {VERSION}", where="--beside", mend=mend)
    sockets: list[socket.socket] = []
    while len(sockets) < min(int(head["sockets"]), _SOCKETS_MOST):
        _, descriptors, _, _ = socket.recv_fds(connection, 16, 1)
        if not descriptors:
            raise ValueError("the descriptors end before their number")
        sock = socket.socket(fileno=descriptors[0])
        sock.set_inheritable(False)
        sock.setblocking(False)
        sockets.append(sock)
    return Lent(pid, tuple(sockets), int(head["generation"]), bytes.fromhex(head["key"]))


def _started(pid: int) -> int:
    """When a process did, in the kernel's ticks since boot; 0: it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _prefix(http: Address) -> str:
    return f"ufrag-transceiver/{os.geteuid()}/{http}/"


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user: of a client as it connected, of a server as it began to listen."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(raw)
    return pid, uid
