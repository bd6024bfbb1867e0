"""Key rotation of a running relay: no packet lost, no flow cut, and a bad file changes nothing."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest

from _fastpath.wire.token import KEY_IDS, Keyring
from benchmarks.support import Echo, Generator, mint_tokens, write_tokens
from relay.runtime.config import parse_address
from tests.support.asker import ask
from tests.support.offers import VECTORS
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = pytest.mark.usefixtures("quiet_machine")

ROTATIONS = [pytest.param(5, id="5"), pytest.param(20, id="20", marks=pytest.mark.full)]


def replace(key_file: Path, text: str, mode: int = 0o600) -> None:
    new = key_file.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.rename(key_file)


def taken(relay: Relay, key_id: int) -> float:
    """By how many workers."""
    return relay.total("ufrag_relay_route_key_present", key_id=str(key_id))


def answered(relay: Relay, ring: Keyring, key_id: int, owner: Echo) -> bool:
    host, _, port = owner.address.rpartition(":")
    return ask(ring.mint(key_id, (host, int(port))), parse_address(relay.target))[2]


@pytest.mark.parametrize("rotations", ROTATIONS)
def test_rotations_under_load_lose_nothing(rotations: int, key_file: Path, tmp_path: Path) -> None:
    """Each adds a key and removes the one before the last; the flows' own key is gone after the first two."""
    lines = [key_file.read_text().strip()]
    with ExitStack() as stack:
        owner = stack.enter_context(Echo(0))
        relay = stack.enter_context(Relay(key_file, workers=2, cpus="auto"))
        tokens = write_tokens(tmp_path / "tokens", mint_tokens(key_file, [owner.address], 500))
        generator = Generator(
            relay.target, tokens, flows=500, rate=20_000, seconds=1.5 * rotations, size=160, live=True
        )
        with generator:
            for done, _ in zip(range(1, rotations + 1), generator.seconds(), strict=False):
                key_id, key = done % KEY_IDS, secrets.token_bytes(32)
                lines = [f"{key_id}:{key.hex()}", *lines][:2]
                replace(key_file, "\n".join(lines) + "\n")
                os.kill(relay.process.pid, signal.SIGHUP)
                until(lambda key_id=key_id: taken(relay, key_id) == 2)  # type: ignore[misc]
                assert answered(relay, Keyring({key_id: key}), key_id, owner)
            assert done == rotations
            for _ in generator.seconds():
                pass
            result = generator.result
        assert result["sent"] > 25_000 * rotations
        assert (result["lost"], result["corrupted"], result["misdirected"]) == (0, 0, 0)
        assert relay.total("ufrag_relay_worker_restarts_total") == 0
        assert relay.total("ufrag_relay_tokens_total", result="flow", key_id="0") > 0


def minted_by(transceiver: Transceiver, rings: dict[int, Keyring]) -> int:
    """The id of the key that a new call's token was made with."""
    head = {"Content-Type": "application/sdp"}
    offer = urllib.request.Request(f"{transceiver.url}/v1/realtime/calls", VECTORS["chromium"].encode(), head)
    with urllib.request.urlopen(offer, timeout=10) as response:
        answer = response.read().decode()
    ufrag = answer.partition("a=ice-ufrag:")[2].partition("\r\n")[0]
    [found] = [key_id for key_id, ring in rings.items() if ring.verify(ufrag.encode())[0] == "verified"]
    return found


def test_relay_and_transceiver_rotate_under_a_call(key_file: Path) -> None:
    """The old key goes while a call of it is on, which goes on; the next call has the new one."""
    old, new = key_file.read_text().strip(), f"5:{secrets.token_hex(32)}"
    rings = {int(line[0]): Keyring({int(line[0]): bytes.fromhex(line[2:])}) for line in (old, new)}
    with Relay(key_file) as relay, Transceiver(key_file, advertise=[relay.target]) as transceiver:
        assert minted_by(transceiver, rings) == 0
        words = [sys.executable, "-m", "transceiver", "call", transceiver.url, "--seconds", "4"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as call:
            until(lambda: "live" in [each["state"] for each in transceiver.sessions()])
            replace(key_file, f"{new}\n{old}\n")
            for process in (relay, transceiver):
                os.kill(process.process.pid, signal.SIGHUP)
            until(lambda: taken(relay, 5) == 1)
            until(lambda: minted_by(transceiver, rings) == 5)
            replace(key_file, f"{new}\n")
            for process in (relay, transceiver):
                os.kill(process.process.pid, signal.SIGHUP)
            until(lambda: taken(relay, 0) == 0)
            said = call.communicate(timeout=30)[0]
        assert call.returncode == 0, said
        assert "none lost" in said
        second = subprocess.run([*words[:-1], "1"], capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 0, second.stdout + second.stderr
        assert relay.total("ufrag_relay_tokens_total", result="verified", key_id="5") > 0


def test_a_changed_file_is_found_without_a_signal(key_file: Path) -> None:
    key = secrets.token_bytes(32)
    with Echo(0) as owner, Relay(key_file, workers=2) as relay:
        assert taken(relay, 4) == 0
        replace(key_file, f"4:{key.hex()}\n")
        until(lambda: taken(relay, 4) == 2)
        assert taken(relay, 0) == 0
        assert answered(relay, Keyring({4: key}), 4, owner)


@pytest.mark.parametrize(("text", "mode", "says"), [("0:nonsense\n", 0o600, "no route key"), ("", 0o644, "chmod 600")])
def test_a_bad_file_changes_nothing_and_is_said(key_file: Path, text: str, mode: int, says: str) -> None:
    ring = Keyring({0: bytes.fromhex(key_file.read_text().strip().partition(":")[2])})
    with Echo(0) as owner, Relay(key_file, workers=1) as relay:
        replace(key_file, text or key_file.read_text(), mode)
        os.kill(relay.process.pid, signal.SIGHUP)
        until(lambda: relay.log().count(says) >= 2)  # by the launcher at once, by the worker
        assert taken(relay, 0) == 1
        assert answered(relay, ring, 0, owner)
        relay.kill_worker(0)
        until(lambda: relay.total("ufrag_relay_worker_restarts_total") == 1)
        assert answered(relay, ring, 0, owner)  # its successor has the keys that the relay began with
