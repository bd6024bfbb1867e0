"""The launcher: forks a program's children, watches them, forks them again, and ends them in order.

Rules:
  1. One thread, always, and nothing imported here starts another: forking again must be safe at any moment.
  2. No signal handlers. The five signals are blocked, and all waiting is one `sigtimedwait`; between signals the
     launcher sleeps until the next thing is due (a delayed fork, a heart that would be too old, a deadline).
  3. Between SIGCHLD and the fork that answers it stands nothing slow: what there is to log is logged afterwards.
  4. Only known pids are reaped, so that nobody else's children are taken away.

Phases, and what moves them:

    RUNNING  --SIGTERM--> DRAINING --drained, no essential child left, or timeout--> STOPPING --all gone--> ENDED
    RUNNING, DRAINING --SIGINT, second SIGTERM, crash loop--> STOPPING

    child ends             RUNNING   forked again
                           DRAINING  essential with status 0: it is done; else forked again
                           STOPPING  gone
    heart older than hung_after_s (RUNNING, DRAINING): SIGKILL, then as above
    SIGHUP (RUNNING, DRAINING): program.reload()
    SIGIO: whoever wants to follow this launcher may have said something (`succession`)
    STOPPING: program.stop(); without essential children left, or at the end of stop_grace_s, end-of-file at every
              alive_fd; whoever is there at the end of stop_grace_s: SIGKILL
"""

from __future__ import annotations

import enum
import logging
import os
import signal
from collections.abc import Callable, Sequence
from typing import Protocol

from relay.runtime import children
from relay.runtime.children import Child, Record, describe_exit
from relay.runtime.errors import EXIT_DRAINED, CrashLoop, RuntimeFault
from relay.runtime.kernel import Kernel, block_signals
from relay.runtime.log import event
from relay.runtime.succession import Fate, Succession
from relay.runtime.systemd import ServiceManager

__all__ = ["Child", "Kernel", "Launcher", "Program", "block_signals"]

log = logging.getLogger("ufrag.runtime.launcher")

_DRAIN_POLL_S = 0.05
_HEART_POLL_S = 0.02  # at least this between two looks at a heart that is nearly too old
_KILL_WAIT_S = 2.0  # for SIGKILL to take effect; only a process stuck in the kernel takes longer


class Program(Protocol):
    """What the launcher needs of the program it runs. An exception of these is logged, and the launcher goes on."""

    @property
    def children(self) -> Sequence[Child]:
        """The processes, in the order of their start; more may come later."""

    def drain(self) -> None:
        """Take nothing new, and let go what there is."""

    def drained(self) -> bool:
        """Whether there is nothing left; asked every 50 ms after `drain`."""

    def stop(self) -> None:
        """Tell the children to end now."""

    def reload(self) -> None:
        """Read again what can change while running."""

    def tend(self, now: float) -> float | None:
        """What has its time: do what is due, and say when to ask again (None: never). Asked at the start, too."""


class Phase(enum.Enum):
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"
    ENDED = "ended"


