"""State that outlives a relay, with real relays: who may start, what is there afterwards, and where it does not fit."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from benchmarks.support import STATE_ROOT, Echo, free_port
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.faults import kill_everything, said
from tests.support.relays import Relay, until

MEDIA = bytes([0x80, 111]) + bytes(30)


@pytest.fixture
def state_dir() -> Iterator[str]:
    path = f"{STATE_ROOT}/ufrag-test-{secrets.token_hex(8)}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Clients:
    """Some with a flow each, from ports of their own."""

    def __init__(self, relay: Relay, owner: Echo, count: int) -> None:
        self.address = parse_address(relay.target).sockaddr
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        for client in self.sockets:
            client.settimeout(5)
            client.sendto(binding_request(relay.mint(owner.address)), self.address)
            assert client.recv(2048)[:2] == b"\x01\x01"

    def all_heard(self) -> bool:
        """Each sends one packet of media and gets its echo."""
        for client in self.sockets:
            client.sendto(MEDIA, self.address)
        return all(client.recv(2048) == MEDIA for client in self.sockets)

    def close(self) -> None:
        for client in self.sockets:
            client.close()


@pytest.mark.parametrize("workers", ["2", "3", "1"])
def test_flows_survive_everything_and_another_number_of_workers(key_file: Path, workers: str) -> None:
    """Killed: the launcher and every worker. None of the flows checks again, and each first packet is answered."""
    with Echo(0) as owner, Relay(key_file, workers=2, internal="127.0.0.1:0") as first, ExitStack() as stack:
        clients = Clients(first, owner, 24)
        stack.callback(clients.close)
        before = [first.total("ufrag_relay_flows", worker=str(index)) for index in range(2)]
        assert all(before)
        kill_everything(first)
        second = stack.enter_context(first.again("--workers", workers))
        orphans = max(0, 2 - int(workers))
        assert said(second, "state adopted", "flows=24", f"slots={2 - orphans}", f"orphans={orphans}")
        assert clients.all_heard()
        adopted = second.total("ufrag_relay_flows_adopted_total")
        assert {"1": adopted == before[1], "2": adopted == 0, "3": adopted > 0}[workers]
        assert len(set(internal_ports(first)[:1] + internal_ports(second)[:1])) == 1


def internal_ports(relay: Relay) -> list[str]:
    """By worker, as its log has them."""
    (line,) = said(relay, " listening ")
    return re.findall(r"127\.0\.0\.1:\d+", line.partition("internal=")[2].partition("]")[0])


def test_a_launcher_killed_alone_takes_its_workers_with_it(key_file: Path) -> None:
    """Nobody asks for its status before the next one starts, which must not wait for it."""
    with Echo(0) as owner, Relay(key_file, workers=2) as first, ExitStack() as stack:
        clients = Clients(first, owner, 8)
        stack.callback(clients.close)
        workers = [psutil.Process(pid) for pid in first.children().values()]
        os.kill(first.pid, signal.SIGKILL)
        second = stack.enter_context(first.again())
        until(lambda: bool(said(second, "child started", "admin")))  # until then it may be the first one that answers
        until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in workers))
        assert said(second, "state adopted", "flows=8")
        assert clients.all_heard()
        first.gone()


def test_a_second_relay_is_told_of_the_first(key_file: Path) -> None:
    with Relay(key_file) as relay:
        done = subprocess.run(relay.command, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 75
        assert f"process {relay.pid};" in done.stderr
        assert "relay upgrade" in done.stderr


def test_orphans_are_removed_when_no_flow_of_them_can_be_left(key_file: Path) -> None:
    with Echo(0) as owner, Relay(key_file, workers=2, extra=("--flow-timeout", "2")) as first, ExitStack() as stack:
        clients = Clients(first, owner, 16)
        stack.callback(clients.close)
        kill_everything(first)
        second = stack.enter_context(first.again("--workers", "1"))
        assert Path(first.state_dir, "slot-1").exists()
        assert clients.all_heard()
        until(lambda: not Path(first.state_dir, "slot-1").exists())
        assert said(second, "orphans gone", "slots=1")
        assert clients.all_heard()


def test_what_is_left_after_the_end(key_file: Path, state_dir: str) -> None:
    """Flows: everything. None: nothing."""
    with Echo(0) as owner, Relay(key_file, state_dir=state_dir, extra=("--flow-timeout", "1")) as relay:
        assert ask(relay.mint(owner.address), parse_address(relay.target))[2]
        relay.stop()
        assert said(relay, "state kept", "flows=1")
        assert {"lock", "slot-0", "state.json"} == {file.name for file in Path(state_dir).iterdir()}
        with relay.again() as second:
            until(lambda: second.total("ufrag_relay_flows") == 0)
            second.check_books()
            second.process.send_signal(signal.SIGTERM)
            assert second.process.wait(10) == 0
        assert list(Path(state_dir).iterdir()) == []


def test_the_default_place_goes_with_the_last_flow(key_file: Path) -> None:
    """It is named in no option, so nobody would look for it."""
    with Relay(key_file, extra=("--state-dir", "auto")) as relay:
        assert len(places(relay)) == 1
    assert places(relay) == []


def places(relay: Relay) -> list[Path]:
    return list(Path(STATE_ROOT).glob(f"ufrag-relay-*-{relay.listen[0]}"))


@pytest.mark.parametrize(("taken", "status"), [("--listen", 75), ("--admin", 75)])
def test_a_start_that_fails_leaves_nothing(key_file: Path, state_dir: str, taken: str, status: int) -> None:
    with Relay(key_file) as relay:
        addresses = {"--listen": f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}", "--admin": "127.0.0.1:1"}
        addresses[taken] = relay.listen[0] if taken == "--listen" else relay.admin
        done = start(key_file, *(word for each in addresses.items() for word in each), "--state-dir", state_dir)
        assert (done.returncode, done.stderr.count(addresses[taken])) == (status, 1), done.stderr
        assert list(Path(state_dir).iterdir()) == []


def start(key_file: Path, *words: str, enter: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*enter, sys.executable, "-m", "relay", "start", "--route-key-file", str(key_file), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_small_file_system_is_refused_and_not_found_out_by_sigbus(key_file: Path, tmp_path: Path) -> None:
    """Two workers with tables of the default size on 16 MB: the second one's would not fit."""
    (tmp_path / "small").mkdir(mode=0o700)
    mount = f'mount -t tmpfs -o size=16m,mode=700 none {tmp_path}/small && exec "$@"'
    listen = ("--listen", f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}", "--admin", "127.0.0.1:1", "--workers", "2")
    enter = ("unshare", "--mount", "sh", "-c", mount, "sh")
    done = start(key_file, *listen, "--state-dir", f"{tmp_path}/small", enter=enter)
    assert done.returncode == 78, done.stderr
    assert f"--state-dir {tmp_path}/small" in done.stderr
    assert "MiB are needed, 16.0 MiB are free there" in done.stderr
    assert "--shm-size" in done.stderr
    assert "--state-dir none" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("files", [2, 3])
def test_a_file_system_that_has_no_more_files_is_refused(key_file: Path, tmp_path: Path, files: int) -> None:
    """The lock, a slot and the record are three, and the directory is one itself."""
    (tmp_path / "small").mkdir(mode=0o700)
    quota = f'mount -t tmpfs -o size=64m,nr_inodes={files},mode=700 none {tmp_path}/small && exec "$@"'
    listen = ("--listen", f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}", "--admin", "127.0.0.1:1", "--workers", "1")
    done = start(
        key_file, *listen, "--state-dir", f"{tmp_path}/small", enter=("unshare", "--mount", "sh", "-c", quota, "sh")
    )
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
