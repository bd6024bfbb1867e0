"""relay upgrade and relay start --takeover without load: what is refused, what is said, and what is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from _fastpath.slot import LAYOUT
from benchmarks.native_build import ROOT
from benchmarks.support import Echo, free_port
from relay.handover import PROTOCOL
from relay.runtime.control import Channel, Message
from relay.taking import reach
from tests.integration.test_state import Clients
from tests.support.faults import said
from tests.support.heir import heir
from tests.support.relays import Relay, until
from tests.support.service_manager import ServiceManager

pytestmark = pytest.mark.native


def takes_over(relay: Relay, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*relay.command, "--takeover", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_calls_sockets_and_settings_go_on(key_file: Path) -> None:
    with Relay(key_file, workers=2) as relay, Echo(0) as owner:
        clients = Clients(relay, owner, 8)
        internal = said(relay, "listening")[0].partition("internal=")[2]
        lines = relay.upgrade()
        assert relay.process.returncode == 0
        assert lines[-1] == f"version 0.1.0 is the relay now, process {relay.pid}"
        assert "2 of 2 slots are its own" in lines
        assert clients.all_heard()
        assert said(relay, "listening")[1].partition("internal=")[2] == internal
        assert relay.status("/readyz") == 200
        clients.close()


def test_other_options_are_in_force(key_file: Path) -> None:
    with Relay(key_file, extra=("--recv-buffer", "1MiB")) as first, Echo(0) as owner, ExitStack() as stack:
        clients = Clients(first, owner, 4)
        admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        relay = first.again("--takeover", "--admin", admin, "--recv-buffer", "2MiB", "--flow-timeout", "1")
        relay.admin = admin
        stack.enter_context(relay)
        first.followed()
        assert clients.all_heard()
        assert said(first, "receive buffer", "got=1048576")
        assert said(relay, "receive buffer", "got=2097152")
        assert first.status("/livez") == 0
        until(lambda: relay.total("ufrag_relay_flows") == 0)
        clients.close()


def test_a_drained_relay_stays_drained(key_file: Path) -> None:
    with Relay(key_file) as relay:
        tool = [sys.executable, "-m", "relay", "drain", "--admin", relay.admin]
        subprocess.run(tool, cwd=ROOT, check=True, capture_output=True)
        relay.upgrade()
        assert relay.status("/readyz") == 503
        assert relay.total("ufrag_relay_draining") == 1


def test_a_worker_has_no_other_ones_sockets(key_file: Path) -> None:
    with Relay(key_file, workers=2) as first, ExitStack() as stack:
        relay = stack.enter_context(first.again("--takeover", "--workers", "4"))
        first.followed()
        until(lambda: len(relay.worker_pids()) == 4)
        until(lambda: bool(said(relay, "child started", "admin")))
        held = [udp_sockets(pid) for pid in relay.worker_pids()]
        assert [len(each) for each in held] == [2] * 4
        assert len(set().union(*held)) == 8


def udp_sockets(pid: int) -> set[str]:
    """By what the kernel calls them: `socket:[12345]`, if that is a UDP socket."""
    names = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    udp = {line.split()[9] for line in Path("/proc/net/udp").read_text().splitlines()[1:]}
    return {name for name in names if name.removeprefix("socket:[").removesuffix("]") in udp}


def test_where_there_are_no_sockets_for_more_workers_it_goes_on_with_those_there_are(key_file: Path) -> None:
    """Found out when nothing may fail any more."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, Echo(0) as owner, ExitStack() as stack:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        first = stack.enter_context(Relay(key_file, internal=f"127.0.0.1:{port - 1}"))
        clients = Clients(first, owner, 4)
        relay = stack.enter_context(first.again("--takeover", "--workers", "2"))
        first.followed()
        until(lambda: bool(said(relay, "child started", "admin")))
        assert said(relay, "there are no sockets for more workers")
        assert clients.all_heard()
        assert len(relay.worker_pids()) == 1
        assert [path.name for path in Path(relay.state_dir).glob("slot-*")] == ["slot-0"]
        relay.upgrade()
        clients.close()


def test_pages_are_answered_all_the_while(key_file: Path) -> None:
    with Relay(key_file) as relay:
        over, answers = threading.Event(), []

        def ask() -> None:
            while not over.is_set():
                answers.append(relay.status("/readyz"))

        asking = threading.Thread(target=ask)
        asking.start()
        relay.upgrade()
        over.set()
        asking.join()
        assert set(answers) == {200}


# ---- refused


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--max-flows", "1000"], 1, "its tables have room for 131072 flows, and --max-flows is another"),
        (["--listen", "127.0.0.2:3478"], 1, "it is of a relay that listens at"),
        (["--internal", "127.0.0.2:0"], 78, "--internal 127.0.0.2:0: the relay that runs has 127.0.0.1:"),
        (["--state-dir", "none"], 78, "a relay without a state directory cannot be followed"),
        (["--state-dir", "/dev/shm/ufrag-test-nobody"], 1, "there is no such directory"),
        (["--route-key-file", "/nowhere"], 78, "/nowhere: cannot read the route keys"),
    ],
)
def test_what_cannot_follow_says_why(key_file: Path, options: list[str], status: int, words: str) -> None:
    with Relay(key_file) as relay:
        done = takes_over(relay, *options)
        assert done.returncode == status, done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert relay.status("/readyz") == 200


