"""The native part of the swarm as a Python object: sockets, media, consent checks and counters of many calls.

`native/swarm.h` says what is done there; the structs below mirror it. Rules: a slot is opened before it is used and
closed before the SRTP sessions it was given may go; one thread at a time. Calls release the GIL, so a second thread
may work while `run` runs, as long as it leaves the swarm alone.
"""

import ctypes
import os
import socket
from collections.abc import Iterator
from ctypes import POINTER, byref, c_bool, c_double, c_int, c_uint16, c_uint32, c_uint64, c_void_p
from typing import NamedTuple, Self

from benchmarks.native_build import build_library

CHECK_VARIANTS = 4
PENDING_MAX = 2048
TICK_NS = 500_000
SOCKETS = 2

AddressPort = tuple[str, int]


class Functions(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("protect", "unprotect", "protect_rtcp", "unprotect_rtcp")]


class Peer(ctypes.Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("server", "client", "proxy")),
        *((name, c_uint16) for name in ("server_port", "client_port", "proxy_port", "socket")),
    ]


TOTALS = (
    "sent", "received", "duplicated", "reordered", "corrupted", "misdirected", "stale", "early",
    "unauthentic", "unknown", "overrun", "send_errors",
    "checks_sent", "checks_answered", "checks_refused", "reports_sent", "reports_received", "byes",
    "latency_max_ns", "latest_send_ns", "stalls",
)  # fmt: skip


class Totals(ctypes.Structure):
    _fields_ = [(name, c_uint64) for name in TOTALS]


class Arrived(NamedTuple):
    """A datagram that Python has to look at; `data` empty: the first packet of media came back at `wall_ns`."""

    slot: int
    wall_ns: int
    data: bytes


SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "new": (c_void_p, [c_uint32, c_int, c_bool, c_uint64, POINTER(Functions)]),
    "free": (None, [c_void_p]),
    "socket": (c_int, [c_void_p, c_int]),
    "totals": (POINTER(Totals), [c_void_p]),
    "received": (c_uint64, [c_void_p, c_uint32]),
    "open": (c_int, [c_void_p, c_uint32, POINTER(Peer)]),
    "keys": (None, [c_void_p, c_uint32, c_void_p, c_void_p, c_uint32, c_int]),
    "checks": (c_int, [c_void_p, c_uint32, ctypes.c_char_p, c_uint32]),
    "send": (c_int, [c_void_p, c_uint32, ctypes.c_char_p, c_uint32]),
    "media": (None, [c_void_p, c_uint32]),
    "live": (None, [c_void_p, c_uint32]),
    "close": (None, [c_void_p, c_uint32]),
    "receive": (None, [c_void_p]),
    "take": (c_int, [c_void_p, POINTER(c_uint32), POINTER(c_uint64), ctypes.c_char_p]),
    "tend": (None, [c_void_p]),
    "run": (None, [c_void_p, c_uint64, c_bool]),
    "reset": (None, [c_void_p]),
    "pause": (None, [c_void_p]),
    "mark": (None, [c_void_p]),
    "latency_us": (c_double, [c_void_p, c_double, c_bool]),
}


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_library("swarm")))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, f"swarm_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def packed(host: str) -> int:
    """An IPv4 address as it stands in memory on the wire."""
    return int.from_bytes(socket.inet_aton(host), "little")


