"""Real clients through a real relay and transceiver, on loopback: README.md says which and what each of them does.

Run by name: `./scripts/test --full tests/interop`. Nothing here knows what a client does wrong but the table
`LIMITS`, which says it; the servers treat all alike.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.native_build import ROOT
from benchmarks.support import write_key_file
from tests.interop.toolchains import CLIENTS, Command, ffmpeg
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = [pytest.mark.full, pytest.mark.native]

SETUPS = 5
FRAMES = 50
UNDER_WAY = 5  # frames, at the moment when a client counts
PATIENCE_S = 60.0
GOODBYE_S = {"close_notify": 2.0, "bye": 20.0}  # a living client might say the latter, too: it gets 15 s to show it

Facts = dict[str, Any]


@dataclass(frozen=True)
class Limit:
    """What a client does not do, by no fault of the servers'."""

    no_channel_as: str = ""  # our DTLS role in which it opens no data channel that may be accepted
    hangup_unheard: bool = False  # it does not tell its application
    bursts: bool = False  # what it had to say during the set-up it says all at once, perhaps before we have keys
    goodbye: str = "close_notify"  # what is heard of it when it closes: DTLS's, or SCTP's alone ("bye"), or nothing


LIMITS = {
    "libdatachannel": Limit(goodbye="bye"),
    # RFC 8832, 6: the DTLS client's streams are even. It goes by its part in ICE, and asks for an odd one.
    "werift": Limit(no_channel_as="passive", goodbye=""),
    "gstreamer": Limit(hangup_unheard=True, bursts=True, goodbye=""),
}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with Relay(write_key_file(tmp_path_factory.mktemp("keys") / "route.key")) as relay:
        yield relay


@pytest.fixture(scope="module")
def active(relay: Relay) -> Iterator[Transceiver]:
    with Transceiver(relay.key_file, advertise=relay.listen) as program:
        yield program


@pytest.fixture(scope="module")
def passive(relay: Relay) -> Iterator[Transceiver]:
    with Transceiver(relay.key_file, advertise=relay.listen, extra=("--answer-role", "passive")) as program:
        yield program


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> tuple[Command, Limit]:
    return CLIENTS[request.param](), LIMITS.get(request.param, Limit())


def run(command: Command, program: Transceiver, *options: str) -> Facts:
    """What one call of a client was like."""
    words = [*command, *options, program.url]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:] + program.log()[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check(facts: Facts, limit: Limit, *, channel: bool = True) -> None:
    assert "error" not in facts, facts["error"]
    assert facts["back"] >= FRAMES
    assert facts["foreign"] == 0
    assert limit.bursts or facts["sent"] - facts["back"] <= UNDER_WAY
    if channel:
        assert facts["text"]
        assert facts["binary"]


def endings(program: Transceiver) -> list[dict[str, str]]:
    """The fields of each line that explains a call."""
    lines = [line for line in program.log().splitlines() if "call ended" in line]
    return [dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line)) for line in lines]


def reason(program: Transceiver, facts: Facts, seconds: float) -> str:
    """Why a call ended; "" if it has not."""
    end = time.monotonic() + seconds
    while True:
        found = [each["reason"] for each in endings(program) if each["call"] == token_of(facts)]
        if found or time.monotonic() > end:
            return found[0] if found else ""
        time.sleep(0.1)


def token_of(facts: Facts) -> str:
    """An id begins with the token, in letters that fit into a URL."""
    location: str = facts["location"]
    return location.rpartition("/")[2][:32].replace("-", "+").replace("_", "/")


@pytest.mark.parametrize("role", ["active", "passive"])
def test_five_of_five(client: tuple[Command, Limit], role: str, request: pytest.FixtureRequest) -> None:
    """Both DTLS roles, as the transceiver chooses: the offers leave it open."""
    command, limit = client
    program: Transceiver = request.getfixturevalue(role)
    channel = role != limit.no_channel_as
    took = []
    for _ in range(SETUPS):
        facts = run(command, program, *([] if channel else ["--without-channel"]))
        check(facts, limit, channel=channel)
        assert facts["setup"] == role
        took.append(facts["setup_ms"])
    print(f"\n{facts['client']}: {SETUPS} of {SETUPS}, {min(took):.0f} to {max(took):.0f} ms to connected")


@pytest.mark.parametrize(("offered", "role"), [("active", "passive"), ("passive", "active")])
def test_an_offer_that_chooses_its_role(
    client: tuple[Command, Limit], offered: str, role: str, active: Transceiver, passive: Transceiver
) -> None:
    """Against the transceiver's own preference."""
    command, limit = client
    channel = role != limit.no_channel_as
    options = ["--setup", offered] + ([] if channel else ["--without-channel"])
    facts = run(command, passive if role == "active" else active, *options)
    check(facts, limit, channel=channel)
    assert facts["setup"] == role


def test_the_client_hangs_up(client: tuple[Command, Limit], active: Transceiver) -> None:
    """And need not be missed for 30 s."""
    command, limit = client
    if not limit.goodbye:
        pytest.xfail("it says nothing")
    assert reason(active, run(command, active), GOODBYE_S[limit.goodbye]) == limit.goodbye


def test_the_server_hangs_up(client: tuple[Command, Limit], active: Transceiver) -> None:
    command, limit = client
    if limit.hangup_unheard:
        pytest.xfail("it is told, and does not tell its application")
    facts = run(command, active, "--end", "hangup")
    check(facts, limit)
    assert facts["ended"] in ("closed", "failed", "disconnected", "channel closed")
    assert reason(active, facts, 2.0) == "hangup"


@pytest.mark.parametrize("name", ["pion", "firefox"])
def test_an_ice_restart(name: str, active: Transceiver) -> None:
    """In those clients that can: new credentials, new addresses, the same call."""
    facts = run(CLIENTS[name](), active, "--restart")
    check(facts, Limit())
    assert facts["back"] >= 2 * FRAMES
    assert reason(active, facts, 2.0) == "close_notify"
    assert endings(active)[-1]["restarts"] == "1"


@pytest.mark.parametrize("offered", ["passive", "active"])
def test_ffmpeg_sends(offered: str, active: Transceiver) -> None:
    """sendonly, so nothing comes back; what has come is known here."""
    command = ffmpeg()
    for _ in range(SETUPS):
        before = len(endings(active))
        facts = run(command, active, "--setup", offered)
        until(lambda: len(endings(active)) > before)  # noqa: B023 (called here)
        words = endings(active)[-1]
        assert words["reason"] == "close_notify"
        assert (int(words["packets_up"]), int(words["lost_up"])) == (facts["sent"], 0)
        assert words["packets_down"] == "0"
    print(f"\n{facts['client']}: {SETUPS} of {SETUPS}, {facts['sent']} packets each")
