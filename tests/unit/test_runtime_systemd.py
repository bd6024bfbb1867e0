"""What the launcher tells systemd and when: on the virtual kernel of test_runtime_launcher, and by real sockets."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.runtime.systemd import ServiceManager
from tests.support import service_manager
from tests.unit.test_runtime_launcher import World


class Told(ServiceManager):
    """Keeps what would be sent, and when; `deaf_until_s`: it is not heard before."""

    def __init__(self, world: World, watchdog_s: float | None = None, deaf_until_s: float = 0.0) -> None:
        self.program_status = "well"
        super().__init__("/nowhere", watchdog_s, lambda: self.program_status)
        self.world, self.deaf_until_s = world, deaf_until_s
        self.lines: list[tuple[float, str]] = []
        world.launcher._manager = self

    def _send(self, lines: list[str], descriptors: object = ()) -> bool:
        now = self.world.kernel.clock
        self._deaf = now < self.deaf_until_s
        if not self._deaf:
            self.lines += [(round(now - self.world.start_s, 3), line) for line in lines]
        return not self._deaf

    def times(self, line: str) -> list[float]:
        return [at for at, said in self.lines if said == line]


def beating(world: World, index: int, *, silent_between: tuple[float, float] = (0.0, 0.0)) -> None:
    """The heart of one child: four beats a second, but for that time after the start."""

    def beat_s() -> float:
        now = world.kernel.clock
        start, end = (world.start_s + seconds for seconds in silent_between)
        last_s = min(now, start) if now < end else now
        return last_s - last_s % 0.25

    world.children[index].beat_s = beat_s


def longest(times: list[float]) -> float:
    return round(max(later - sooner for sooner, later in itertools.pairwise(times)), 3)


# Ready


def test_ready_is_said_when_every_worker_has_beaten_since_its_fork() -> None:
    world = World("worker 0", "worker 1", "admin")
    manager = Told(world)
    beating(world, 0)
    beating(world, 1, silent_between=(-1.0, 2.0))
    world.signal_after(20, signal.SIGINT)
    world.run()
    (ready_s,) = manager.times("READY=1")
    assert 2.0 < ready_s < 2.5


def test_a_predecessors_beat_makes_nobody_ready() -> None:
    """The word is in memory that outlives processes."""
    world = World()
    manager = Told(world)
    world.children[0].beat_s = lambda: world.start_s - 0.001
    world.signal_after(4, signal.SIGINT)
    world.run()
    assert manager.times("READY=1") == []
    assert manager.times("STOPPING=1") == [4]


def test_what_was_not_heard_is_said_again() -> None:
    world = World()
    manager = Told(world, watchdog_s=8.0, deaf_until_s=world_time(7.0))
    beating(world, 0)
    world.signal_after(20, signal.SIGINT)
    world.run()
    assert len(manager.times("READY=1")) == 1
    assert 7.0 <= manager.times("READY=1")[0] < 7.2
    assert manager.times("STATUS=well") == manager.times("READY=1")


def world_time(seconds: float) -> float:
    return 100.0 + seconds


# The watchdog


def test_the_watchdog_hears_twice_in_its_time() -> None:
    world = World()
    manager = Told(world, watchdog_s=3.0)
    beating(world, 0)
    world.signal_after(60, signal.SIGINT)
    world.run()
    times = manager.times("WATCHDOG=1")
    assert longest(times) == 1.5
    assert len(times) < 60


def test_a_child_that_even_a_kill_does_not_end_silences_the_watchdog() -> None:
    world = World("worker 0", "worker 1", hung_after_s=5.0)
    manager = Told(world, watchdog_s=2.0)
    beating(world, 0)
    beating(world, 1, silent_between=(10.0, 40.0))
    world.kernel.on_fork = world.kernel.unkillable.add
    world.program.obedient = False
    world.signal_after(30, signal.SIGINT)
    world.run()
    times = manager.times("WATCHDOG=1")
    assert [at for at in times if 13 < at < 30] == []
    assert [at for at in times if at < 13][-1] > 11.5
    assert times[-1] >= 30  # from then on the launcher itself ends what does not


def test_a_crashing_child_is_no_reason_for_the_watchdog() -> None:
    world = World("worker 0", "admin")
    manager = Told(world, watchdog_s=2.0)
    beating(world, 0)
    world.lives(iter([None, 0.5] + [0.01] * 100))
    world.signal_after(30, signal.SIGINT)
    world.run()
    times = manager.times("WATCHDOG=1")
    assert longest(times) == 1.0


# Reload, drain, stop


def test_a_reload_is_told_and_its_end() -> None:
    world = World()
    manager = Told(world)
    beating(world, 0)
    world.signal_after(10, signal.SIGHUP)
    world.signal_after(20, signal.SIGINT)
    world.run()
    told = [line for line in manager.lines if line[0] == 10]
    assert told == [(10, "RELOADING=1"), (10, "MONOTONIC_USEC=110000000"), (10, "READY=1")]


def test_a_reload_is_over_even_while_a_worker_is_not_well() -> None:
    world = World("worker 0", "worker 1")
    manager = Told(world)
    beating(world, 0)
    beating(world, 1, silent_between=(9.0, 20.0))
    world.kernel.at(world_time(9.5), lambda: world.kernel.end(world.children[1].pid, 1))
    world.signal_after(10, signal.SIGHUP)
    world.signal_after(12, signal.SIGINT)
    world.run()
    assert manager.times("READY=1")[1:] == [10]


@pytest.mark.parametrize("draining", [False, True])
def test_no_reload_is_told_before_the_start_is_over_nor_in_a_drain(draining: bool) -> None:
    """Each would make a READY=1 of its own, that is, end the start or the drain."""
    world = World()
    manager = Told(world)
    if draining:
        beating(world, 0)
        world.signal_after(9, signal.SIGTERM)
    world.signal_after(10, signal.SIGHUP)
    world.signal_after(20, signal.SIGINT)
    world.children[0].beat_s = world.children[0].beat_s if draining else (lambda: world.start_s - 1)
    world.run()
    assert manager.times("RELOADING=1") == []
    assert len(manager.times("READY=1")) == draining
    assert ("reload", 10) in world.calls


def test_a_drain_has_the_time_it_needs() -> None:
    world = World(drain_timeout_s=600.0)
    manager = Told(world, watchdog_s=2.0)
    beating(world, 0)
    world.signal_after(10, signal.SIGTERM)
    world.program.drained_at_s = world_time(500.0)
    world.run()
    assert manager.times("STOPPING=1")[0] == 10
    assert manager.times("EXTEND_TIMEOUT_USEC=604000000") == [10]
    assert manager.times("STATUS=draining (well)") == [10]
    times = [at for at in manager.times("WATCHDOG=1") if at > 10]
    assert len(times) > 400


def test_the_last_status_names_a_crash_loop() -> None:
    world = World(crash_limit=3)
    manager = Told(world)
    world.lives(iter([0.01] * 3))
    assert world.run() == 70
    assert any(said.startswith("STATUS=worker 0: ended 3 times") for _, said in manager.lines)


def test_a_status_is_said_when_it_changes() -> None:
    world = World()
    manager = Told(world)
    beating(world, 0)
    world.kernel.at(world_time(20.0), lambda: setattr(manager, "program_status", "better"))
    world.signal_after(60, signal.SIGINT)
    world.run()
    assert len(manager.times("STATUS=well")) == 1
    (changed_s,) = manager.times("STATUS=better")
    assert 20 <= changed_s <= 25


def test_a_status_is_one_line() -> None:
    world = World()
    manager = Told(world)
    manager.program_status = "well\nREADY=1"
    world.signal_after(2, signal.SIGINT)
    world.run()
    assert len(manager.times("STATUS=well READY=1")) == 1


def test_a_status_that_fails_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    manager = Told(world, watchdog_s=2.0)
    beating(world, 0)
    del manager.program_status
    world.signal_after(60, signal.SIGINT)
    assert world.run() == 0
    assert "the status failed" in caplog.text
    assert len(manager.times("READY=1")) == 1
    assert len(manager.times("WATCHDOG=1")) > 50


def test_without_a_manager_the_launcher_sleeps() -> None:
    world = World()
    world.signal_after(3000, signal.SIGINT)
    world.run()
    assert world.kernel.waits < 5


# Through a real socket


@pytest.fixture
def heard() -> Iterator[service_manager.ServiceManager]:
    with service_manager.ServiceManager() as heard:
        yield heard


def environment(heard: service_manager.ServiceManager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": heard.address, **more}


def test_a_socket_with_a_file(tmp_path: Path) -> None:
    with service_manager.ServiceManager(str(tmp_path / "notify")) as heard:
        ServiceManager.from_environment(environment=environment(heard)).tend(1.0, [])
        message = heard.wait_for("READY")
    assert (message.pid, message.fields["READY"]) == (os.getpid(), "1")


@pytest.mark.parametrize(
    ("variables", "successor", "barks"),
    [
        ({}, False, False),
        ({"WATCHDOG_USEC": "2000000"}, False, True),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, False, True),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, False, False),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, True, True),
        ({"WATCHDOG_USEC": "0"}, False, False),
        ({"WATCHDOG_USEC": "soon"}, False, False),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "me"}, False, False),
    ],
)
def test_whose_watchdog_it_is(
    heard: service_manager.ServiceManager, variables: dict[str, str], successor: bool, barks: bool
) -> None:
    manager = ServiceManager.from_environment(environment=environment(heard, **variables), successor=successor)
    manager.speak()
    manager.tend(1.0, [])
    heard.wait_for("READY")
    assert ("WATCHDOG" in heard.messages[-1].fields) == barks


@pytest.mark.parametrize("variables", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_nobody_to_tell(variables: dict[str, str]) -> None:
    manager = ServiceManager.from_environment(environment=variables)
    assert manager.due_s is None
    manager.speak()
    manager.hand_over(1)
    manager.reload(1.0)
    manager.end("stopping", 1.0)
    manager.tend(1.0, [])
    assert manager.due_s is None


def test_a_manager_that_is_gone_is_warned_of_once(
    heard: service_manager.ServiceManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager.from_environment(environment=environment(heard))
    heard.__exit__(None, None, None)
    for now in range(5):
        manager.tend(float(now), [])
    assert caplog.text.count("does not hear") == 1


def test_a_full_queue_holds_nobody_up_for_long(heard: service_manager.ServiceManager) -> None:
    manager = ServiceManager(heard.address)
    while manager._send(["X=1"]):
        pass
    manager.tend(1.0, [])
    while (message := heard.next(0)) and "READY" not in message.fields:
        pass
    assert message is None
    manager.tend(2.0, [])
    heard.wait_for("READY")


# Sockets that are kept


def test_what_is_kept_is_what_there_is(heard: service_manager.ServiceManager) -> None:
    manager = ServiceManager.from_environment(environment=environment(heard))
    mine = [[heard.opens(socket.SOCK_DGRAM) for _ in range(2)] for _ in range(2)]
    heard.stored.append(("ufrag-7", heard.opens(socket.SOCK_DGRAM)))
    for kept, before in ((mine, ["ufrag-7"]), (mine[:1], [])):
        manager.store(kept, before)
        while heard.next(0):
            pass
        held = [(name, sock.getsockname()) for name, sock in reversed(heard.stored)]
        assert held == [(f"ufrag-{k}", sock.getsockname()) for k, each in enumerate(kept) for sock in each]
    assert all(message.fields["FDPOLL"] == "0" for message in heard.named("FDSTORE"))


def test_a_successor_stores_nothing_before_it_is_the_main_process(heard: service_manager.ServiceManager) -> None:
    manager = ServiceManager.from_environment(environment=environment(heard), successor=True)
    manager.store([[heard.opens(socket.SOCK_DGRAM)]], [])
    assert heard.next(0) is None


# A live upgrade


def test_a_successor_is_silent_until_it_is_the_main_process(heard: service_manager.ServiceManager) -> None:
    manager = ServiceManager.from_environment(environment=environment(heard), successor=True)
    assert manager.due_s is None
    manager.tend(1.0, [])
    manager.reload(1.0)
    assert heard.next(0) is None
    manager.speak()
    manager.tend(2.0, [])
    assert "READY" in heard.wait_for("READY").fields


def test_the_old_one_names_the_new_one_and_waits_until_that_was_read(heard: service_manager.ServiceManager) -> None:
    manager = ServiceManager.from_environment(environment=environment(heard))
    before = len(os.listdir("/proc/self/fd"))
    reader = threading.Thread(target=lambda: heard.wait_for("BARRIER"))
    reader.start()
    manager.hand_over(4711)
    reader.join(10)
    assert [message.fields for message in heard.messages] == [{"MAINPID": "4711"}, {"BARRIER": "1"}]
    assert manager.due_s is None
    manager.end("stopping", 1.0)
    assert heard.next(0) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_manager_that_does_not_confirm_holds_nobody_up_for_ever(
    heard: service_manager.ServiceManager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.runtime.systemd._BARRIER_MS", 50)
    ServiceManager.from_environment(environment=environment(heard)).hand_over(4711)
    assert "did not confirm" in caplog.text


def test_no_child_inherits_the_socket(heard: service_manager.ServiceManager) -> None:
    before = set(os.listdir("/proc/self/fd"))
    manager = ServiceManager.from_environment(environment=environment(heard))
    manager.tend(1.0, [])
    assert set(os.listdir("/proc/self/fd")) == before
