"""The sans-IO client of tests, `peer`, on a real socket and in real time: it calls a real transceiver over HTTP.

A peer's socket is made in the network namespace that the thread is in, and stays there. `run` carries datagrams and
time to any number of peers until something is true. One thread does all of it, hence HTTP first, then the calls. How
often a peer checks is as seen of Chromium: what it sends is what a server may answer before the path is proven.
"""

from __future__ import annotations

import http.client
import itertools
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.peer import SLOW_S, Peer

CALLS = "/v1/realtime/calls"
HTTP_S = 10.0
CHECKS_S = (0.05, 1.0, 1.9, 4.5)  # after the first that is answered; later every 2.5 s
_seeds = itertools.count(1)


class LivePeer:
    """One call. `own` is the address it sends from; times are seconds since it asked."""

    def __init__(self, own: str) -> None:
        self.socket = _bound(own)
        self.peer = Peer(self.socket.getsockname(), seed=next(_seeds))
        self.peer.media.speaking = True
        self.asked_at = 0.0
        self._old: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (*self._old, self.socket):
            each.close()

    def ask(self, server: http.client.HTTPConnection) -> str:
        """The answer, which `begin` takes."""
        self.asked_at = time.monotonic()
        server.request("POST", CALLS, self.peer.offer(), {"Content-Type": "application/sdp"})
        response = server.getresponse()
        answer = response.read().decode()
        assert response.status == 201, answer
        self.peer.call_id = (response.headers["Location"] or "").rpartition("/")[2]
        self.asked_at = time.monotonic() - self.asked_at
        return answer

    def begin(self, answer: str, relays: int) -> None:
        """By so many of the relays that are offered. What asking took counts, what waiting for others took does not."""
        now = time.monotonic()
        self.asked_at = now - self.asked_at
        self.peer.accept(answer, now)
        self.peer.routes = self.peer.routes[:relays]

    def setup_s(self) -> float:
        """From the offer to the first audio that came back."""
        return self.peer.media.heard[0].at - self.asked_at

    def heard_after(self, moment: float) -> float | None:
        """How long after it something was heard at the present address."""
        times = (each.at for each in self.peer.media.heard if each.at > moment and each.route.own == self.peer.own)
        first = next(times, None)
        return None if first is None else first - moment

    def move(self, own: str, *, knows: bool) -> float:
        """Another address, and when. A client behind a NAT does not know: its checks go on in their time, and here the
        last one has just been sent."""
        self._old.append(self.socket)
        self.socket = _bound(own)
        now = time.monotonic()
        self.peer.move(self.socket.getsockname(), now)
        if not knows:
            for route in self.peer.routes:
                route.next_check = now + SLOW_S
        return now

    # ---- one turn

    def flush(self) -> None:
        for own, relay, datagram in self.peer.out:
            if own == self.peer.own:
                with suppress(BlockingIOError):
                    self.socket.sendto(datagram, relay)
        self.peer.out.clear()

    def receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                datagram, relay = self.socket.recvfrom(2048)
                self.peer.receive(self.peer.own, relay, datagram, time.monotonic())

    def keep_time(self) -> float | None:
        """Does what is due; when something is again."""
        now = time.monotonic()
        due = self.peer.next_timer()
        if due is not None and due <= now:
            self.peer.handle_timer(now)
        for route in self.peer.routes:
            start = now if route.answered_at is None else route.answered_at
            early = next((start + each for each in CHECKS_S if start + each > now), now + SLOW_S)
            if route.answered_at is not None and route.next_check is not None:
                route.next_check = min(route.next_check, early)
        return self.peer.next_timer()


def run(peers: Sequence[LivePeer], done: Callable[[], object], seconds: float) -> bool:
    """Until `done`, for so long at most; whether it came true."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for each in peers:
            selector.register(each.socket, selectors.EVENT_READ, each)
        while not done():
            due = [each.keep_time() for each in peers]
            for each in peers:
                each.flush()
            now = time.monotonic()
            if now > end:
                return False
            wait = min([at for at in due if at is not None] + [end]) - now
            for key, _ in selector.select(max(0.0, wait)):
                key.data.receive()
    return True


def connection(server: tuple[str, int]) -> http.client.HTTPConnection:
    """Opened here and now, in the namespace that the thread is in."""
    made = http.client.HTTPConnection(*server, timeout=HTTP_S)
    made.connect()
    return made


def _bound(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, 0))
    made.setblocking(False)
    return made
