"""The processes of a benchmark, each a context manager, and what is read from them while they run.

Rules: a process is ended by its own pid and nothing else; whatever it wrote to stderr stands in the error when it
fails; ports are found by binding port 0; no clock is read here, a deadline is a number of tries.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from benchmarks.native_build import ROOT, build

STOP_TIMEOUT_S = 20.0
READY_TRIES, READY_PAUSE_S = 200, 0.1
KEY_ID = 0
STATE_ROOT = "/dev/shm"  # as by default: what a disk would cost is not the relay's

Result = dict[str, Any]
Words = tuple[str, ...]


class ProcessFailed(RuntimeError):
    """A benchmark's process ended, or did not end, as it should; its stderr stands in the text."""


class Process:
    """A child of ours: started on entry, asked to stop by SIGTERM on exit, killed only if it does not."""

    own_stdout = True

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.environment: dict[str, str] = {}  # beside our own
        self.descriptors: tuple[int, ...] = ()  # of ours, which it gets under the same numbers
        self._ended = False
        self.result: Result = {}
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self._process: subprocess.Popen[str] | None = None

    def by(self, *words: str) -> Self:
        """Started by a command that runs another one differently, such as in a namespace."""
        self.command = [*words, *self.command]
        return self

    @property
    def process(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise RuntimeError(f"not started: {self.command[0]}")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        stdout = subprocess.PIPE if self.own_stdout else self._stderr
        self._process = subprocess.Popen(
            self.command, cwd=ROOT, stdout=stdout, stderr=self._stderr, text=True,
            env={**os.environ, **self.environment}, pass_fds=self.descriptors,
        )  # fmt: skip
        try:
            self.wait_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except ProcessFailed:
            if error is None:
                raise
        finally:
            self._end()

    def wait_ready(self) -> None:
        """Overridden by servers: returns when the process can be used."""

    def stop(self) -> Result:
        """Ends the process if it still runs and returns the last JSON line it printed."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.wait(STOP_TIMEOUT_S)

    def wait(self, timeout_s: float | None = None) -> Result:
        """Waits for the end; may be called again afterwards."""
        if self._ended:
            return self.result
        try:
            output, _ = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise self.failure(f"still runs after {timeout_s} s") from None
        self._ended = True
        if self.process.returncode:
            raise self.failure(f"exit status {self.process.returncode}")
        self.result = _last_json(output or "") or self.result
        return self.result

    def ended_within(self, timeout_s: float) -> bool:
        """Waits that long for the end. For what prints little: nobody reads its output meanwhile."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        return self.process.returncode is not None

    def failure(self, what: str) -> ProcessFailed:
        self._stderr.seek(0)
        return ProcessFailed(f"{' '.join(self.command)}: {what}\n{self._stderr.read()}".rstrip())

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._stderr.close()


class Server(Process):
    """A native program whose first line is `listening IP:PORT`."""

    address = ""

    def wait_ready(self) -> None:
        stdout = self.process.stdout
        line = stdout.readline() if stdout else ""
        word, _, self.address = line.strip().partition(" ")
        if word != "listening":
            self.process.wait(STOP_TIMEOUT_S)
            raise self.failure(f"did not say where it listens but {line!r}")


class Echo(Server):
    """The backend behind the forwarder; its result counts packets, checks and what was misrouted."""

    def __init__(self, owner_index: int | None = None, *, sink: bool = False, cpu: int = -1, listen: str = "") -> None:
        options = options_of(owner_index=owner_index, sink=sink, cpu=cpu, listen=listen or None)
        super().__init__([str(build("echo")), *options])


class Bare(Server):
    """The bare forwarder. `address` may be a wildcard: send to `target`."""

    def __init__(self, next_hop: str, *, listen: str = "127.0.0.1:0", internal: str = "", cpu: int = -1) -> None:
        options = options_of(next_hop=next_hop, listen=listen, internal=internal or None, cpu=cpu)
        super().__init__([str(build("bare")), *options])

    @property
    def target(self) -> str:
        return reachable(self.address)


class Generator(Process):
    """The clients. Its options are keyword arguments: `rate=0, skip_setup=True, size="60-200"`."""

    def __init__(self, target: str, tokens: Path, **options: object) -> None:
        super().__init__([str(build("generator")), *options_of(target=target, tokens=tokens, **options)])

    def run(self) -> Result:
        """Starts it, waits until it has finished by itself, returns what it counted."""
        with self:
            return self.wait()

    def end_load(self) -> None:
        """Before its time; what is under way is awaited, and counts."""
        self.process.send_signal(signal.SIGUSR1)

    def seconds(self) -> Iterator[Result]:
        """With `live=True`: a line each second, or `live_every` so many, while it runs; then `result` is complete."""
        for line in self.process.stdout or ():
            self.result = json.loads(line)
            if "live" in self.result:
                yield self.result


class Flood(Process):
    """The attacker; options as the generator's."""

    def __init__(self, target: str, datagrams: Path, **options: object) -> None:
        super().__init__([str(build("flood")), *options_of(target=target, datagrams=datagrams, **options)])


class RelayProcess(Process):
    """The relay itself, ready when its admin port says so."""

    own_stdout = False  # what it logs must never fill a pipe that nobody reads
    _own_state_dir = ""

    def __init__(
        self, key_file: Path, *, listen: Sequence[str] = (), internal: str = "", backends: Words = ("127.0.0.0/8",),
        workers: int = 1, cpus: str = "none", extra: Words = (), enter: Words = (), state_dir: str = "",
    ) -> None:  # fmt: skip
        """`enter` are the words of a command that runs another one somewhere else, such as in a namespace; `state_dir`
        is as in `relay start`, by default one of this relay's own that goes with it."""
        self._own_state_dir = "" if state_dir else f"{STATE_ROOT}/ufrag-test-{secrets.token_hex(8)}"
        self.state_dir = state_dir or self._own_state_dir
        self.listen = list(listen) or [f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"]
        self.admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        options = options_of(
            workers=workers, internal=internal or f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}",
            route_key_file=key_file, cpus=cpus, admin=self.admin, state_dir=self.state_dir,
        )  # fmt: skip
        options += [word for address in self.listen for word in ("--listen", address)]
        options += [word for network in backends for word in ("--backends", network)]
        super().__init__([*enter, sys.executable, "-m", "relay", "start", *options, *extra])

    @property
    def target(self) -> str:
        return reachable(self.listen[0])

    def stop(self) -> Result:
        """By SIGINT: SIGTERM would drain first, that is, wait for the flows to go silent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.wait(STOP_TIMEOUT_S)

    def _end(self) -> None:
        super()._end()
        if self._own_state_dir:
            shutil.rmtree(self._own_state_dir, ignore_errors=True)

    def wait_ready(self) -> None:
        pause = threading.Event()
        for _ in range(READY_TRIES):
            if self.process.poll() is not None:
                raise self.failure(f"exit status {self.process.returncode} before it was ready")
            if self._ready():
                return
            pause.wait(READY_PAUSE_S)
        raise self.failure(f"not ready after {READY_TRIES * READY_PAUSE_S:.0f} s")

    def _ready(self) -> bool:
        return self.fetch("/readyz")[0] == HTTPStatus.OK

    def fetch(self, path: str) -> tuple[int, str]:
        """(status, body) of an admin page; status 0 when nobody answers."""
        return fetch(f"http://{self.admin}{path}")

    def children(self) -> dict[str, int]:
        """Name -> pid of the launcher's processes. By name, not by command line: that is the launcher's own for all."""
        found = {}
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended in this very moment
                found[child.name()] = child.pid
        return found

    def worker_pids(self) -> list[int]:
        """The processes that carry packets; the admin process is not to be charged to them."""
        return sorted(pid for name, pid in self.children().items() if "worker" in name)

    def metrics(self) -> dict[str, float]:
        """Every sample of the Prometheus page, by its name with labels."""
        status, text = self.fetch("/metrics")
        if status != HTTPStatus.OK:
            raise self.failure(f"/metrics answers {status}: {text}")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def log(self) -> str:
        """What it wrote so far."""
        return Path(f"/proc/self/fd/{self._stderr.fileno()}").read_text()


def fetch(url: str) -> tuple[int, str]:
    """(status, body) of a page; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _last_json(output: str) -> Result:
    lines = [line for line in output.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1])) if lines else {}


