"""The record of a relay's state, `state.json` in its directory: what the files beside it are, and whose."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from typing import Any

from relay.state_dir import RECORD

FORMAT = 1


class Refused(Exception):
    """Why what lies there cannot be taken on."""


@dataclass(frozen=True)
class Record:
    """`state.json`; every change of what a field means changes FORMAT."""

    format: int
    version: str
    layout: int
    checksum: str  # of the layout, in hexadecimal
    clock: str  # which ticks the slots count by
    launcher: int
    listen: list[str]  # in the order of the sockets that flows name by number
    backends: list[str]
    family: int  # of the internal sockets, for which the slots hold socket addresses
    max_flows: int
    slots: list[str]  # the file of each worker
    orphans: list[str]
    internal: list[int]  # the port of each worker

    @classmethod
    def read(cls, text: bytes) -> Record:
        """Raises Refused."""
        try:
            values: Any = json.loads(text)
            found = values["format"]
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{RECORD} is torn") from None
        if found != FORMAT:
            raise Refused(f"{RECORD} has format {found!r}, not {FORMAT}")
        kinds = {field.name: str(field.type) for field in fields(cls)}
        if values.keys() != kinds.keys() or not all(_is(values[name], kind) for name, kind in kinds.items()):
            raise Refused(f"{RECORD} is torn")
        return cls(**values)


def _is(value: object, kind: str) -> bool:
    item = {"int": int, "str": str, "list[str]": str, "list[int]": int}[kind]
    items = value if kind.startswith("list") and isinstance(value, list) else [value]
    return isinstance(value, list) == kind.startswith("list") and all(type(each) is item for each in items)


def inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def clock() -> str:
    """Ticks count from the start of the machine, and a container may be given an origin of its own."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()}/{inode('/proc/self/ns/time')}"