class Launcher:
    """Runs one program; see the head of this file."""

    def __init__(
        self,
        program: Program,
        *,
        drain_timeout_s: float,
        hung_after_s: float = 5.0,
        stop_grace_s: float = 2.0,
        crash_limit: int = 10,
        short_life_s: float = 1.0,
        name: str = "ufrag",
        kernel: Kernel | None = None,
        manager: ServiceManager | None = None,
        succession: Succession | None = None,
    ) -> None:
        self._program = program
        self._drain_timeout_s = drain_timeout_s
        self._hung_after_s = hung_after_s
        self._stop_grace_s = stop_grace_s
        self._crash_limit = crash_limit
        self._short_life_s = short_life_s
        self._name = name
        self._kernel = kernel or Kernel()
        self._manager = manager or ServiceManager()
        self._succession = succession or Succession()
        self._records: list[Record] = []
        self._phase = Phase.RUNNING
        self._deadline_s = 0.0  # of the drain, then of the stop
        self._program_due_s: float | None = 0.0
        self._killing = False
        self._hearts_from_s = 0.0  # no heart counts as older than since then
        self._fault: CrashLoop | None = None
        self._alive = (-1, -1)
        self._later: list[tuple[int, str, dict[str, object]]] = []

    def run(self) -> int:
        """Start everything, and return the program's exit status when everything has ended."""
        self._kernel.settle()
        self._alive = os.pipe()
        try:
            self._start()
            while self._phase is not Phase.ENDED:
                self._step()
        finally:
            self._abandon()
        if self._succession.leaving:
            return self._succession.exit_status
        return self._fault.exit_status if self._fault else EXIT_DRAINED

    def _start(self) -> None:
        now = self._kernel.now()
        self._take_on(now)
        self._fork_due(now)
        self._say_later()
        self._tend_program(now)

    def _step(self) -> None:
        """Wait for a signal or the next due time, and do what is due: children first, words next, the rest last."""
        asked_s = self._kernel.now()
        pause_s = self._pause_s(asked_s)
        number = self._kernel.wait(pause_s)
        now = self._kernel.now()
        self._reap(now)
        self._fork_due(now)
        self._say_later()
        self._forgive(now, asked_s, pause_s)
        self._handle_signal(number, now)
        if self._phase is not Phase.STOPPING:
            self._check_hearts(now)
            self._tend_succession(now)
            self._tend_drain(now)
            self._tend_program(now)
        if self._phase is Phase.STOPPING:
            self._tend_stop(now)
        self._manager.tend(now, self._records)

    def _pause_s(self, now: float) -> float | None:
        """Seconds until something is due; None: nothing before the next signal."""
        times = [record.due_s for record in self._records if record.due_s is not None]
        if self._phase is Phase.STOPPING:
            times.append(self._deadline_s)
        else:
            ages = [age for record in self._records if (age := self._heart_age_s(record, now)) is not None]
            times += [now + max(_HEART_POLL_S, self._hung_after_s - age) for age in ages]
            times += [due for due in (self._program_due_s, self._succession.due_s(now)) if due is not None]
        if self._phase is Phase.DRAINING:
            times.append(min(self._deadline_s, now + _DRAIN_POLL_S))
        if self._manager.due_s is not None:
            times.append(self._manager.due_s)
        return max(0.0, min(times) - now) if times else None

    # Children that end and begin

    def _take_on(self, now: float) -> None:
        """Those that the program has by now."""
        known = {id(record.child) for record in self._records}
        self._records += [Record(child, due_s=now) for child in self._program.children if id(child) not in known]

    def _reap(self, now: float) -> None:
        for record in list(self._records):
            code = None if record.pid is None else self._kernel.reap(record.pid)
            if code is not None:
                self._ended(record, code, now)

    def _ended(self, record: Record, code: int, now: float) -> None:
        pid, record.pid = record.pid, None
        done = self._phase is Phase.DRAINING and record.child.essential and code == 0
        fate = Fate.AGAIN if self._phase is Phase.STOPPING else self._succession.fate(record.child, code)
        expected = done or self._phase is Phase.STOPPING or fate is not Fate.AGAIN
        level = logging.INFO if expected else logging.WARNING
        life_s = now - record.born_s
        self._note(level, "child ended", record, pid=pid, how=describe_exit(code), life_s=round(life_s, 3))
        if fate is Fate.GONE:
            self._records.remove(record)
        record.down = fate is Fate.LATER
        if not expected:
            self._schedule(record, describe_exit(code), life_s, now)

    def _schedule(self, record: Record, how: str, life_s: float, now: float) -> None:
        """Fork it again, later if it keeps dying young, or give up."""
        record.short_lives = record.short_lives + 1 if life_s < self._short_life_s else 0
        record.due_s = now + children.restart_delay_s(record.short_lives)
        if record.short_lives < self._crash_limit or self._fault or not record.child.essential:
            return  # what is not essential is tried for ever: it must not cost the calls that the others carry
        self._fault = CrashLoop(
            f"ended {record.short_lives} times in a row within {self._short_life_s:g} s of its start, last by {how}",
            where=record.child.name,
            mend="its own log lines above say why",
        )
        self._begin_stop(now)

    def _fork_due(self, now: float) -> None:
        for record in self._records:
            if record.due_s is not None and record.due_s <= now:
                self._fork(record)

    def _fork(self, record: Record) -> None:
        record.child.prepare()
        children.flush_streams()
        launcher_pid = os.getpid()
        record.due_s, record.killed, record.born_s = None, False, self._kernel.now()
        try:
            pid = self._kernel.fork()
        except OSError as error:  # no memory or no pid left: to be tried again like a life of no length
            self._note(logging.ERROR, "fork failed", record, error=str(error))
            self._schedule(record, f"a failed fork ({error})", 0.0, record.born_s)
            return
        if pid == 0:
            children.live(record.child, self._name, launcher_pid, *self._alive)
        record.pid = pid
        record.restarts += 1
        record.child.started(pid, record.restarts)
        self._note(logging.INFO, "child started", record, pid=pid, restarts=record.restarts)

    # Hearts

    def _heart_age_s(self, record: Record, now: float) -> float | None:
        """Age of its last beat, never more than its own age: the program may still hold its predecessor's beat."""
        if record.pid is None or record.killed:
            return None
        age = record.child.heart_age_s(now)
        return None if age is None else min(age, now - record.born_s, now - self._hearts_from_s)

    def _check_hearts(self, now: float) -> None:
        for record in self._records:
            age = self._heart_age_s(record, now)
            if record.pid is not None and age is not None and age >= self._hung_after_s:
                record.killed = True
                self._kernel.kill(record.pid)
                self._note(logging.ERROR, "child hung, killed", record, pid=record.pid, heart_age_s=round(age, 3))
        self._say_later()

    def _forgive(self, now: float, asked_s: float, pause_s: float | None) -> None:
        """A launcher that woke far too late was frozen, and its children most likely with it (a paused container):
        they get the time to beat again."""
        if pause_s is not None and now - asked_s - pause_s > self._hung_after_s / 2:
            self._hearts_from_s = now

    # Signals, drain and stop

    def _handle_signal(self, number: int | None, now: float) -> None:
        if number is None or number in (signal.SIGCHLD, signal.SIGIO):
            return
        event(log, logging.INFO, "signal", signal=signal.Signals(number).name, phase=self._phase.value)
        if self._phase is Phase.STOPPING:
            return
        if number == signal.SIGHUP:
            self._manager.reload(now)
            self._ask("reload", self._program.reload)
            return
        self._succession.abort(f"told to end by {signal.Signals(number).name}", now)
        if not self._succession.owns:
            self._leave(now)
        elif number == signal.SIGTERM and self._phase is Phase.RUNNING:
            self._begin_drain(now)
        else:
            self._begin_stop(now)

    def _begin_drain(self, now: float) -> None:
        self._phase = Phase.DRAINING
        self._deadline_s = now + self._drain_timeout_s
        event(log, logging.INFO, "draining", timeout_s=self._drain_timeout_s)
        self._manager.end("draining", self._drain_timeout_s + self._stop_grace_s + _KILL_WAIT_S)
        self._ask("drain", self._program.drain)

    def _tend_drain(self, now: float) -> None:
        if self._phase is not Phase.DRAINING:
            return
        if all(record.finished for record in self._records if record.child.essential) or self._drained():
            event(log, logging.INFO, "drained")
        elif now >= self._deadline_s:
            event(log, logging.WARNING, "drain timed out", timeout_s=self._drain_timeout_s)
        else:
            return
        self._begin_stop(now)

    def _drained(self) -> bool:
        answers: list[bool] = []
        self._ask("drained", lambda: answers.append(self._program.drained()))
        return any(answers)

    def _tend_program(self, now: float) -> None:
        if self._program_due_s is not None and now >= self._program_due_s:
            answers: list[float | None] = []
            self._ask("tending", lambda: answers.append(self._program.tend(now)))
            self._program_due_s = next(iter(answers), None)

    # A launcher before or after this one

    def _tend_succession(self, now: float) -> None:
        self._ask("succession", lambda: self._succession.tend(now, ending=self._phase is not Phase.RUNNING))
        if self._succession.leaving:
            self._leave(now)
            return
        self._take_on(now)
        for record in self._records:
            if record.down and self._succession.calls_back(record.child):
                record.down, record.due_s = False, now
        self._fork_due(now)
        self._say_later()

    def _leave(self, now: float) -> None:
        """The program goes on without this launcher: only its own processes end, and nothing is said to anybody."""
        self._phase = Phase.STOPPING
        self._deadline_s = now + self._stop_grace_s
        for record in self._records:
            record.due_s = None
        self._close_alive(1)

    def _begin_stop(self, now: float) -> None:
        if not self._succession.owns:
            self._leave(now)
            return
        self._phase = Phase.STOPPING
        self._deadline_s = now + self._stop_grace_s
        for record in self._records:
            record.due_s = None
        self._manager.end(str(self._fault or "stopping"), self._stop_grace_s + _KILL_WAIT_S)
        self._ask("stop", self._program.stop)

    def _tend_stop(self, now: float) -> None:
        left = [record for record in self._records if record.pid is not None]
        late = now >= self._deadline_s
        if late or not any(record.child.essential for record in left):
            self._close_alive(1)
        if not left or (late and self._killing):
            self._phase = Phase.ENDED
        elif late:
            self._kill(left)
            self._deadline_s = now + _KILL_WAIT_S

    def _kill(self, left: Sequence[Record]) -> None:
        self._killing = True
        for record in left:
            assert record.pid is not None
            self._kernel.kill(record.pid)
            self._note(logging.WARNING, "child did not end in time, killed", record, pid=record.pid)
        self._say_later()

    def _abandon(self) -> None:
        """Nothing of ours outlives `run`, however it ends."""
        for record in self._records:
            if record.pid is not None:
                self._kernel.kill(record.pid)
        self._close_alive(0)
        self._close_alive(1)
        self._say_later()
        if self._fault:
            event(log, logging.ERROR, str(self._fault))

    def _close_alive(self, end: int) -> None:
        if self._alive[end] >= 0:
            os.close(self._alive[end])
            self._alive = (-1, self._alive[1]) if end == 0 else (self._alive[0], -1)

    # The program's own code, and words

    def _ask(self, what: str, call: Callable[[], None]) -> None:
        """A program that fails to reload its keys, say, must not cost the calls its children carry."""
        try:
            call()
        except RuntimeFault as fault:
            event(log, logging.ERROR, f"{what} failed", error=str(fault))
        except Exception:
            log.exception("%s failed", what)

    def _note(self, level: int, message: str, record: Record, **fields: object) -> None:
        self._later.append((level, message, {"child": record.child.name, **fields}))

    def _say_later(self) -> None:
        waiting, self._later = self._later, []
        for level, message, fields in waiting:
            event(log, level, message, **fields)
