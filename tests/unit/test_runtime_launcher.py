"""The launcher on a virtual kernel: its states, its delays and its patience, without a process or a clock.

Only processes tell whether the system calls do what is meant; those tests are in tests/integration/test_launcher.py.
"""

from __future__ import annotations

import heapq
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from relay.runtime import children
from relay.runtime.errors import ConfigError
from relay.runtime.launcher import Child, Kernel, Launcher

KILLED = -int(signal.SIGKILL)


class VirtualKernel(Kernel):
    """Time passes only in `wait`; what happens is scheduled with `at` and `after`."""

    def __init__(self) -> None:
        self.clock = 100.0
        self.waits = 0
        self.forks: list[float] = []
        self.kills: list[tuple[float, int]] = []
        self.exits: dict[int, int] = {}
        self.unkillable: set[int] = set()
        self.failing_forks = 0
        self.on_fork: Callable[[int], None] = lambda pid: None
        self._order = itertools.count()
        self._pids = itertools.count(1000)
        self._events: list[tuple[float, int, Callable[[], int | None]]] = []

    def at(self, time_s: float, action: Callable[[], int | None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), action))

    def signal_at(self, time_s: float, number: signal.Signals) -> None:
        self.at(time_s, lambda: int(number))

    def end(self, pid: int, code: int, after_s: float = 0.0) -> None:
        """`pid` ends with `code`, unless it has ended already."""

        def action() -> int | None:
            self.exits.setdefault(pid, code)
            return int(signal.SIGCHLD)

        self.at(self.clock + after_s, action)

    def settle(self) -> None:
        pass

    def now(self) -> float:
        return self.clock

    def wait(self, timeout_s: float | None) -> int | None:
        self.waits += 1
        assert self.waits < 100_000, "the launcher spins"
        if self._events and (timeout_s is None or self._events[0][0] <= self.clock + timeout_s):
            time_s, _, action = heapq.heappop(self._events)
            self.clock = max(self.clock, time_s)
            return action()
        assert timeout_s is not None, "the launcher sleeps for ever"
        self.clock += timeout_s
        return None

    def fork(self) -> int:
        if self.failing_forks:
            self.failing_forks -= 1
            raise OSError(11, "Resource temporarily unavailable")
        pid = next(self._pids)
        self.forks.append(self.clock)
        self.on_fork(pid)
        return pid

    def reap(self, pid: int) -> int | None:
        return self.exits.get(pid)

    def kill(self, pid: int) -> None:
        self.kills.append((self.clock, pid))
        if pid not in self.unkillable:
            self.end(pid, KILLED)


@dataclass
class VirtualChild:
    kernel: VirtualKernel
    name: str = "worker 0"
    essential: bool = True
    pid: int = 0
    restarts: int = -1
    prepared: int = 0
    beat_s: Callable[[], float | None] = lambda: None

    def prepare(self) -> None:
        self.prepared += 1

    def main(self, alive_fd: int) -> int:
        raise AssertionError("nothing is forked here")

    def heart_age_s(self, now: float) -> float | None:
        beat_s = self.beat_s()
        return None if beat_s is None else now - beat_s

    def started(self, pid: int, restarts: int) -> None:
        self.pid, self.restarts = pid, restarts


@dataclass
class VirtualProgram:
    """Its children obey `stop` at once, unless told otherwise."""

    kernel: VirtualKernel
    own: list[VirtualChild]
    calls: list[tuple[str, float]] = field(default_factory=list)
    drained_at_s: float = float("inf")
    obedient: bool = True
    failing: Exception | None = None
    due_s: list[float] = field(default_factory=list)
    tended_s: list[float] = field(default_factory=list)

    @property
    def children(self) -> Sequence[Child]:
        return self.own

    def _called(self, name: str) -> None:
        self.calls.append((name, self.kernel.clock))
        if self.failing:
            raise self.failing

    def drain(self) -> None:
        self._called("drain")

    def drained(self) -> bool:
        if self.failing:
            raise self.failing
        return self.kernel.clock >= self.drained_at_s

    def stop(self) -> None:
        if self.obedient:
            for child in self.own:
                self.kernel.end(child.pid, 0, after_s=0.01)
        self._called("stop")

    def reload(self) -> None:
        self._called("reload")

    def tend(self, now: float) -> float | None:
        self.tended_s.append(now - 100.0)
        return self.due_s.pop(0) if self.due_s else None


