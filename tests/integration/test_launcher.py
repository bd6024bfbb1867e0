"""The launcher with real processes: forks, deaths, signals, and what is left behind (nothing).

This file is also the program under test: `python test_launcher.py '<settings as JSON>'` runs a launcher whose
children report on standard output, a JSON object a line. The tests wait for such lines and, through pidfds, for
ends of processes, so there is nothing here that sleeps for a guessed time.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from relay.runtime import admin, children, log
from relay.runtime.config import parse_address
from relay.runtime.errors import ConfigError
from relay.runtime.launcher import Child, Launcher
from relay.runtime.sockets import listen

pytestmark = pytest.mark.native

PATIENCE_S = 20.0
ROOT = Path(__file__).resolve().parents[2]

Event = dict[str, Any]


# The program under test


def report(event: str, **more: object) -> None:
    """One write a line: whole lines of several processes do not mix in a pipe."""
    line = {"event": event, "pid": os.getpid(), "at": time.monotonic(), **more}
    os.write(1, json.dumps(line).encode() + b"\n")


class Shared:
    """Memory of the launcher and its children: a stop flag, a drain flag, and a heart for each worker."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def set(self, index: int, value: float) -> None:
        struct.pack_into("d", self._memory, 8 * index, value)

    def get(self, index: int) -> float:
        value: float = struct.unpack_from("d", self._memory, 8 * index)[0]
        return value


STOP, DRAIN, HEARTS = 0, 1, 2


