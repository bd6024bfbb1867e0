"""Headless Chromium as the client of a transceiver, by Playwright, and a call in it.

The microphone is Chromium's fake device, which beeps twice a second. Each test gets a page of its own, on the
transceiver's own origin; `browser_call.js` makes the calls there. Whatever is awaited is awaited in the page, with a
bound. Where Chromium or Playwright is missing, tests are skipped and say what to install; with CI=true that fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, JSHandle, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
    "--allow-loopback-in-peer-connection",
)  # fmt: skip
HOSTS = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"
SCRIPT = (Path(__file__).parent / "browser_call.js").read_text()

# A beep of the fake device amounts to some 1e-3 in the squared seconds of getStats; silence to less than 1e-6.
BEEP_ENERGY = 1e-4

Facts = dict[str, Any]


def executable() -> str:
    """Where Chromium is, or the end of the test."""
    pytest.importorskip("playwright.sync_api", reason="needs a browser's remote control: pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or pytest.skip("needs a browser: apt-get install chromium")


def _entering(folder: Path, netns: str, path: str) -> str:
    """A program that is `path` in a namespace; Playwright takes no more than one word."""
    wrapper = folder / "chromium"
    wrapper.write_text(f'#!/bin/sh\nexec ip netns exec {netns} {path} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper)


class Browser:
    """One Chromium with a fresh profile; its pages share nothing but the process. In the namespace `netns`, if that is
    given, whose server is then `host` at `port`: elsewhere than on loopback a page over HTTP gets no microphone."""

    def __init__(self, *, netns: str = "", host: str = "", port: int = 0) -> None:
        self._path = executable()
        self._netns = netns
        self._flags = [*FLAGS, f"{HOSTS} , EXCLUDE {host}" if host else HOSTS]
        if host:
            self._flags.append(f"--unsafely-treat-insecure-origin-as-secure=http://{host}:{port}")
        self._stack = ExitStack()
        self._context: BrowserContext | None = None

    def __enter__(self) -> Self:
        from playwright.sync_api import sync_playwright

        with ExitStack() as stack:
            path = self._path
            if self._netns:
                path = _entering(Path(stack.enter_context(TemporaryDirectory())), self._netns, path)
            chromium = stack.enter_context(sync_playwright()).chromium
            browser = chromium.launch(
                executable_path=path, headless=True, args=self._flags, ignore_default_args=["--mute-audio"]
            )
            stack.callback(browser.close)
            self._context = browser.new_context(permissions=["microphone"])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def page(self, url: str) -> Iterator[Page]:
        assert self._context is not None
        page = self._context.new_page()
        try:
            page.goto(url)
            yield page
        finally:
            page.close()

    @contextmanager
    def caller(self, url: str) -> Iterator[Caller]:
        """A page of the transceiver at `url` that can call it, without its own script having a part in that."""
        with self.page(url) as page:
            caller = Caller(page)
            yield caller
            caller.close()


class Caller:
    """A page with which to call."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._calls: list[BrowserCall] = []
        page.evaluate(SCRIPT)

    def call(self, **options: bool) -> BrowserCall:
        """`audio`, `video`, `data`: what is offered; `rsa`: with such a certificate; `watched`: for `silence`."""
        handle = self._page.evaluate_handle("options => new TestCall(options)", options)
        call = BrowserCall(handle)
        self._calls.append(call)
        return call

    def connected(self, **options: bool) -> BrowserCall:
        call = self.call(**options)
        answer = call.start()
        assert answer["status"] == 201, answer
        call.connected()
        return call

    def close(self) -> None:
        """Ends what is left, with a goodbye."""
        for call in self._calls:
            call.close()


class BrowserCall:
    """One RTCPeerConnection and its data channel `oai-events`. Times are seconds since the epoch."""

    def __init__(self, handle: JSHandle) -> None:
        self._handle = handle

    def _do(self, method: str, *arguments: object) -> Any:
        return self._handle.evaluate("(call, [method, words]) => call[method](...words)", [method, list(arguments)])

    def start(self) -> Facts:
        """Offers and takes the answer: `status`, `sdp`, `location`, and the `offer` made."""
        return cast(Facts, self._do("start"))

    def connected(self, seconds: float = 5.0) -> None:
        self._do("connected", seconds * 1e3)

    def restart(self) -> Facts:
        """An ICE restart: a new offer to the call's own address."""
        return cast(Facts, self._do("restart"))

    def hangup(self) -> int:
        return int(self._do("hangup"))

    def close(self) -> None:
        self._do("close")

    def stats(self) -> Facts:
        return cast(Facts, self._do("stats"))

    def heard(self, before: Facts | None = None, seconds: float = 4.0) -> Facts:
        """When a beep has been sent and heard again, since `before`: the statistics."""
        return cast(Facts, self._do("heard", seconds * 1e3, BEEP_ENERGY, before))

    def silence(self, after: float) -> Facts:
        """Of a watched call, since then: `frames` of audio that came, and the longest time without one: `ms`, `at`."""
        return cast(Facts, self._do("silence", after * 1e3))

    def echo(self, text: str) -> bool:
        return bool(self._do("echo", text, 0))

    def echo_bytes(self, size: int) -> bool:
        return bool(self._do("echo", None, size))

    def events(self) -> list[tuple[float, str, Any]]:
        found = self._handle.evaluate("call => call.events")
        return [(each["at"] / 1e3, each["name"], each["value"]) for each in found]

    def event(self, name: str, value: str | None = None, *, seconds: float = 5.0, after: float = 0.0) -> float:
        """When `connection`, `ice` or `channel` became `value`; awaited."""
        return float(self._do("event", name, value, seconds * 1e3, after * 1e3)["at"]) / 1e3