class World:
    def __init__(self, *names: str, **options: float) -> None:
        self.kernel = VirtualKernel()
        kinds = names or ("worker 0",)
        self.children = [VirtualChild(self.kernel, name, essential=name != "admin") for name in kinds]
        self.program = VirtualProgram(self.kernel, self.children)
        settings = {"drain_timeout_s": 30.0, **options}
        self.launcher = Launcher(self.program, kernel=self.kernel, **settings)  # type: ignore[arg-type]
        self.start_s = self.kernel.clock

    def lives(self, lives_s: Iterator[float | None], code: int = 1) -> None:
        """The processes, in the order of their forks, live so long; None: until they are stopped."""

        def on_fork(pid: int) -> None:
            life_s = next(lives_s)
            if life_s is not None:
                self.kernel.end(pid, code, life_s)

        self.kernel.on_fork = on_fork

    def signal_after(self, seconds: float, number: signal.Signals) -> None:
        self.kernel.signal_at(self.start_s + seconds, number)

    def run(self) -> int:
        return self.launcher.run()

    @property
    def forks(self) -> list[float]:
        return [round(time_s - self.start_s, 6) for time_s in self.kernel.forks]

    @property
    def calls(self) -> list[tuple[str, float]]:
        return [(name, round(time_s - self.start_s, 6)) for name, time_s in self.program.calls]


def test_what_has_its_time_is_done_then_and_not_while_the_program_ends() -> None:
    world = World()
    world.program.due_s = [103.0, 103.5, 120.0]
    world.signal_after(10, signal.SIGINT)
    assert world.run() == 0
    assert world.program.tended_s == [0.0, 3.0, 3.5]


# Restarts