class NativeSwarm:
    """`functions` are the addresses of libsrtp's four; `spp`: speak the internal leg, else plain UDP."""

    def __init__(
        self, capacity: int, functions: tuple[int, int, int, int], *,
        sockets: int = SOCKETS, spp: bool = True, tick_ns: int = TICK_NS,
    ) -> None:  # fmt: skip
        self.capacity, self.sockets = capacity, sockets
        self._library = _load()
        self._swarm = self._library.swarm_new(capacity, sockets, spp, tick_ns, byref(Functions(*functions)))
        self._slot, self._arrival = c_uint32(), c_uint64()
        self._buffer = ctypes.create_string_buffer(PENDING_MAX)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._library.swarm_free(self._swarm)

    def descriptors(self) -> list[int]:
        return [self._library.swarm_socket(self._swarm, index) for index in range(self.sockets)]

    def address(self, slot: int) -> AddressPort:
        """Of the socket that carries the call in this slot."""
        with socket.socket(fileno=os.dup(self.descriptors()[slot % self.sockets])) as copy:
            host, port = copy.getsockname()
        return host, port

    def open(self, slot: int, server: AddressPort, client: AddressPort, proxy: AddressPort) -> None:
        ports = (socket.htons(port) for _, port in (server, client, proxy))
        peer = Peer(packed(server[0]), packed(client[0]), packed(proxy[0]), *ports, slot % self.sockets)
        if self._library.swarm_open(self._swarm, slot, byref(peer)):
            raise ValueError(f"slot {slot} is in use, or another call has the address {client} -> {server}")

    def set_keys(self, slot: int, tx: int, rx: int, ssrc: int, payload_type: int) -> None:
        self._library.swarm_keys(self._swarm, slot, tx, rx, ssrc, payload_type)

    def set_checks(self, slot: int, checks: list[bytes]) -> None:
        """Consent checks to be sent in turn; all of one length, and as many as the native part holds."""
        if len(checks) != CHECK_VARIANTS or len({len(each) for each in checks}) != 1:
            raise ValueError(f"want {CHECK_VARIANTS} checks of the same length")
        if self._library.swarm_checks(self._swarm, slot, b"".join(checks), len(checks[0])):
            raise ValueError(f"a check of {len(checks[0])} bytes is too long")

    def send(self, slot: int, datagram: bytes) -> None:
        if self._library.swarm_send(self._swarm, slot, datagram, len(datagram)):
            raise ValueError(f"slot {slot} is not open, or {len(datagram)} bytes are too many")

    def send_media(self, slot: int) -> None:
        """One packet of media, outside of the schedule."""
        self._library.swarm_media(self._swarm, slot)

    def go_live(self, slot: int) -> None:
        self._library.swarm_live(self._swarm, slot)

    def close(self, slot: int) -> None:
        self._library.swarm_close(self._swarm, slot)

    def received(self, slot: int) -> int:
        """Packets of media that came back to this call, whatever was reset."""
        return int(self._library.swarm_received(self._swarm, slot))

    def receive(self) -> Iterator[Arrived]:
        """Reads the sockets, then yields what is for Python."""
        self._library.swarm_receive(self._swarm)
        return self.arrived()

    def arrived(self) -> Iterator[Arrived]:
        take, slot, arrival, buffer = self._library.swarm_take, self._slot, self._arrival, self._buffer
        while (length := take(self._swarm, byref(slot), byref(arrival), buffer)) >= 0:
            yield Arrived(slot.value, arrival.value, ctypes.string_at(buffer, length))

    def tend(self) -> None:
        """Sends the consent checks and reports that are due: at least ten times a second while `run` does not run."""
        self._library.swarm_tend(self._swarm)

    def run(self, seconds: float, *, media: bool = True) -> None:
        self._library.swarm_run(self._swarm, int(seconds * 1e9), media)

    def reset(self) -> None:
        """Counters and latencies begin anew."""
        self._library.swarm_reset(self._swarm)

    def pause(self) -> None:
        """The next run begins a schedule of its own: what was missed meanwhile is not sent."""
        self._library.swarm_pause(self._swarm)

    def totals(self) -> dict[str, int]:
        totals = self._library.swarm_totals(self._swarm).contents
        return {name: getattr(totals, name) for name in TOTALS}

    def mark(self) -> None:
        """A part of the run begins."""
        self._library.swarm_mark(self._swarm)

    def latency_us(self, share: float, *, marked: bool = False) -> float:
        """Of the whole run, or since the mark."""
        return float(self._library.swarm_latency_us(self._swarm, share, marked))
