"""The slots: sockets and shared memory of each worker, opened once by the launcher and owned by it.

Workers come and go; what is here stays. While the launcher holds the sockets, packets wait in their queues for the
next worker, and the kernel's choice among a port's SO_REUSEPORT sockets (a hash of both addresses over their
number) moves no flow to another worker. This room knows neither packets nor processes.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from _fastpath.slot import Slot
from _fastpath.wire.envelope import mapped
from relay.runtime.config import Address
from relay.runtime.errors import ConfigError, PortBusy
from relay.runtime.given import GivenSockets
from relay.runtime.log import event
from relay.runtime.sockets import bind, is_wildcard, kernel_drops, open_internal, open_udp, prepare
from relay.settings import Settings
from relay.state import State

log = logging.getLogger("ufrag.relay.slots")

# <linux/in.h>, <linux/in6.h>: constants that Python's socket module lacks.
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49


@dataclass
class PublicSocket:
    """One --listen address of one worker."""

    address: Address
    sock: socket.socket

    @property
    def bound(self) -> tuple[int, int, bytes | None, int]:
        """As the forwarder wants it: descriptor, family, local address (None: wildcard), port."""
        local = None if is_wildcard(self.address) else mapped(self.address.host)
        return self.sock.fileno(), int(self.address.family), local, self.sock.getsockname()[1]


@dataclass
class WorkerSlot:
    """Everything that worker `index` needs and does not own."""

    index: int
    slot: Slot
    memory_fd: int
    publics: list[PublicSocket]
    internal: socket.socket
    wake: int

    def sockets(self) -> list[tuple[str, socket.socket]]:
        """(label, socket), the internal one last."""
        return [*((str(public.address), public.sock) for public in self.publics), ("internal", self.internal)]

    def descriptors(self) -> list[int]:
        """All of it, for another launcher: memory, bell, internal and public sockets, these in the state's order."""
        return [self.memory_fd, self.wake, self.internal.fileno(), *(each.sock.fileno() for each in self.publics)]

    def close(self) -> None:
        """This process's descriptors; the memory stays mapped for readers."""
        for _, sock in self.sockets():
            sock.close()
        os.close(self.memory_fd)
        os.close(self.wake)

    def ring(self) -> None:
        """Makes the hot thread look at its slot's words now."""
        os.eventfd_write(self.wake, 1)


def open_slots(settings: Settings, state: State, given: GivenSockets) -> list[WorkerSlot]:
    """All sockets and all memory, or a RuntimeFault that says what could not be had."""
    for address in settings.listen:
        if not given.gave(address, socket.SOCK_DGRAM):
            _refuse_if_taken(address)
    memory = state.allocate()
    try:
        slots = [open_slot(index, settings, state, given) for index in range(len(memory))]
    except OSError as error:
        mend = "ulimit -n raises the number of files" if error.errno == errno.EMFILE else "see the kernel's log"
        raise ConfigError(f"cannot open the sockets: {error.strerror}", where="relay start", mend=mend) from None
    kernel_drops(slots[0].internal)  # now, not in a worker, if this kernel cannot tell
    return slots


def open_slot(index: int, settings: Settings, state: State, given: GivenSockets | None = None) -> WorkerSlot:
    """The sockets of worker `index`, whose memory is there."""
    given = given or GivenSockets()
    kept = state.slots[index]
    return WorkerSlot(
        index=index,
        slot=kept.slot,
        memory_fd=kept.memory.fd,
        publics=[PublicSocket(each, open_public(each, settings.recv_buffer, given)) for each in state.listen],
        internal=_open_internal(index, settings, state.ports, given),
        wake=os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
    )


def _open_internal(index: int, settings: Settings, before: Sequence[int], given: GivenSockets) -> socket.socket:
    """Where the kernel may choose the port, the one that this worker had before, if it can be had: transceivers that
    answer to it are answered at once."""
    asked = settings.internal
    if asked.port:
        asked = Address(asked.host, asked.port + index, asked.family)
    elif index < len(before):
        again = Address(asked.host, before[index], asked.family)
        try:
            return _open_internal_at(again, settings.recv_buffer, given)
        except PortBusy:
            event(log, logging.WARNING, "internal port is taken, another is used", worker=index, port=before[index])
    return _open_internal_at(asked, settings.recv_buffer, given)


def _open_internal_at(address: Address, buffer_bytes: int, given: GivenSockets) -> socket.socket:
    kept = given.take(address, socket.SOCK_DGRAM, "--internal", shared=False)
    return kept or open_internal(address, buffer_bytes)


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
        bind(probe, address, "--listen")


def open_public(address: Address, buffer_bytes: int, given: GivenSockets | None = None) -> socket.socket:
    """The next one that was given for this address, else one of our own."""
    given = given or GivenSockets()
    bound = given.take(address, socket.SOCK_DGRAM, "--listen", shared=True, only_ipv6=True)
    sock = bound or _unbound(address.family)
    if address.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, is_wildcard(address))
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, is_wildcard(address))
    prepare(sock, buffer_bytes, keep_larger=bound is not None)
    if bound is None:
        _bind_public(sock, address, given.gave(address, socket.SOCK_DGRAM))
    return sock


def _unbound(family: socket.AddressFamily) -> socket.socket:
    sock = open_udp(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind_public(sock: socket.socket, address: Address, given: int) -> None:
    """Beside some that were given the kernel lets only their opener's user bind more."""
    try:
        bind(sock, address, "--listen")
    except PortBusy:
        if not given:
            raise
        what = f"{given} sockets were given, fewer than the workers, and another user's may not stand beside them"
        mend = "write the line once for each worker in the .socket unit"
        raise ConfigError(what, where=f"--listen {address}", mend=mend) from None
