"""Real Chromium in a call with continuous audio, while what serves it is killed and replaced: it stays connected, and
hears again within bounds."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.browser import Browser, BrowserCall
from tests.support.faults import FULL_RUNS, NOTES, kill_everything, started_s
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

WORKERS = 2
FRAME_MS = 20
SOUND_MOST_MS = 60.0  # between two frames, when nothing is lost
AGAIN_MOST_MS = 150.0  # from a relay's begin until one hears again: 100 ms, and two frames
AFTER_S = 0.7
FROZEN_S = 0.4
BUFFERED_MOST_MS = 200  # what a browser still has to play when nothing comes
# What processors that are busy with other things may add.
SLACKS_MS = [
    pytest.param(250.0, id="everyday"),
    *(pytest.param(50.0, id=f"full-{run}", marks=pytest.mark.full) for run in range(1, FULL_RUNS + 1)),
]


@contextmanager
def talking(browser: Browser, transceiver: Transceiver) -> Iterator[BrowserCall]:
    """A call whose audio is on and watched. Until the end it must be connected."""
    with browser.caller(transceiver.url) as caller:
        call = caller.connected(watched=True)
        call.heard()
        yield call
        changes = [value for _, event, value in call.events() if event in ("connection", "ice")]
        assert {"disconnected", "failed", "closed"}.isdisjoint(changes), changes
        assert call.stats()["connection"] == "connected"


@contextmanager
def heard(call: BrowserCall, name: str, most_ms: float) -> Iterator[list[float]]:
    """No silence within is longer; silences for which nobody was there can be added."""
    begun_s = time.time()
    silences_s: list[float] = []
    yield silences_s
    time.sleep(AFTER_S)
    found, silent_ms = call.silence(begun_s), 1e3 * sum(silences_s)
    note = f"Chromium, {name}: longest silence {found['ms']:.0f} ms in {found['frames']} frames"
    NOTES.append(f"{note} (nobody there for {silent_ms:.0f} ms)" if silences_s else note)
    assert found["ms"] < silent_ms + most_ms, NOTES[-1]
    assert found["frames"] > 1e3 * AFTER_S / 2 / FRAME_MS


@pytest.fixture
def served(key_file: Path, redis: RedisServer) -> Iterator[tuple[Relay, Transceiver]]:
    with (
        Relay(key_file, workers=WORKERS, extra=("--redis", redis.url)) as relay,
        Transceiver(key_file, advertise=[relay.target]) as transceiver,
    ):
        yield relay, transceiver


@pytest.mark.parametrize("slack_ms", SLACKS_MS)
def test_what_is_not_heard(
    slack_ms: float, browser: Browser, redis: RedisServer, served: tuple[Relay, Transceiver]
) -> None:
    relay, transceiver = served
    with talking(browser, transceiver) as call:
        with heard(call, "worker SIGKILL", SOUND_MOST_MS + slack_ms):
            for worker in range(WORKERS):
                relay.kill_worker(worker)
        with heard(call, "live upgrade", SOUND_MOST_MS + slack_ms):
            relay.upgrade()
        with heard(call, "Redis restart", SOUND_MOST_MS + slack_ms):
            redis.kill()
            redis.start()


@pytest.mark.parametrize("slack_ms", SLACKS_MS)
def test_a_relay_is_killed_and_another_goes_on(
    slack_ms: float, browser: Browser, redis: RedisServer, served: tuple[Relay, Transceiver]
) -> None:
    """With its memory, and then with Redis alone."""
    relay, transceiver = served
    with ExitStack() as stack, talking(browser, transceiver) as call:
        until(lambda: bool(redis.keys("ufrag:v1:flow:*")))
        for name, forgets in (("relay SIGKILL", False), ("relay SIGKILL without its memory, Redis", True)):
            with heard(call, name, AGAIN_MOST_MS + slack_ms) as silences_s:
                killed_s = kill_everything(relay)
                if forgets:
                    shutil.rmtree(relay.state_dir)
                relay = stack.enter_context(relay.again())
                silences_s.append(started_s(relay) - killed_s)


def test_the_page_says_how_long_nothing_came(browser: Browser, served: tuple[Relay, Transceiver]) -> None:
    relay, transceiver = served
    with browser.page(transceiver.url) as page:
        page.get_by_test_id("talk").click()
        until(lambda: page.evaluate("(ufrag.stats.longestGapMs ?? 0) > 0"))
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in relay.worker_pids():
                os.kill(pid, number)
            time.sleep(FROZEN_S)
        until(lambda: page.evaluate("ufrag.stats.longestGapMs") > 1e3 * FROZEN_S - BUFFERED_MOST_MS)
        assert page.evaluate("ufrag.state") == "live"
        assert page.locator("#rate-note").inner_text().startswith("longest gap")
