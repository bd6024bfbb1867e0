"""Lives of a launcher as far as its state goes: slots with flows in them, no process and no socket."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _fastpath.slot import Slot
from relay.settings import Settings
from relay.state import State
from tests.support import harness, machines
from tests.support.harness import LOCAL, token
from tests.support.packets import answer, check, framed

MAX_FLOWS = 64
PORTS = [40_001, 40_002, 40_003, 40_004]


def settings(path: Path, **changed: Any) -> Settings:
    return machines.settings(**{"state_dir": str(path), "max_flows": MAX_FLOWS, "pins": "none"} | changed)


class Life:
    """From the start to SIGKILL, which is `end`."""

    def __init__(self, path: Path, *, saves: bool = True, **changed: Any) -> None:
        self.state = State.take(settings(path, **changed))
        self.adopted = [kept.file for kept in self.state.slots]
        self.slots = [kept.slot for kept in self.state.allocate()]
        if saves:
            self.state.save(PORTS[: len(self.slots)])

    def live(self, flows: int = 3) -> Life:
        """Each worker beats and has that many flows."""
        for index, slot in enumerate(self.slots):
            slot.heart = now()
            worker = harness.Relay(harness.Settings(max_flows=slot.max_flows), slot)
            for number in range(flows):
                client = f"10.0.{index}.{number}", 5000
                worker.up(check(token()), client)
                worker.down(framed(client, LOCAL, answer()))
        return self

    def end(self) -> None:
        assert self.state.directory is not None
        self.state.directory.close()
        for kept in self.state.slots:
            os.close(kept.memory.fd)

    @property
    def files(self) -> list[str]:
        return [kept.file for kept in self.state.slots]

    @property
    def orphans(self) -> list[str]:
        return [kept.file for kept in self.state.orphans]

    def flows(self) -> list[list[dict[str, Any]]]:
        return [slot.flow_list() for slot in self.slots]


def now() -> int:
    return int(time.monotonic() * 16)


def lived(path: Path, **changed: Any) -> None:
    """Somebody lived there and was killed."""
    Life(path, **changed).live().end()


def record(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "state.json").read_text()))


def rewrite(path: Path, **changed: object) -> None:
    (path / "state.json").write_text(json.dumps(record(path) | changed))


def patch(path: Path, name: str, at: int, data: bytes) -> None:
    with (path / name).open("r+b") as file:
        file.seek(at)
        file.write(data)


def in_slot(path: Path, name: str, change: Callable[[Slot, bytearray], None]) -> None:
    """Changes a slot's memory at will; sections are found through its header (docs/wire.md)."""
    memory = bytearray((path / name).read_bytes())
    change(Slot.open(bytearray(memory)), memory)
    (path / name).write_bytes(memory)
