"""More of the launcher with real processes, on the program and harness of tests/integration/test_launcher.py: a child's
first steps, drain and stop, what is left behind, and the admin child."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.test_launcher import PATIENCE_S, Running, kill

pytestmark = pytest.mark.native


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# A child's first steps


def test_child_has_a_name_and_leaves_signals_to_the_launcher(stack: ExitStack) -> None:
    running = Running(stack, "good", "good")
    up = running.up(2)
    assert {name: event["comm"] for name, event in up.items()} == {
        "worker 0": "ufrag-worker-0",
        "worker 1": "ufrag-worker-1",
    }
    assert all(event["ignored"] and event["blocked"] == 0 for event in up.values())
    running.send(signal.SIGINT)
    status, words = running.end()
    assert status == 0
    assert sorted(running.names("stops")) == ["worker 0", "worker 1"]
    assert "Traceback" not in words
    assert [event["event"] for event in running.events].count("buffered") == 1, "a child wrote its parent's buffer"


def test_launcher_with_a_thread_refuses_to_start(stack: ExitStack) -> None:
    status, words = Running(stack, "good", extra_thread=True).end()
    assert status == 1
    assert "the launcher has 2 threads" in words


# Drain and stop


def test_drain_waits_for_all_essential_children_and_not_for_admin(stack: ExitStack) -> None:
    running = Running(stack, "done", "done", with_admin=True)
    running.up(3)
    running.send(signal.SIGTERM)
    status, _ = running.end()
    assert status == 0
    assert sorted(running.names("drains")) == ["worker 0", "worker 1"]
    assert running.names("stops") == ["admin"]


def test_group_wide_sigterm_leaves_workers_until_the_drain_is_over(stack: ExitStack) -> None:
    running = Running(stack, "good", "good", with_admin=True, drain_timeout_s=0.3)
    up = running.up(3)
    moment = time.monotonic()
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait_for("stop")["at"] - moment >= 0.3
    assert any(event["event"] == "drain" for event in running.events)
    status, words = running.end()
    assert status == 0
    assert sorted(running.names("stops")) == ["admin", "worker 0", "worker 1"]
    assert len(running.names("up")) == len(up)
    assert "drain timed out" in words


def test_group_wide_interrupt_stops_cleanly(stack: ExitStack) -> None:
    running = Running(stack, "good", "good", with_admin=True)
    running.up(3)
    os.killpg(running.pid, signal.SIGINT)
    status, words = running.end()
    assert status == 0
    assert sorted(running.names("stops")) == ["admin", "worker 0", "worker 1"]
    assert "Traceback" not in words


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_drain(stack: ExitStack, second: signal.Signals) -> None:
    running = Running(stack, "good")
    running.up(1)
    running.send(signal.SIGTERM)
    running.wait_for("drains")
    running.send(second)
    running.wait_for("stop")
    assert running.end()[0] == 0
    assert running.names("stops") == ["worker 0"]


def test_worker_killed_while_draining_is_forked_again(stack: ExitStack) -> None:
    running = Running(stack, "good")
    up = running.up(1)
    running.send(signal.SIGTERM)
    running.wait_for("drains")
    kill(up["worker 0"]["pid"])
    running.wait_for("up", name="worker 0")
    running.wait_for("drains")
    running.send(signal.SIGTERM)
    assert running.end()[0] == 0


def test_deaf_child_is_killed_after_the_grace(stack: ExitStack) -> None:
    running = Running(stack, "deaf", "good", stop_grace_s=0.2)
    running.up(2)
    running.send(signal.SIGINT)
    status, words = running.end()
    assert status == 0
    assert running.names("stops") == ["worker 1"]
    assert words.count("child did not end in time, killed") == 1


def test_hangup_reloads_and_nothing_else(stack: ExitStack) -> None:
    running = Running(stack, "good")
    running.up(1)
    for _ in range(2):
        os.killpg(running.pid, signal.SIGHUP)
        running.wait_for("reload")
    running.send(signal.SIGINT)
    assert running.end()[0] == 0
    assert running.names("up") == ["worker 0"]


def test_signals_right_at_the_start_are_not_lost(stack: ExitStack) -> None:
    running = Running(stack, "good", "good")
    running.wait_for("up")
    running.send(signal.SIGINT)
    assert running.end()[0] == 0


# What is left behind


@pytest.mark.parametrize("kind", ["good", "deaf", "hang"])
def test_children_die_with_a_killed_launcher(stack: ExitStack, kind: str) -> None:
    running = Running(stack, kind, "good", with_admin=True)
    up = running.up(3)
    running.process.kill()
    for event in up.values():
        running.wait_for_end(event["pid"])
    assert running.end()[0] == -signal.SIGKILL


def test_child_whose_launcher_is_gone_already_does_nothing(stack: ExitStack) -> None:
    running = Running(stack, "good", orphan=True)
    assert running.end()[0] == 1
    assert running.names("up") == []


def test_other_peoples_children_are_not_taken_away(stack: ExitStack) -> None:
    """The launcher's process has a child the launcher knows nothing of; its end is none of the launcher's business."""
    running = Running(stack, "good", stranger=True)
    stranger = running.wait_for("stranger")["pid"]
    running.up(1)
    kill(stranger)
    running.wait_for_end(stranger)
    running.send(signal.SIGHUP)
    running.wait_for("reload")
    assert Path(f"/proc/{stranger}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    running.send(signal.SIGINT)
    assert running.end()[0] == 0
    assert running.names("up") == ["worker 0"]


# The admin child


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
        sock.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_admin_answers_again_after_its_child_was_killed(stack: ExitStack) -> None:
    running = Running(stack, "good", with_admin=True, short_life_s=0.0)
    admin_up = running.up(2)["admin"]
    assert ask(admin_up["port"]).endswith(b"ok\n")
    kill(admin_up["pid"])
    assert ask(admin_up["port"]).endswith(b"ok\n")  # the launcher holds the socket: the question waits there
    running.wait_for("up", name="admin")
    running.send(signal.SIGINT)
    assert running.end()[0] == 0
