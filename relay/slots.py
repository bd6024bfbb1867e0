"""The slots: sockets and shared memory of each worker, opened once by the launcher and owned by it.

Workers come and go; what is here stays. While the launcher holds the sockets, packets wait in their queues for the
next worker, and the kernel's choice among a port's SO_REUSEPORT sockets (a hash of both addresses over their
number) moves no flow to another worker. This room knows neither packets nor processes.
"""

from __future__ import annotations

import errno
import ipaddress
import mmap
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from _fastpath.slot import SECRET_BYTES, Slot, slot_bytes
from _fastpath.wire.envelope import mapped
from relay.runtime.config import Address
from relay.runtime.errors import ConfigError, PortBusy, RuntimeFault
from relay.settings import Settings

# <linux/in.h>, <linux/in6.h>, <asm-generic/socket.h>: constants that Python's socket module lacks.
_IP_PKTINFO = 8
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_IPV6_RECVPKTINFO = 49
_PMTUDISC_DONT = 0
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8

SMALL_PACKET_BYTES = 832  # what a 160-byte datagram takes of a receive buffer, as the kernel accounts it (measured)


@dataclass
class PublicSocket:
    """One --listen address of one worker."""

    address: Address
    sock: socket.socket

    @property
    def bound(self) -> tuple[int, int, bytes | None, int]:
        """As the forwarder wants it: descriptor, family, local address (None: wildcard), port."""
        wildcard = ipaddress.ip_address(self.address.host).is_unspecified
        local = None if wildcard else mapped(self.address.host)
        return self.sock.fileno(), int(self.address.family), local, self.sock.getsockname()[1]


@dataclass
class WorkerSlot:
    """Everything that worker `index` needs and does not own."""

    index: int
    slot: Slot
    publics: list[PublicSocket]
    internal: socket.socket
    wake: int

    def sockets(self) -> list[tuple[str, socket.socket]]:
        """(label, socket), the internal one last."""
        return [*((str(public.address), public.sock) for public in self.publics), ("internal", self.internal)]

    def close(self) -> None:
        """This process's descriptors; the memory stays mapped for readers."""
        for _, sock in self.sockets():
            sock.close()
        os.close(self.wake)

    def ring(self) -> None:
        """Makes the hot thread look at its slot's words now."""
        os.eventfd_write(self.wake, 1)


def open_slots(settings: Settings) -> list[WorkerSlot]:
    """All sockets and all memory, or a RuntimeFault that says what could not be had."""
    for address in settings.listen:
        _refuse_if_taken(address)
    _refuse_if_too_large(settings)
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        slots = [_open_slot(index, settings, secret) for index in range(settings.plan.workers)]
    except OSError as error:
        mend = "ulimit -n raises the number of files" if error.errno == errno.EMFILE else "see the kernel's log"
        raise ConfigError(f"cannot open the sockets: {error.strerror}", where="relay start", mend=mend) from None
    kernel_drops(slots[0].internal)  # now, not in a worker, if this kernel cannot tell
    return slots


def _open_slot(index: int, settings: Settings, secret: bytes) -> WorkerSlot:
    internal = settings.internal
    port = internal.port + index if internal.port else 0
    return WorkerSlot(
        index=index,
        slot=Slot.create(allocate(slot_bytes(settings.max_flows)), settings.max_flows, secret),
        publics=[PublicSocket(address, open_public(address, settings.recv_buffer)) for address in settings.listen],
        internal=open_internal(Address(internal.host, port, internal.family), settings.recv_buffer),
        wake=os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
    )


def _refuse_if_too_large(settings: Settings) -> None:
    """Before the first page is taken: reserving more than there is would call the kernel's out-of-memory killer on
    somebody."""
    needed = slot_bytes(settings.max_flows) * settings.plan.workers
    available = psutil.virtual_memory().available
    if needed > available:
        what = (
            f"{settings.plan.workers} workers need {needed / 2**20:.0f} MiB, {available / 2**20:.0f} MiB are available"
        )
        raise ConfigError(what, where=f"--max-flows {settings.max_flows}", mend="lower it, or take fewer workers")


def allocate(length: int) -> mmap.mmap:
    """Shared memory that is there: reserved now and not at first touch, which would kill with SIGBUS in the middle
    of a call."""
    descriptor = os.memfd_create("ufrag-slot", os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, length)
        return mmap.mmap(descriptor, length, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError as error:
        what = f"cannot reserve {length / 2**20:.1f} MiB of shared memory: {error.strerror}"
        raise ConfigError(what, where="--max-flows", mend="lower it, or give the process more memory") from None
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------------------- sockets


def _refuse_if_taken(address: Address) -> None:
    """SO_REUSEPORT would let a second relay of the same user share the port silently, each getting half of the
    packets."""
    try:
        probe = socket.socket(address.family, socket.SOCK_DGRAM)
    except OSError as error:
        mend = "leave it out, or enable the address family"
        raise ConfigError(f"no such socket here: {error.strerror}", where=f"--listen {address}", mend=mend) from None
    with probe:
        if address.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(probe, address, "--listen")


def _bind(sock: socket.socket, address: Address, option: str) -> None:
    try:
        sock.bind(address.sockaddr)
    except OSError as error:
        where = f"{option} {address}"
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(
                "the port is taken", where=where, mend="end who has it (ss -ulpn shows), or take another"
            ) from None
        mend = "name an address of this machine, and a port it may use"
        raise ConfigError(f"cannot listen there: {error.strerror}", where=where, mend=mend) from None


def open_public(address: Address, buffer_bytes: int) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    wildcard = ipaddress.ip_address(address.host).is_unspecified
    if address.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, wildcard)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, wildcard)
    _prepare(sock, buffer_bytes)
    _bind(sock, address, "--listen")
    return sock


def open_internal(address: Address, buffer_bytes: int) -> socket.socket:
    """One socket for both families where it is bound to `::`; owners then are v4-mapped to it."""
    sock = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if address.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    _prepare(sock, buffer_bytes)
    _bind(sock, address, "--internal")
    return sock


def _prepare(sock: socket.socket, buffer_bytes: int) -> None:
    """Buffers, and local fragmentation: with the envelope a full datagram exceeds 1,500 bytes, and a lost PMTU
    message would otherwise make it vanish."""
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, buffer_bytes)
        except PermissionError:  # without CAP_NET_ADMIN the kernel's limit holds, net.core.rmem_max
            sock.setsockopt(socket.SOL_SOCKET, plain, buffer_bytes)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)


def buffer_got(slots: Sequence[WorkerSlot]) -> int:
    """The receive buffer that the kernel gave, in the units that were asked for (it books twice as much)."""
    return slots[0].publics[0].sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams the kernel dropped because this socket's buffer was full."""
    try:
        words = struct.unpack(f"{_MEMINFO_WORDS}I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS))
    except (OSError, struct.error) as error:
        raise RuntimeFault(
            f"the kernel does not tell its drops: {error}", mend="Linux 4.12 or later is needed"
        ) from None
    drops: int = words[_MEMINFO_DROPS]
    return drops
