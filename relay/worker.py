"""One worker process: the hot thread, which forwards, and the cold one, which watches and reports; with Redis a third,
the route cache's.

The hot thread is the process's main thread, pinned, and runs `Forwarder.run` without the GIL from start to end. The
others are niced and not pinned; they may be as slow as they like: nothing the hot thread does waits for them.
Sockets and memory are the launcher's (`slots`); a worker opens no socket and no memory.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from _fastpath.forward import Forwarder
from _fastpath.slot import TICKS_PER_SECOND
from _fastpath.verdicts import CACHE_LATENCY_BOUNDS_US
from relay.redis_store import Owner, RedisStore
from relay.route_cache import RouteCache, RouteCacheThread
from relay.runtime import watch
from relay.runtime.errors import ConfigError
from relay.runtime.keys import RouteKeyFile
from relay.runtime.log import event
from relay.runtime.redis_client import RedisClient
from relay.runtime.sockets import kernel_queue, masked
from relay.settings import RedisSettings, Settings
from relay.slots import WorkerSlot
from relay.state import Kept

log = logging.getLogger("ufrag.relay.worker")

# What one token may ask for beside its own flows: a client opens eight at most, and until a restart's token is its
# flows' own, 12 s, checks each of them twice a second.
NEW_PER_TOKEN_S = 32
TTL_FLOW_TIMEOUTS = 3  # how long a flow stays in Redis; it is written again once in a flow timeout


class Worker:
    """The launcher's view of worker `index` (relay.runtime.launcher.Child)."""

    essential = True

    def __init__(
        self, index: int, settings: Settings, slots: Sequence[WorkerSlot], orphans: Sequence[Kept] = ()
    ) -> None:
        self.name = f"worker {index}"
        self._settings = settings
        self._slots = slots
        self._orphans = orphans
        self._own = slots[index]
        self._cpu = settings.plan.pins[index]
        self._key_file = RouteKeyFile(settings.route_key_file)
        self._reloads = 0

    def prepare(self) -> None:
        """Whoever had the slot is gone, by itself or not: the next one takes it from there."""
        self._own.slot.writer_died()
        self._own.slot.next_epoch()

    def started(self, pid: int, restarts: int) -> None:
        self._own.slot.pid = pid
        self._own.slot.restarts = restarts

    def heart_age_s(self, now: float) -> float | None:
        return watch.heart_age_s(self._own.slot.heart, now)

    def main(self, alive_fd: int) -> int:
        for other in self._slots:
            if other is not self._own:
                other.close()
        forwarder = self._forwarder()
        self._own.slot.key_ids = self._settings.route_keys.by_id
        self._reloads = self._own.slot.reloads
        self._read_keys(forwarder, asked=True)
        watch.Cold(alive_fd, functools.partial(self._tend, forwarder)).start()
        if self._settings.redis is not None:
            make = functools.partial(self._route_cache, forwarder, self._settings.redis)
            RouteCacheThread(forwarder, make).start()
        watch.pin(self._cpu, worker=self._own.index)
        ending = forwarder.run()
        event(log, logging.INFO, "worker ends", worker=self._own.index, why=ending)
        return 0

    def _forwarder(self) -> Forwarder:
        settings = self._settings
        return Forwarder(
            self._own.slot,
            siblings=[other.slot for other in self._slots if other is not self._own],
            orphans=[kept.slot for kept in self._orphans],
            keyring=settings.route_keys.keyring(),
            backends=[masked(network) for network in settings.backends],
            publics=[public.bound for public in self._own.publics],
            internal=(self._own.internal.fileno(), int(settings.internal.family)),
            wake=self._own.wake,
            max_half_open=settings.max_half_open,
            max_new_per_token_s=NEW_PER_TOKEN_S,
            # The kernel spreads a network's packets evenly enough over the workers.
            max_new_per_network_s=settings.max_new_per_network / len(self._slots),
            flow_timeout_s=settings.flow_timeout_s,
            half_open_timeout_s=settings.half_open_timeout_s,
            cache=settings.redis is not None,
            lookups_per_s=settings.redis.lookups_per_s / len(self._slots) if settings.redis is not None else 0,
        )

    def _route_cache(self, forwarder: Forwarder, redis: RedisSettings) -> RouteCache:
        flow_timeout_s = self._settings.flow_timeout_s
        owner = Owner(redis.group, redis.relay, self._own.index)
        return RouteCache(
            forwarder, self._own.slot, [other.slot for other in self._slots if other is not self._own],
            RedisStore(RedisClient(redis.place), owner, ttl_s=TTL_FLOW_TIMEOUTS * flow_timeout_s),
            flow_ticks=int(flow_timeout_s * TICKS_PER_SECOND), period_s=flow_timeout_s,
            bounds_us=CACHE_LATENCY_BOUNDS_US,
        )  # fmt: skip

    def _tend(self, forwarder: Forwarder, busy_ratio: float) -> None:
        """Of the cold thread, once a second: how busy the hot one was, what the kernel dropped, and new keys."""
        if not forwarder.writes:  # not yet, or not any more
            return
        self._own.slot.busy_ratio = busy_ratio
        for index, (_, sock) in enumerate(self._own.sockets()):
            queue = kernel_queue(sock)
            self._own.slot.set_socket(index, queue.drops, queue.waiting)
        reloads, self._reloads = self._reloads, self._own.slot.reloads
        self._read_keys(forwarder, asked=reloads != self._reloads)

    def _read_keys(self, forwarder: Forwarder, *, asked: bool) -> None:
        """New ones are in force from the next batch on; while the file is bad the old ones stay."""
        try:
            found = self._key_file.look(asked=asked)
        except ConfigError as error:
            event(log, logging.ERROR, "route keys are not taken", worker=self._own.index, error=str(error))
            return
        if found is not None:
            forwarder.set_keys(found.keyring())
            self._own.slot.key_ids = found.by_id
            event(log, logging.INFO, "route keys", worker=self._own.index, ids=sorted(found.by_id))
