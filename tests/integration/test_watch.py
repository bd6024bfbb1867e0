"""What an operator sees: every metric is documented, the kernel's drops are counted, a hung worker is replaced."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from _fastpath.verdicts import TOKEN_OUTCOME_NAMES, VERDICTS_BY_NUMBER
from benchmarks.support import Echo
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.relays import Relay, until

pytestmark = pytest.mark.usefixtures("quiet_machine")

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "metrics.md"
PROMISED = {
    "packets_total": {"direction", "worker"},
    "bytes_total": {"direction", "worker"},
    "drops_total": {"direction", "reason", "worker"},
    "socket_drops_total": {"socket", "worker"},
    "flows": {"state", "worker"},
    "flows_created_total": {"worker"},
    "tokens_total": {"key_id", "result", "worker"},
    "worker_restarts_total": {"worker"},
    "batch_size_bucket": {"le", "worker"},
    "busy_ratio": {"worker"},
    "build_info": {"version", "python"},
}


def test_metrics_are_as_promised_and_documented(key_file: Path) -> None:
    text = DOCUMENT.read_text()
    with Echo(0) as echo, Relay(key_file, workers=2) as relay:
        assert ask(relay.mint(echo.address), parse_address(relay.target))[2]
        labels: dict[str, set[str]] = {}
        for name, has in relay.samples():
            labels.setdefault(name.removeprefix("ufrag_relay_"), set()).update(label for label, _ in has)
    assert {name: labels.get(name) for name in PROMISED} == PROMISED
    for name in labels:
        family = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum").removesuffix("_created")
        assert f"`ufrag_relay_{family}`" in text or f"`ufrag_relay_{name}`" in text, name
    for _, _, reason in VERDICTS_BY_NUMBER[1:]:
        assert f"`{reason}`" in text, reason
    for outcome in TOKEN_OUTCOME_NAMES:
        assert f"`{outcome}`" in text, outcome


def test_the_kernels_drops_are_counted(key_file: Path) -> None:
    """A worker that is stopped for a moment, and a small buffer: what did not fit shows, what did is forwarded."""
    with Relay(key_file, extra=("--recv-buffer", "16KiB")) as relay:
        (worker,) = relay.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(500):
                client.sendto(bytes([0x80]) + bytes(99), parse_address(relay.target).sockaddr)
        os.kill(worker, signal.SIGCONT)
        until(lambda: relay.total("ufrag_relay_socket_drops_total", socket=relay.listen[0]) > 0)
        taken = relay.total("ufrag_relay_packets_total", direction="up")
        assert taken + relay.total("ufrag_relay_socket_drops_total") == 500
        assert relay.total("ufrag_relay_drops_total", reason="no_flow", direction="up") == taken


def test_a_hung_worker_is_replaced_and_its_flows_live_on(key_file: Path) -> None:
    """Stopped, it beats no heart and is killed after some seconds; what waited in its socket goes out all the same."""
    with Echo(0) as echo, Relay(key_file) as relay, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(15)
        client.sendto(binding_request(relay.mint(echo.address)), parse_address(relay.target).sockaddr)
        assert client.recv(2048)[:2] == b"\x01\x01"
        (worker,) = relay.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        media = bytes([0x80, 111]) + os.urandom(100)
        client.sendto(media, parse_address(relay.target).sockaddr)
        assert client.recv(2048) == media
        assert relay.worker_pids() != [worker]
        assert "hung" in relay.log()
        assert relay.total("ufrag_relay_worker_restarts_total") == 1
        assert relay.total("ufrag_relay_flows_created_total") == 1
