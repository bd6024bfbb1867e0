"""Firefox under remote control: a profile of its own, and Marionette's protocol over TCP.

The protocol is one line of JSON with its length before it: `[0, id, command, parameters]` out, `[1, id, error, result]`
back. Only what the calls need is here: a session, a page, a script that says when it is done. Firefox chooses the
port itself and writes it into the profile.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, Self

NAMES = ("firefox-esr", "firefox")
START_S, STOP_S, ANSWER_S = 60.0, 20.0, 60.0

# What makes it a client on loopback with a microphone, and keeps it from looking for anything else.
PREFERENCES: dict[str, object] = {
    "media.navigator.permission.disabled": True,
    "media.navigator.streams.fake": True,
    "media.autoplay.default": 0,
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "media.peerconnection.ice.tcp": False,
    "permissions.default.microphone": 1,  # or it would use no other address than that of the default route
    "media.gmp-manager.updateEnabled": False,
    "marionette.port": 0,
    "network.dns.disabled": True,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.update.enabled": False,
    "app.normandy.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}


def executable() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Firefox:
    """Running from entry to exit."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = Path(mkdtemp(prefix="firefox-"))
        self._count = 0

    def __enter__(self) -> Self:
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items())
        (self._folder / "user.js").write_text("".join(lines))
        command = [self._path, "--headless", "--no-remote", "--marionette", "--profile", str(self._folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        try:
            self._connect()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.do("Marionette:Quit", flags=["eForceQuit"])
        finally:
            self._socket.close()
            self._end()

    def _end(self) -> None:
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self) -> None:
        address = ("127.0.0.1", self._port())
        self._socket = socket.create_connection(address, ANSWER_S)
        self._read()  # it says first what it is
        capabilities = self.do("WebDriver:NewSession", capabilities={})["capabilities"]
        self.version: str = capabilities["browserVersion"]

    def _port(self) -> int:
        said = self._folder / "MarionetteActivePort"
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"Firefox ended with status {self._process.returncode}")
            if said.exists() and (text := said.read_text().strip()):
                return int(text)
            time.sleep(0.1)
        self._process.kill()
        raise RuntimeError(f"Firefox did not say its port within {START_S} s")

    # ---- what it is told

    def do(self, command: str, **parameters: Any) -> Any:
        self._count += 1
        text = json.dumps([0, self._count, command, parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(text), text))
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(f"{command}: {error['message']}")
        return result

    def open(self, url: str) -> None:
        self.do("WebDriver:Navigate", url=url)

    def run(self, script: str, *words: object) -> Any:
        """A function body that calls its last argument with the result."""
        seconds = int(ANSWER_S * 1e3)
        return self.do("WebDriver:ExecuteAsyncScript", script=script, args=list(words), scriptTimeout=seconds)["value"]

    def _read(self) -> Any:
        length = b""
        while (byte := self._receive(1)) != b":":
            length += byte
        return json.loads(self._receive(int(length)))

    def _receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise RuntimeError("Firefox hung up")
            found += piece
        return found
