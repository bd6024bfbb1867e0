"""A wire tap between clients and a relay: a UDP forwarder with a port of its own, to be advertised instead.

It keeps when what passed, and may hold each datagram a fixed time, so that round trips can be counted. Clients stay
apart: each gets a socket towards the relay. Order is kept both ways. It runs in a thread from entry to exit.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Literal, NamedTuple, Self

from _fastpath.wire.demux import kind_of
from relay.runtime.config import parse_address
from tests.support.netem import Netem

Way = Literal["up", "down"]
Place = tuple[str, int]

STUN = {b"\x00\x01": "request", b"\x01\x01": "success", b"\x01\x11": "error"}
HANDSHAKE, CLIENT_HELLO = 22, 1
RTCP_TYPES = range(192, 224)  # RFC 5761, 4


class Passed(NamedTuple):
    """A datagram as it came to the tap; `at` is a monotonic time."""

    at: float
    way: Way
    client: Place
    name: str


def name_of(datagram: bytes) -> str:
    """request, success, error; hello, dtls; rtp, rtcp."""
    kind = kind_of(datagram)
    if kind == "stun":
        return STUN.get(datagram[:2], "stun")
    if kind == "dtls":
        # A record in the clear: 13 bytes of header, the epoch in bytes 3 and 4, then the type of the message.
        hello = datagram[0] == HANDSHAKE and datagram[3:5] == b"\0\0" and datagram[13] == CLIENT_HELLO
        return "hello" if hello else "dtls"
    return "rtcp" if datagram[1] in RTCP_TYPES else "rtp"


class Tap:
    def __init__(self, relay: str, one_way_s: float = 0.0) -> None:
        self._relay = parse_address(relay).sockaddr
        self._wire: Netem[tuple[socket.socket, Place]] = Netem(seed=0, delay_s=one_way_s)
        self._public = _bound()
        self._towards: dict[Place, socket.socket] = {}
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="tap")
        self.seen: list[Passed] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._public.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for each in (self._public, *self._towards.values()):
            each.close()
        os.close(self._stop)

    def take(self) -> list[Passed]:
        """What has passed since the last time."""
        seen, self.seen = self.seen, []
        return seen

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop, selectors.EVENT_READ)
            selector.register(self._public, selectors.EVENT_READ, None)
            while True:
                due = self._wire.due()
                ready = selector.select(None if due is None else max(0.0, due - time.monotonic()))
                for key, _ in ready:
                    if key.fd == self._stop:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    self._read(selector, key.fileobj, key.data)
                for (out, to), datagram in self._wire.deliver(time.monotonic()):
                    out.sendto(datagram, to)

    def _read(self, selector: selectors.BaseSelector, source: socket.socket, client: Place | None) -> None:
        """Of the client whose socket it is, or from the public side."""
        while True:
            try:
                datagram, sender = source.recvfrom(2048)
            except BlockingIOError:
                return
            now = time.monotonic()
            if client is not None:
                self._pass(now, "down", client, self._public, client, datagram)
                continue
            if sender not in self._towards:
                self._towards[sender] = _bound()
                selector.register(self._towards[sender], selectors.EVENT_READ, sender)
            self._pass(now, "up", sender, self._towards[sender], self._relay, datagram)

    def _pass(self, now: float, way: Way, client: Place, out: socket.socket, to: Place, datagram: bytes) -> None:
        self.seen.append(Passed(now, way, client, name_of(datagram)))
        self._wire.send(now, (out, to), datagram)


def _bound() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    return made
