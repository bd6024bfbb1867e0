"""How much a client may ask: the numbers, and the books that hold clients to them.

    one client      requests a second (token bucket) -> 429, connections -> 503
    all together    requests under way -> 503, connections -> 503
Every book is bounded itself. An IPv6 client is its /64, as that is what one subscriber is given. Time comes from
the caller. Nothing here knows HTTP; `server` applies it.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Defaults are for one media process, some thousand calls, and clients that share an address behind a NAT."""

    body_bytes: int = 65_536
    line_bytes: int = 8_190  # the request line, and any one header
    head_bytes: int = 16_384  # all headers together
    headers: int = 64
    head_s: float = 10.0  # for a request to begin and its head to be complete, also between two requests
    body_s: float = 5.0
    linger_s: float = 1.0  # for the rest of a refused body, so that the client reads why
    unread_s: float = 10.0  # for a client to take its answer
    rate_per_s: float = 20.0  # 0: no limit
    burst: int = 100
    clients: int = 16_384
    requests: int = 256
    connections: int = 1_024
    connections_per_client: int = 64  # a quarter of `requests`, so that one slow client cannot hold them all


@functools.lru_cache(maxsize=1024)
def subscriber(address: str) -> str:
    """Under which name an address is counted."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if ip.version == 4 else str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))


class TokenBuckets:
    """A bucket for each client: `burst` at once, then `rate` a second.

    When there is no room for another client the one not seen for longest is forgotten, whose bucket is the fullest.
    """

    def __init__(self, rate_per_s: float, burst: int, clients: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._most, self._clock = rate_per_s, burst, clients, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str) -> int | None:
        """None, or the seconds after which to try again."""
        if not self._rate:
            return None
        key, now = subscriber(address), self._clock()
        tokens, then = self._buckets.pop(key, (float(self._burst), now))
        tokens = min(self._burst, tokens + max(0.0, now - then) * self._rate)
        granted = tokens >= 1
        self._buckets[key] = (tokens - granted, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return None if granted else math.ceil((1 - tokens) / self._rate)


class Connections:
    """How many are open, in all and by client; those of an exempt one, a proxy of ours, count in all only."""

    def __init__(self, most: int, most_per_client: int, exempt: Callable[[str], bool]) -> None:
        self._most, self._most_per_client, self._exempt = most, most_per_client, exempt
        self._open: Counter[str] = Counter()
        self.total = 0

    def enter(self, address: str) -> bool:
        key = subscriber(address)
        crowded = self._open[key] >= self._most_per_client and not self._exempt(address)
        if self.total >= self._most or crowded:
            self._forget(key)
            return False
        self._open[key] += 1
        self.total += 1
        return True

    def leave(self, address: str) -> None:
        key = subscriber(address)
        self._open[key] -= 1
        self.total -= 1
        self._forget(key)

    def _forget(self, key: str) -> None:
        if not self._open[key]:
            del self._open[key]


class UnderWay:
    """Requests that are being answered at this moment."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0

    @contextmanager
    def one(self) -> Iterator[bool]:
        """False when there are too many already; such a one is not counted."""
        admitted = self.count < self._most
        self.count += admitted
        try:
            yield admitted
        finally:
            self.count -= admitted
