"""Both programs as systemd runs them: what they tell it, the watchdog, and sockets that are there before they are."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.support import Echo, free_port
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.faults import FULL, Load, kill_everything, started_s, under_load
from tests.support.relays import Relay, until
from tests.support.service_manager import ServiceManager
from tests.support.transceivers import Transceiver

pytestmark = pytest.mark.native

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
LOOPBACK = "127.0.0.1"


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as manager:
        yield manager


def test_a_relay_says_what_it_does(manager: ServiceManager, key_file: Path) -> None:
    with manager.manages(Relay(key_file, workers=2), watchdog_s=1.0) as relay:
        ready = manager.wait_for("READY")
        assert ready.pid == relay.pid
        assert manager.named("STATUS")[-1].fields["STATUS"] == "flows: 0, workers: 2"
        first, second = manager.wait_for("WATCHDOG"), manager.wait_for("WATCHDOG")
        assert second.at_s - first.at_s < 1.0
        relay.process.send_signal(signal.SIGHUP)
        reloading = manager.wait_for("RELOADING")
        assert int(reloading.fields["MONOTONIC_USEC"]) <= reloading.at_s * 1e6
        manager.wait_for("READY")
        relay.check_books()
        relay.process.send_signal(signal.SIGTERM)
        stopping = manager.wait_for("STOPPING")
        assert int(stopping.fields["EXTEND_TIMEOUT_USEC"]) > 20e6
        assert relay.process.wait(10) == 0
        assert {message.pid for message in manager.messages} == {relay.pid}


def test_packets_wait_in_given_sockets_while_no_relay_runs(manager: ServiceManager, key_file: Path) -> None:
    public = manager.opens(UDP)
    address = f"{LOOPBACK}:{public.getsockname()[1]}"
    with Echo(0) as echo, socket.socket(socket.AF_INET, UDP) as client:
        client.settimeout(5)
        client.connect(public.getsockname())
        for _ in range(2):
            relay = manager.manages(Relay(key_file, listen=[address]), public)
            client.send(binding_request(relay.mint(echo.address)))
            with relay:
                assert client.recv(2048)[:2] == b"\x01\x01"
                relay.check_books()
                relay.process.kill()
                relay.gone()


@pytest.mark.skipif(os.geteuid() != 0, reason="queues of that length need root")
@pytest.mark.usefixtures("quiet_machine")
@pytest.mark.parametrize(
    "load", [pytest.param(Load(200, 10_000, 4.5), id="everyday"), pytest.param(FULL, id="full", marks=pytest.mark.full)]
)
def test_stored_sockets_lose_nothing_when_all_is_killed(
    manager: ServiceManager, key_file: Path, tmp_path: Path, load: Load
) -> None:
    """No socket unit: the relay has its own kept, of both sides. The next one has as many queues as before."""
    buffer = ("--recv-buffer", "64MiB")
    with manager.manages(Relay(key_file, workers=2, extra=buffer)) as relay, ExitStack() as stack:
        manager.wait_for("READY")
        assert sorted(name for name, _ in manager.stored) == ["ufrag-0", "ufrag-0", "ufrag-1", "ufrag-1"]
        with under_load("all SIGKILLed, sockets kept", relay.target, key_file, load, tmp_path) as course:
            while manager.next(0):
                pass
            killed_s = kill_everything(relay)
            successor = stack.enter_context(manager.manages(relay.again()))
            course.silences_s.append(started_s(successor) - killed_s)
            manager.wait_for("READY")
        course.assert_right()
        seen, owner = course.result, course.owner.result
        came = successor.total("ufrag_relay_packets_total", direction="up")
        assert came == seen["sent"] + seen["checks_sent"]
        # After the pause comes all that waited, at once: at full load more than the owner's own queue has room for.
        lost = seen["lost"] + seen["checks_sent"] - seen["checks_answered"]
        assert lost <= came + seen["duplicated"] - owner["packets"]
        assert load is FULL or lost == 0


def test_what_was_stored_of_other_times_goes(manager: ServiceManager, key_file: Path) -> None:
    """Fewer workers, and another address."""
    ports = [free_port(UDP), free_port(UDP)]
    with manager.manages(Relay(key_file, listen=[f"{LOOPBACK}:{port}" for port in ports], workers=2)) as relay:
        manager.wait_for("READY")
        assert len(manager.stored) == 6
        relay.check_books()
        relay.process.kill()
        relay.gone()
        with manager.manages(Relay(key_file, listen=relay.listen[1:], workers=1)) as other, Echo(0) as echo:
            manager.wait_for("READY")
            assert [name for name, _ in manager.stored] == ["ufrag-0", "ufrag-0"]
            ports_kept = {sock.getsockname()[1] for _, sock in manager.stored}
            assert ports[1] in ports_kept
            assert ports[0] not in ports_kept
            for _ in range(20):
                assert ask(other.mint(echo.address), parse_address(other.target))[2]


def test_each_worker_has_the_socket_of_its_number(manager: ServiceManager, key_file: Path) -> None:
    """Of two addresses, the second's sockets first; and a third that is missing is opened."""
    ports = [free_port(UDP), free_port(UDP)]
    given = [manager.opens(UDP, port=port) for port in (ports[1], ports[1], ports[0])]
    relay = Relay(key_file, listen=[f"{LOOPBACK}:{port}" for port in ports], workers=2)
    with manager.manages(relay, *given), Echo(0) as echo:
        children = relay.children()
        first, second = (sockets_of(children[f"relay-worker-{index}"]) for index in range(2))
        inodes = [os.fstat(sock.fileno()).st_ino for sock in given]
        assert first & set(inodes) == {inodes[0], inodes[2]}
        assert second & set(inodes) == {inodes[1]}
        for address in relay.listen:
            assert ask(relay.mint(echo.address), parse_address(address))[2]


