"""The transceiver as the launcher runs it: slots, a media process for each, and the admin process.

Here the pieces meet: what a signal to the launcher means for the slots' words (drain, stop), and what the admin port
says of them. A session is named `<worker>-<number>-<serial>` there, and known by its token, which authorises nothing:
the rest of a call id never comes into a slot.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from _fastpath.media_slot import SessionView
from relay.runtime import admin, keys, watch
from relay.runtime.admin_child import AdminChild
from relay.runtime.given import GivenSockets
from relay.runtime.launcher import Child
from relay.runtime.limits import is_loopback
from relay.runtime.log import event
from relay.runtime.metrics import CONTENT_TYPE, render
from relay.runtime.sockets import listen, say_buffer
from transceiver.metrics import families
from transceiver.settings import Settings
from transceiver.slots import ProcessSlot, open_slots

log = logging.getLogger("ufrag.transceiver")

_SESSION_ID = re.compile(r"(\d{1,3})-(\d{1,5})-(\d{1,10})", re.ASCII)


MakeProcess = Callable[[int, Settings, Sequence[ProcessSlot]], Child]


def _media_process() -> MakeProcess:
    """Imported only to be run: with it come all its libraries, once for all processes, as this is before the forks."""
    from transceiver.media import MediaProcess

    return MediaProcess


class TransceiverProgram:
    """relay.runtime.launcher.Program."""

    def __init__(
        self, settings: Settings, process: MakeProcess | None = None, given: GivenSockets | None = None
    ) -> None:
        """`given`: sockets that a service manager has opened."""
        process = process or _media_process()
        self._settings = settings
        given = given or GivenSockets()
        admin_socket = listen(settings.admin, "--admin", given=given)
        self.slots = open_slots(settings, given)
        given.refuse_rest()
        processes = [process(own.index, settings, self.slots) for own in self.slots]
        self.children: Sequence[Child] = [*processes, AdminChild(admin_socket, pages(self.slots), self._leave)]
        self._announce(settings)

    def drain(self) -> None:
        for own in self.slots:
            own.slot.draining = True
            own.ring_loop()

    def drained(self) -> bool:
        return not any(own.slot.open_sessions for own in self.slots)

    def stop(self) -> None:
        for own in self.slots:
            own.slot.stopping = True
            own.wake_thread()
            own.ring_loop()

    def reload(self) -> None:
        """Each process reads route keys and certificate itself; here that is done to say what is wrong with them."""
        for own in self.slots:
            own.slot.reloads += 1
        if self._settings.tls:
            self._settings.tls.context()
        keys.load(self._settings.route_key_file)

    def status(self) -> str:
        """For the service manager, in a few words."""
        return f"calls: {sum(own.slot.open_sessions for own in self.slots)}, media processes: {len(self.slots)}"

    def _leave(self) -> None:
        """The admin process keeps the bells: it rings the loop for a hangup."""
        for own in self.slots:
            own.close_sockets()

    def _announce(self, settings: Settings) -> None:
        event(log, logging.INFO, "workers", plan=settings.plan.explanation)
        host, port = self.slots[0].http.getsockname()[:2]
        event(log, logging.INFO, "listening", http=f"{'https' if settings.tls else 'http'}://{_at(host, port)}",
              internal=[str(own.address) for own in self.slots], admin=str(settings.admin),
              relays=[str(network) for network in settings.relays],
              advertise=[*map(str, settings.advertise), *filter(None, [settings.advertise_file])])  # fmt: skip
        say_buffer(log, settings.recv_buffer, self.slots[0].internal)
        for level, message, mend in _remarks(settings):
            event(log, level, message, mend=mend)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _remarks(settings: Settings) -> list[tuple[int, str, str]]:
    """What follows from the settings and an operator may not have meant."""
    found = []
    if not settings.session_key_given:
        mend = "give all hosts the same --session-key-file to have calls found from each of them"
        found.append((logging.INFO, "the session key is this start's own: calls cannot be handed between hosts", mend))
    if settings.auth_key is None and not is_loopback(settings.http):
        mend = "give --auth-key-file unless something in front asks for keys"
        found.append((logging.WARNING, "whoever reaches --http may call", mend))
    if settings.auth_key and not (settings.tls or is_loopback(settings.http) or settings.trusted_proxies):
        mend = "give --tls-cert and --tls-key, or put a proxy in front and name it in --trusted-proxies"
        found.append((logging.WARNING, "keys of clients come in clear text", mend))
    return found


# The admin port


def pages(slots: Sequence[ProcessSlot]) -> admin.Pages:
    """What the admin process serves of these slots."""

    def metrics() -> admin.Answer:
        return 200, CONTENT_TYPE, render(families([own.slot for own in slots]))

    def draining() -> bool:
        return any(own.slot.draining for own in slots)

    def stale_workers() -> list[int]:
        beats = ((own.slot.heart, own.slot.loop_heart) for own in slots)
        return [index for index, pair in enumerate(beats) if watch.stale(pair)]

    def sessions() -> admin.Answer:
        return admin.as_json(200, [describe(own.index, view) for own in slots for view in own.slot.sessions()])

    def hangup(session: str) -> admin.Answer:
        match = _SESSION_ID.fullmatch(session)
        worker, index, serial = map(int, match.groups()) if match else (len(slots), 0, 0)
        if worker >= len(slots) or index >= slots[worker].slot.max_sessions:
            return admin.as_json(404, {"error": "there is no such session"})
        if not slots[worker].slot.request_hangup(index, serial):
            return admin.as_json(404, {"error": "there is no such session any more"})
        slots[worker].ring_loop()
        return admin.as_json(202, {"hangup": session})

    return admin.Pages(
        public={"/metrics": metrics, **admin.health(draining, stale_workers)},
        local={"/sessions": sessions},
        actions={"/sessions/*/hangup": hangup},
    )


def describe(worker: int, view: SessionView) -> dict[str, Any]:
    """A session as `/sessions` shows it."""
    fields = asdict(view)
    return {"id": f"{worker}-{fields.pop('index')}-{fields.pop('serial')}", "worker": worker, **fields}
