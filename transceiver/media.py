"""A media process: the hot thread, and the asyncio loop that drives everything else of its calls.

The hot thread runs `MediaEngine.run`, pinned, without the GIL, from start to end. The loop (uvloop, the main thread)
serves HTTP, hands the hot thread's events to the calls, keeps their timers, and measures both threads once a second.
Here, and nowhere else in the transceiver, the clock is read. The end, in order: the launcher sets a word and rings;
the loop ends every call, which says goodbye to its client; the hot thread confirms the last one and is halted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import hmac
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from _fastpath.media import CommandsFull, MediaEngine
from _fastpath.media_slot import MediaSlot
from relay.runtime import watch
from relay.runtime.config import endpoint
from relay.runtime.errors import EXIT_FAILURE, ConfigError
from relay.runtime.keys import RouteKeyFile
from relay.runtime.log import event
from relay.runtime.sockets import kernel_drops, masked
from transceiver import ice, srtp, srtp_memory
from transceiver.advertise import Advertised
from transceiver.apps import Echo
from transceiver.calls import CNAME, Calls, Manner, Minter
from transceiver.http.calls import Created, Owner
from transceiver.http.leaving import Leaver
from transceiver.http.limits import Limits
from transceiver.http.owner import OwnerClient, RoutedCalls, owner_application
from transceiver.http.server import Access, HTTPServer, public_application
from transceiver.identity import Identity
from transceiver.settings import ServerTLS, Settings
from transceiver.slots import ProcessSlot

log = logging.getLogger("ufrag.transceiver.media")

GENERATIONS = 1 << 12
GENERATION_S = 64  # a process started this much later has a later generation, whatever is remembered
OWNER_KEY_INFO = b"ufrag owner requests 1"
REPORT_S = 1.0
RESOLVE_S = 30.0
FIRST_RESOLVE_S = 2.0  # calls are refused until a name has an address, but nothing else waits for it
GOODBYE_S = 1.0  # for the hot thread to confirm the last call
THREAD_END_S = 0.3
LONG_AGO = 3600 * watch.HEARTBEATS_PER_S
SERVERS_END_S = 0.5
GARBAGE_FROM = 10_000  # objects made and not freed, before garbage is looked for
DISPATCH_S = 0.003  # of events at a time, so that nothing else of the loop starves


class MediaProcess:
    """The launcher's view of media process `index` (relay.runtime.launcher.Child)."""

    essential = True

    def __init__(self, index: int, settings: Settings, slots: Sequence[ProcessSlot]) -> None:
        self.name = f"media {index}"
        self._settings = settings
        self._slots = slots
        self._own = slots[index]
        self._identity = Identity.generate()
        self._functions = srtp.functions()
        self._tls = ServerTLS(settings.tls) if settings.tls else None
        self._own.slot.generation = int(time.time()) // GENERATION_S % GENERATIONS

    def prepare(self) -> None:
        """Whatever calls a predecessor had died with it: their tokens are of an older generation."""
        slot = self._own.slot
        slot.generation = (slot.generation + 1) % GENERATIONS
        slot.halted = False
        slot.heart = slot.loop_heart = _tick() - LONG_AGO  # not ready until both threads of this one have beaten
        for view in slot.sessions():
            slot.count("ended_process_end")
            slot.end(view.index)

    def started(self, pid: int, restarts: int) -> None:
        self._own.slot.pid = pid
        self._own.slot.restarts = restarts

    def heart_age_s(self, now: float) -> float | None:
        """The older of the two threads'."""
        return max(watch.heart_age_s(beat, now) for beat in (self._own.slot.heart, self._own.slot.loop_heart))

    def main(self, alive_fd: int) -> int:
        for other in self._slots:
            if other is not self._own:
                other.close()
        # What the launcher imported lives as long as the process, and hardly anything of a call is garbage before it
        # ends: neither is to be looked at again and again.
        gc.freeze()
        gc.set_threshold(GARBAGE_FROM)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(
                Media(self._settings, self._own, self._identity, self._functions, self._tls).run(alive_fd)
            )


