"""One worker process: the hot thread, which forwards, and the cold one, which watches and reports; with Redis a third,
the route cache's.

The hot thread is the process's main thread, pinned, and runs `Forwarder.run` without the GIL from start to end. The
others are niced and not pinned; they may be as slow as they like: nothing the hot thread does waits for them.
Sockets and memory are the launcher's (`slots`); a worker opens no socket and no memory.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence

from _fastpath.forward import Forwarder
from _fastpath.slot import TICKS_PER_SECOND, Slot
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
from relay.state import State

log = logging.getLogger("ufrag.relay.worker")

# What one token may ask for beside its own flows: a client opens eight at most, and until a restart's token is its
# flows' own, 12 s, checks each of them twice a second.
NEW_PER_TOKEN_S = 32
TTL_FLOW_TIMEOUTS = 3  # how long a flow stays in Redis; it is written again once in a flow timeout


class Worker:
    """The launcher's view of worker `index` (relay.runtime.launcher.Child)."""

    essential = True

    def __init__(
        self, index: int, settings: Settings, slots: Sequence[WorkerSlot], state: State, let_go: Callable[[], None],
        *, waits: bool = False,
    ) -> None:  # fmt: skip
        """`let_go` is for what only the launcher needs. `waits`: the slot has a worker of another launcher, and this
        one is to be ready when its turn comes."""
        self.name = f"worker {index}"
        self._settings = settings
        self._slots = slots
        self._state = state
        self._let_go = let_go
        self.waits = waits
        self._own = slots[index]
        self._cpu = settings.plan.pins[index % settings.plan.workers]
        self._key_file = RouteKeyFile(settings.route_key_file)
        self._reloads = 0
        self._key_ids: frozenset[int] = frozenset()
        self._epoch = 0  # number of its process (`_fastpath.turns`)
        self._pid = self._restarts = self._restarts_before = 0

    def prepare(self) -> None:
        """Whoever had the slot is gone, by itself or not: the next one takes it from there. Before the first of ours
        it was any process that is dead; beside another launcher's it is one that lives."""
        slot, before = self._own.slot, self._epoch
        if not self.waits:
            slot.writer_died(before)
            self._epoch = slot.next_epoch()
            return
        self._epoch = before + 1 if before else slot.epoch_ahead()
        if before and slot.epoch == before:
            slot.writer_died(before)
            slot.epoch = self._epoch

    def started(self, pid: int, restarts: int) -> None:
        self._pid, self._restarts = pid, restarts
        if not self.waits:
            self._say_process()

    def _say_process(self) -> None:
        self._own.slot.pid = self._pid
        self._own.slot.restarts = self._restarts_before + self._restarts

    def heart_age_s(self, now: float) -> float | None:
        return watch.heart_age_s(self._own.slot.heart, now)

    # Turns: of the launcher, while another one follows it, or it follows another

    @property
    def superseded(self) -> bool:
        """Whether another launcher's worker is to have the slot."""
        return self._own.slot.epoch != self._epoch

    def died(self) -> None:
        """Its process ended, and another launcher's is next."""
        self._own.slot.writer_died(self._epoch)

    def take_back(self) -> None:
        """The other launcher's processes are all gone, but may have been at work here."""
        slot = self._own.slot
        writer = slot.writer
        if writer and writer != self._epoch:
            slot.writer_died(writer)
        if self.superseded:
            slot.epoch = self._epoch
            self._own.ring()

    @property
    def warm(self) -> bool:
        return self._own.slot.warm == self._epoch

    @property
    def writes(self) -> bool:
        return self._own.slot.writer == self._epoch

    @property
    def passed_over(self) -> bool:
        """It came too late for its turn, and the other one has taken the slot back."""
        return self._own.slot.epoch < self._epoch

    def claim(self) -> None:
        """Its turn has come; the other launcher's worker lets go before its next batch."""
        self._own.slot.epoch = self._epoch
        self._own.ring()

    def taken(self) -> None:
        """The slot is its own, and what is said of it in there from now on."""
        self.waits = False
        self._restarts_before = self._own.slot.restarts
        self._say_process()

    def inherit(self) -> None:
        """All processes of the other launcher are gone: whatever of this was not done yet."""
        if not self.waits:
            return
        writer = self._own.slot.writer
        if writer and writer != self._epoch:
            self._own.slot.writer_died(writer)
        self.claim()
        self.taken()

    # The process

    def main(self, alive_fd: int) -> int:
        self._let_go()
        for other in self._slots:
            if other is not self._own:
                other.close()
        for kept in self._state.slots[len(self._slots) :]:  # of workers that are still to be added
            os.close(kept.memory.fd)
        forwarder = self._forwarder()
        self._key_ids = frozenset(self._settings.route_keys.by_id)
        self._reloads = self._own.slot.reloads
        self._read_keys(forwarder, asked=True)
        if not self.waits:
            self._own.slot.key_ids = self._key_ids
        watch.Cold(alive_fd, functools.partial(self._tend, forwarder)).start()
        if self._settings.redis is not None:
            make = functools.partial(self._route_cache, forwarder, self._settings.redis)
            RouteCacheThread(forwarder, make).start()
        watch.pin(self._cpu, worker=self._own.index)
        ending = forwarder.run()
        event(log, logging.INFO, "worker ends", worker=self._own.index, why=ending)
        return 0

    def _siblings(self) -> list[Slot]:
        """Those that have no worker yet, too."""
        return [kept.slot for kept in self._state.slots if kept.slot is not self._own.slot]

    def _forwarder(self) -> Forwarder:
        settings = self._settings
        return Forwarder(
            self._own.slot,
            siblings=self._siblings(),
            orphans=[kept.slot for kept in self._state.orphans],
            keyring=settings.route_keys.keyring(),
            backends=[masked(network) for network in settings.backends],
            publics=[public.bound for public in self._own.publics],
            internal=(self._own.internal.fileno(), int(settings.internal.family)),
            wake=self._own.wake,
            max_half_open=settings.max_half_open,
            max_new_per_token_s=NEW_PER_TOKEN_S,
            # The kernel spreads a network's packets evenly enough over the workers.
            max_new_per_network_s=settings.max_new_per_network / settings.plan.workers,
            flow_timeout_s=settings.flow_timeout_s,
            half_open_timeout_s=settings.half_open_timeout_s,
            epoch=self._epoch,
            cache=settings.redis is not None,
            lookups_per_s=settings.redis.lookups_per_s / settings.plan.workers if settings.redis is not None else 0,
        )

    def _route_cache(self, forwarder: Forwarder, redis: RedisSettings) -> RouteCache:
        flow_timeout_s = self._settings.flow_timeout_s
        owner = Owner(redis.group, redis.relay, self._own.index)
        return RouteCache(
            forwarder, self._own.slot, self._siblings(),
            RedisStore(RedisClient(redis.place), owner, ttl_s=TTL_FLOW_TIMEOUTS * flow_timeout_s),
            flow_ticks=int(flow_timeout_s * TICKS_PER_SECOND), period_s=flow_timeout_s,
            bounds_us=CACHE_LATENCY_BOUNDS_US,
        )  # fmt: skip

    def _tend(self, forwarder: Forwarder, busy_ratio: float) -> None:
        """Of the cold thread, once a second: how busy the hot one was, what the kernel dropped, and new keys."""
        if not forwarder.writes:  # not yet, or not any more
            return
        self._own.slot.busy_ratio = busy_ratio
        self._own.slot.key_ids = self._key_ids
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
            self._key_ids = frozenset(found.by_id)
            if forwarder.writes:
                self._own.slot.key_ids = self._key_ids
            event(log, logging.INFO, "route keys", worker=self._own.index, ids=sorted(found.by_id))
