"""`transceiver start` as its operator meets it: exit statuses and messages, health, drain, and the commands that look
at a running one. No call is made here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.support import free_port
from tests.support.relays import until

TCP = socket.SOCK_STREAM


def transceiver(*words: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transceiver", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


class Running:
    """A transceiver on ports of its own, and its log."""

    def __init__(self, key_file: Path, *words: str) -> None:
        self.admin = f"127.0.0.1:{free_port(TCP)}"
        self.http = f"127.0.0.1:{free_port(TCP)}"
        self._log = key_file.parent / "log"
        command = [sys.executable, "-m", "transceiver", "start", "--route-key-file", str(key_file), "--cpus", "none"]
        command += ["--admin", self.admin, "--http", self.http, *words]
        with self._log.open("w") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)

    def log(self) -> str:
        return self._log.read_text()

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            return get(f"http://{self.admin}/readyz")[0] == 200
        except OSError:
            return False

    def pids(self) -> list[int]:
        lines = [line for line in self.log().splitlines() if 'child started child="media' in line]
        return [int(line.partition("pid=")[2].split()[0]) for line in lines]


@contextmanager
def running(key_file: Path, *words: str) -> Iterator[Running]:
    started = Running(key_file, *words)
    try:
        until(started.ready)
        yield started
    finally:
        started.process.kill()
        started.process.wait(10)
    assert "Traceback" not in started.log(), started.log()


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--http", "nowhere"], 2, "ADDR:PORT"),
        (["--advertise", "nowhere"], 2, "HOST:PORT"),
        (["--unknown"], 2, "No such option"),
        (["--http", "0.0.0.0:0"], 78, "--auth-key-file"),
        (["--internal", "0.0.0.0:0"], 78, "tokens must name an address"),
        (["--internal", "192.0.2.77:0", "--relays", "10.0.0.0/8"], 78, "--advertise"),
        (["--internal", "192.0.2.77:0", "--advertise", "x:1"], 78, "--relays"),
        (["--internal", "192.0.2.77:0", "--relays", "192.0.2.0/24", "--advertise", "x:1"], 78, "of this machine"),
        (["--session-key-file", "/nonexistent/key"], 78, "transceiver keys new"),
        (["--max-sessions", "65535", "--workers", "256"], 78, "--max-sessions"),
    ],
)
def test_bad_configuration(words: list[str], status: int, says: str, key_file: Path) -> None:
    own = ["--admin", f"127.0.0.1:{free_port(TCP)}", "--route-key-file", str(key_file)]
    done = transceiver("start", *own, "--http", "127.0.0.1:0", *words)
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_route_key_is_needed() -> None:
    done = transceiver("start")
    assert done.returncode == 78
    assert "relay keys new --out" in done.stderr


def test_a_key_in_the_process_list_is_warned_of(key_file: Path) -> None:
    """With a port that is taken, so that it ends there."""
    secret = "0123456789abcdef-secret"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = ["--admin", f"127.0.0.1:{taken.getsockname()[1]}", "--route-key-file", str(key_file)]
        done = transceiver("start", *own, "--auth-key", secret)
    assert done.returncode == 75
    assert "--auth-key can be read in every list of processes" in done.stderr
    assert secret not in done.stderr


def test_life_from_start_to_drain(key_file: Path) -> None:
    with running(key_file, "--workers", "2") as program:
        done = transceiver("status", "--admin", program.admin)
        assert (done.returncode, "ready" in done.stdout) == (0, True), done.stderr
        assert json.loads(transceiver("sessions", "--json", "--admin", program.admin).stdout) == []
        assert transceiver("hangup", "0-0-1", "--admin", program.admin).returncode == 78
        assert b'ufrag_transceiver_sessions_capacity{worker="1"} 2000.0' in get(f"http://{program.admin}/metrics")[1]
        assert get(f"http://{program.http}/")[0] == 200
        busy = transceiver(
            "start", "--route-key-file", str(key_file), "--http", program.http, "--admin", f"127.0.0.1:{free_port(TCP)}"
        )
        assert (busy.returncode, program.http in busy.stderr) == (75, True)
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(15) == 0
        assert "drained" in program.log()


def test_a_media_process_that_dies_is_replaced_at_its_address(key_file: Path) -> None:
    with running(key_file, "--workers", "1") as program:
        (pid,) = program.pids()
        os.kill(pid, signal.SIGKILL)
        until(lambda: len(program.pids()) == 2)
        until(program.ready)
        until(lambda: b'worker_restarts_total{worker="0"} 1.0' in get(f"http://{program.admin}/metrics")[1])
        until(lambda: program.log().count("address=127.0.0.1:") == 2)
        addresses = [
            line.partition("address=")[2].split()[0] for line in program.log().splitlines() if "address=" in line
        ]
        assert addresses[0] == addresses[1]
        assert get(f"http://{program.http}/")[0] == 200
