"""What runs while faults come: a relay with Redis, a transceiver behind it, and those who use them."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.support import Echo, Generator, free_port, mint_tokens, write_key_file, write_tokens
from tests.chaos.clients import Callers, Talkers
from tests.support.faults import kill_everything, started_s
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

FLOWS, PPS = 200, 10_000
CALLERS = 2
WORKERS = 2
CHECK_INTERVAL_S = 2.5
FLOW_TIMEOUT_S = 5
TAKEOVER_MOST_S = 30.0
STORY_LINES = 60  # of each log, when something fails
REDIS_WELL_AFTER_S = 10.0  # from its return until all live flows are in it again


class World:
    """`seconds` is how long the clients talk. Whatever is started for it ends with it."""

    def __init__(self, folder: Path, seed: int, seconds: float) -> None:
        self.folder = folder
        self.key_file = write_key_file(folder / "route.key")
        self.redis = RedisServer()
        self.owner = Echo(0)
        self.relay = Relay(self.key_file, workers=WORKERS, extra=self._relay_options())
        self.transceiver = self._transceiver(f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}")
        self.callers = Callers(lambda: self.transceiver.url, CALLERS, seed)
        self.seconds = seconds
        self.redis_ill_until = 0.0  # by time.monotonic
        self.excused: list[tuple[float, float]] = []  # when calls may fail
        self.workers = WORKERS
        self.before: list[Relay] = []  # the relay that was, for the story
        self.leaving: list[Transceiver] = []
        self._undo: dict[str, tuple[float, Callable[[], None]]] = {}
        self._stack = ExitStack()

    def _relay_options(self) -> tuple[str, ...]:
        times = ("--flow-timeout", str(FLOW_TIMEOUT_S), "--half-open-timeout", "2")
        return (*times, "--redis", self.redis.url)

    def _transceiver(self, internal: str) -> Transceiver:
        redis = ("--redis", self.redis.url)
        return Transceiver(self.key_file, advertise=[self.relay.target], internal=internal, extra=redis)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for each in (self.redis, self.owner):
                stack.enter_context(each)
            self._stack = stack  # what is started later ends before what was there first
            stack.enter_context(self.relay)
            stack.enter_context(self.transceiver)
            self.talkers = stack.enter_context(Talkers(self._generator()))
            stack.enter_context(self.callers)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for program in dict.fromkeys((*self.before, self.relay, self.transceiver)):
                print(f"\n{' '.join(program.command)}\n" + "\n".join(program.log().splitlines()[-STORY_LINES:]))
        self._stack.__exit__(kind, error, trace)

    def _generator(self) -> Generator:
        tokens = write_tokens(self.folder / "tokens", mint_tokens(self.key_file, [self.owner.address], FLOWS))
        return Generator(
            self.relay.target, tokens, flows=FLOWS, rate=PPS, seconds=self.seconds, live=True, live_every=0.1,
            check_interval=CHECK_INTERVAL_S, size=160,
        )  # fmt: skip

    # ---- what faults do

    def relay_dies(self, *, forgets: bool = False) -> float:
        """All of it at once; another begins at once. Returns how long there was none."""
        killed_s = kill_everything(self.relay)
        if forgets:
            shutil.rmtree(self.relay.state_dir, ignore_errors=True)
        successor = self.relay.again()
        successor.command = [word for word in successor.command if word != "--takeover"]
        self.relay_is(successor)
        return started_s(self.relay) - killed_s

    def relay_gives_way(self, workers: int) -> None:
        """To one with so many, which takes all it has."""
        before, pid = self.relay, self.relay.pid
        self.workers = workers
        self.relay_is(before.again("--takeover", "--workers", str(workers)))
        until(lambda: before.process.poll() is not None and not psutil.pid_exists(pid), TAKEOVER_MOST_S)
        before.gone()

    def settle(self) -> None:
        """Those that retire have ended; then all processes are new, and have no more than they must."""
        until(lambda: len(self.relay.worker_pids()) == self.workers, TAKEOVER_MOST_S)
        self.relay.upgrade()

    def relay_is(self, successor: Relay) -> None:
        self.before = [self.relay]
        self.relay = self._stack.enter_context(successor)

    def transceiver_begins_again(self) -> None:
        self.transceiver.stop()
        self.transceiver = self._stack.enter_context(self.transceiver.again())

    def transceiver_gives_way(self) -> None:
        """To one beside it, and ends when its calls have."""
        self.leaving.append(self.transceiver)
        self.transceiver = self._stack.enter_context(self.transceiver.beside())
        self.leaving[-1].process.send_signal(signal.SIGTERM)

    def later(self, what: str, delay_s: float, undo: Callable[[], None]) -> None:
        """Of one thing there is one at a time: `undo_now` first."""
        assert what not in self._undo
        self._undo[what] = (time.monotonic() + delay_s, undo)

    def undo_now(self, what: str) -> None:
        if what in self._undo:
            self._undo.pop(what)[1]()

    def undo(self, *, everything: bool = False) -> None:
        """What is due."""
        now = time.monotonic()
        for what in [what for what, (at, _) in self._undo.items() if everything or at <= now]:
            self.undo_now(what)

    # ---- what is excused

    @property
    def redis_knows(self) -> bool:
        """Whether each live flow must be in Redis."""
        return time.monotonic() > self.redis_ill_until

    def excuse_calls(self, before_s: float, after_s: float) -> None:
        now = time.monotonic()
        self.excused.append((now - before_s, now + after_s))
