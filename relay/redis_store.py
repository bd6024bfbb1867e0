"""Flows as they stand in Redis: names, texts, life time, and the commands for many of them in one round trip.

    ufrag:v1:flow:<group>:<local address>:<client address>  =  v=1 relay=<who> owner=... next=... session=... state=...
    ufrag:v1:mark:<group>:<who>:<number>                     =  1

Both are described in docs/redis.md. A value is a line of `name=value` pairs, the first two in this order; what is not
known is passed over, so that a later version can add to it. Marks are keys that say nothing but that what was written
since is still there: they are looked for again and again.
"""

from __future__ import annotations

import itertools
import re
from binascii import crc_hqx
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

from _fastpath.exchange import Route
from relay.routes import Row
from relay.runtime.config import parse_address
from relay.runtime.redis_client import Command, RedisClient, Refused

PREFIX = "ufrag:v1"
VERSION = "1"
MARKS = 16
CLUSTER_SLOTS = 16_384  # a key's is its CRC-16 (XMODEM) modulo this
FLOW_BYTES = 340  # of memory in Redis (7.0: 294, in a Cluster 338)
PAGE = 500  # flows of one round trip, for tools

GROUP = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

_MAPPED = bytes(10) + b"\xff\xff"
_NONCE = re.compile(r"[0-9a-f]{12,16}", re.ASCII)
# Only who wrote it may remove it: another relay may have the flow by now.
_REMOVE = (
    "local v=redis.call('GET',KEYS[1]) "
    "if v and string.sub(v,1,#ARGV[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0"
)


@dataclass(frozen=True)
class Owner:
    """Whose routes are written: the relays of a group answer for each other; `relay` is one life of one relay."""

    group: str
    relay: str
    worker: int


@dataclass(frozen=True)
class Written:
    """What became of some writes."""

    done: int
    refused: int
    why: str = ""


class RedisStore:
    """RedisDown is for whoever asks; it leaves nothing half done that matters."""

    def __init__(self, client: RedisClient, owner: Owner, ttl_s: float) -> None:
        self._client = client
        self._head = key_head(owner.group)
        self._relay = f"v={VERSION} relay={owner.relay} ".encode()
        self._ttl_ms = int(ttl_s * 1000)
        self._marks = mark_keys(f"{PREFIX}:mark:{owner.group}:{owner.relay}:{owner.worker}:")

    def look_up(self, keys: Sequence[bytes]) -> list[Route | None | ValueError]:
        """For each key its route, None if there is none, or what is wrong with what stands there."""
        values = self._client.get_many([self._head + key_tail(key) for key in keys])
        return [None if value is None else read_route(value) for value in values]

    def write(self, rows: Iterable[Row]) -> Written:
        return self._written([self._row(*row) for row in rows])

    def remove(self, keys: Iterable[bytes]) -> int:
        """How many were there, and ours."""
        answers = self._client.run([("EVAL", _REMOVE, 1, self._head + key_tail(key), self._relay) for key in keys])
        return sum(answer for answer in answers if isinstance(answer, int))

    def set_marks(self) -> Written:
        return self._written([self._set(mark, b"1") for mark in self._marks])

    def has_marks(self) -> bool:
        return all(value == b"1" for value in self._client.get_many(self._marks))

    def close(self) -> None:
        self._client.close()

    def _row(self, key: bytes, owner: bytes, next_hop: bytes, nonce: int) -> Command:
        value = self._relay + _route_text(owner, next_hop) + b"%012x state=established" % nonce
        return self._set(self._head + key_tail(key), value)

    def _set(self, key: bytes, value: bytes) -> Command:
        return ("SET", key, value, "PX", self._ttl_ms)

    def _written(self, commands: Sequence[Command]) -> Written:
        refused = [answer for answer in self._client.run(commands) if isinstance(answer, Refused)]
        return Written(len(commands) - len(refused), len(refused), refused[0].text if refused else "")


# ---- texts


