"""The launcher on the virtual kernel of test_runtime_launcher: signals, drain, stop, and reloading."""

from __future__ import annotations

import itertools
import logging
import signal

import pytest

from relay.runtime.errors import ConfigError
from tests.unit.test_runtime_launcher import KILLED, World


def test_drain_ends_when_the_program_is_drained() -> None:
    world = World("worker 0", "admin")
    world.program.drained_at_s = world.start_s + 12
    world.signal_after(10, signal.SIGTERM)
    assert world.run() == 0
    assert [name for name, _ in world.calls] == ["drain", "stop"]
    assert world.calls[0][1] == 10
    assert 12 <= world.calls[1][1] <= 12.1


def test_drain_ends_when_essential_children_are_done() -> None:
    world = World("worker 0", "admin")
    world.signal_after(10, signal.SIGTERM)
    world.kernel.at(111.0, lambda: world.kernel.end(world.children[0].pid, 0))
    assert world.run() == 0
    assert world.calls == [("drain", 10), ("stop", 11)]
    assert len(world.forks) == 2


def test_drain_times_out() -> None:
    world = World(drain_timeout_s=3)
    world.signal_after(10, signal.SIGTERM)
    assert world.run() == 0
    assert world.calls == [("drain", 10), ("stop", 13)]


@pytest.mark.parametrize(("which", "code"), [(0, KILLED), (0, 1), (1, KILLED), (1, 0)])
def test_crash_while_draining_is_mended(which: int, code: int) -> None:
    world = World("worker 0", "admin", drain_timeout_s=3)
    world.signal_after(10, signal.SIGTERM)
    world.kernel.at(111.0, lambda: world.kernel.end(world.children[which].pid, code))
    assert world.run() == 0
    assert world.forks == [0, 0, 11]
    assert world.calls == [("drain", 10), ("stop", 13)]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_stops_at_once(second: signal.Signals) -> None:
    world = World()
    world.signal_after(10, signal.SIGTERM)
    world.signal_after(11, second)
    assert world.run() == 0
    assert world.calls == [("drain", 10), ("stop", 11)]
    assert world.kernel.kills == []


def test_interrupt_stops_at_once() -> None:
    world = World()
    world.signal_after(10, signal.SIGINT)
    assert world.run() == 0
    assert world.calls == [("stop", 10)]


def test_children_that_do_not_stop_are_killed_after_the_grace() -> None:
    world = World("worker 0", "admin", stop_grace_s=2)
    world.program.obedient = False
    world.signal_after(10, signal.SIGINT)
    assert world.run() == 0
    assert [(time_s - world.start_s, pid) for time_s, pid in world.kernel.kills] == [(12, 1000), (12, 1001)]


def test_more_signals_while_stopping_change_nothing() -> None:
    world = World(stop_grace_s=2)
    world.program.obedient = False
    for moment, number in ((10, signal.SIGINT), (10.5, signal.SIGTERM), (11, signal.SIGHUP), (11.5, signal.SIGINT)):
        world.signal_after(moment, number)
    assert world.run() == 0
    assert world.calls == [("stop", 10)]
    assert world.kernel.clock == world.start_s + 12


def test_child_due_for_a_fork_is_not_forked_after_stop() -> None:
    world = World()
    world.lives(iter([0.0, 0.0, 0.0, 0.0, 0.0]))  # the sixth fork would be due at 0.75 s
    world.signal_after(0.5, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0, 0, 0.05, 0.15, 0.35]


def test_child_due_for_a_fork_is_not_forked_during_the_grace() -> None:
    world = World("worker 0", "worker 1", stop_grace_s=2)
    world.program.obedient = False
    world.lives(itertools.chain([0.0, None], itertools.repeat(0.0)))
    world.signal_after(0.5, signal.SIGINT)
    assert world.run() == 0
    assert world.forks == [0, 0, 0, 0.05, 0.15, 0.35]


def test_hangup_reloads() -> None:
    world = World()
    world.signal_after(5, signal.SIGHUP)
    world.signal_after(6, signal.SIGTERM)
    world.signal_after(7, signal.SIGHUP)
    world.signal_after(8, signal.SIGTERM)
    assert world.run() == 0
    assert world.calls == [("reload", 5), ("drain", 6), ("reload", 7), ("stop", 8)]


@pytest.mark.parametrize("error", [ConfigError("bad key file"), KeyError("bug")])
def test_failing_program_does_not_take_the_launcher_down(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    world = World(drain_timeout_s=1)
    world.program.failing = error
    world.signal_after(5, signal.SIGHUP)
    world.signal_after(6, signal.SIGTERM)
    assert world.run() == 0
    assert world.calls == [("reload", 5), ("drain", 6), ("stop", 7)]
    assert "reload failed" in caplog.text


def test_log_lines_name_child_and_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World()
    world.lives(iter([2.0, None]), code=KILLED)
    world.signal_after(5, signal.SIGINT)
    world.run()
    ended = next(record for record in caplog.records if record.getMessage() == "child ended")
    assert ended.__dict__["fields"] == {
        "child": "worker 0",
        "pid": 1000,
        "how": "signal 9 (SIGKILL)",
        "life_s": 2.0,
    }
