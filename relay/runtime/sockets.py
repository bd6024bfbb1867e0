"""Sockets, opened by the launcher and given to its children: addresses, buffers, and what the kernel says of them.

Rules: an address that is taken is `PortBusy` (75), one that cannot be had is a `ConfigError` (78), and both name the
option it came from; every socket is non-blocking and close-on-exec. Who opens which socket, and what passes through
it, is the programs' own affair (`relay.slots`, `transceiver.slots`).
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from typing import NamedTuple

from _fastpath.wire.envelope import mapped
from relay.runtime.config import Address, Network
from relay.runtime.errors import ConfigError, PortBusy, RuntimeFault
from relay.runtime.given import GivenSockets
from relay.runtime.log import event

# <linux/in.h>, <linux/in6.h>, <asm-generic/socket.h>: constants that Python's socket module lacks.
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_DONT = 0
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8

SMALL_PACKET_BYTES = 832  # what a 160-byte datagram takes of a receive buffer, as the kernel accounts it (measured)


def is_wildcard(address: Address) -> bool:
    return ipaddress.ip_address(address.host).is_unspecified


def masked(network: Network) -> tuple[bytes, int]:
    """As the hot loops want it: 16 prefix bytes, IPv4 in the last four, and how many bits of them count."""
    return mapped(str(network.network_address)), network.prefixlen + (96 if network.version == 4 else 0)


# Datagrams


def open_udp(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def open_internal(address: Address, buffer_bytes: int) -> socket.socket:
    """A socket of the internal leg, at --internal. One for both families where it is bound to `::`; IPv4 peers then
    are v4-mapped to it."""
    sock = open_udp(address.family)
    if address.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    prepare(sock, buffer_bytes)
    bind(sock, address, "--internal")
    return sock


def prepare(sock: socket.socket, buffer_bytes: int, *, keep_larger: bool = False) -> None:
    """Buffers, and local fragmentation: with the envelope a full datagram exceeds 1,500 bytes, and a lost PMTU
    message would otherwise make it vanish. `keep_larger`: of one that somebody more privileged has opened."""
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        if keep_larger and sock.getsockopt(socket.SOL_SOCKET, plain) >= 2 * buffer_bytes:
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, buffer_bytes)
        except PermissionError:  # without CAP_NET_ADMIN the kernel's limit holds, net.core.rmem_max
            sock.setsockopt(socket.SOL_SOCKET, plain, buffer_bytes)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)


def buffer_got(sock: socket.socket) -> int:
    """The receive buffer that the kernel gave, in the units that were asked for (it books twice as much)."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2


def say_buffer(log: logging.Logger, asked: int, sock: socket.socket) -> None:
    """What the kernel gave of --recv-buffer, and how to get the rest."""
    got = buffer_got(sock)
    mend = {} if got >= asked else {"mend": f"sysctl -w net.core.rmem_max={asked}"}
    level = logging.WARNING if mend else logging.INFO
    event(log, level, "receive buffer", asked=asked, got=got, small_packets=2 * got // SMALL_PACKET_BYTES, **mend)


class Queue(NamedTuple):
    """What the kernel keeps of a socket: bytes that wait in it, as the kernel books them, and datagrams dropped
    because its buffer was full."""

    waiting: int
    drops: int


def kernel_drops(sock: socket.socket) -> int:
    return kernel_queue(sock).drops


def kernel_queue(sock: socket.socket) -> Queue:
    try:
        words = struct.unpack(f"{_MEMINFO_WORDS}I", sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS))
    except (OSError, struct.error) as error:
        raise RuntimeFault(
            f"the kernel does not tell its drops: {error}", mend="Linux 4.12 or later is needed"
        ) from None
    return Queue(words[0], words[_MEMINFO_DROPS])


# Connections


def listen(
    address: Address,
    option: str,
    *,
    backlog: int = 64,
    shared: bool = False,
    both_families: bool = False,
    given: GivenSockets | None = None,
) -> socket.socket:
    """A TCP socket that listens at `address`. `shared`: others of ours may listen there too, and the kernel deals
    connections out among them (SO_REUSEPORT). `both_families`: one at `::` takes IPv4 as well. `given`: one of these,
    if it is among them."""
    if given and (found := given.take(address, socket.SOCK_STREAM, option, shared=shared)):
        return found
    sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not keep us out
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
    if address.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
    bind(sock, address, option, backlog)
    return sock


def bind(sock: socket.socket, address: Address, option: str, backlog: int | None = None) -> None:
    """Binds it, and listens if a backlog is given: for TCP only then it shows whether the port is free. On failure it
    is closed."""
    try:
        sock.bind(address.sockaddr)
        if backlog is not None:
            sock.listen(backlog)
    except OSError as error:
        sock.close()
        where = f"{option} {address}"
        if error.errno == errno.EADDRINUSE:
            show = "ss -ulpn" if sock.type == socket.SOCK_DGRAM else "ss -tlpn"
            mend = f"end who has it ({show} shows), or take another"
            raise PortBusy("the port is taken", where=where, mend=mend) from None
        mend = "name an address of this machine, and a port it may use"
        raise ConfigError(f"cannot listen there: {error.strerror}", where=where, mend=mend) from None
