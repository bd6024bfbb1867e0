"""`relay drain` and `undrain` as an operator types them: new flows elsewhere, known ones on, and back again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.support import Echo
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.relays import Relay, until

MEDIA = bytes([0x80, 111]) + bytes(30)


def tool(relay: Relay, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", *words, "--admin", relay.admin]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def owner() -> Iterator[Echo]:
    with Echo(0) as owner:
        yield owner


def exchange(client: socket.socket, datagram: bytes) -> bytes:
    client.send(datagram)
    return client.recv(2048)


@contextmanager
def flow(relay: Relay, check: bytes) -> Iterator[socket.socket]:
    """A client whose check was answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(parse_address(relay.target).sockaddr)
        client.settimeout(3)
        assert exchange(client, check)[:2] == b"\x01\x01"
        yield client


def test_drain_refuses_new_flows_keeps_known_ones_and_can_be_taken_back(key_file: Path, owner: Echo) -> None:
    with Relay(key_file, workers=2, extra=("--flow-timeout", "1")) as relay:
        check = binding_request(relay.mint(owner.address))
        with flow(relay, check) as client:
            assert tool(relay, "drain").returncode == 0
            assert relay.status("/readyz") == 503
            assert exchange(client, MEDIA) == MEDIA
            assert exchange(client, check)[:2] == b"\x01\x01"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as newcomer:
            newcomer.sendto(binding_request(relay.mint(owner.address)), parse_address(relay.target).sockaddr)
            until(lambda: relay.total("ufrag_relay_drops_total", reason="draining") == 1)
        said = tool(relay, "drain", "--wait")  # the flow goes silent
        assert (said.returncode, said.stdout) == (0, "drained\n"), said.stderr
        assert said.stderr == "1 flows left\n"
        assert tool(relay, "undrain").returncode == 0
        assert relay.status("/readyz") == 200
        assert ask(relay.mint(owner.address), parse_address(relay.target))[2]


def test_what_is_left_at_the_end_of_the_wait(key_file: Path, owner: Echo) -> None:
    with Relay(key_file) as relay, flow(relay, binding_request(relay.mint(owner.address))):
        said = tool(relay, "drain", "--timeout", "0.3")
        assert (said.returncode, said.stdout) == (1, "not drained: flows are left\n")


def test_push_leaves_checks_unanswered_and_passes_media(key_file: Path, owner: Echo) -> None:
    """It is shown, outlives a worker, and can be taken back."""
    with Relay(key_file, workers=2) as relay:
        check = binding_request(relay.mint(owner.address))
        with flow(relay, check) as client:
            assert tool(relay, "drain", "--mode", "push").returncode == 0
            client.send(check)
            assert exchange(client, MEDIA) == MEDIA  # and so the check before it was not answered
            assert relay.total("ufrag_relay_drops_total", direction="up", reason="draining") == 1
            assert tool(relay, "drain", "--mode", "wait").returncode == 0
            assert exchange(client, check)[:2] == b"\x01\x01"
            assert tool(relay, "drain", "--mode", "push").returncode == 0
        relay.kill_worker(1)
        until(lambda: relay.total("ufrag_relay_worker_restarts_total", worker="1") == 1)
        assert relay.total("ufrag_relay_draining", worker="1") == 2
        assert "pushing" in tool(relay, "status").stdout


def test_an_end_that_was_asked_for_cannot_be_taken_back(key_file: Path, owner: Echo) -> None:
    with (
        Relay(key_file, extra=("--drain-mode", "push")) as relay,
        flow(relay, binding_request(relay.mint(owner.address))),
    ):
        assert tool(relay, "drain").returncode == 0
        relay.check_books()
        relay.process.send_signal(signal.SIGTERM)
        until(lambda: relay.total("ufrag_relay_draining") == 2)
        for command in ("undrain", "drain"):
            said = tool(relay, command)
            assert said.returncode == 78
            assert "told to end" in said.stderr
        assert relay.total("ufrag_relay_draining") == 2
