"""Calls on this machine, to look at and to hear: `./scripts/demo` starts a relay and a transceiver that echoes.

Both are real and on 127.0.0.1, with a fresh route key in a temporary directory, on their usual ports or, where those
are taken, on free ones. The page that the transceiver serves makes calls from a browser; a line tells how many there
are. With `--seconds` the demonstration calls itself, as `transceiver call` does, and ends: that call's verdict is its
own. However it ends, its processes end with it, by their pids.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console
from rich.panel import Panel

from benchmarks.demo import total
from benchmarks.support import Process, RelayProcess, Result, free_port, options_of, write_key_file
from benchmarks.support_transceiver import TransceiverProcess

HOST = "127.0.0.1"
HTTP_PORT, RELAY_PORT = 8080, 3478
CALL_S = 5  # how long the demonstration's own call speaks
LINE_EVERY_S = 10  # where no terminal renews it


class Serving(TransceiverProcess):
    """A transceiver at a given HTTP port that names one relay to its clients."""

    def __init__(self, key_file: Path, http_port: int, relay: str) -> None:
        self.route_key_file = key_file
        self.http = (HOST, http_port)
        self.admin = f"{HOST}:{free_port(socket.SOCK_STREAM)}"
        self.listen = [relay]
        options = options_of(
            workers=1, http=f"{HOST}:{http_port}", advertise=relay, admin=self.admin, route_key_file=key_file,
            cpus="none",
        )  # fmt: skip
        Process.__init__(self, [sys.executable, "-m", "transceiver", "start", *options])

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http[1]}"

    def sessions(self) -> list[Result]:
        return list(json.loads(self.fetch("/sessions")[1]))


def port_for(kind: socket.SocketKind, usual: int, what: str, console: Console) -> int:
    """The usual port, or a free one if somebody has that."""
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:  # what an earlier demonstration left behind in TIME_WAIT is nobody
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, usual))
        except OSError:
            port = free_port(kind)
            console.print(f"port {usual} is taken: {what} uses {port}")
            return port
    return usual


def invitation(transceiver: Serving, relay: RelayProcess) -> Panel:
    folder = os.path.dirname(sys.executable)
    tool = os.path.join(min(folder, os.path.relpath(folder), key=len), "transceiver")
    return Panel(
        f"Open [bold]{transceiver.url}/[/bold] in a browser on this machine, start a call,\n"
        "allow the microphone, and speak: you hear yourself.\n\n"
        f"Without a browser:  {tool} call {transceiver.url}\n\n"
        f"media    UDP {relay.listen[0]}, one port for all calls\n"
        f"metrics  http://{transceiver.admin}/metrics\n"
        f"         http://{relay.admin}/metrics\n\n"
        "Ctrl-C ends it.",
        title="ufrag",
        expand=False,
        padding=(1, 2),
    )


class Watcher:
    """A line about the calls of this moment."""

    def __init__(self, transceiver: Serving) -> None:
        self._transceiver = transceiver
        self._before: dict[str, float] = {}

    def line(self) -> str:
        """To be asked once a second: rates are since the last time."""
        metrics = self._transceiver.metrics()
        packets = {way: total(metrics, "ufrag_transceiver_packets_total", f'"{way}"') for way in ("up", "down")}
        up, down = (count - self._before.get(way, 0) for way, count in packets.items())
        self._before = packets
        live = [each for each in self._transceiver.sessions() if each["state"] == "live"]
        begun = total(metrics, "ufrag_transceiver_sessions_begun_total")
        round_trips = [each["rtt_ms"] for each in live if each["rtt_ms"]]
        text = f"calls: {len(live)} now, {begun:.0f} so far; packets/s: {up:.0f} up, {down:.0f} down"
        return text + (f"; round trip {max(round_trips):.1f} ms" if round_trips else "")


def watch(transceiver: Serving, console: Console, seconds: int | None) -> None:
    """One line that renews itself on a terminal, a line now and then elsewhere."""
    watcher, pause = Watcher(transceiver), threading.Event()
    status = console.status(watcher.line()) if console.is_terminal else None
    with status or nullcontext():
        for second in itertools.count() if seconds is None else range(seconds):
            pause.wait(1)
            line = watcher.line()
            if status:
                status.update(line)
            elif second % LINE_EVERY_S == 0:
                console.print(line)


def call_itself(transceiver: Serving, seconds: int) -> bool:
    words = [sys.executable, "-m", "transceiver", "call", transceiver.url, "--seconds", str(seconds)]
    call = subprocess.Popen(words)
    try:
        return call.wait() == 0
    finally:
        if call.poll() is None:
            call.terminate()
            call.wait()


def terminated(number: int, _frame: FrameType | None) -> NoReturn:
    """As Ctrl-C does: everything that is open is closed on the way out."""
    sys.exit(128 + number)


@click.command()
@click.option("--seconds", type=click.IntRange(1, 86_400),
              help="End after about so many seconds, with a call of its own. Default: at Ctrl-C, without.")  # fmt: skip
def main(seconds: int | None) -> None:
    """Run a relay and an echoing transceiver on 127.0.0.1, for calls from a browser.

    `./scripts/demo --forwarding` shows the relay alone instead, under some hundred synthetic clients.
    """
    console = Console(highlight=False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminated)
    good = True
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ufrag-demo-")))
            key_file = write_key_file(folder / "route.key")
            relay_port = port_for(socket.SOCK_DGRAM, RELAY_PORT, "the relay", console)
            http_port = port_for(socket.SOCK_STREAM, HTTP_PORT, "the page", console)
            listen = [f"{HOST}:{relay_port}"]
            relay = stack.enter_context(RelayProcess(key_file, listen=listen))
            transceiver = stack.enter_context(Serving(key_file, http_port, relay.listen[0]))
            console.print(invitation(transceiver, relay))
            speaking = min(CALL_S, max(1, (seconds or 0) - 1))
            if seconds is not None:
                good = call_itself(transceiver, speaking)
            watch(transceiver, console, None if seconds is None else max(1, seconds - speaking))
    except KeyboardInterrupt:
        console.print("ended")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main(prog_name="./scripts/demo")
