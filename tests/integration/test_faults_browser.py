"""Real Chromium in a call with continuous audio, while what serves it is killed and replaced: it stays connected, and
hears again within bounds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.browser import Browser, BrowserCall
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

FRAME_S = 0.02
BEFORE_S, AFTER_S = 0.5, 0.8


@contextmanager
def talking(browser: Browser, name: str, transceiver: Transceiver) -> Iterator[BrowserCall]:
    """A call whose audio is on and watched. At the end it must still be connected; what it heard is said."""
    with browser.caller(transceiver.url) as caller:
        call = caller.connected(watched=True)
        call.heard()
        begun_s = time.time()
        time.sleep(BEFORE_S)
        yield call
        time.sleep(AFTER_S)
        heard = call.silence(begun_s)
        print(f"\n{name}: longest silence {heard['ms']:.0f} ms of {1e3 * (time.time() - begun_s):.0f}, {heard['frames']} frames")
        changes = [value for _, event, value in call.events() if event in ("connection", "ice")]
        assert {"disconnected", "failed", "closed"}.isdisjoint(changes), changes
        assert call.stats()["connection"] == "connected"


def test_worker_killed(browser: Browser, key_file) -> None:
    with Relay(key_file, workers=2) as relay, Transceiver(key_file, advertise=[relay.target]) as transceiver:
        with talking(browser, "worker SIGKILL", transceiver) as call:
            for worker in range(2):
                relay.kill_worker(worker)
