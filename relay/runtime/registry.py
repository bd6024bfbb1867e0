"""Who is there: relays and transceivers announce themselves in Redis, and tools read it.

    ufrag:v1:relay:<id>         JSON, lives 10 s, written every 3 s
    ufrag:v1:transceiver:<id>   the same
    ufrag:v1:fleet              sorted set: relay:<id> and transceiver:<id> by the time of the last word
    ufrag:v1:relays             geographic set of the relays that know where they are

Nothing on the packets' way depends on it, in either program: it is announced by a child of its own, which nobody waits
for and which waits for Redis as long as it likes. What is announced is told by the program (`describe`); what every
entry has is added here. Two lives with one id are a mistake that the log names; the later word counts.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from relay.runtime.errors import RuntimeFault
from relay.runtime.log import event
from relay.runtime.redis_client import Command, RedisClient, RedisDown, Refused
from relay.runtime.registered import Entry, Kind

log = logging.getLogger("ufrag.runtime.registry")

PREFIX = "ufrag:v1"
FLEET, PLACES = f"{PREFIX}:fleet", f"{PREFIX}:relays"
VERSION = 1
SPEAKS = ("spp/1",)  # on the internal leg; docs/wire.md

TTL_S = 10.0
EVERY_S = 3.0
LOOK_S = 0.5  # between two looks whether it drains, which is said at once
CLEAN_S = 60.0
FORGOTTEN_S = 3600.0  # after which one that is silent is no longer listed at all
PATIENCE_S = 0.5  # for an answer of Redis
FOREIGN_LOOKS = 3  # that another life's word stood there: at a live upgrade both speak for a moment
TEXT_MOST = 65_536

# Only who wrote it may remove it: at a live upgrade the next one has the id by now.
_REMOVE = (
    "local v=redis.call('GET',KEYS[1]) "
    "if v and string.find(v,ARGV[1],1,true) then return redis.call('DEL',KEYS[1]) end return 0"
)

Describe = Callable[[], Mapping[str, Any]]


# Announcing


class Announcer:
    """One life's word, and what became of it."""

    def __init__(self, kind: Kind, own: Entry, describe: Describe, port: int, client: RedisClient) -> None:
        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or kind
        self.name = f"{kind}:{own.id or f'{host[:50]}:{port}'}"
        self.life = secrets.token_hex(8)
        self._own, self._describe, self._client = own, describe, client
        self._started = time.time()
        self._silent = self._refused = False  # what the log has said
        self._written = False
        self._foreign = 0  # times that another life's word stood there
        self._cleaned = 0.0

    @property
    def key(self) -> str:
        return f"{PREFIX}:{self.name}"

    def document(self, unix_s: float) -> dict[str, Any]:
        kind, _, own_id = self.name.partition(":")
        common = {"v": VERSION, "life": self.life, "kind": kind, "id": own_id, "region": self._own.region}
        times = {"started": round(self._started, 3), "at": round(unix_s, 3)}
        return {**common, "location": self._place(), "speaks": SPEAKS, **times, **self._describe()}

    def _place(self) -> tuple[float, float] | None:
        where = self._own.location
        return (where.latitude, where.longitude) if where else None

    def announce(self, unix_s: float) -> None:
        commands: list[Command] = [
            ("GET", self.key),
            ("SET", self.key, json.dumps(self.document(unix_s)), "PX", int(1000 * TTL_S)),
            ("ZADD", FLEET, unix_s, self.name),
        ]
        if self._own.location is not None and self.name.startswith("relay:"):
            where = self._own.location
            commands.append(("GEOADD", PLACES, where.longitude, where.latitude, self.name.partition(":")[2]))
        if unix_s - self._cleaned > CLEAN_S:
            commands += self._cleaning(unix_s)
        answers = self._run(commands)
        if answers:
            self._check(answers)

    def _cleaning(self, unix_s: float) -> list[Command]:
        """What nobody has spoken of for long is no longer listed."""
        self._cleaned = unix_s
        gone = (self._run([("ZRANGEBYSCORE", FLEET, "-inf", unix_s - FORGOTTEN_S)]) or [[]])[0]
        if isinstance(gone, Refused) or not gone:
            return []
        relays = [name.partition(b":")[2] for name in gone if name.startswith(b"relay:")]
        return [("ZREM", FLEET, *gone), *([("ZREM", PLACES, *relays)] if relays else [])]

    def leave(self) -> None:
        """The last word, of one that ends in order. Nobody waits for a Redis that does not answer."""
        if self._silent:
            return
        removed = (self._run([("EVAL", _REMOVE, 1, self.key, self.life)]) or [0])[0]
        if removed == 1:
            self._run([("ZREM", FLEET, self.name), ("ZREM", PLACES, self.name.partition(":")[2])])

    def _run(self, commands: Sequence[Command]) -> list[Any] | None:
        try:
            answers = self._client.run(commands)
        except RedisDown as error:
            if not self._silent:
                event(log, logging.WARNING, "Redis does not answer: not announced", error=str(error))
            self._silent = True
            return None
        if self._silent:
            event(log, logging.INFO, "announced again", id=self.name)
        self._silent = False
        return answers

    def _check(self, answers: Sequence[Any]) -> None:
        refused = next((answer for answer in answers if isinstance(answer, Refused)), None)
        if refused:
            if not self._refused:
                event(log, logging.WARNING, "Redis refuses the announcement", error=refused.text)
            self._refused = True
            return
        before = answers[0]
        if self._written and before and self.life.encode() not in before:
            self._foreign += 1
            if self._foreign == FOREIGN_LOOKS:
                mend = "give each an --id of its own"
                event(log, logging.WARNING, "another one announces itself by this name", id=self.name, mend=mend)
        self._written = True


