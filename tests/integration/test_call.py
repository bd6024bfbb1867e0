"""`transceiver call` through a real relay and transceiver: good calls, and whatever keeps one from coming about."""

from __future__ import annotations

import json
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from benchmarks.support import free_port, write_key_file
from tests.support.certificates import self_signed
from tests.support.relays import Relay, until
from tests.support.tones import loudest, read_wav, write_wav
from tests.support.transceivers import Transceiver

TRANSCEIVER = (sys.executable, "-m", "transceiver")
KEY, OTHER_KEY = "0123456789abcdef-the-key", "0123456789abcdef-another"


class Edge(NamedTuple):
    relay: Relay
    transceiver: Transceiver

    def settle(self) -> None:
        """Waits until no call is left, and all that the relay sent has come."""
        until(lambda: not self.transceiver.sessions())
        until(lambda: self.transceiver.arrived(self.relay))


@contextmanager
def edge(key_file: Path, *extra: str) -> Iterator[Edge]:
    with Relay(key_file) as relay, Transceiver(key_file, advertise=relay.listen, extra=extra) as transceiver:
        both = Edge(relay, transceiver)
        yield both
        both.settle()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A pair without options, for all tests that need no other."""
    with edge(write_key_file(tmp_path_factory.mktemp("keys") / "route.key")) as both:
        yield both


def transceiver(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*TRANSCEIVER, *words], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def call(*words: str) -> dict[str, Any]:
    """What `--json` says; the exit status says the same."""
    done = transceiver("call", *words, "--json")
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ok"] else 1)
    return dict(report)


# Good calls


def test_a_good_call_and_its_recording(plain: Edge, tmp_path: Path) -> None:
    recording, before = tmp_path / "out.wav", plain.transceiver.ended()
    report = call(plain.transceiver.url, "--seconds", "2", "--tone", "700", "--record", str(recording))
    assert report["failure"] is None, report
    assert report["relays"] == [plain.relay.target]
    stages = report["stages_ms"]
    assert 0 < stages["answer"] <= stages["ice"] <= stages["dtls"] < stages["audio"] < 5000
    assert stages["dtls"] < stages["data"] < stages["message"]
    assert report["packets_sent"] >= 100
    assert report["packets_back"] >= 90
    assert (report["lost_up"], report["lost_down"]) == (0, 0)
    assert -35 < report["level_db"] < -10
    assert 20 < report["echo_ms"] < 1000
    assert 0 < report["data_ms"] < 5000
    assert len(report["seconds"]) == 2
    plain.settle()
    assert plain.transceiver.ended() - before == {"hangup": 1}
    heard = read_wav(recording)
    assert len(heard) > 48_000
    assert loudest(heard[-48_000:], range(500, 900, 10)) == 700


def test_words_for_people_and_a_sound_from_a_file(plain: Edge, tmp_path: Path) -> None:
    """At another rate than Opus has; what is printed into a pipe steers no terminal."""
    dice = random.Random(7)
    noise = [dice.randrange(-9000, 9000) * dice.choice((0, 1)) for _ in range(80) for _ in range(500)]
    file = write_wav(tmp_path / "noise.wav", noise, 16_000)
    words = ("--seconds", "1.5", "--wav", str(file), "--data", "Grüße")
    done = transceiver("call", plain.transceiver.url, *words)
    assert done.returncode == 0, done.stdout
    assert all(each.isprintable() for each in done.stdout.splitlines())
    for said in ("offer to", f"goes to UDP {plain.relay.target}", "ICE connected", "DTLS connected", "first audio",
                 "the message is back", "1.5 s", "GOOD: connected in"):  # fmt: skip
        assert said in done.stdout


def test_without_a_data_channel(plain: Edge) -> None:
    report = call(plain.transceiver.url, "--seconds", "1", "--data", "")
    assert (report["ok"], report["data_ms"]) == (True, None)


def test_over_tls(key_file: Path, tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    with edge(key_file, "--tls-cert", str(cert), "--tls-key", str(key)) as (_relay, served):
        url = served.url.replace("http:", "https:")
        assert "not to be trusted" in call(url)["failure"]
        assert "does not speak HTTP" in call(served.url)["failure"]
        assert call(url, "--insecure", "--seconds", "1")["failure"] is None


def test_a_certificate_is_renewed_by_sighup(key_file: Path, tmp_path: Path) -> None:
    """A call that has begun goes on; what is no certificate is said, and the one before stays."""
    cert, key = self_signed(tmp_path)
    first = cert.read_text()
    with edge(key_file, "--tls-cert", str(cert), "--tls-key", str(key)) as (_relay, served):
        url = served.url.replace("http:", "https:")
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        assert ssl.get_server_certificate(address) == first
        words = ("call", url, "--insecure", "--json", "--seconds", "4")
        with subprocess.Popen([*TRANSCEIVER, *words], stdout=subprocess.PIPE, text=True) as caller:
            until(lambda: bool(served.sessions()))
            renewed = self_signed(tmp_path)[0].read_text()
            served.process.send_signal(signal.SIGHUP)
            until(lambda: ssl.get_server_certificate(address) == renewed != first)
            cert.write_text("no certificate")
            served.process.send_signal(signal.SIGHUP)
            until(lambda: "the certificate is not taken" in served.log())
            assert ssl.get_server_certificate(address) == renewed
            assert json.loads(caller.communicate()[0])["ok"]


# Calls that do not come about


def test_nobody_listens() -> None:
    report = call(f"http://127.0.0.1:{free_port(socket.SOCK_STREAM)}")
    assert "refused" in report["failure"]
    assert "--http" in report["mend"]


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        report = call(f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.5")
    assert "did not answer within 0.5 s" in report["failure"]


def test_an_offer_can_be_interrupted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = [*TRANSCEIVER, "call", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                said, _ = process.communicate(timeout=5)
    assert (process.returncode, said.splitlines()[-1]) == (1, "BAD: interrupted")


def test_keys(key_file: Path, tmp_path: Path) -> None:
    for name, key in (("right", KEY), ("wrong", OTHER_KEY)):
        (tmp_path / name).write_text(key + "\n")
        (tmp_path / name).chmod(0o600)
    with edge(key_file, "--auth-key-file", str(tmp_path / "right")) as (_relay, served):
        assert "a key is wanted" in call(served.url)["failure"]
        assert "the key is wrong" in call(served.url, "--auth-key", OTHER_KEY)["failure"]
        assert "the key is wrong" in call(served.url, "--auth-key-file", str(tmp_path / "wrong"))["failure"]
        assert call(served.url, "--auth-key-file", str(tmp_path / "right"), "--seconds", "1")["failure"] is None


def test_a_refusal_is_passed_on_in_its_own_words(key_file: Path) -> None:
    with edge(key_file, "--max-new-per-s", "0.01") as (_relay, served):
        assert call(served.url, "--seconds", "0.2")["failure"] is None
        report = call(served.url)
        assert "429, rate_limit_exceeded: Too many new calls" in report["failure"]
        assert "try again in" in report["mend"]
        assert "HTTP 404" in call(f"{served.url}/v1/elsewhere")["failure"]
        assert "HTTP 404" in call(f"http://{served.admin}")["failure"]


def test_a_relay_that_cannot_be_reached(key_file: Path) -> None:
    nowhere = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with Transceiver(key_file, advertise=[nowhere]) as served:
        report = call(served.url, "--timeout", "2")
        assert f"ICE failed: no reply from UDP {nowhere} within 2 s" in report["failure"]
        assert "blocked" in report["mend"]
        assert set(report["stages_ms"]) == {"answer"}
        done = transceiver("call", served.url, "--timeout", "1")
        assert (done.returncode, "BAD: ICE failed" in done.stdout) == (1, True)
        until(lambda: served.ended() == {"hangup": 2})


# Calls that are ended


@contextmanager
def calling(served: Transceiver) -> Iterator[subprocess.Popen[str]]:
    """A call that would take long, once it is live."""
    words = [*TRANSCEIVER, "call", served.url, "--seconds", "60", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            until(lambda: any(each["state"] == "live" and each["packets_up"] > 60 for each in served.sessions()))
            yield process
        finally:
            process.kill()


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    return dict(json.loads(process.communicate(timeout=20)[0]))


def test_a_call_is_listed_and_hung_up_by_the_operator(plain: Edge) -> None:
    before, admin = plain.transceiver.ended(), ("--admin", plain.transceiver.admin)
    with calling(plain.transceiver) as process:
        (listed,) = json.loads(transceiver("sessions", "--json", *admin).stdout)
        assert (listed["state"], listed["codec"], listed["relay"]) == ("live", "opus", plain.relay.target)
        assert listed["profile"] == "SRTP_AEAD_AES_256_GCM"
        assert listed["id"] in transceiver("sessions", *admin).stdout
        assert transceiver("hangup", listed["id"], *admin).returncode == 0
        report = outcome(process)
    assert process.returncode == 1
    assert "the other end ended the call" in report["failure"]
    plain.settle()
    assert plain.transceiver.ended() - before == {"admin": 1}
    assert transceiver("hangup", listed["id"], *admin).returncode == 78


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_call_that_is_interrupted_hangs_up_and_judges(number: signal.Signals, plain: Edge) -> None:
    before = plain.transceiver.ended()
    with calling(plain.transceiver) as process:
        process.send_signal(number)
        report = outcome(process)
    assert (process.returncode, report["failure"]) == (0, None)
    plain.settle()
    assert plain.transceiver.ended() - before == {"hangup": 1}


# The demonstration


def demo(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.demo_call", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_demonstration_calls_itself() -> None:
    """Whether or not the usual ports are free."""
    with demo("--seconds", "2") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "in a browser" in output
    assert "GOOD: connected in" in output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_the_demonstration_leaves_nothing_behind(number: signal.Signals, status: int) -> None:
    with demo() as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("calls: 0 now"):
                break
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 6, lines
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == status
    assert [each for each in children if each.is_running()] == []
