"""Real relays for integration tests: started as an operator starts them, read through their admin port, ended by
their pid.

Every relay ends with its books checked: packets in are the sum of verdicts, per worker and direction, whatever the
test did; and a traceback in its log fails the test. A namespace (`ip netns`) gives a relay a network of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import psutil

from _fastpath.wire.token import Keyring
from benchmarks.native_build import ROOT
from benchmarks.support import RelayProcess, Result, Words, read_key_file
from tests.support.netns import inside

_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Relay(RelayProcess):
    """A relay whose books are checked when it is stopped, in the namespace `netns` if that is given."""

    _successor = 0  # the launcher since an upgrade

    def __init__(
        self, key_file: Path, *, listen: Sequence[str] = (), workers: int = 1, cpus: str = "none", internal: str = "",
        backends: Words = ("127.0.0.0/8",), extra: Words = (), netns: str = "", state_dir: str = "",
    ) -> None:  # fmt: skip
        enter = self._enter = ("ip", "netns", "exec", netns) if netns else ()
        super().__init__(
            key_file,
            listen=listen,
            workers=workers,
            cpus=cpus,
            internal=internal,
            backends=backends,
            extra=extra,
            enter=enter,
            state_dir=state_dir,
        )
        self.key_file = key_file
        self.netns = netns
        self.checked = False

    # ---- life

    @property
    def pid(self) -> int:
        return self._successor or super().pid

    def stop(self) -> Result:
        """Checks the books while they can be read, then ends it at once: a drain would wait for the flows to go
        silent."""
        if (self._successor or self.process.poll() is None) and not self.checked:
            self.check_books()
        if self._successor:
            self._end_successor(signal.SIGINT)
        result = super().stop()
        assert "Traceback" not in self.log(), self.log()
        return result

    def gone(self) -> None:
        """It was ended from outside: `stop` has nothing left to do or to check."""
        self._successor = 0
        self.process.wait()
        self.checked = self._ended = True

    def upgrade(self, *options: str) -> list[str]:
        """As an operator does it; what that said. CalledProcessError if it fails."""
        before, pid = self._successor, self.pid
        command = [*self._enter, sys.executable, "-m", "relay", "upgrade", "--state-dir", self.state_dir, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        self._successor = int(lines[-1].rpartition(" ")[2])
        until(lambda: not psutil.pid_exists(pid)) if before else self.process.wait(5)
        return lines

    def _end_successor(self, number: signal.Signals) -> None:
        """It is nobody's child here, so there is no exit status."""
        pid, self._successor = self._successor, 0
        os.kill(pid, number)
        until(lambda: not psutil.pid_exists(pid))

    def _end(self) -> None:
        if self._successor and psutil.pid_exists(self._successor):
            self._end_successor(signal.SIGKILL)
        super()._end()

    def followed(self) -> None:
        """Another one takes over, or has taken over: this one ends."""
        assert self.process.wait(20) == 0, self.log()
        self.gone()

    def again(self, *extra: str) -> Relay:
        """A relay with the same options and addresses, for when this one is gone; and what is different. Its state
        directory is this one's, and goes with this one."""
        other = Relay(self.key_file, listen=self.listen, netns=self.netns, state_dir=self.state_dir)
        other.admin, other.command = self.admin, [*self.command, *extra]
        return other

    def kill_worker(self, index: int) -> int:
        """SIGKILL to one worker, by the pid it is known by; returns that pid."""
        pid = self.children()[f"relay-worker-{index}"]
        os.kill(pid, signal.SIGKILL)
        return pid

    # ---- reading

    def fetch(self, path: str) -> tuple[int, str]:
        with inside(self.netns) if self.netns else nullcontext():
            return super().fetch(path)

    def status(self, path: str) -> int:
        return self.fetch(path)[0]

    def samples(self) -> Samples:
        status, text = self.fetch("/metrics")
        assert status == 200, text
        matches = [_SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#")]
        return {(m[1], frozenset(_LABEL.findall(m[2] or ""))): float(m[3]) for m in matches if m}

    def total(self, name: str, **labels: str) -> float:
        """Sum of all samples of a metric that have these labels."""
        return sum_of(self.samples(), name, **labels)

    def check_books(self) -> None:
        """Packets in = sum of verdicts, per worker and direction. Batches commit whole, so this holds at any moment."""
        self.checked = True
        samples = self.samples()
        packets = {has: value for (name, has), value in samples.items() if name == "ufrag_relay_packets_total"}
        assert packets
        for has, value in packets.items():
            ended = sum(
                count
                for (name, labels), count in samples.items()
                if name in ("ufrag_relay_drops_total", "ufrag_relay_forwarded_total") and has <= labels
            )
            assert ended == value, f"{dict(has)}: {value} packets in, {ended} verdicts"

    def keyring(self) -> Keyring:
        key_id, key = read_key_file(self.key_file)
        return Keyring({key_id: key})

    def mint(self, owner: str, key_id: int = 0) -> str:
        host, _, port = owner.rpartition(":")
        return self.keyring().mint(key_id, (host.strip("[]"), int(port)))


def sum_of(samples: Samples, name: str, **labels: str) -> float:
    """The same of samples that were read together."""
    wanted = set(labels.items())
    return sum(value for (sample, has), value in samples.items() if sample == name and wanted <= has)


def until(true: Callable[[], bool], seconds: float = 6.0) -> None:
    """Asks again and again, for some seconds: for what another process does and nothing tells."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if true():
            return
        pause.wait(0.02)
    raise AssertionError("never became true")
