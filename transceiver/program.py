"""The transceiver as the launcher runs it: slots, a media process for each, and the admin process.

Here the pieces meet: what a signal to the launcher means for the slots' words (drain, stop), and what the admin port
says of them. A session is named `<worker>-<number>-<serial>` there, and known by its token, which authorises nothing:
the rest of a call id never comes into a slot.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import transceiver
from _fastpath.media_slot import SessionView
from relay.runtime import admin, drains, keys, watch
from relay.runtime.admin_child import AdminChild
from relay.runtime.config import Address
from relay.runtime.given import GivenSockets
from relay.runtime.launcher import Child
from relay.runtime.limits import is_loopback
from relay.runtime.log import event
from relay.runtime.metrics import CONTENT_TYPE, render
from relay.runtime.sockets import listen, say_buffer
from transceiver import beside
from transceiver.metrics import families
from transceiver.settings import Settings
from transceiver.slots import ProcessSlot, open_slots

log = logging.getLogger("ufrag.transceiver")

_SECONDS = re.compile(r"\d{1,9}(\.\d{1,6})?", re.ASCII)
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
        lent = beside.borrow(settings.http) if settings.beside else None
        if lent and not settings.session_key_given:
            settings = self._settings = replace(settings, session_key=lent.session_key)
        admin_socket = listen(settings.admin, "--admin", given=given)
        self.slots = open_slots(settings, given, lent.http if lent else ())
        given.refuse_rest()
        processes = [process(own.index, settings, self.slots) for own in self.slots]
        self._begin_later_than(lent)
        scheme = "https" if settings.tls else "http"
        self._addresses = {
            "addresses": [f"{scheme}://{self._http_address()}"],
            "internal": [str(own.address) for own in self.slots],
            "advertise": [*map(str, settings.advertise), *filter(None, [settings.advertise_file])],
        }
        self._drain = Drain(self.slots, settings.drain_timeout_s)
        self._offer = beside.Offer(self._http_address())
        admin_child = AdminChild(
            admin_socket, pages(self.slots, self._drain), self._leave, {self._offer.sock.fileno(): self._lend}
        )
        children: list[Child] = [*processes, admin_child]
        if settings.registry:
            from relay.runtime.registry import RegistryChild  # with it comes the Redis client

            port = self.slots[0].address.port
            children.append(RegistryChild("transceiver", settings.registry, port, self._described, self._leave_all))
        self.children: Sequence[Child] = children
        self._announce(settings)

    def _begin_later_than(self, lent: beside.Lent | None) -> None:
        """Should we come to an address that the other one had, its tokens are to be known as older."""
        if self._settings.beside:
            event(log, logging.INFO, "beside", pid=lent.pid) if lent else event(log, logging.INFO, "beside nobody")
        for own in self.slots if lent else ():
            assert lent
            own.slot.generation = beside.later(own.slot.generation, lent.generation)

    def drain(self) -> None:
        self._drain.ending.begin()
        self._drain.begin(None)

    def drained(self) -> bool:
        return not any(own.slot.open_sessions or own.slot.lingering for own in self.slots)

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

    def tend(self, now: float) -> float | None:
        """Nothing here has a time of its own."""
        return None

    def _leave(self) -> None:
        """The admin process keeps the bells, to ring the loop for a hangup, and the sockets of HTTP, to lend them."""
        for own in self.slots:
            own.close_media_sockets()

    def _leave_all(self) -> None:
        for own in self.slots:
            own.close()

    def _described(self) -> dict[str, Any]:
        """For the registry."""
        slots = [own.slot for own in self.slots]
        return {
            **self._addresses,
            "version": transceiver.__version__,
            "workers": len(slots),
            "generation": max(slot.generation for slot in slots),
            "draining": "wait" if any(slot.draining for slot in slots) else "",
            "load": {
                "used": sum(slot.open_sessions for slot in slots),
                "capacity": sum(slot.max_sessions for slot in slots),
                "busy": max(max(slot.busy_ratio, slot.loop_busy_ratio) for slot in slots),
            },
        }

    def _lend(self) -> None:
        """In the admin process. The word comes first: who drains must not refuse what the other one would take. If
        nobody was given anything it is taken back, else any user of the machine could have us leave HTTP to nobody."""
        before = [own.slot.shared for own in self.slots]
        for own in self.slots:
            own.slot.shared = True
        sockets = [sock for own in self.slots for sock in own.all_http]
        pid = self._offer.lend(sockets, max(own.slot.generation for own in self.slots), self._settings.session_key)
        if pid:
            event(log, logging.INFO, "another transceiver stands beside this one", pid=pid)
            return
        for own, was in zip(self.slots, before, strict=True):
            own.slot.shared = was

    def _http_address(self) -> Address:
        host, port = self.slots[0].http.getsockname()[:2]
        return Address(host, port, self._settings.http.family)

    def _announce(self, settings: Settings) -> None:
        event(log, logging.INFO, "workers", plan=settings.plan.explanation)
        event(log, logging.INFO, "listening", http=f"{'https' if settings.tls else 'http'}://{self._http_address()}",
              internal=[str(own.address) for own in self.slots], admin=str(settings.admin),
              relays=[str(network) for network in settings.relays],
              advertise=[*map(str, settings.advertise), *filter(None, [settings.advertise_file])])  # fmt: skip
        say_buffer(log, settings.recv_buffer, self.slots[0].internal)
        for level, message, mend in _remarks(settings):
            event(log, level, message, mend=mend)


class Drain:
    """What a drain is in the slots' words."""

    def __init__(self, slots: Sequence[ProcessSlot], timeout_s: float) -> None:
        self._slots = slots
        self._timeout_s = timeout_s
        self.ending = drains.Ending()

    def begin(self, timeout_s: float | None) -> None:
        """No new calls; after `timeout_s` those that are left are ended. Without one it is left to the launcher."""
        for own in self._slots:
            own.slot.drain_until = 0 if timeout_s is None else watch.tick_in(timeout_s)
            own.slot.lingering = own.slot.shared
            own.slot.draining = 1
            own.ring_loop()

    def take_back(self) -> None:
        for own in self._slots:
            own.slot.draining = 0
            own.slot.drain_until, own.slot.lingering = 0, False
            own.ring_loop()

    def obey(self, word: str) -> bool:
        """`default`, or a number of seconds."""
        seconds = self._timeout_s if word == "default" else float(word) if _SECONDS.fullmatch(word) else None
        if seconds is not None:
            self.begin(seconds)
        return seconds is not None


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


def pages(slots: Sequence[ProcessSlot], drain: Drain | None = None) -> admin.Pages:
    """What the admin process serves of these slots."""
    drain = drain or Drain(slots, 0.0)

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
        actions={
            "/sessions/*/hangup": hangup,
            "/drain/*": drains.action(drain.ending, drain.obey, drain.take_back),
        },
    )


def describe(worker: int, view: SessionView) -> dict[str, Any]:
    """A session as `/sessions` shows it."""
    fields = asdict(view)
    return {"id": f"{worker}-{fields.pop('index')}-{fields.pop('serial')}", "worker": worker, **fields}