def test_restart_delays_grow_and_end_at_one_second() -> None:
    delays = [children.restart_delay_s(lives) for lives in range(9)]
    assert delays == [0, 0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert children.restart_delay_s(10**6) == 1.0


def test_first_death_is_followed_by_a_fork_at_once() -> None:
    world = World()
    world.lives(iter([0.5, None]))
    world.signal_after(20, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0, 0.5]
    assert (world.children[0].prepared, world.children[0].restarts) == (2, 1)


def test_short_lives_are_delayed_and_a_long_one_forgives() -> None:
    world = World()
    world.lives(iter([0.0, 0.0, 0.0, 5.0, 0.0, 0.0, None]))
    world.signal_after(60, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0, 0, 0.05, 0.15, 5.15, 5.15, 5.2]


def test_crash_loop_stops_everything(caplog: pytest.LogCaptureFixture) -> None:
    world = World("worker 0", "worker 1", crash_limit=4)
    world.lives(itertools.chain([0.0, None], itertools.repeat(0.0)), code=-11)
    assert world.run() == 70
    assert world.children[0].restarts == 3
    assert world.calls[-1][0] == "stop"
    assert "worker 0: ended 4 times in a row within 1 s of its start, last by signal 11 (SIGSEGV)" in caplog.text


def test_what_is_not_essential_may_crash_for_ever() -> None:
    """An admin process that cannot start must not end the workers and the calls they carry."""
    world = World("worker 0", "admin", crash_limit=4)
    world.lives(itertools.chain([None], itertools.repeat(0.0)))
    world.signal_after(60, signal.SIGINT)
    assert world.run() == 0
    assert world.children[0].restarts == 0
    assert world.children[1].restarts > 50


def test_two_children_crashing_in_turns_do_not_add_up() -> None:
    world = World("worker 0", "worker 1", crash_limit=3)
    world.lives(iter([0.0, 0.0, 0.0, 0.0, None, None]))
    world.signal_after(20, signal.SIGINT)
    assert world.run() == 0


def test_failed_forks_are_tried_again_with_delays() -> None:
    world = World()
    world.kernel.failing_forks = 3
    world.signal_after(20, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0.15]
    assert world.children[0].restarts == 0


def test_forks_that_always_fail_are_a_crash_loop() -> None:
    world = World()
    world.kernel.failing_forks = 1000
    assert world.run() == 70
    assert world.forks == []


def test_exit_with_status_0_is_unexpected_while_running() -> None:
    world = World()
    world.lives(iter([3.0, None]), code=0)
    world.signal_after(20, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0, 3]


def test_failing_prepare_leaves_no_child_behind() -> None:
    world = World("worker 0", "worker 1")

    def prepare() -> None:
        raise ConfigError("no epoch left")

    world.children[1].prepare = prepare  # type: ignore[method-assign]
    with pytest.raises(ConfigError):
        world.run()
    assert [pid for _, pid in world.kernel.kills] == [world.children[0].pid]


# Hearts


def test_hung_heart_is_killed_when_it_is_too_old_and_no_earlier() -> None:
    world = World()
    beats = {1000: 102.0}  # the first process beats for the last time at 102 s, its successor always
    child = world.children[0]
    child.beat_s = lambda: beats.get(child.pid, world.kernel.clock)
    world.signal_after(20, signal.SIGINT)
    assert world.run() == 0
    assert [(round(time_s, 6), pid) for time_s, pid in world.kernel.kills] == [(107.0, 1000)]
    assert world.forks == [0, 7]


def test_successor_that_hangs_too_is_killed_too() -> None:
    world = World()
    world.children[0].beat_s = lambda: 100.0
    world.signal_after(12, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0, 5, 10]


def test_beating_heart_costs_few_wakings() -> None:
    world = World()
    world.children[0].beat_s = lambda: world.kernel.clock - 0.1
    world.signal_after(490, signal.SIGINT)
    assert world.run() == 0
    assert world.kernel.kills == []
    assert world.kernel.waits < 110


def test_heart_of_a_predecessor_is_not_held_against_a_new_process() -> None:
    world = World()
    world.children[0].beat_s = lambda: 1.0  # 99 s old at the start
    world.signal_after(4.9, signal.SIGINT)
    assert world.run() == 0
    assert world.kernel.kills == []


def test_frozen_launcher_gives_hearts_time_to_beat_again() -> None:
    world = World()
    kernel = world.kernel
    world.children[0].beat_s = lambda: kernel.clock if kernel.clock < 103 or kernel.clock > 160.5 else 103.0

    def thaw() -> int | None:
        kernel.clock = 160.0
        return None

    kernel.at(103.0, thaw)
    world.signal_after(100, signal.SIGINT)
    assert world.run() == 0
    assert kernel.kills == []


def test_hung_process_that_does_not_die_is_killed_once() -> None:
    world = World(stop_grace_s=1)
    world.children[0].beat_s = lambda: 100.0
    world.kernel.unkillable.add(1000)
    world.program.obedient = False
    world.signal_after(30, signal.SIGINT)
    assert world.run() == 0
    kills = [round(time_s - world.start_s, 6) for time_s, _ in world.kernel.kills]
    assert kills == [5, 31, 33]  # the heart; the end of the grace; whatever is left when the launcher ends


# Words


def test_exit_words() -> None:
    assert children.describe_exit(3) == "exit status 3"
    assert children.describe_exit(-9) == "signal 9 (SIGKILL)"
    assert children.describe_exit(-62) == "signal 62"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("worker 0", "ufrag-worker-0"),
        ("worker 17", "ufrag-worker-17"),
        ("worker 117", "worker-117"),
        ("a name that is much too long", "a-name-that-is-"),
        ("ääääääääää", "äääääää"),
    ],
)
def test_process_name_fits_the_kernel(name: str, shown: str) -> None:
    assert children.process_name("ufrag", name) == shown
    assert len(shown.encode()) <= 15