def sockets_of(pid: int) -> set[int]:
    """Inodes of the sockets that a process holds."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


def test_a_socket_that_nobody_would_read_is_refused(manager: ServiceManager, key_file: Path) -> None:
    given = manager.opens(UDP)
    port = given.getsockname()[1]
    relay = manager.manages(Relay(key_file, listen=[f"{LOOPBACK}:{port}"]), given, manager.opens(UDP, port=port))
    with pytest.raises(Exception, match=rf"exit status 78 .*\n.* nobody reads unit-1 \(UDP {LOOPBACK}:{port}\)"), relay:
        pass


def test_a_transceiver_says_what_it_does_and_takes_sockets(manager: ServiceManager, key_file: Path) -> None:
    http, admin = manager.opens(TCP), manager.opens(TCP, shared=False)
    transceiver = Transceiver(key_file, advertise=[f"{LOOPBACK}:3478"])
    transceiver.http = (LOOPBACK, http.getsockname()[1])
    transceiver.admin = f"{LOOPBACK}:{admin.getsockname()[1]}"
    transceiver.command += ["--http", f"{LOOPBACK}:{transceiver.http[1]}", "--admin", transceiver.admin]
    with manager.manages(transceiver, http, admin):
        ready = manager.wait_for("READY")
        assert ready.pid == transceiver.pid
        assert manager.named("STATUS")[-1].fields["STATUS"] == "calls: 0, media processes: 1"
        until(lambda: transceiver.status("/readyz") == 200)
        transceiver.check_books()
        transceiver.process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING")
        assert transceiver.process.wait(10) == 0


@pytest.mark.full
def test_the_watchdog_waits_for_a_worker_that_hangs(manager: ServiceManager, key_file: Path) -> None:
    """The launcher replaces it after five seconds; from the third on it is not well."""
    with manager.manages(Relay(key_file, workers=2), watchdog_s=1.0) as relay:
        manager.wait_for("READY")
        os.kill(relay.children()["relay-worker-1"], signal.SIGSTOP)
        stopped_s = manager.wait_for("WATCHDOG").at_s
        while (message := manager.wait_for("WATCHDOG")).at_s < stopped_s + 6:
            pass
        times = [each.at_s for each in manager.named("WATCHDOG")]
        gap_s, start_s = max((later - sooner, sooner) for sooner, later in itertools.pairwise(times))
        assert 1.0 < gap_s < 3.0
        assert 2.0 < start_s - stopped_s < 3.6
        assert message.pid == relay.pid
        assert "child hung, killed" in relay.log()
