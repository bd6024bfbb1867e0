"""Redis servers that belong together: a Cluster of three; a master with its replica and Sentinels. Both fail over."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from benchmarks.support import free_port
from tests.support.redis_servers import HOST, RedisServer
from tests.support.relays import until

SLOTS = 16384  # of a Cluster
NODE_TIMEOUT_MS = 1000  # after which a Cluster's node or a master counts as gone


class RedisCluster:
    """Three masters, which share the slots between them; with `replicas`, each has one, which takes over when the
    master is gone for a second or two. Without, two masters go on serving their slots."""

    def __init__(self, *, replicas: bool = False, password: str = "", tls: bool = False) -> None:
        self.nodes = [self._node(password) for _ in range(6 if replicas else 3)]
        self.masters, self.replicas = self.nodes[:3], self.nodes[3:]
        self._stack = ExitStack()

    @staticmethod
    def _node(password: str) -> RedisServer:
        config = {
            "cluster-enabled": "yes", "cluster-node-timeout": NODE_TIMEOUT_MS, "cluster-require-full-coverage": "no",
            "cluster-port": free_port(socket.SOCK_STREAM), "cluster-replica-validity-factor": 0,
            "cluster-allow-replica-migration": "no",
        }  # fmt: skip
        return RedisServer(password=password, config=[(name, str(value)) for name, value in config.items()])

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _join(self) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.masters):
            begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", begin, end)
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first.ask("CLUSTER", "MEET", node.host, node.port, node.ask("CONFIG", "GET", "cluster-port")[1])
        until(lambda: all(f"cluster_known_nodes:{len(self.nodes)}\r" in _cluster(node) for node in self.nodes))
        for master, replica in zip(self.masters, self.replicas, strict=False):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        until(lambda: all("cluster_state:ok" in _cluster(node) for node in self.nodes))
        until(lambda: all(map(_follows, self.replicas)))

    @property
    def url(self) -> str:
        login = f":{self.nodes[0].password}@" if self.nodes[0].password else ""
        return f"redis+cluster://{login}{','.join(node.address for node in self.nodes)}"

    def keys(self, pattern: str = "*") -> list[str]:
        """Of the nodes that run and are masters now."""
        masters = [node for node in self.nodes if node.running and _leads(node)]
        return sorted(key for node in masters for key in node.keys(pattern))

    def fail_over(self) -> None:
        """The first master dies; returns when its replica has taken its place."""
        self.masters[0].kill()
        until(lambda: _leads(self.replicas[0]))


class Sentinels:
    """A master called `main` with one replica, and the Sentinels that watch it."""

    service = "main"

    def __init__(self, *, count: int = 3, password: str = "") -> None:
        self.master = RedisServer(password=password)
        self.replica = RedisServer(password=password, config=[("replicaof", f"{HOST} {self.master.port}")])
        watched = [
            ("sentinel monitor", f"{self.service} {HOST} {self.master.port} {count // 2 + 1}"),
            ("sentinel down-after-milliseconds", f"{self.service} {NODE_TIMEOUT_MS}"),
            ("sentinel failover-timeout", f"{self.service} 5000"),
        ]
        watched += [("sentinel auth-pass", f"{self.service} {password}")] if password else []
        self.sentinels = [RedisServer(sentinel=True, config=watched) for _ in range(count)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.master, self.replica):
                stack.enter_context(server)
            until(lambda: _follows(self.replica))
            for sentinel in self.sentinels:
                stack.enter_context(sentinel)
            until(lambda: all(map(self._is_watched, self.sentinels)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        login = f":{self.master.password}@" if self.master.password else ""
        places = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{login}{places}/{self.service}/0"

    @property
    def leader(self) -> RedisServer:
        """Who the Sentinels say is the master."""
        port = int(self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])
        return self.master if port == self.master.port else self.replica

    def fail_over(self) -> None:
        """The master dies; returns when the replica has taken its place."""
        self.master.kill()
        until(lambda: self.leader is self.replica and _leads(self.replica))

    def _is_watched(self, sentinel: RedisServer) -> bool:
        words = sentinel.ask("SENTINEL", "MASTER", self.service)
        known = dict(zip(words[::2], words[1::2], strict=True))
        return (known["num-slaves"], known["num-other-sentinels"]) == ("1", str(len(self.sentinels) - 1))


def _cluster(node: RedisServer) -> str:
    return str(node.ask("CLUSTER", "INFO"))


def _leads(node: RedisServer) -> bool:
    return node.info("replication")["role"] == "master"


def _follows(node: RedisServer) -> bool:
    return node.info("replication").get("master_link_status") == "up"