def mark_keys(head: str) -> list[bytes]:
    """Names that lie in equal parts of a Cluster's slots, so that each of its servers has some."""
    found: dict[int, bytes] = {}
    for number in itertools.count():
        key = f"{head}{number}".encode()
        found.setdefault(crc_hqx(key, 0) % CLUSTER_SLOTS * MARKS // CLUSTER_SLOTS, key)
        if len(found) == MARKS:
            return [found[part] for part in range(MARKS)]
    raise AssertionError("numbers do not end")


def key_head(group: str) -> bytes:
    return f"{PREFIX}:flow:{group}:".encode()


def key_tail(key: bytes) -> bytes:
    """`<local>:<client>` of a flow's 36 bytes (wire.envelope: both addresses, both ports)."""
    return b"%b:%b:%d" % (_local_text(key[16:32] + key[34:]), _host_text(key[:16]), key[32] << 8 | key[33])


@lru_cache(64)
def _local_text(endpoint: bytes) -> bytes:
    return endpoint_text(endpoint)


def _host_text(packed: bytes) -> bytes:
    if packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[12:]).encode()
    return f"[{inet_ntop(AF_INET6, packed)}]".encode()


def endpoint_text(endpoint: bytes) -> bytes:
    """Of 18 bytes: an address, IPv4 mapped into IPv6, and a port."""
    return b"%b:%d" % (_host_text(endpoint[:16]), endpoint[16] << 8 | endpoint[17])


@lru_cache(4096)
def _route_text(owner: bytes, next_hop: bytes) -> bytes:
    return b"owner=%b next=%b session=" % (endpoint_text(owner), endpoint_text(next_hop))


@lru_cache(4096)
def _endpoint_of(text: str) -> bytes:
    address = parse_address(text, 1)
    packed = inet_pton(address.family, address.host)
    return (packed if address.family == AF_INET6 else _MAPPED + packed) + address.port.to_bytes(2, "big")


def fields_of(value: bytes) -> dict[str, str]:
    """The pairs of a value; a ValueError if this is no value of ours."""
    pairs = [pair.partition("=") for pair in value[:1024].decode("ascii").split(" ")]
    fields = {name: text for name, _, text in pairs}
    if fields.get("v") != VERSION:
        raise ValueError("no value of this version")
    return fields


def read_route(value: object) -> Route | ValueError:
    """The route that a value writes. Whatever stands in Redis may have been written by anybody: it is read as such, and
    where it leads is for the hot thread to allow."""
    try:
        fields = fields_of(value if isinstance(value, bytes) else b"")
        session = fields["session"]
        if not _NONCE.fullmatch(session):
            raise ValueError("no session")
        return Route(_endpoint_of(fields["owner"]), _endpoint_of(fields["next"]), int(session, 16))
    except (ValueError, KeyError) as error:
        return ValueError(str(error))


# ---- for tools

Shown = dict[str, Any]  # as relay.flows has them, without what only the relay itself knows


def shown_routes(client: RedisClient, group: str) -> Iterator[Shown]:
    """All flows of a group as texts, page by page."""
    page: list[bytes] = []
    head = key_head(group)
    for key in client.scan(head.decode() + "*"):
        page.append(key)
        if len(page) == PAGE:
            yield from _shown_page(client, head, page)
            page = []
    yield from _shown_page(client, head, page)


def _shown_page(client: RedisClient, head: bytes, keys: Sequence[bytes]) -> Iterator[Shown]:
    values = client.get_many(keys)
    for key, value in zip(keys, values, strict=True):
        ends = _ENDS.fullmatch(key.removeprefix(head).decode("ascii", "replace"))
        if ends is None or isinstance(read_route(value), ValueError):
            continue  # gone meanwhile, or not ours
        fields = fields_of(value)
        names = {"state": "state", "owner": "owner", "next": "next_hop", "session": "session", "relay": "relay"}
        found = {shown: fields.get(name, "") for name, shown in names.items()}
        yield {"local": ends[1], "client": ends[2], **found}


_END = r"(?:\[[0-9a-f:.]+\]|[0-9.]+):\d{1,5}"
_ENDS = re.compile(f"({_END}):({_END})", re.ASCII)
