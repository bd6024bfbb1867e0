"""Network namespaces with a veth pair: two hosts on one machine, for what loopback cannot show (several addresses,
no route, sources that are nobody's).

A thread can step into a namespace (`inside`); the sockets it makes there stay there.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in that network."""
    with open("/proc/thread-self/ns/net", "rb") as outside, Path(f"/run/netns/{namespace}").open("rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(outside.fileno())


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def udp_drops(namespace: str) -> dict[int, int]:
    """Port -> datagrams that its sockets had no room for, so far."""
    with inside(namespace):
        lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    drops: dict[int, int] = {}
    for fields in map(str.split, lines):
        port = int(fields[1].partition(":")[2], 16)
        drops[port] = drops.get(port, 0) + int(fields[-1])
    return drops


def left_by(namespace: str, device: str) -> tuple[int, int]:
    """(packets, bytes) that left by a device so far; bytes with all headers."""
    words = ["ip", "-n", namespace, "-s", "-j", "link", "show", "dev", device]
    shown = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    sent = shown[0]["stats64"]["tx"]
    return int(sent["packets"]), int(sent["bytes"])


def mac_of(namespace: str, device: str) -> str:
    words = ["ip", "-n", namespace, "-j", "link", "show", "dev", device]
    shown = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return str(shown[0]["address"])


class Namespaces:
    """`client` and `server`, joined by a veth pair; names carry our pid, so parallel runs do not meet."""

    def __init__(self) -> None:
        self.client = f"ufrag-c-{os.getpid()}"
        self.server = f"ufrag-s-{os.getpid()}"
        self._made: list[str] = []

    def __enter__(self) -> Self:
        for name in (self.client, self.server):
            run("ip", "netns", "add", name)
            self._made.append(name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self._join("veth0")
        for name in (self.client, self.server):
            # Without duplicate address detection an IPv6 address can be used at once.
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.veth0.accept_dad=0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
        return self

    def _join(self, device: str) -> None:
        ends = ("netns", self.client, "type", "veth", "peer", "name", device, "netns", self.server)
        run("ip", "link", "add", device, *ends)

    def add_sink(self, network: str) -> None:
        """What the server sends to that network leaves by `sink`, and nothing else does; nobody takes it.

        No replies are looked for on that way (rp_filter), so packets in the network's name may come by another.
        """
        self._join("sink")
        for name in (self.client, self.server):
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.sink.disable_ipv6=1")
            run("ip", "-n", name, "link", "set", "sink", "arp", "off", "mtu", "9000", "up")
        for name in ("all", "veth0"):
            run("ip", "netns", "exec", self.server, "sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0")
        self.add_route(self.server, network, "dev", "sink")

    def set_mtu(self, most_bytes: int) -> None:
        for name in (self.client, self.server):
            run("ip", "-n", name, "link", "set", "veth0", "mtu", str(most_bytes))

    def add_route(self, namespace: str, *words: str) -> None:
        run("ip", "-n", namespace, "route", "add", *words)

    def add_address(self, namespace: str, address: str) -> None:
        nodad = ["nodad"] if ":" in address else []
        run("ip", "-n", namespace, "address", "add", address, "dev", "veth0", *nodad)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._made:
            run("ip", "netns", "delete", name)
