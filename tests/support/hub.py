"""Clients, their owner and Redis in one network, and two hosts for relays, which share an address: who of them has it
is a route, changed at once.

    one (192.0.2.1, 10.88.1.2) --- hub (10.66.0.0/16: clients; 10.88.9.1: owner, Redis) --- other (192.0.2.1, 10.88.2.2)
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from benchmarks.support import Flood, Words, write_lines
from tests.support.faults import Course, Load, under_load
from tests.support.netns import mac_of, run
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay

RELAY = "192.0.2.1:3478"
OWNER = "10.88.9.1"
CLIENTS, CLIENT_PORT = "10.66.0.0", 40_000
NOBODY = "198.18.0.0"
BACKENDS = ("10.88.9.0/24",)
WORKERS = 2


class Host:
    """Where a relay can be: `number` tells it from the other."""

    def __init__(self, number: int) -> None:
        self.netns = f"ufrag-h{number}-{os.getpid()}"
        self.device = f"to-{number}"  # in the hub
        self.address = f"10.88.{number}.2"
        self.gateway = f"10.88.{number}.1"
        self.internal = f"{self.address}:7000"


class Hub:
    """The three networks; names carry our pid."""

    def __init__(self) -> None:
        self.netns = f"ufrag-hub-{os.getpid()}"
        self.one, self.other = Host(1), Host(2)
        self.enter: Words = ("ip", "netns", "exec", self.netns)
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make(self.netns)
            run("ip", "-n", self.netns, "address", "add", f"{OWNER}/32", "dev", "lo")
            run("ip", "-n", self.netns, "route", "add", "local", f"{CLIENTS}/16", "dev", "lo")
            for host in (self.one, self.other):
                self._join(host)
            self.give_address_to(self.one)
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._delete()

    def _delete(self) -> None:
        for name in self._made:
            run("ip", "netns", "delete", name)

    def _make(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self._made.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        for setting in ("ip_forward=0", "conf.all.rp_filter=0", "conf.default.rp_filter=0"):
            run("ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv4.{setting}")

    def _join(self, host: Host) -> None:
        self._make(host.netns)
        ends = ("netns", self.netns, "type", "veth", "peer", "name", "veth0", "netns", host.netns)
        run("ip", "link", "add", host.device, *ends)
        for name, device, address in (
            (self.netns, host.device, host.gateway),
            (host.netns, "veth0", host.address),
        ):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", device)
            run("ip", "-n", name, "link", "set", device, "up", "mtu", "9000")
        run("ip", "-n", host.netns, "address", "add", "192.0.2.1/32", "dev", "lo")
        run("ip", "-n", host.netns, "route", "add", "default", "via", host.gateway)

    def give_address_to(self, host: Host) -> None:
        """From the next packet on, the relays' address is there."""
        run("ip", "-n", self.netns, "route", "replace", "192.0.2.1/32", "via", host.address, "src", OWNER)

    def relay(self, host: Host, key_file: Path, *extra: str) -> Relay:
        return Relay(
            key_file, listen=[RELAY], internal=host.internal, backends=BACKENDS, workers=WORKERS, netns=host.netns,
            extra=extra,
        )  # fmt: skip

    def redis(self) -> RedisServer:
        return RedisServer(host=OWNER, netns=self.netns)

    def under_load(self, name: str, key_file: Path, load: Load, folder: Path) -> AbstractContextManager[Course]:
        return under_load(
            name, RELAY, key_file, load, folder, enter=self.enter, owner_at=f"{OWNER}:0", port=CLIENT_PORT,
            source_base=CLIENTS,
        )  # fmt: skip

    def flood(self, host: Host, datagrams: list[bytes], folder: Path, **options: object) -> Flood:
        """From sources that are nobody's, to a relay there."""
        file = write_lines(folder / "flood", [datagram.hex() for datagram in datagrams])
        options = {"source_base": NOBODY, "device": host.device, "mac": mac_of(host.netns, "veth0"), **options}
        return Flood(RELAY, file, **options).by(*self.enter, "nice", "-n", "10")

    def cut_off_redis(self) -> None:
        """Nothing that is sent to Redis arrives, and nobody is told."""
        chain = "add chain ip cut in { type filter hook input priority 0; }"
        run(*self.enter, "nft", f"add table ip cut; {chain}; add rule ip cut in meta l4proto tcp drop")

    def join_redis(self) -> None:
        run(*self.enter, "nft", "delete table ip cut")


def noise(dice: Random) -> list[bytes]:
    """What looks like media of somebody, each of somebody else."""
    return [bytes([0x80, 111]) + dice.randbytes(70) for _ in range(499)]
