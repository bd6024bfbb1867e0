"""Real Chromium in a call with continuous audio, while what serves it is killed and replaced: it stays connected, and
hears again within bounds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.browser import Browser, Facts
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

SOUND_MOST_MS = 100.0  # between two frames, when nothing is lost: 20 ms, and what the processors are busy with
BEFORE_S, AFTER_S = 0.5, 0.8
FROZEN_S = 0.4
BUFFERED_MOST_MS = 200  # what a browser still has to play when nothing comes


@contextmanager
def talking(browser: Browser, name: str, transceiver: Transceiver) -> Iterator[Facts]:
    """A call whose audio is on and watched. At the end it must still be connected; what it heard is said, and given."""
    heard: Facts = {}
    with browser.caller(transceiver.url) as caller:
        call = caller.connected(watched=True)
        call.heard()
        begun_s = time.time()
        time.sleep(BEFORE_S)
        yield heard
        time.sleep(AFTER_S)
        heard.update(call.silence(begun_s))
        print(f"\n{name}: longest silence {heard['ms']:.0f} ms, {heard['frames']} frames in all")
        changes = [value for _, event, value in call.events() if event in ("connection", "ice")]
        assert {"disconnected", "failed", "closed"}.isdisjoint(changes), changes
        assert call.stats()["connection"] == "connected"


@pytest.fixture
def served(key_file: Path) -> Iterator[tuple[Relay, Transceiver]]:
    with Relay(key_file, workers=2) as relay, Transceiver(key_file, advertise=[relay.target]) as transceiver:
        yield relay, transceiver


def test_workers_are_killed(browser: Browser, served: tuple[Relay, Transceiver]) -> None:
    relay, transceiver = served
    with talking(browser, "worker SIGKILL", transceiver) as heard:
        for worker in range(2):
            relay.kill_worker(worker)
    assert heard["ms"] < SOUND_MOST_MS


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