class Worker:
    """Beats and waits, every 10 ms, until told to stop; `kind` says how it misbehaves."""

    essential = True

    def __init__(self, index: int, kind: str, shared: Shared) -> None:
        self.name = f"worker {index}"
        self._heart = HEARTS + index
        self._kind = kind
        self._shared = shared
        self._restarts = 0

    def prepare(self) -> None:
        self._shared.set(self._heart, time.monotonic())
        self._restarts += 1

    def heart_age_s(self, now: float) -> float | None:
        return now - self._shared.get(self._heart)

    def started(self, pid: int, restarts: int) -> None:
        self._shared.set(self._heart, time.monotonic())

    def main(self, alive_fd: int) -> int:
        ignored = [signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
        comm = Path("/proc/self/comm").read_text().strip()
        blocked = len(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        report("up", name=self.name, comm=comm, ignored=all(ignored), blocked=blocked, forks=self._restarts)
        if self._kind == "crash":
            raise ValueError("as asked")
        if self._kind == "fault":
            raise ConfigError("no such epoch", where="slot 3")
        if self._kind == "leave":
            sys.exit(3)
        if self._kind == "hang" and self._restarts == 1:
            signal.sigwait({signal.SIGUSR1})
        return self._beat(alive_fd)

    def _beat(self, alive_fd: int) -> int:
        drain_seen = False
        while self._kind == "deaf" or not self._shared.get(STOP):
            self._shared.set(self._heart, time.monotonic())
            readable, _, _ = select.select([alive_fd], [], [], 0.01)
            if readable and self._kind != "deaf":
                return 4
            if self._shared.get(DRAIN) and not drain_seen:
                drain_seen = True
                report("drains", name=self.name)
                if self._kind == "done":
                    return 0
        report("stops", name=self.name)
        return 0


class Admin:
    name = "admin"
    essential = False

    def __init__(self) -> None:
        self._sock = listen(parse_address("127.0.0.1:0"), "--admin")

    def prepare(self) -> None:
        pass

    def heart_age_s(self, now: float) -> float | None:
        return None

    def started(self, pid: int, restarts: int) -> None:
        pass

    def main(self, alive_fd: int) -> int:
        report("up", name=self.name, port=self._sock.getsockname()[1])
        admin.serve(self._sock, admin.Pages({"/livez": lambda: (200, "text/plain", b"ok\n")}), alive_fd)
        report("stops", name=self.name)
        return 0


class Program:
    def __init__(self, kinds: Sequence[str], with_admin: bool) -> None:
        self._shared = Shared()
        workers: list[Child] = [Worker(i, kind, self._shared) for i, kind in enumerate(kinds)]
        self.children: Sequence[Child] = [*workers, *([Admin()] if with_admin else [])]

    def drain(self) -> None:
        self._shared.set(DRAIN, 1)
        report("drain")

    def drained(self) -> bool:
        return False

    def stop(self) -> None:
        self._shared.set(STOP, 1)
        report("stop")

    def reload(self) -> None:
        report("reload")

    def tend(self, now: float) -> float | None:
        return None


def run_program(settings: dict[str, Any]) -> int:
    log.setup("text", "test")
    program = Program(settings.pop("kinds"), settings.pop("with_admin"))
    if settings.pop("extra_thread", False):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if settings.pop("ignore_sigchld", False):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write(json.dumps({"event": "buffered", "pid": os.getpid()}) + "\n")  # and not flushed
    if settings.pop("orphan", False):
        children.live(program.children[0], "test", os.getpid(), *os.pipe())  # our parent is another
    if settings.pop("stranger", False) and os.fork() == 0:
        report("stranger")
        signal.alarm(int(PATIENCE_S))
        signal.sigwait({signal.SIGUSR1})
    return Launcher(program, **{"drain_timeout_s": 60.0, **settings}).run()


# The tests' side


class Running:
    """A launcher in a process group of its own, what it reports, and pidfds of all who reported."""

    def __init__(self, stack: ExitStack, *kinds: str, with_admin: bool = False, **settings: object) -> None:
        told = json.dumps({"kinds": kinds, "with_admin": with_admin, **settings})
        self.process = subprocess.Popen(
            [sys.executable, __file__, told],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout
        self._stack = stack
        self._rest = b""
        self._pidfds: dict[int, int] = {}
        self.events: list[Event] = []
        stack.callback(self._clean)

    def _clean(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, event: str, **more: object) -> Event:
        """The next report of this event with these values; those passed on the way are in `events`."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = self._next(deadline)
            if found["event"] == event and all(found.get(key) == value for key, value in more.items()):
                return found

    def _next(self, deadline: float) -> Event:
        while b"\n" not in self._rest:
            readable, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._out.fileno(), 65536) if readable else b""
            if not chunk:
                raise AssertionError(f"no such report; until now: {self.events}; {self._last_words()}")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        event: Event = json.loads(line)
        self.events.append(event)
        self._remember(event["pid"])
        return event

    def _last_words(self) -> str:
        self.process.kill()
        return self.process.communicate()[1].decode()

    def _remember(self, pid: int) -> None:
        if pid not in self._pidfds:
            with suppress(ProcessLookupError):
                self._pidfds[pid] = os.pidfd_open(pid)
                self._stack.callback(os.close, self._pidfds[pid])

    def up(self, count: int) -> dict[str, Event]:
        """Name -> report, once `count` children are up."""
        found = (self.wait_for("up") for _ in range(count))
        return {event["name"]: event for event in found}

    def wait_for_end(self, pid: int) -> None:
        fd = self._pidfds.get(pid)
        if fd is not None:
            assert select.select([fd], [], [], PATIENCE_S)[0], f"process {pid} is still there"

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """Exit status and standard error, once the launcher and all its children have ended."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        for line in (self._rest + out).splitlines():
            self.events.append(json.loads(line))
            self._remember(self.events[-1]["pid"])
        for pid in self._pidfds:
            self.wait_for_end(pid)
        return self.process.returncode, err.decode()

    def names(self, event: str) -> list[str]:
        return [found["name"] for found in self.events if found["event"] == event]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def kill(pid: int) -> float:
    """SIGKILL; the result is the moment before."""
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return moment


# Restarts


def test_killed_child_is_forked_again_soon(stack: ExitStack) -> None:
    running = Running(stack, "good", "good", short_life_s=0.0)
    up = running.up(2)
    delays: list[float] = []
    pid = up["worker 0"]["pid"]
    for _ in range(10):
        moment = kill(pid)
        again = running.wait_for("up", name="worker 0")
        assert again["pid"] != pid
        pid = again["pid"]
        delays.append(again["at"] - moment)
    assert sorted(delays)[len(delays) // 2] < 0.05, delays  # a few ms on an idle machine
    running.send(signal.SIGINT)
    assert running.end()[0] == 0
    assert running.names("up").count("worker 1") == 1


def test_crash_loop_ends_with_70_after_growing_delays(stack: ExitStack) -> None:
    running = Running(stack, "good", "crash", crash_limit=5, short_life_s=10.0, with_admin=True)
    status, words = running.end()
    assert status == 70
    starts = [event["at"] for event in running.events if event.get("name") == "worker 1" and event["event"] == "up"]
    gaps = [later - earlier for earlier, later in zip(starts, starts[1:], strict=False)]
    assert len(gaps) == 4
    assert all(gap >= least for gap, least in zip(gaps, (0.0, 0.05, 0.1, 0.2), strict=True)), gaps
    assert "worker 1: ended 5 times in a row within 10 s of its start, last by exit status 1" in words
    assert words.count("ValueError: as asked") == 5
    assert sorted(running.names("stops")) == ["admin", "worker 0"]


@pytest.mark.parametrize("ignore_sigchld", [False, True])
def test_crash_loop_names_the_exit_status(stack: ExitStack, ignore_sigchld: bool) -> None:
    """Also where the parent left SIGCHLD ignored, with which the kernel keeps no status for anybody."""
    running = Running(stack, "leave", crash_limit=2, short_life_s=10.0, ignore_sigchld=ignore_sigchld)
    status, words = running.end()
    assert status == 70
    assert "last by exit status 3" in words


def test_fault_in_a_child_is_one_line_and_its_status(stack: ExitStack) -> None:
    status, words = Running(stack, "fault", crash_limit=1, short_life_s=10.0).end()
    assert status == 70
    assert 'slot 3: no such epoch child="worker 0"' in words
    assert "last by exit status 78" in words
    assert "Traceback" not in words


def test_hung_child_is_replaced(stack: ExitStack) -> None:
    running = Running(stack, "hang", hung_after_s=1.0)
    first = running.up(1)["worker 0"]
    second = running.wait_for("up", name="worker 0", forks=2)
    running.wait_for_end(first["pid"])
    assert second["at"] - first["at"] >= 0.9
    running.send(signal.SIGINT)
    status, words = running.end()
    assert status == 0
    assert words.count("child hung, killed") == 1


if __name__ == "__main__":
    sys.exit(run_program(json.loads(sys.argv[1])))
