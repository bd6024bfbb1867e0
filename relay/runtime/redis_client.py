"""Redis, as both programs use it: commands in one round trip, over one connection to each server. The one file that
imports redis.

Rules:
  1. Nothing is tried again here and nothing waits longer than the time-out for one answer; whoever asks knows what a
     failure means to it. Any doubt about a server is `RedisDown`, and then all connections are made anew with the next
     command: Sentinels are asked again who the master is, a Cluster is asked again who has which keys.
  2. A server that answers "no" to a command is not down: that answer is `Refused`, in its place among the others.
  3. A client belongs to one thread, and to the process that made it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis
from redis import backoff, cluster, crc, exceptions, retry, sentinel

from relay.runtime.redis_url import RedisPlace

TIMEOUT_S = 0.2

Word = bytes | str | int | float
Command = tuple[Word, ...]  # (name, key, ...); a script's key stands where EVAL wants it
Server = tuple[str, int]

# What says that this is the wrong server to ask, or one that cannot answer yet.
_UNFIT = (exceptions.ReadOnlyError, exceptions.ClusterDownError, exceptions.MasterDownError)
_CHUNK = 1000  # keys that one step of a scan looks at, or about


class RedisDown(Exception):
    """Redis is out of reach, too slow, or not itself."""


@dataclass(frozen=True)
class Refused:
    """A server's error as the answer to one command."""

    text: str
    full: bool = False  # for want of memory