def options_of(**options: object) -> list[str]:
    """`skip_setup=True, rate=5` -> `--skip-setup --rate 5`; None and False are left out."""
    words: list[str] = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return words


def reachable(address: str) -> str:
    """Where to send for a listener that may be bound to the wildcard."""
    return address.replace("0.0.0.0:", "127.0.0.1:")


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process, as the scheduler counts it."""
    return _schedstat(pid, 0)


def waited_ns(pid: int) -> int:
    """How long its threads were ready to run but did not: another had the CPU. Exact, whoever the other was.

    The CPU times of the whole machine will not do: they are sampled at the scheduler's tick, and 4 ms are a multiple
    of the time between two bursts at 50,000 packets/s, so that the same moment of the cycle is hit again and again.
    """
    return _schedstat(pid, 1)


def _schedstat(pid: int, field: int) -> int:
    return sum(int(path.read_text().split()[field]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def rss_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def write_key_file(path: Path) -> Path:
    """A fresh route key, readable by its owner only as the relay demands."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{KEY_ID}:{os.urandom(32).hex()}\n")
    return path


def read_key_file(path: Path) -> tuple[int, bytes]:
    """The first key, the one that mints."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    key_id, _, digits = next(line for line in lines if line).partition(":")
    return int(key_id), bytes.fromhex(digits)


def mint_tokens(key_file: Path, owners: list[str], count: int) -> list[str]:
    """Token i names owner i % len(owners), as the generator assumes for `--owners`."""
    from _fastpath.wire.token import Keyring  # here, so that what needs no tokens runs without the built relay

    key_id, key = read_key_file(key_file)
    keyring = Keyring({key_id: key})
    addresses = [(host, int(port)) for host, _, port in (owner.rpartition(":") for owner in owners)]
    return [keyring.mint(key_id, addresses[i % len(addresses)]) for i in range(count)]


def write_tokens(path: Path, tokens: list[str]) -> Path:
    return write_lines(path, tokens)


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def floor_ns(*, cpu: int = 0, other_cpu: int = 1, milliseconds: int = 500, alone: bool = False) -> Result:
    """One measurement of what the system calls alone cost."""
    options = options_of(cpu=cpu, other_cpu=other_cpu, milliseconds=milliseconds, alone=alone)
    with Process([str(build("floor")), *options]) as floor:
        return floor.wait()
