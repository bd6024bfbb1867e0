"""Real Redis servers for tests, from Debian's package, without its service. (Several together: `redis_groups`.)

Each has a port and a directory of its own, persists nothing, and ends with its context. What may happen to a server
in the field can be done to it: stopped, killed, frozen, started again empty, flushed, out of memory. They are asked in
their own protocol (`ask`), so that tests of our client do not rest on a client. UFRAG_REDIS_SERVER names another
program to be tested with, such as valkey-server.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, BinaryIO, Self

import pytest

from benchmarks.support import STOP_TIMEOUT_S, Process, Result, free_port
from tests.support.certificates import self_signed
from tests.support.netns import inside
from tests.support.relays import until

HOST = "127.0.0.1"
SERVER_NAME = "redis-server"  # which it must be started by
ASK_TIMEOUT_S = 5.0


class RedisError(RuntimeError):
    """What a server answered instead of a result."""


def program() -> Path:
    """Upstream makes all its server programs one file, which looks at the name it is started by; Debian has it as
    redis-check-rdb in redis-tools, which comes without a service that would start at once."""
    names = (os.environ.get("UFRAG_REDIS_SERVER", "redis-server"), "redis-check-rdb")
    found = next(filter(None, map(shutil.which, names)), None)
    return Path(found or pytest.skip("needs Redis: apt-get install redis-tools"))


class _Running(Process):
    """One life of a server."""

    own_stdout = False

    def __init__(self, server: RedisServer, command: list[str]) -> None:
        super().__init__(command)
        self._server = server

    def wait_ready(self) -> None:
        def answers() -> bool:
            if self.process.poll() is not None:
                raise self.failure("ended at its start")
            return self._server.answers()

        until(answers)

    def end(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)  # a frozen one would not take it
            self.process.send_signal(number)
        try:
            if self.process.wait(STOP_TIMEOUT_S) not in (0, -signal.SIGKILL):
                raise self.failure(f"exit status {self.process.returncode}")
        finally:
            self._end()

    def stop(self) -> Result:
        """When its start has failed."""
        self.end(signal.SIGTERM)
        return {}


class RedisServer:
    """A server, with `config` as in redis.conf; `folder` is its own, and stays when it is started again."""

    def __init__(
        self, *, password: str = "", tls: bool = False, sentinel: bool = False, host: str = HOST, port: int = 0,
        netns: str = "", config: Sequence[tuple[str, str]] = (),
    ) -> None:  # fmt: skip
        self.host, self.port = host, port or free_port(socket.SOCK_STREAM)
        self.password, self.tls, self.sentinel, self.netns = password, tls, sentinel, netns
        self.ca_file: Path | None = None
        self._more = list(config)
        self._stack = ExitStack()
        self._running: _Running | None = None
        self._folder = Path()

    # ---- life

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(TemporaryDirectory(prefix="ufrag-redis-")))
            (self._folder / SERVER_NAME).symlink_to(program())
            self._write_config()
            stack.callback(self.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """Again, after `stop` or `kill`: at the same place, with nothing in it."""
        assert self._running is None
        running = _Running(self, [str(self._folder / SERVER_NAME), str(self._folder / "redis.conf")])
        if self.sentinel:
            running.command.append("--sentinel")
        if self.netns:
            running.by("ip", "netns", "exec", self.netns)
        self._running = running.__enter__()

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._running is None:
            return
        running, self._running = self._running, None
        running.end(number)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """It takes connections (its kernel does) and says nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def flush(self) -> None:
        self.ask("FLUSHALL")

    def run_out_of_memory(self) -> None:
        """Writes are refused from now on, reads are not."""
        self.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        self.ask("CONFIG", "SET", "maxmemory", "1")

    def have_memory(self) -> None:
        self.ask("CONFIG", "SET", "maxmemory", "0")

    # ---- what is known of it

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid

    @property
    def running(self) -> bool:
        return self._running is not None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def socket_path(self) -> Path:
        return self._folder / "redis.sock"

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        trusted = f"?ca={self.ca_file}" if self.tls else ""
        return f"redi{'ss' if self.tls else 's'}://{login}{self.address}{trusted}"

    @property
    def unix_url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"unix://{login}{self.socket_path}"

    # ---- asking

    def ask(self, *words: object) -> Any:
        """The answer to one command, by a connection of its own: text, number, list or None."""
        with (
            inside(self.netns) if self.netns else nullcontext(),
            self._connected() as link,
            link.makefile("rb") as file,
        ):
            if self.password:
                link.sendall(_encoded(("AUTH", self.password)))
                _answer(file)
            link.sendall(_encoded(words))
            return _answer(file)

    def answers(self) -> bool:
        try:
            return bool(self.ask("PING") == "PONG")
        except OSError:
            return False

    def keys(self, pattern: str = "*") -> list[str]:
        return sorted(self.ask("KEYS", pattern))

    def info(self, section: str) -> dict[str, str]:
        lines = [line for line in self.ask("INFO", section).split("\r\n") if ":" in line]
        return dict(line.split(":", 1) for line in lines)

    def calls(self, command: str) -> int:
        """How often a command was done since the start of this life."""
        stat = self.info("commandstats").get(f"cmdstat_{command.lower()}", "")
        return int(stat.partition("calls=")[2].partition(",")[0] or 0)

    def reads(self) -> tuple[int, int]:
        """How many keys were read since the start of this life, or the last `forget_reads`: (there, not there)."""
        stats = self.info("stats")
        return int(stats["keyspace_hits"]), int(stats["keyspace_misses"])

    def forget_reads(self) -> None:
        self.ask("CONFIG", "RESETSTAT")

    def _connected(self) -> socket.socket:
        plain = socket.create_connection((self.host, self.port), ASK_TIMEOUT_S)
        if not self.tls:
            return plain
        return ssl.create_default_context(cafile=self.ca_file).wrap_socket(plain, server_hostname=self.host)

    # ---- its file

    def _write_config(self) -> None:
        lines = [
            ("bind", self.host),
            ("protected-mode", "no"),
            ("dir", str(self._folder)),
            ("unixsocket", str(self.socket_path)),
        ]
        lines += [("port", "0"), *self._tls_config()] if self.tls else [("port", str(self.port))]
        if not self.sentinel:
            lines += [("save", '""'), ("appendonly", "no"), ("repl-diskless-sync-delay", "0")]
        if self.password:
            lines += [("requirepass", self.password), ("masterauth", self.password)]
        text = "".join(f"{name} {value}\n" for name, value in [*lines, *self._more])
        (self._folder / "redis.conf").write_text(text)

    def _tls_config(self) -> list[tuple[str, str]]:
        certificate, key = self_signed(self._folder, self.host)
        self.ca_file = certificate
        names = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": certificate}
        files = [(name, str(path)) for name, path in names.items()]
        return [("tls-port", str(self.port)), *files, ("tls-auth-clients", "no")]


def _encoded(words: Sequence[object]) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def _answer(file: BinaryIO) -> Any:
    line = file.readline()
    if not line:
        raise ConnectionResetError("the server has hung up")
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise RedisError(rest)
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    size = int(rest)
    if kind == b"$":
        return None if size < 0 else file.read(size + 2)[:-2].decode()
    return None if size < 0 else [_answer(file) for _ in range(size)]