class RedisClient:
    """Connects when it is first asked."""

    def __init__(self, place: RedisPlace, timeout_s: float = TIMEOUT_S) -> None:
        self.place = place
        self._timeout_s = timeout_s
        self._links: dict[Server, redis.Connection] = {}
        self._cluster: redis.RedisCluster | None = None
        self._master: Server | None = None

    # ---- asking

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, as Redis gave them (bytes, numbers, None, lists), in one round trip to each server."""
        if not commands:
            return []
        with self._doubts():
            if self.place.kind != "cluster":
                return self._exchange(self._server(), commands)
            return self._run_in_cluster(commands)

    def get_many(self, keys: Sequence[Word]) -> list[Any]:
        """The values of keys, None for those that are not there."""
        if self.place.kind == "cluster" or not keys:
            return self.run([("GET", key) for key in keys])
        (found,) = self.run([("MGET", *keys)])
        return [found] * len(keys) if isinstance(found, Refused) else found

    def scan(self, pattern: str) -> Iterator[bytes]:
        """The keys that fit, of all servers; one that comes or goes meanwhile may be missed, or come twice."""
        with self._doubts():
            for server in self._all_servers():
                cursor: Any = 0
                while True:
                    answer = self._exchange(server, [("SCAN", cursor, "MATCH", pattern, "COUNT", _CHUNK)])[0]
                    if isinstance(answer, Refused):
                        raise RedisDown(answer.text)
                    cursor, keys = answer
                    yield from keys
                    if int(cursor) == 0:
                        break

    def info(self) -> list[dict[str, str]]:
        """What each server says of itself (INFO)."""
        with self._doubts():
            texts = [self._exchange(server, [("INFO",)])[0] for server in self._all_servers()]
        for text in texts:
            if isinstance(text, Refused):
                raise RedisDown(text.text)
        lines = [text.decode("utf-8", "replace").splitlines() for text in texts]
        return [dict(line.split(":", 1) for line in each if ":" in line) for each in lines]

    def close(self) -> None:
        links, self._links = self._links, {}
        topology, self._cluster, self._master = self._cluster, None, None
        for link in links.values():
            with suppress(Exception):
                link.disconnect()
        if topology is not None:
            with suppress(Exception):
                topology.close()
                # It refers to itself: without this the map of 16,384 slots would wait for the garbage collector, which
                # comes rarely, while a Cluster in trouble is asked for its topology again and again.
                topology.nodes_manager.slots_cache.clear()

    # ---- servers

    @contextmanager
    def _doubts(self) -> Iterator[None]:
        """Whatever goes wrong in here closes all connections, half-read answers with them."""
        try:
            yield
        except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
            self.close()
            raise RedisDown(str(error) or type(error).__name__) from None
        except BaseException:
            self.close()
            raise

    def _server(self) -> Server:
        """Of all but a Cluster: the one to ask."""
        if self._master is None:
            sure = (*self.place.hosts, ("", 0))[0]  # a socket's path has no host
            self._master = self._ask_sentinels() if self.place.kind == "sentinel" else sure
        return self._master

    def _ask_sentinels(self) -> Server:
        place = self.place
        names = _login(place.sentinel_user, place.sentinel_password)
        options = {**self._patience(), **self._tls(), **names, "retry": _once(), "driver_info": None, "protocol": 2}
        asked = sentinel.Sentinel(list(place.hosts), sentinel_kwargs=options)
        try:
            host, port = asked.discover_master(place.service)
        finally:
            asked.close()
        return str(host), int(port)

    def _all_servers(self) -> list[Server]:
        if self.place.kind != "cluster":
            return [self._server()]
        return [(node.host, node.port) for node in self._topology().get_primaries()]

    def _topology(self) -> redis.RedisCluster:
        if self._cluster is None:
            options = {**self._patience(), **self._login(), **({"ssl": True, **self._tls()} if self.place.tls else {})}
            nodes = [cluster.ClusterNode(host, port) for host, port in self.place.hosts]
            self._cluster = redis.RedisCluster(
                startup_nodes=nodes, require_full_coverage=False, retry=_once(), driver_info=None, protocol=2, **options
            )
        return self._cluster

    def _link(self, server: Server) -> redis.Connection:
        link = self._links.get(server)
        if link is None:
            place = self.place
            options = {**self._patience(), **self._login(), "retry": _once(), "driver_info": None, "protocol": 2}
            if place.kind == "unix":
                link = redis.UnixDomainSocketConnection(path=place.path, db=place.db, **options)
            else:
                make = redis.SSLConnection if place.tls else redis.Connection
                link = make(host=server[0], port=server[1], db=place.db, **options, **self._tls())
            self._links[server] = link
        return link

    def _patience(self) -> dict[str, Any]:
        return {"socket_timeout": self._timeout_s, "socket_connect_timeout": self._timeout_s}

    def _login(self) -> dict[str, Any]:
        return _login(self.place.user, self.place.password)

    def _tls(self) -> dict[str, Any]:
        place = self.place
        if not place.tls:
            return {}
        files = {"ssl_ca_certs": place.ca, "ssl_certfile": place.cert, "ssl_keyfile": place.key}
        return {name: file for name, file in files.items() if file}

    # ---- round trips

    def _exchange(self, server: Server, commands: Sequence[Command]) -> list[Any]:
        link = self._link(server)
        link.send_packed_command(link.pack_commands(commands))
        return [self._answer(link) for _ in commands]

    def _answer(self, link: redis.Connection) -> Any:
        try:
            return link.read_response()
        except exceptions.MovedError as error:
            if self.place.kind != "cluster":
                raise RedisDown("it is part of a Cluster: write redis+cluster://") from None
            return error
        except exceptions.ResponseError as error:
            if isinstance(error, _UNFIT):
                raise
            return Refused(str(error), full=isinstance(error, exceptions.OutOfMemoryError))

    def _run_in_cluster(self, commands: Sequence[Command]) -> list[Any]:
        """Keys that have gone to another server are followed there, once. Those that are just on their way between two
        (ASK) are refused: they are there again soon."""
        answers = self._spread(commands)
        moved = [number for number, answer in enumerate(answers) if isinstance(answer, exceptions.MovedError)]
        for number in moved:
            self._topology().nodes_manager.move_slot(answers[number])
        again = self._spread([commands[number] for number in moved])
        for number, answer in zip(moved, again, strict=True):
            if isinstance(answer, exceptions.MovedError):
                raise answer
            answers[number] = answer
        return answers

    def _spread(self, commands: Sequence[Command]) -> list[Any]:
        """Each command to the server that has its key, as far as we know."""
        nodes = self._topology().nodes_manager
        parts: dict[Server, list[int]] = defaultdict(list)
        for number, command in enumerate(commands):
            node = nodes.get_node_from_slot(crc.key_slot(_key(command)))
            parts[node.host, node.port].append(number)
        answers: list[Any] = [None] * len(commands)
        for server, numbers in parts.items():
            found = self._exchange(server, [commands[number] for number in numbers])
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers


def _key(command: Command) -> bytes:
    word = command[3 if command[0] == "EVAL" else 1]
    return word if isinstance(word, bytes) else str(word).encode()


def _login(user: str, password: str) -> dict[str, Any]:
    return {"username": user or None, "password": password or None}


def _once() -> retry.Retry:
    return retry.Retry(backoff.NoBackoff(), 0)