class Media:
    """Everything of one media process that lives while its loop runs."""

    def __init__(
        self,
        settings: Settings,
        own: ProcessSlot,
        identity: Identity,
        functions: srtp.SRTPFunctions,
        tls: ServerTLS | None,
    ) -> None:
        self._settings = settings
        self._own = own
        self._tls = tls
        self._slot: MediaSlot = own.slot
        self._advertised = Advertised(settings.advertise, settings.advertise_file)
        ice_key = ice.derive_ice_key(settings.session_key)
        keyring = settings.route_keys.keyring()
        address = (own.address.host, own.address.port)
        generation = own.slot.generation
        self._engine = MediaEngine(
            own.slot, secret=secrets.token_bytes(16), keyring=keyring, ice_key=ice_key, own=address,
            generation=generation, relays=[masked(network) for network in settings.relays], srtp=functions,
            srtp_known=srtp_memory.contexts_known(),
            socket=own.internal.fileno(), wake=own.wake, ring=own.ring, unix_us=time.time_ns() // 1000, cname=CNAME,
        )  # fmt: skip
        self.calls = Calls(
            self._engine,
            own.slot,
            Minter(keyring, settings.route_keys.minting, address, settings.cluster, generation),
            Manner(
                identity=identity,
                ice_key=ice_key,
                profiles=settings.srtp_profiles,
                prefer=settings.answer_role,
                application=Echo(),
                advertised=lambda: self._advertised.current,
                max_new_per_s=settings.max_new_per_s,
            ),
            time.monotonic,
        )
        self._keyring = keyring
        self._key_file = RouteKeyFile(settings.route_key_file)
        self._reloads = own.slot.reloads
        self._address = address
        self._hot = threading.Thread(target=self._run_hot, name="hot", daemon=True)
        self._failed = False
        self._again = False
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._stop = asyncio.Event()
        self._leaver: Leaver | None = None

    # ------------------------------------------------------------------------------------------------------- life

    async def run(self, alive_fd: int) -> int:
        loop = asyncio.get_running_loop()
        loop.add_reader(alive_fd, self._end, alive_fd)
        loop.add_reader(self._own.ring, self._rung)
        self._engine.defer = loop.call_soon
        self._hot.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_RESOLVE_S):
                await self._resolve()
        owners = OwnerClient(self._owner_key(), clock=time.time)
        await owners.open()
        self._renew_certificate()  # the launcher's may be of long ago
        servers = self._servers(owners)
        for server in servers:
            await server.start()
        end_calls = functools.partial(self.calls.end_all, "drained")
        self._leaver = Leaver(self._slot, servers[0], end_calls, time.monotonic, self._task_ended)
        self._leaver.follow()
        self._slot.loop_heart = _tick()
        self._read_keys(asked=True)
        tasks = [asyncio.create_task(self._report()), asyncio.create_task(self._keep_resolving())]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        event(log, logging.INFO, "media process", address=str(self._own.address), sessions=self._slot.max_sessions)
        await self._stop.wait()
        self._leaver.stop()
        for task in tasks:
            task.cancel()
        await self._say_goodbye()
        with contextlib.suppress(TimeoutError):  # requests under way must not cost anybody anything
            async with asyncio.timeout(SERVERS_END_S):
                await asyncio.gather(*(server.stop() for server in servers), owners.close())
        return EXIT_FAILURE if self._failed else 0

    def _servers(self, owners: OwnerClient) -> tuple[HTTPServer, HTTPServer]:
        settings = self._settings
        limits = Limits()
        view = CallsView(self.calls, self)
        access = Access(settings.auth_key, settings.cors_origins, settings.trusted_proxies)
        public = public_application(
            RoutedCalls(view, owners), access, limits, clock=time.monotonic, observe=self._observe_status
        )
        owner = owner_application(view, self._owner_key(), self._address, limits, clock=time.time)
        tls = self._tls.context if self._tls else None
        return (
            HTTPServer(public, self._own.all_http, limits, trusted=settings.trusted_proxies, tls=tls),
            HTTPServer(owner, [self._own.owner], limits),
        )

    def _owner_key(self) -> bytes:
        return hmac.digest(self._settings.session_key, OWNER_KEY_INFO, hashlib.sha256)

    def _observe_status(self, status: int) -> None:
        if 200 <= status < 600:
            self._slot.count(f"http_{status // 100}xx")

    async def _say_goodbye(self) -> None:
        """Ends the calls that are left, waits for the hot thread to let go of them, and halts it."""
        reason = "drained" if self._slot.draining else "process_end"
        self._slot.draining = True  # requests are still heard: no new calls
        self.calls.end_all(reason, time.monotonic())
        deadline = time.monotonic() + GOODBYE_S
        while len(self.calls.registry) and time.monotonic() < deadline and self._hot.is_alive():
            self._dispatch()
            await asyncio.sleep(0.005)
        self._slot.halted = True
        self._own.wake_thread()
        self._hot.join(THREAD_END_S)

    def _end(self, alive_fd: int) -> None:
        asyncio.get_running_loop().remove_reader(alive_fd)  # it stays readable from now on
        self._stop.set()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("a task ended by our own fault", exc_info=task.exception())
            self._failed = True
            self._stop.set()

    # ----------------------------------------------------------------------------------------------- the hot thread

    def _run_hot(self) -> None:
        watch.pin(self._settings.plan.pins[self._own.index], process=self._own.index)
        try:
            self._engine.run()
        except OSError as error:
            event(log, logging.ERROR, "the hot thread failed", error=str(error))
        self._failed = not self._slot.halted
        os.eventfd_write(self._own.ring, 1)

    def _rung(self) -> None:
        os.eventfd_read(self._own.ring)
        if self._slot.stopping or self._failed:
            self._stop.set()
        if self._leaver:
            self._leaver.follow()
        self._dispatch()

    def _dispatch(self) -> None:
        """A portion of events; the rest at the loop's next round, so that nothing else starves."""
        now = time.monotonic()
        more = True
        while more and time.monotonic() < now + DISPATCH_S:
            more = self.calls.dispatch(time.monotonic())
        if more and not self._again:
            self._again = True
            asyncio.get_running_loop().call_soon(self._dispatch_again)
        self.rearm()

    def _dispatch_again(self) -> None:
        self._again = False
        self._dispatch()

    def rearm(self) -> None:
        """Keeps a timer of the loop no later than what is due first. One that rings too early is let be: during set-ups
        what is due first changes with every datagram, and moving the timer each time costs more."""
        due = self.calls.next_timer()
        if due is None or due >= self._rings_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._rings_at = None, math.inf
        try:
            self.calls.handle_timers(time.monotonic())
        finally:
            self.rearm()

    # ------------------------------------------------------------------------------------------------ once a second

    async def _report(self) -> None:
        hot, own = watch.BusyMeter(self._hot.ident or 0), watch.BusyMeter(threading.get_ident())
        while True:
            await asyncio.sleep(REPORT_S)
            self._slot.loop_heart = _tick()
            self._slot.busy_ratio, self._slot.loop_busy_ratio = hot.ratio(), own.ratio()
            self._slot.socket_drops = kernel_drops(self._own.internal)
            self.calls.obey_tools(time.monotonic())
            self._reread()
            reloads, self._reloads = self._reloads, self._slot.reloads
            if reloads != self._reloads:
                self._renew_certificate()
            self._read_keys(asked=reloads != self._reloads)

    def _read_keys(self, *, asked: bool) -> None:
        """New ones mint and verify from now on; while the file is bad, or the hot thread far behind, old ones."""
        try:
            found = self._key_file.look(asked=asked)
            if found is not None:
                self._keyring = found.keyring()
                self.calls.rotate(self._keyring, found.minting)
                event(log, logging.INFO, "route keys", ids=sorted(found.by_id), minting=found.minting)
        except ConfigError as error:
            event(log, logging.ERROR, "route keys are not taken", error=str(error))
        except CommandsFull:
            self._reloads -= 1  # asked for again, in a second

    def _renew_certificate(self) -> None:
        if self._tls:
            try:
                self._tls.renew()
            except ConfigError as error:
                event(log, logging.ERROR, "the certificate is not taken", error=str(error))

    def _reread(self) -> None:
        try:
            if self._advertised.reread():
                event(log, logging.INFO, "advertised", addresses=_texts(self._advertised))
        except ConfigError as error:
            event(log, logging.WARNING, "the advertise file is not taken", error=str(error))

    async def _keep_resolving(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_S)
            await self._resolve()

    async def _resolve(self) -> None:
        if await self._advertised.refresh(_addresses_of):
            event(log, logging.INFO, "advertised", addresses=_texts(self._advertised))
        for name in self._advertised.unresolved():
            event(log, logging.WARNING, "a name in --advertise has no address", name=name)

    # ---------------------------------------------------------------------------------------------------------- ids

    def owner_of(self, call_id: str) -> Owner:
        split = ice.split_call_id(call_id)
        if split is None:
            return None
        _result, fields = self._keyring.verify(split[0].encode())
        if fields is None:
            return None
        return "self" if fields.owner == self._address else fields.owner


def _tick() -> int:
    """As the hot thread beats."""
    return int(time.monotonic() * watch.HEARTBEATS_PER_S)


class CallsView:
    """transceiver.http.calls.Calls: the calls as HTTP sees them."""

    def __init__(self, calls: Calls, media: Media) -> None:
        self._calls = calls
        self._media = media

    async def create(self, offer_sdp: str, session: dict[str, Any] | None, client: str) -> Created:
        return self._calls.create(offer_sdp, time.monotonic(), time.time())

    async def restart(self, call_id: str, offer_sdp: str) -> str:
        return self._calls.restart(call_id, offer_sdp)

    async def hangup(self, call_id: str) -> bool:
        return self._calls.hangup(call_id, time.monotonic())

    def owner_of(self, call_id: str) -> Owner:
        return self._media.owner_of(call_id)


def _texts(advertised: Advertised) -> list[str]:
    return [endpoint(host, port) for host, port in advertised.current]


async def _addresses_of(name: str) -> list[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    return [str(info[4][0]) for info in infos]
