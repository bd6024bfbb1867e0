"""What a launcher of a relay holds, and what another one can take on from it: state, slots, sockets, workers.

The first launcher opens it; one that follows it is given it (`taking`). Children inherit all of it with the fork, and
let go at once what is not theirs.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from relay.handover import Life
from relay.runtime.control import NAME, Listener
from relay.runtime.given import GivenSockets
from relay.runtime.reuseport import steer_no_more
from relay.runtime.sockets import listen, prepare
from relay.settings import Settings
from relay.slots import WorkerSlot, open_slots
from relay.state import State
from relay.worker import Worker


@dataclass
class Estate:
    """`slots` are those with sockets; the state has memory of more while workers are being added. Without a state
    directory there is no listener: nobody can ask."""

    settings: Settings
    state: State
    slots: list[WorkerSlot]
    admin: socket.socket
    listener: Listener | None
    life: Life = field(default_factory=Life)
    workers: list[Worker] = field(default_factory=list)
    channels: list[Callable[[], None]] = field(default_factory=list)  # what closes them, in a child
    ours: bool = True  # False: it is another launcher's still, or has become another's
    shared: bool = False  # another launcher has it, too: a hand-over is under way

    @classmethod
    def open(cls, settings: Settings, given: GivenSockets) -> Self:
        """`given`: sockets that a service manager has opened."""
        # First, as it waits for processes of a relay that was killed, and they hold the ports, too.
        state = State.take(settings)
        try:
            admin = listen(settings.admin, "--admin", given=given)
            slots = open_slots(settings, state, given)
            given.refuse_rest()
            for public in slots[0].publics:
                with contextlib.suppress(OSError):  # sockets that were kept may have been told to leave some out
                    steer_no_more(public.sock)
            state.save([own.internal.getsockname()[1] for own in slots])
        except BaseException:
            state.abandon()
            raise
        return cls(settings, state, slots, admin, Listener.open(state.directory.fd) if state.directory else None)

    def employ(self, index: int, *, waits: bool = False) -> Worker:
        """`waits`: the slot is another launcher's still."""
        worker = Worker(index, self.settings, self.slots, self.state, self.let_go, waits=waits)
        self.workers.append(worker)
        return worker

    def pairs(self) -> Iterator[tuple[Worker, WorkerSlot]]:
        return zip(self.workers, self.slots, strict=True)

    def take_over(self) -> None:
        """What was another launcher's is this one's, and is as its options say."""
        for _, sock in (pair for own in self.slots for pair in own.sockets()):
            prepare(sock, self.settings.recv_buffer, keep_larger=True)
        self.state.take_over(self.ports())

    def leave(self, *, whole: bool) -> None:
        """At the end of the launcher, when no child is left. What is another launcher's is left to it."""
        if not self.ours:
            self.state.abandon()
            return
        if self.state.directory:
            self.state.directory.remove(NAME)
        self.state.leave(whole=whole)

    def ports(self) -> list[int]:
        return [own.internal.getsockname()[1] for own in self.slots]

    def sockets(self) -> list[list[socket.socket]]:
        """All of each worker: what should outlive even the launcher, where somebody keeps it."""
        return [[sock for _, sock in own.sockets()] for own in self.slots]

    def heirlooms(self) -> list[int]:
        """What there is once, for a successor: lock, admin port, control socket, and how to see that we are gone."""
        assert self.state.directory is not None
        assert self.listener is not None
        return [self.state.directory.lock_fd, self.admin.fileno(), self.listener.sock.fileno(), self.life.read]

    def let_go(self) -> None:
        """Of a child: what only a launcher needs. The lock and its end of `life` it keeps, they tell that it lives."""
        for close in self.channels:
            close()
        if self.listener:
            self.listener.close()
        if self.state.directory:
            os.close(self.state.directory.fd)
        os.close(self.life.read)
