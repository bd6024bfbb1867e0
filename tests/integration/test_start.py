"""`relay start` as its operator meets it: exit statuses and messages, drain, signals, health, the other commands."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support import Echo, free_port, write_key_file
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.relays import Relay, until

UDP = socket.SOCK_DGRAM


def relay_command(*words: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "relay", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


# ---- exit statuses and their messages


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--listen", "nowhere"], 2, "ADDR:PORT"),
        (["--unknown"], 2, "No such option"),
        (["--listen", "0.0.0.0:3478"], 78, "--backends"),
        (["--listen", "127.0.0.1:3478", "--listen", "127.0.0.1:3478"], 78, "twice"),
        (["--listen", "192.0.2.77:3478", "--backends", "127.0.0.0/8"], 78, "address of this machine"),
        (["--listen", "127.0.0.1:0"], 2, "port"),
        (["--listen", "127.0.0.1:3478", "--max-flows", "0"], 78, "--max-flows"),
        (["--listen", "127.0.0.1:3478", "--cpus", "9999"], 78, "9999"),
        (["--listen", "127.0.0.1:3478", "--internal", "127.0.0.1:65535", "--workers", "2"], 78, "--internal"),
        (["--listen", "127.0.0.1:3478", "--route-key-file", "/nonexistent/key"], 78, "relay keys new"),
    ],
)
def test_bad_configuration(words: list[str], status: int, says: str, key_file: Path) -> None:
    keys = [] if "--route-key-file" in words else ["--route-key-file", str(key_file)]
    done = relay_command("start", *words, *keys)
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_route_key_is_needed() -> None:
    done = relay_command("start", "--listen", "127.0.0.1:3478")
    assert done.returncode == 78
    assert "relay keys new --out" in done.stderr


def test_a_taken_port_is_75_even_by_another_relay(key_file: Path) -> None:
    """SO_REUSEPORT would let the second one in."""
    with Relay(key_file) as relay:
        admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        words = ["--listen", relay.listen[0], "--route-key-file", str(key_file)]
        done = relay_command("start", *words, "--admin", admin)
        assert done.returncode == 75
        assert relay.listen[0] in done.stderr
        done = relay_command("start", "--listen", f"127.0.0.1:{free_port(UDP)}", *words[2:], "--admin", relay.admin)
        assert done.returncode == 75
        assert relay.admin in done.stderr


def test_more_memory_than_there_is_is_refused(key_file: Path) -> None:
    listen = ["--listen", f"127.0.0.1:{free_port(UDP)}", "--admin", f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"]
    done = relay_command(
        "start", *listen, "--route-key-file", str(key_file), "--max-flows", "4194304", "--workers", "250"
    )
    assert done.returncode == 78
    assert "--max-flows" in done.stderr
    assert "MiB are available" in done.stderr


# ---- life


def test_health_and_drain(key_file: Path) -> None:
    """SIGTERM: not ready, no new flows, known ones forwarded until they go silent; then the end, by itself."""
    with (
        Echo(0) as echo,
        Relay(
            key_file,
            extra=(
                "--flow-timeout",
                "3",
                "--drain-timeout",
                "30",
            ),
        ) as relay,
    ):
        assert (relay.status("/livez"), relay.status("/readyz"), relay.status("/live")) == (200, 200, 200)
        address = parse_address(relay.target)
        with socket.socket(socket.AF_INET, UDP) as client:
            client.settimeout(5)
            check = binding_request(relay.mint(echo.address))
            client.sendto(check, address.sockaddr)
            assert client.recv(2048)[:2] == b"\x01\x01"
            relay.process.send_signal(signal.SIGTERM)
            wait_for_status(relay, "/readyz", 503)
            media = bytes([0x80, 111]) + bytes(30)
            client.sendto(media, address.sockaddr)
            assert client.recv(2048) == media
            with socket.socket(socket.AF_INET, UDP) as newcomer:
                newcomer.sendto(binding_request(relay.mint(echo.address)), address.sockaddr)
            until(lambda: relay.total("ufrag_relay_drops_total", reason="draining") == 1)
            assert relay.total("ufrag_relay_flows") == 1
            assert relay.total("ufrag_relay_draining") == 1
            relay.check_books()
        assert relay.process.wait(15) == 0
        assert "drained" in relay.log()
        assert "timed out" not in relay.log()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(key_file: Path, second: signal.Signals) -> None:
    with Echo(0) as echo, Relay(key_file) as relay:
        assert ask(relay.mint(echo.address), parse_address(relay.target))[2]
        relay.check_books()
        relay.process.send_signal(signal.SIGTERM)
        wait_for_status(relay, "/readyz", 503)
        relay.process.send_signal(second)
        assert relay.process.wait(5) == 0


def wait_for_status(relay: Relay, path: str, status: int) -> None:
    until(lambda: relay.status(path) == status)


def test_flows_expire(key_file: Path) -> None:
    with (
        Echo(0) as echo,
        Relay(
            key_file,
            extra=(
                "--flow-timeout",
                "1",
            ),
        ) as relay,
    ):
        assert ask(relay.mint(echo.address), parse_address(relay.target))[2]
        until(lambda: relay.total("ufrag_relay_flows") == 0)
        assert relay.total("ufrag_relay_flows_expired_total") == 1


def test_buffers_and_plan_are_said_and_json_logs_are_json(key_file: Path) -> None:
    with Relay(
        key_file,
        extra=(
            "--recv-buffer",
            "1MiB",
            "--log-format",
            "json",
        ),
    ) as relay:
        lines = [json.loads(line) for line in relay.log().splitlines()]
        said = {line["message"]: line for line in lines}
        assert said["receive buffer"]["asked"] == 2**20
        assert said["receive buffer"]["got"] > 0
        assert "1 worker" in said["workers"]["plan"]
        assert said["listening"]["public"] == relay.listen


# ---- configuration from everywhere


def test_flag_over_environment_over_file(tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ufrag.toml"
    file.write_text(f'[relay]\nmax-flows = 100\nflow-timeout = "11s"\nworkers = 1\nroute-key-file = "{key_file}"\n')
    monkeypatch.setenv("UFRAG_RELAY_MAX_FLOWS", "200")
    monkeypatch.setenv("UFRAG_RELAY_WORKERS", "2")
    done = relay_command("config", "show", "--config", str(file), "--workers", "3")
    lines = {line.split(" = ")[0]: line for line in done.stdout.splitlines() if " = " in line}
    assert "3" in lines["workers"]
    assert "# flag" in lines["workers"]
    assert "200" in lines["max-flows"]
    assert "# environment" in lines["max-flows"]
    assert "11" in lines["flow-timeout"]
    assert "# file" in lines["flow-timeout"]
    assert "# default" in lines["admin"]
    done = relay_command("config", "check", "--config", str(file), "--listen", "127.0.0.1:3478")
    assert done.returncode == 0
    assert done.stdout.startswith("ok")


# ---- keys and tokens


def test_keys_and_tokens(tmp_path: Path) -> None:
    file = str(tmp_path / "k")
    assert relay_command("keys", "new", "--out", file, "--id", "3").returncode == 0
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert relay_command("keys", "new", "--out", file).returncode == 78
    minted = relay_command("token", "mint", "--route-key-file", file, "--owner", "[2001:db8::1]:5000", "--cluster", "7",
                           "--generation", "9")  # fmt: skip
    token = minted.stdout.strip()
    assert len(token) == 48
    shown = relay_command("token", "show", token, "--route-key-file", file).stdout
    assert "[2001:db8::1]:5000" in shown
    assert "cluster     7" in shown
    assert "generation  9" in shown
    other = write_key_file(tmp_path / "other")
    done = relay_command("token", "show", token, "--route-key-file", str(other))
    assert done.returncode == 78
    assert "unknown_key" in done.stderr
    (tmp_path / "k").chmod(0o644)
    done = relay_command("token", "mint", "--route-key-file", file, "--owner", "127.0.0.1:5000")
    assert done.returncode == 78
    assert "chmod 600" in done.stderr
