"""Network namespaces with a veth pair: two hosts on one machine, for what loopback cannot show (several addresses,
no route)."""

from __future__ import annotations

import os
import subprocess
from types import TracebackType
from typing import Self


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")


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
        run(
            "ip",
            "link",
            "add",
            "veth0",
            "netns",
            self.client,
            "type",
            "veth",
            "peer",
            "name",
            "veth0",
            "netns",
            self.server,
        )
        for name in (self.client, self.server):
            # Without duplicate address detection an IPv6 address can be used at once.
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.veth0.accept_dad=0")
            run("ip", "-n", name, "link", "set", "veth0", "up")
        return self

    def add_address(self, namespace: str, address: str) -> None:
        nodad = ["nodad"] if ":" in address else []
        run("ip", "-n", namespace, "address", "add", address, "dev", "veth0", *nodad)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._made:
            run("ip", "netns", "delete", name)
