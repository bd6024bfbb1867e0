"""Another number of workers, after a launcher has taken over the slots that there were.

More: their memory was made before the other workers were forked, so that all know of all flows; now that nothing can
fail any more their sockets are opened, and the workers forked at once. The kernel deals flows out anew, and each is
taken over by the worker that gets its next packet (`_fastpath.siblings`).

Fewer: new packets are steered away from the last slots (`runtime.reuseport`). Their workers go on with what waits in
their sockets, and with what owners still send to them; when no flow is left they end, and the sockets are closed, from
the last one on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from relay.estate import Estate
from relay.runtime.errors import RuntimeFault
from relay.runtime.log import event
from relay.runtime.reuseport import steer, steer_no_more
from relay.slots import WorkerSlot, open_slot
from relay.worker import Worker

log = logging.getLogger("ufrag.relay.headcount")

_LOOK_S = 0.25
# What owners still send keeps a flow that its client has left; and a client's checks are 2.5 s apart.
_FLOW_TIMEOUTS_MOST = 2.0
_SPARE_S = 5.0


class Headcount:
    """`hire` makes the launcher fork a worker; `settled` is called when sockets are no longer what they were."""

    def __init__(self, estate: Estate, hire: Callable[[int], None], settled: Callable[[], None]) -> None:
        self._estate = estate
        self._hire = hire
        self._settled = settled
        self._wanted = estate.settings.plan.workers
        self._until_s: float | None = None
        self.closing = False  # the last workers were told to end

    def begin(self, now: float) -> None:
        have = len(self._estate.slots)
        if have < self._wanted:
            self._grow()
        elif have > self._wanted:
            self._shrink(now)

    @property
    def retiring(self) -> list[WorkerSlot]:
        return self._estate.slots[self._wanted :]

    def is_retiring(self, worker: Worker) -> bool:
        return worker in self._estate.workers[self._wanted :]

    def due_s(self, now: float) -> float | None:
        return now + _LOOK_S if self._until_s is not None else None

    # ---- more

    def _grow(self) -> None:
        estate = self._estate
        try:
            for index in range(len(estate.slots), self._wanted):
                estate.slots.append(open_slot(index, estate.settings, estate.state))
        except (RuntimeFault, OSError) as error:
            event(log, logging.ERROR, "there are no sockets for more workers", error=str(error))
            self._wanted = len(estate.slots)
            unused = estate.state.slots[self._wanted :]
            for kept in unused:
                os.close(kept.memory.fd)
            estate.state.retire(len(unused))
        for public in estate.slots[0].publics:
            try:
                steer_no_more(public.sock)
            except OSError:
                steer(public.sock, len(estate.slots))
        for index in range(len(estate.workers), len(estate.slots)):
            self._hire(index)
        event(log, logging.INFO, "workers added", workers=len(estate.slots))

    # ---- fewer

    def _shrink(self, now: float) -> None:
        estate = self._estate
        try:
            for public in estate.slots[0].publics:
                steer(public.sock, self._wanted)
        except OSError as error:
            event(log, logging.ERROR, "cannot steer packets away, all workers stay", error=error.strerror)
            self._wanted = len(estate.slots)
            return
        self._until_s = now + _FLOW_TIMEOUTS_MOST * estate.settings.flow_timeout_s + _SPARE_S
        event(log, logging.INFO, "workers retire", workers=self._wanted, retiring=len(self.retiring))

    def tend(self, now: float) -> None:
        if self._until_s is None or self.closing:
            return
        flows = sum(sum(own.slot.flows().values()) for own in self.retiring)
        if flows and now < self._until_s:
            return
        if flows:
            event(log, logging.WARNING, "flows of retired workers end with them", flows=flows)
        self.closing = True
        for own in self.retiring:
            own.slot.stopping = True
            own.ring()

    def ended(self, worker: Worker) -> None:
        """One that was told to."""
        self._estate.workers.remove(worker)
        if len(self._estate.workers) > self._wanted:
            return
        gone = self.retiring
        for own in reversed(gone):
            own.close()
        del self._estate.slots[self._wanted :]
        self._estate.state.retire(len(gone))
        self._until_s, self.closing = None, False
        event(log, logging.INFO, "workers retired", workers=self._wanted)
        self._settled()
