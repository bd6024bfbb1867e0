"""The commands an operator looks with, against a real relay: status, flows, top, probe."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.support import Echo
from relay import probe
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", *words], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.fixture
def busy(key_file: Path) -> Iterator[Relay]:
    """A relay with two workers, six flows, and something it has dropped."""
    with Echo(0) as owner, Relay(key_file, workers=2) as relay:
        for _ in range(6):
            assert ask(relay.mint(owner.address), parse_address(relay.target))[2]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(binding_request("A" * 32), parse_address(relay.target).sockaddr)
        until(lambda: relay.total("ufrag_relay_drops_total") == 1)
        yield relay


def test_status_is_one_screen_of_eighty_columns(busy: Relay) -> None:
    said = tool("status", "--admin", busy.admin)
    assert said.returncode == 0, said.stderr
    assert max(map(len, said.stdout.splitlines())) <= 80
    assert len(said.stdout.splitlines()) <= 24
    for words in ("ready", "flows         6 of", "established 6", "opened 6", "token_version", "key 0 (", "worker"):
        assert words in said.stdout


def test_status_of_a_draining_relay_and_of_nobody(busy: Relay) -> None:
    busy.process.send_signal(signal.SIGTERM)  # draining: flows are there, so it stays a while
    until(lambda: busy.status("/readyz") == 503)
    said = tool("status", "--admin", busy.admin)
    assert (said.returncode, "NOT READY, draining" in said.stdout) == (1, True)
    nobody = tool("status", "--admin", "127.0.0.1:1")
    assert nobody.returncode == 1
    assert "no relay answers" in nobody.stderr


def test_flows_and_filters(busy: Relay) -> None:
    def listed(*words: str) -> list[dict[str, object]]:
        said = tool("flows", "--admin", busy.admin, "--json", *words)
        assert said.returncode == 0, said.stderr
        return [json.loads(line) for line in said.stdout.splitlines()]

    flows = listed()
    assert len(flows) == 6
    assert {flow["state"] for flow in flows} == {"established"}
    assert len(listed("--worker", "0")) + len(listed("--worker", "1")) == 6
    assert len(listed("--state", "half_open")) == 0
    assert len(listed("--client", "127.0.0.1", "--owner", "127.0.0.0/8")) == 6
    assert len(listed("--client", "10.0.0.0/8")) == 0
    assert len(listed("--most", "2")) == 2
    assert [each["client"] for each in listed("--session", str(flows[0]["session"]))] == [flows[0]["client"]]
    table = tool("flows", "--admin", busy.admin).stdout
    assert table.count("open") == 6
    assert max(map(len, table.splitlines())) <= 80


def test_flows_that_redis_knows() -> None:
    row = "v=1 relay=host/1a2b owner=10.0.0.{}:5000 next=10.0.0.7:5000 session=00000000000{} state=established"
    with RedisServer(password="secret") as redis:
        for number in range(3):
            name = f"ufrag:v1:flow:west:203.0.113.1:3478:[fd00::{number}]:1000"
            redis.ask("SET", name, row.format(number, number))
        redis.ask("SET", "ufrag:v1:flow:west:nonsense", row.format(0, 0))
        words = ("flows", "--redis", redis.url, "--redis-group", "west")
        shown = tool(*words, "--json", "--owner", "10.0.0.1", "--client", "fd00::/16")
        assert [json.loads(line) for line in shown.stdout.splitlines()] == [
            {
                "local": "203.0.113.1:3478", "client": "[fd00::1]:1000", "state": "established",
                "owner": "10.0.0.1:5000", "next_hop": "10.0.0.7:5000", "session": "000000000001",
                "relay": "host/1a2b",
            }
        ]  # fmt: skip
        table = tool(*words).stdout
        assert (table.count("host/1a2b"), max(map(len, table.splitlines())) <= 80) == (3, True)
        assert tool(*words, "--worker", "0").returncode == 78
        assert "relay" not in tool("flows", "--redis", redis.url, "--json").stdout
        wrong = tool("flows", "--redis", redis.url.replace("secret", "guess"))
        assert wrong.returncode == 1
        assert "Redis does not answer" in wrong.stderr
        assert "guess" not in wrong.stderr
    assert "Redis does not answer" in tool(*words).stderr


def test_top_shows_rates(busy: Relay) -> None:
    words = [sys.executable, "-m", "relay", "top", "--admin", busy.admin, "--interval", "0.2s"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        seen: list[str] = []
        for line in top.stdout:
            seen.append(line)
            if sum("all " in each for each in seen) == 2:
                break
        top.send_signal(signal.SIGINT)
        top.stdout.read()
    assert max(map(len, seen)) <= 81
    text = "".join(seen)
    for words_ in ("ready, 6 flows", "up/s", "dropped up", "kernel"):
        assert words_ in text


def test_probe_by_a_call_of_its_own(key_file: Path) -> None:
    with Relay(key_file) as relay, Transceiver(key_file, advertise=[relay.target]) as transceiver:
        said = tool("probe", relay.target, "--call", transceiver.url)
        assert said.returncode == 0, said.stdout + said.stderr
        assert "4 of 4 answered, median" in said.stdout
        assert said.stdout.count(f"{relay.target} after ") == 4
        assert said.stdout.count("we are 127.0.0.1:") == 4
        until(lambda: not transceiver.sessions())


def test_probe_of_a_session_that_is_gone_and_without_an_answer(key_file: Path) -> None:
    with Relay(key_file) as relay, Transceiver(key_file, advertise=[relay.target]) as transceiver:
        token, password = ended_call(transceiver)
        gone = tool("probe", relay.target, "--token", token, "--password", password, "--count", "1")
        assert gone.returncode == 0
        assert "the session is gone (403)" in gone.stdout
        wrong = ("--token", token, "--password", "x" * 24, "--count", "1", "--wait", "0.2s")
        assert tool("probe", relay.target, *wrong).returncode == 1
    assert "no session to ask for" in tool("probe", "127.0.0.1:9").stderr
    assert "is the transceiver there?" in tool("probe", "127.0.0.1:9", "--call", "http://127.0.0.1:1").stderr


def ended_call(transceiver: Transceiver) -> tuple[str, str]:
    """ufrag and password of a call that was hung up."""
    session = probe.call(transceiver.url, None)
    probe.hang_up(session, None)
    until(lambda: not transceiver.sessions())
    return session.token, session.password
