"""Machines that are not this one, for `relay doctor`: kernel files below a directory, the rest as told."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from relay.doctor import keys_unread
from relay.doctor.machine import Buffers, Machine
from relay.runtime.config import Address, parse_address
from relay.runtime.cpus import decide
from relay.runtime.errors import RuntimeFault
from relay.runtime.redis_client import RedisDown
from relay.runtime.redis_url import RedisPlace
from relay.settings import Settings, build

FOUR_CPUS = [0, 1, 2, 3]
PLENTY = "MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n"


class FakeMachine(Machine):
    """A good one, unless told otherwise; `files` are paths from / and their text."""

    def __init__(self, root: Path, files: dict[str, str] | None = None) -> None:
        super().__init__(root)
        self.cpus = list(FOUR_CPUS)
        self.limits = (1024, 4096)
        self.given = Buffers(512 << 20, 512 << 20)
        self.resolution_s = 0.004
        self.room = 1 << 30
        self.faults: dict[str, RuntimeFault] = {}
        self.redis_down = ""
        self.redis_servers: list[dict[str, str]] = []
        for path, text in ({"/proc/meminfo": PLENTY} | (files or {})).items():
            file = root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")

    def affinity(self) -> list[int]:
        return self.cpus

    def file_limits(self) -> tuple[int, int]:
        return self.limits

    def buffers(self, asked: int) -> Buffers:
        return Buffers(min(asked, self.given.receive), min(asked, self.given.send))

    def bind_fault(
        self, address: Address, option: str, kind: socket.SocketKind, *, both_families: bool = False
    ) -> RuntimeFault | None:
        return self.faults.get(f"{option} {address}")

    def redis_info(self, place: RedisPlace) -> list[dict[str, str]]:
        if self.redis_down:
            raise RedisDown(self.redis_down)
        return self.redis_servers

    def free_bytes(self, directory: Path) -> int:
        return self.room

    def coarse_resolution_s(self) -> float:
        return self.resolution_s


def settings(**changed: Any) -> Settings:
    """Two workers on CPU 0 and 1, everything else as `relay start` has it."""
    pins = changed.pop("pins", "0-1")
    options: dict[str, Any] = {
        "workers": 2, "listen": [parse_address("127.0.0.1:3478")], "internal": None, "backends": [],
        "route_key_file": "route.key", "cpus_spec": pins, "max_flows": 131_072, "max_half_open": None,
        "flow_timeout_s": 30.0, "max_new_per_network": 1000, "half_open_timeout_s": 5.0, "drain_timeout_s": 20.0,
        "drain_mode": "wait", "recv_buffer": 4 << 20, "state_dir": "none", "admin": parse_address("127.0.0.1:9464"),
        "load_keys": keys_unread, "make_plan": lambda spec, workers: decide(spec, workers, range(64), None),
    }  # fmt: skip
    return build(**(options | changed))
