"""The slots: sockets and shared memory of each media process, opened once by the launcher and owned by it.

Media processes come and go; what is here stays, as in the relay: packets and connections wait in the kernel for the
successor, and the address that tokens name is the same one. A slot has

    internal   UDP, the internal leg; its address is what the tokens of this process name
    owner      TCP at the same address and port: requests of other media processes about calls of this one
    http       TCP at --http, one of a group of all slots among which the kernel deals out connections
    memory     counters, what may be seen of the sessions, and their audio rings (`_fastpath.media_slot`)
    wake       an eventfd that the hot thread polls; `ring` one that the event loop does

This room knows neither packets nor processes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from _fastpath.media_slot import MediaSlot, media_slot_bytes
from relay.runtime.config import Address
from relay.runtime.errors import ConfigError, PortBusy
from relay.runtime.given import GivenSockets
from relay.runtime.memory import allocate, refuse_if_too_large
from relay.runtime.sockets import kernel_drops, listen, open_internal
from transceiver.settings import Settings

HTTP_BACKLOG = 1024
OWNER_BACKLOG = 128
_PORT_TRIES = 64


@dataclass
class ProcessSlot:
    """Everything that media process `index` needs and does not own."""

    index: int
    slot: MediaSlot
    internal: socket.socket
    owner: socket.socket
    http: socket.socket
    wake: int
    ring: int
    more_http: list[socket.socket] = field(default_factory=list)  # of one with more processes, that we stand beside

    @property
    def address(self) -> Address:
        """What tokens name: the internal address with its actual port."""
        host, port = self.internal.getsockname()[:2]
        return Address(host, port, socket.AddressFamily(self.internal.family))

    def wake_thread(self) -> None:
        """Makes the hot thread look at its slot's words now."""
        os.eventfd_write(self.wake, 1)

    def ring_loop(self) -> None:
        """Makes the event loop look at its slot's words now: drain, stop, hangups."""
        os.eventfd_write(self.ring, 1)

    def close_sockets(self) -> None:
        """Of this process; the bells and the memory stay, for those who read and ring."""
        self.close_media_sockets()
        for sock in self.all_http:
            sock.close()

    def close_media_sockets(self) -> None:
        self.internal.close()
        self.owner.close()

    @property
    def all_http(self) -> list[socket.socket]:
        return [self.http, *self.more_http]

    def close(self) -> None:
        """All descriptors of this process; the memory stays mapped."""
        self.close_sockets()
        os.close(self.wake)
        os.close(self.ring)


def open_slots(
    settings: Settings, given: GivenSockets | None = None, lent: Sequence[socket.socket] = ()
) -> list[ProcessSlot]:
    """All sockets and all memory, or a RuntimeFault that says what could not be had. `lent`: sockets of HTTP of a
    transceiver that this one is to stand beside; none of them may be left without one who accepts."""
    refuse_if_too_large(
        media_slot_bytes(settings.max_sessions), settings.plan.workers, f"--max-sessions {settings.max_sessions}"
    )
    slots: list[ProcessSlot] = []
    given = given or GivenSockets()
    try:
        found = lent or given.gave(settings.http, socket.SOCK_STREAM)
        http = settings.http if found else _free_http(settings.http)
        for index in range(settings.plan.workers):
            slots.append(_open_slot(index, settings, http, given, lent))
            http = Address(http.host, slots[0].http.getsockname()[1], http.family)  # a port 0 has a number now
    except OSError as error:
        mend = "ulimit -n raises the number of files" if error.errno == errno.EMFILE else "see the kernel's log"
        raise ConfigError(f"cannot open the sockets: {error.strerror}", where="transceiver start", mend=mend) from None
    for number, sock in enumerate(lent[len(slots) :]):
        slots[number % len(slots)].more_http.append(sock)
    kernel_drops(slots[0].internal)  # now, not in a child, if this kernel cannot tell
    return slots


def _open_slot(
    index: int, settings: Settings, http: Address, given: GivenSockets, lent: Sequence[socket.socket]
) -> ProcessSlot:
    internal, owner = _open_pair(index, settings, bool(lent))
    memory = allocate(media_slot_bytes(settings.max_sessions), "--max-sessions")
    return ProcessSlot(
        index=index,
        slot=MediaSlot.create(memory, settings.max_sessions),
        internal=internal,
        owner=owner,
        http=lent[index] if index < len(lent) else _listen(http, given),
        wake=os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
        ring=os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
    )


def _listen(http: Address, given: GivenSockets) -> socket.socket:
    return listen(http, "--http", backlog=HTTP_BACKLOG, shared=True, both_families=True, given=given)


def _free_http(address: Address) -> Address:
    """SO_REUSEPORT would let a second transceiver of the same user share the port silently, each getting half of the
    calls: so the first look is without it."""
    listen(address, "--http", both_families=True).close()
    return address


def _open_pair(index: int, settings: Settings, beside: bool) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP at one address and port. Where the kernel chooses, it chooses for UDP alone, so the TCP port of that
    number may be taken. Who stands beside another takes any port where that one has ours."""
    host, port, family = settings.internal.host, settings.internal.port, settings.internal.family
    own = Address(host, port + index if port else 0, family)
    for attempt in range(1, _PORT_TRIES + 1):
        try:
            return _open_both(own, settings.recv_buffer)
        except PortBusy:
            if (own.port and not beside) or attempt == _PORT_TRIES:
                raise
            own = Address(host, 0, family)
    raise AssertionError("the last attempt raises")


def _open_both(own: Address, buffer_bytes: int) -> tuple[socket.socket, socket.socket]:
    internal = open_internal(own, buffer_bytes)
    chosen = Address(own.host, internal.getsockname()[1], own.family)
    try:
        return internal, listen(chosen, "--internal", backlog=OWNER_BACKLOG)
    except PortBusy:
        internal.close()
        raise
