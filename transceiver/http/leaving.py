"""How a media process that drains leaves HTTP to others.

Alone, it goes on listening and refuses new calls. Where its sockets are shared with another transceiver
(`transceiver.beside`) it stops accepting instead: what waits in their queues is the other's. Connections that it has
accepted before may still bring a call, which it takes, as nobody else can; each answer is the last of its connection,
and the idle ones are closed soon. So no request is refused or lost.

Should nobody take what waits there, because the other one has ended, it listens again for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from _fastpath.media_slot import MediaSlot
from relay.runtime import watch
from transceiver.http.server import HTTPServer

LOOK_S = 0.1
HANDSHAKE_S = 1.0  # for what was accepted and is no connection of HTTP yet: TLS
LAST_S = 12.0  # a connection's patience between two requests, and a bit: then all have had their turn
UNTAKEN_LOOKS = (
    25  # in a row with connections waiting, until they are nobody's; one that is busy may stall for a second
)
AGAIN_S = 5.0


class Stance(NamedTuple):
    listens: bool
    lingers: bool  # a connection may bring a call, which is taken


@dataclass
class Leaving:
    """`look` is asked again and again while the process drains."""

    since: float
    _untaken: int = 0
    _listens_until: float = 0.0

    def look(self, now: float, shared: bool, waiting: int, connections: int) -> Stance:
        if not shared:
            return Stance(listens=True, lingers=False)
        self._untaken = self._untaken + 1 if waiting else 0
        if self._untaken >= UNTAKEN_LOOKS:
            self._untaken, self._listens_until = 0, now + AGAIN_S
        listens = now < self._listens_until
        patience = LAST_S if connections else HANDSHAKE_S
        return Stance(listens, lingers=not listens and now < self.since + patience)


class Leaver:
    """Of one process. `end_calls` when the time that a drain has is over; `failed` with a task that a mistake of ours
    has ended."""

    def __init__(
        self,
        slot: MediaSlot,
        server: HTTPServer,
        end_calls: Callable[[float], None],
        clock: Callable[[], float],
        failed: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._slot, self._server, self._end_calls = slot, server, end_calls
        self._clock, self._failed = clock, failed
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def follow(self) -> None:
        """Whenever the slot's words may have changed."""
        if self._slot.draining and not self._task and not self._stopped:
            self._task = asyncio.create_task(self._leave())
            self._task.add_done_callback(self._ended)

    def stop(self) -> None:
        self._stopped = True
        if self._task:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception():
            self._failed(task)
        elif not task.cancelled():
            self.follow()  # a new drain may have begun meanwhile

    async def _leave(self) -> None:
        slot, leaving = self._slot, Leaving(self._clock())
        while slot.draining:
            now = self._clock()
            stance = leaving.look(now, slot.shared, self._server.waiting(), self._server.connections)
            slot.lingering = stance.lingers
            await self._server.listen(stance.listens)
            if slot.drain_until and watch.heart_age_s(slot.drain_until, now) > 0:
                self._end_calls(now)
            await asyncio.sleep(LOOK_S)
        await self._server.listen(True)
