"""Two hosts on one machine, joined by a bad line: network namespaces, each with a TUN device, and a pump in user space.

The pump carries IP packets from one device to the other by `netem`'s model in real time: seeded loss, delay, jitter and
thereby reordering. What is not UDP is delayed but never lost: how TCP repeats itself is not what tests measure here.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import shutil
import struct
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from tests.support.netem import Netem
from tests.support.netns import run

TUN = "/dev/net/tun"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000  # linux/if_tun.h
PACKET_MOST = 65_536
UDP = 17


def _open_tun(name: str) -> int:
    """The device lives as long as the descriptor, in whatever namespace it is put."""
    fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def _is_udp(packet: bytes) -> bool:
    return packet[6 if packet[0] >> 4 == 6 else 9] == UDP


class BadLine:
    """`client` and `server` are namespaces, with addresses 10.99.0.2 and 10.99.0.1; names carry our pid."""

    CLIENT, SERVER = "10.99.0.2", "10.99.0.1"

    def __init__(self, *, loss: float = 0.0, delay_s: float = 0.0, jitter_s: float = 0.0, seed: int = 1) -> None:
        """`delay_s` is that of one way."""
        if os.geteuid() or not shutil.which("ip") or not Path(TUN).exists():
            pytest.skip(f"a bad line needs root, iproute2 and {TUN}")
        self.client, self.server = f"ufrag-far-{os.getpid()}", f"ufrag-near-{os.getpid()}"
        self.line: Netem[int] = Netem(seed=seed, loss=loss, delay_s=delay_s, jitter_s=jitter_s)
        self._sure: Netem[int] = Netem(seed=seed, delay_s=delay_s)
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="line")
        self._ends: list[int] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(os.close, self._stop)
            for name, address in ((self.client, self.CLIENT), (self.server, self.SERVER)):
                run("ip", "netns", "add", name)
                stack.callback(run, "ip", "netns", "delete", name)
                device = f"line{len(self._ends)}-{os.getpid()}"
                self._ends.append(_open_tun(device))
                stack.callback(os.close, self._ends[-1])
                run("ip", "link", "set", device, "netns", name, "name", "line")
                for each in ("lo", "line"):
                    run("ip", "-n", name, "link", "set", each, "up")
                self.add_address(name, address)
            self._thread.start()
            stack.callback(self._halt)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def becomes(self, *, loss: float, seed: int) -> None:
        """Another line from now on; what is under way arrives as it would have."""
        self.line = replace(self.line, seed=seed, loss=loss, sent=0, lost=0)

    def add_address(self, namespace: str, address: str) -> None:
        run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "line")

    def _halt(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()

    # ---- the pump

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for fd in (self._stop, *self._ends):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                due = min((at for at in (self.line.due(), self._sure.due()) if at is not None), default=None)
                ready = selector.select(None if due is None else max(0.0, due - time.monotonic()))
                for key, _ in ready:
                    if key.fd == self._stop:
                        return
                    self._read(key.fd, self._ends[key.fd == self._ends[0]])
                for line in (self.line, self._sure):
                    for end, packet in line.deliver(time.monotonic()):
                        with suppress(BlockingIOError):
                            os.write(end, packet)

    def _read(self, end: int, other: int) -> None:
        with suppress(BlockingIOError):
            while packet := os.read(end, PACKET_MOST):
                (self.line if _is_udp(packet) else self._sure).send(time.monotonic(), other, packet)