class RegistryChild:
    """relay.runtime.launcher.Child: announces until it is to end."""

    name = "registry"
    essential = False

    def __init__(self, kind: Kind, own: Entry, port: int, describe: Describe, leave: Callable[[], None]) -> None:
        """`leave` lets go of what the fork brings along."""
        self._kind: Kind = kind
        self._own, self._port, self._describe, self._leave = own, port, describe, leave

    def prepare(self) -> None:
        pass

    def started(self, pid: int, restarts: int) -> None:
        pass

    def heart_age_s(self, now: float) -> float | None:
        return None

    def main(self, alive_fd: int) -> int:
        self._leave()
        client = RedisClient(self._own.place, timeout_s=PATIENCE_S)
        announcer = Announcer(self._kind, self._own, self._describe, self._port, client)
        poll = select.poll()
        poll.register(alive_fd, select.POLLIN)
        due, draining = 0.0, None
        while not poll.poll(1000 * LOOK_S):
            said = self._describe().get("draining")
            if time.monotonic() >= due or said != draining:
                announcer.announce(time.time())
                due, draining = time.monotonic() + EVERY_S, said
        announcer.leave()
        client.close()
        return 0


# Reading


def read_fleet(client: RedisClient) -> list[dict[str, Any]]:
    """What everybody says who is listed, by kind and id; of those that are silent, who they are and since when."""
    try:
        (listed,) = client.run([("ZRANGE", FLEET, 0, -1, "WITHSCORES")])
        if isinstance(listed, Refused):
            raise RedisDown(listed.text)
        names, scores = [name.decode("utf-8", "replace") for name in listed[::2]], map(float, listed[1::2])
        values = client.get_many([f"{PREFIX}:{name}" for name in names])
    except RedisDown as error:
        mend = "is it running, and are name, password and certificate right?"
        raise RuntimeFault(f"Redis does not answer: {error}", where=str(client.place), mend=mend) from None
    found = [_entry_of(name, at, value) for name, at, value in zip(names, scores, values, strict=True)]
    return sorted(found, key=lambda each: (each["kind"], each["id"]))


def _entry_of(name: str, at: float, value: Any) -> dict[str, Any]:
    """Whoever can write there is believed to be one of us, but not to be well: a value that is none is told as such."""
    kind, _, own_id = name.partition(":")
    said: Any = None
    if isinstance(value, bytes) and len(value) <= TEXT_MOST:
        try:
            said = json.loads(value)
        except (ValueError, RecursionError):
            said = None
    state = "here" if isinstance(said, dict) and said.get("v") == VERSION else "silent" if value is None else "strange"
    return {**(said if state == "here" else {}), "kind": kind, "id": own_id, "state": state, "at": at}
