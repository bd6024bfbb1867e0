"""The page at `/`, as its user meets it: talk, see and hear, write, hang up; and what it says when something fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import Browser
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.native

WAIT_MS = 8000
STORY = ["state", "error", "setup", "path", "stats", "log"]
NO_MICROPHONE = 'navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotAllowedError"); }'
SLOW_TO_SAY = """
const real = RTCPeerConnection.prototype.setRemoteDescription;
RTCPeerConnection.prototype.setRemoteDescription = async function (description) {
  const connected = new Promise((resolve) => this.addEventListener(
    "connectionstatechange", () => this.connectionState === "connected" && resolve()));
  await real.call(this, description);
  await connected;
};
"""


@pytest.fixture(scope="module")
def server(relay: Relay) -> Iterator[Transceiver]:
    with Transceiver(relay.key_file, advertise=[relay.target]) as program:
        yield program


class Screen:
    """The page, by the names its elements have for tests."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def text(self, name: str) -> str:
        return self.page.get_by_test_id(name).inner_text()

    def click(self, name: str) -> None:
        self.page.get_by_test_id(name).click(timeout=WAIT_MS)

    def shows(self, name: str, pattern: str) -> str:
        """Waits until the text of `name` has such a part, and returns it all. If not, the page tells its story."""
        element = self.page.get_by_test_id(name)
        try:
            element.filter(has_text=re.compile(pattern)).wait_for(timeout=WAIT_MS)
        except Exception as error:
            story = self.page.evaluate("names => Object.fromEntries(names.map(name => [name, ufrag[name]]))", STORY)
            raise AssertionError(f"{name} never shows {pattern!r}: {json.dumps(story, indent=1)}") from error
        return element.inner_text()

    def meter_moves(self, name: str) -> None:
        """It stands at its lowest value, -60, while there is silence."""
        meter = self.page.get_by_test_id(name)
        until(lambda: int(meter.get_attribute("aria-valuenow") or -60) > -50)

    def value(self, expression: str) -> object:
        return self.page.evaluate(f"ufrag.{expression}")

    def error(self) -> object:
        return self.value("error && ufrag.error.code")


@contextmanager
def opened(browser: Browser, url: str, script: str = "") -> Iterator[Screen]:
    """The page, whose script must not stumble whatever the test does. `script` runs before it."""
    problems: list[str] = []
    with browser.page("about:blank") as page:
        page.on("pageerror", lambda error: problems.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(url)
        yield Screen(page)
    assert problems == []


def goodbyes(server: Transceiver) -> int:
    """The page says it twice, over HTTP and over DTLS; which of them arrives first is the network's affair."""
    ended = server.ended()
    return ended["hangup"] + ended["close_notify"]


def test_a_call_from_talk_to_hang_up(browser: Browser, server: Transceiver, tmp_path: Path) -> None:
    with opened(browser, server.url) as screen:
        assert screen.text("status") == "Ready"
        screen.click("talk")
        screen.shows("status", "Live")
        for meter in ("meter-mic", "meter-back"):
            screen.meter_moves(meter)
        for figure, pattern in {
            "rtt": r"\dms", "jitter": r"\dms", "loss": r"0%", "rate": r"\dkbit/s", "setup": r"\d ms",
            "path-dtls": r"1\.2.*GCM", "path-srtp": "AES", "path-codec": "opus 48000/2", "channel-state": "open",
        }.items():  # fmt: skip
            screen.shows(figure, pattern)
        assert screen.text("path-relay").startswith(server.listen[0])
        screen.page.get_by_test_id("message").fill("grüß dich")
        screen.click("send")
        screen.shows("log", r"→\s*grüß dich[\s\S]*←\s*grüß dich")
        screen.click("restart")
        until(lambda: screen.value("restarts") == 1)
        screen.meter_moves("meter-back")
        shot = tmp_path / "page.png"
        screen.page.screenshot(path=shot, full_page=True)
        print(f"\nscreenshot: {shot}")
        said = goodbyes(server)
        screen.click("talk")
        assert screen.text("status") == "Ended"
        until(lambda: goodbyes(server) == said + 1)
        assert screen.error() is None
    assert shot.stat().st_size > 10_000


def test_a_tone_needs_no_microphone(browser: Browser, server: Transceiver) -> None:
    with opened(browser, f"{server.url}/?tone=1", NO_MICROPHONE) as screen:
        screen.click("talk")
        screen.shows("status", "Live")
        screen.meter_moves("meter-back")
        screen.click("talk")


def test_a_connection_that_is_there_before_the_answer_is_taken(browser: Browser, server: Transceiver) -> None:
    """A near server needs no longer for ICE and DTLS than the browser for its own bookkeeping."""
    with opened(browser, f"{server.url}/?tone=1", SLOW_TO_SAY) as screen:
        screen.click("talk")
        screen.shows("status", "Live")
        screen.click("talk")


def test_it_says_that_the_microphone_is_not_allowed(browser: Browser, server: Transceiver) -> None:
    with opened(browser, server.url, NO_MICROPHONE) as screen:
        screen.click("talk")
        screen.shows("notice", "microphone is not allowed")
        screen.click("action-call-with-a-tone")
        screen.shows("status", "Live")
        screen.click("talk")


def test_it_says_that_the_server_is_gone(browser: Browser, relay: Relay) -> None:
    """First in a call, which the server ends as it goes; then when another is tried."""
    with Transceiver(relay.key_file, advertise=[relay.target]) as program, opened(browser, program.url) as screen:
        screen.click("talk")
        screen.shows("status", "Live")
        program.stop()
        screen.shows("notice", "The server ended the call")
        assert screen.text("status") == "Ended"
        screen.click("action-call-again")
        screen.shows("notice", "The server does not answer")
        assert screen.text("status") == "Not connected"


def test_it_says_that_nothing_comes_back(browser: Browser, relay: Relay) -> None:
    """The answer names an address at which there is no relay. The page waits first: its clock is put forward."""
    nowhere = "127.0.0.1:9"
    with Transceiver(relay.key_file, advertise=[nowhere]) as program, opened(browser, program.url) as screen:
        screen.page.clock.install()
        screen.click("talk")
        screen.shows("status", "Connecting")
        screen.page.clock.fast_forward(10_000)
        screen.shows("notice", f"Still trying to connect[\\s\\S]*Nothing comes back from UDP {nowhere}")
        screen.page.clock.fast_forward(30_000)
        screen.shows("notice", "The media path is blocked")
        assert screen.text("status") == "Not connected"
