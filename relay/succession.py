"""Live upgrade, as the launcher of a relay runs it: first it may follow another one (`taking`), then it may be
followed itself (`giving`). In between it changes the number of workers (`headcount`), if that is another one now.
"""

from __future__ import annotations

from relay.estate import Estate
from relay.giving import Giving
from relay.giving import Phase as GivingPhase
from relay.headcount import Headcount
from relay.program import RelayProgram
from relay.runtime.children import Child
from relay.runtime.errors import EXIT_DRAINED, EXIT_FAILURE
from relay.runtime.succession import Fate, Succession
from relay.runtime.systemd import ServiceManager
from relay.taking import Phase as TakingPhase
from relay.taking import Taking
from relay.worker import Worker

_OLD_ENDS_S = 3.0  # for the old launcher to leave; only then the service manager hears us


class RelaySuccession(Succession):
    """Follows another launcher if there is a `taking`."""

    def __init__(self, estate: Estate, taking: Taking | None, manager: ServiceManager, program: RelayProgram) -> None:
        self._estate = estate
        self._taking = taking
        self._manager = manager
        self._program = program
        self._headcount = Headcount(estate, program.hire, self._store)
        self._giving: Giving | None = None
        self._speak_s: float | None = None
        if taking is None:
            self._be_owner()

    @property
    def owns(self) -> bool:  # type: ignore[override]
        return self._estate.ours

    @property
    def leaving(self) -> bool:  # type: ignore[override]
        failed = self._taking is not None and self._taking.phase is TakingPhase.FAILED
        return failed or (self._giving is not None and self._giving.phase is GivingPhase.GONE)

    @property
    def exit_status(self) -> int:  # type: ignore[override]
        return EXIT_DRAINED if self._giving else EXIT_FAILURE

    def tend(self, now: float, *, ending: bool) -> None:
        if self._taking:
            self._tend_taking(self._taking, now)
        elif self._giving:
            self._headcount.tend(now)
            self._giving.tend(now, self._closed(ending))
            self._estate.shared = self._giving.under_way
            self._estate.ours = self._giving.phase is not GivingPhase.GONE

    def _closed(self, ending: bool) -> str:
        if ending:
            return "that relay is about to end"
        return "its retired workers are just ending: try again" if self._headcount.closing else ""

    def _tend_taking(self, taking: Taking, now: float) -> None:
        if taking.pending:
            taking.tend(now)
        if taking.phase is not TakingPhase.OWNER:
            return
        if self._giving is None:
            self._estate.ours, self._estate.shared = True, False
            self._headcount.begin(now)
            self._estate.take_over()
            self._be_owner()
            self._program.begin()
            self._speak_s = now + _OLD_ENDS_S
        if taking.old_is_gone or (self._speak_s is not None and now >= self._speak_s):
            self._taking = None
            taking.close()
            self._estate.channels.remove(taking.close)
            self._manager.speak()
            self._store()

    def _store(self) -> None:
        self._manager.store(self._estate.sockets())

    def _be_owner(self) -> None:
        self._giving = Giving(self._estate, self._manager.hand_over)
        self._estate.channels.append(self._giving.close)

    def due_s(self, now: float) -> float | None:
        if self._taking:
            return self._taking.due_s(now)
        times = (self._headcount.due_s(now), self._giving.due_s(now) if self._giving else None)
        return min((due for due in times if due is not None), default=None)

    def fate(self, child: Child, code: int) -> Fate:
        if not isinstance(child, Worker):
            return Fate.AGAIN
        if self._taking and self._giving is None:
            if child.waits:
                self._taking.fail(f"{child.name} ended before its turn came")
            return Fate.AGAIN
        if self._giving and self._giving.under_way and child.superseded:
            child.died()
            return Fate.LATER
        if self._headcount.closing and code == 0 and self._headcount.is_retiring(child):
            self._program.dismiss(child)
            self._headcount.ended(child)
            return Fate.GONE
        return Fate.AGAIN

    def calls_back(self, child: Child) -> bool:
        return self._giving is not None and not self._giving.under_way

    def abort(self, why: str, now: float) -> None:
        if self._taking and self._giving is None:
            self._taking.fail(why)
        elif self._giving:
            self._giving.abort(why, now)
