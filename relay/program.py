"""The relay as the launcher runs it: slots, a worker for each, and the admin process.

Here the pieces meet: what a signal to the launcher means for the slots' words (drain, stop), and what the admin
port says of them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from relay import flows
from relay.announced import announcing
from relay.estate import Estate
from relay.metrics import families
from relay.runtime import admin, drains, keys, watch
from relay.runtime.admin_child import AdminChild
from relay.runtime.errors import EXIT_CRASH_LOOP
from relay.runtime.launcher import Child
from relay.runtime.log import event
from relay.runtime.metrics import CONTENT_TYPE, render
from relay.runtime.sockets import say_buffer
from relay.settings import DRAINING, Settings
from relay.slots import WorkerSlot

log = logging.getLogger("ufrag.relay")


class RelayProgram:
    """relay.runtime.launcher.Program."""

    def __init__(self, estate: Estate, *, follows: bool = False) -> None:
        """`follows`: another launcher has it still; the workers stand ready for their turn."""
        self._estate = estate
        self._settings = estate.settings
        self._ending = drains.Ending()
        self._orphans_until_s: float | None = None
        self.children: list[Child] = [estate.employ(own.index, waits=follows) for own in estate.slots]
        if not follows:
            self.begin()

    def begin(self) -> None:
        """All of it is ours."""
        self.children.append(AdminChild(self._estate.admin, self._pages(), self._leave))
        if self._settings.registry:
            self.children.append(announcing(self._settings, self.slots, self._leave))
        self._announce(self._settings)

    def hire(self, index: int) -> None:
        self.children.append(self._estate.employ(index))

    def dismiss(self, worker: Child) -> None:
        self.children.remove(worker)

    @property
    def slots(self) -> Sequence[WorkerSlot]:
        return self._estate.slots

    def drain(self) -> None:
        """Never more gently than an operator's command has begun it."""
        self._ending.begin()
        for own in self.slots:
            own.slot.draining = max(own.slot.draining, DRAINING[self._settings.drain_mode])

    def drained(self) -> bool:
        return all(sum(own.slot.flows().values()) == 0 for own in self.slots)

    def stop(self) -> None:
        for own in self.slots:
            own.slot.stopping = True
            own.ring()

    def reload(self) -> None:
        """The route keys, by each worker; here they are read only to say at once what is wrong with the file."""
        keys.load(self._settings.route_key_file)
        for own in self.slots:
            own.slot.reloads += 1

    def tend(self, now: float) -> float | None:
        """Orphans go when no flow of them can be left. Workers that look into them have them mapped as long as they
        live themselves."""
        if not self._estate.state.orphans:
            return None
        if self._estate.shared:
            return now + 1.0
        if self._orphans_until_s is None:
            self._orphans_until_s = now + self._settings.flow_timeout_s
        elif now >= self._orphans_until_s:
            self._estate.state.forget_orphans()
            return None
        return self._orphans_until_s

    def status(self) -> str:
        """For the service manager, in a few words."""
        return f"flows: {sum(sum(own.slot.flows().values()) for own in self.slots)}, workers: {len(self.slots)}"

    def ended(self, status: int) -> None:
        """All children are gone. What a crash loop leaves may be what crashed them."""
        self._estate.leave(whole=status != EXIT_CRASH_LOOP)

    def _leave(self) -> None:
        self._estate.let_go()
        for own in self.slots:
            own.close()

    def _pages(self) -> admin.Pages:
        def metrics() -> admin.Answer:
            return 200, CONTENT_TYPE, render(families(self.slots, redis=self._settings.redis is not None))

        def draining() -> bool:
            return any(own.slot.draining for own in self.slots)

        def stale_workers() -> list[int]:
            """But for those that were told to end, as workers are that retire."""
            return watch.stale(own.slot.heart for own in self.slots if not own.slot.stopping)

        return admin.Pages(
            public={"/metrics": metrics, **admin.health(draining, stale_workers)},
            looks={"/flows/*": functools.partial(flows.page, self.slots)},
            actions={"/drain/*": drains.action(self._ending, self._begin_drain, self._undrain)},
        )

    def _begin_drain(self, mode: str) -> bool:
        if mode in DRAINING:
            self._set_draining(DRAINING[mode])
        return mode in DRAINING

    def _undrain(self) -> None:
        self._set_draining(0)

    def _set_draining(self, how: int) -> None:
        for own in self.slots:
            own.slot.draining = how

    def _announce(self, settings: Settings) -> None:
        event(log, logging.INFO, "workers", plan=settings.plan.explanation)
        event(log, logging.INFO, "listening", public=[str(a) for a in settings.listen], admin=str(settings.admin),
              internal=[f"{own.internal.getsockname()[0]}:{own.internal.getsockname()[1]}" for own in self.slots],
              backends=[str(network) for network in settings.backends])  # fmt: skip
        say_buffer(log, settings.recv_buffer, self.slots[0].publics[0].sock)