def hello(relay: Relay, **other: object) -> tuple[Channel, Message]:
    channel = reach(Path(relay.state_dir))
    read, write = os.pipe()
    fields = {"protocol": PROTOCOL, "version": "9.9", "layout": LAYOUT, "checksum": "0", **other}
    pidfd = os.pidfd_open(os.getpid())
    channel.send("hello", [read, pidfd], **fields)
    for descriptor in (read, write, pidfd):
        os.close(descriptor)
    return channel, channel.wait(5)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"protocol": 99}, "it speaks protocol 99, this relay 1"),
        ({"layout": LAYOUT + 1}, "version 9.9 lays its memory out differently"),
        ({}, "version 9.9 lays its memory out differently"),
    ],
)
def test_another_versions_memory_is_not_handed_over(key_file: Path, other: dict[str, object], why: str) -> None:
    with Relay(key_file) as relay:
        channel, message = hello(relay, **other)
        assert (message.kind, why in message.text("why")) == ("no", True)
        until(lambda: bool(said(relay, "hand-over refused", "version=9.9")))
        channel.close()
        assert relay.status("/readyz") == 200


def test_whatever_is_said_to_it_a_launcher_goes_on(key_file: Path) -> None:
    with Relay(key_file) as relay:
        for number in range(20):
            guest = reach(Path(relay.state_dir))
            guest.send("upgrade" if number % 3 == 0 else "nonsense", timeout_s="soon")
            guest.close()
        relay.upgrade()


@pytest.mark.full
def test_who_says_nothing_is_shown_out(key_file: Path) -> None:
    with Relay(key_file) as relay:
        guests = [reach(Path(relay.state_dir)) for _ in range(8)]
        relay.upgrade()
        for guest in guests:
            guest.close()


def test_one_at_a_time(key_file: Path) -> None:
    with Relay(key_file) as relay, heir(relay, "warming", "freeze") as first:
        until(lambda: bool(said(relay, "hand-over begins")))
        done = takes_over(relay)
        assert (done.returncode, "a hand-over is under way" in done.stderr) == (1, True)
        with pytest.raises(subprocess.CalledProcessError) as failure:
            relay.upgrade()
        assert "a hand-over is under way" in failure.value.stderr
        first.kill()
        until(lambda: bool(said(relay, "nothing of it is left")))
        relay.upgrade()


# ---- told to end in between


@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, "warming"), (signal.SIGINT, "proving")])
def test_an_old_relay_that_is_told_to_end_ends_alone(key_file: Path, number: signal.Signals, step: str) -> None:
    with Relay(key_file, workers=2) as relay, heir(relay, step, "freeze") as new:
        until(lambda: psutil.Process(new.pid).status() == psutil.STATUS_STOPPED)
        relay.check_books()
        os.kill(relay.pid, number)
        assert new.wait(5) == -signal.SIGKILL
        relay.followed()
        assert not Path(relay.state_dir).exists() or not list(Path(relay.state_dir).glob("slot-*"))


def test_a_new_relay_that_is_told_to_end_leaves_the_old_one(key_file: Path) -> None:
    with Relay(key_file, workers=2) as relay, heir(relay, "proving", "freeze") as new:
        until(lambda: psutil.Process(new.pid).status() == psutil.STATUS_STOPPED)
        os.kill(new.pid, signal.SIGTERM)
        os.kill(new.pid, signal.SIGCONT)
        until(lambda: new.poll() is not None)
        until(lambda: bool(said(relay, "nothing of it is left")))
        until(lambda: len(relay.worker_pids()) == 2)
        assert relay.status("/readyz") == 200


# ---- those who look after processes


def test_the_service_manager_is_told_who_the_main_process_is(key_file: Path) -> None:
    with ServiceManager() as manager, manager.manages(Relay(key_file, workers=2)) as relay:
        manager.wait_for("READY")
        old = relay.pid
        asking = threading.Thread(target=relay.upgrade)
        asking.start()
        told = manager.wait_for("MAINPID")
        ready = manager.wait_for("READY")
        asking.join()
        assert (told.pid, told.fields["MAINPID"], ready.pid) == (old, str(relay.pid), relay.pid)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a container needs root and unshare")
def test_process_1_of_a_container_is_not_replaced(key_file: Path) -> None:
    """The container would end with it."""
    relay = Relay(key_file).by("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    with relay:
        inside = psutil.Process(relay.pid).children()[0].pid
        tool = [sys.executable, "-m", "relay", "upgrade", "--state-dir", relay.state_dir]
        command = ["nsenter", "--target", str(inside), "--mount", "--pid", *tool]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, "process 1 of its container" in done.stderr) == (1, True)
        relay.check_books()
        os.kill(inside, signal.SIGINT)
        relay.gone()
