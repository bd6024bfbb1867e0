"""How `relay fleet` shows who is there: relays and transceivers, as they announce themselves in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from relay.runtime.screen import WIDE, count, duration, percent, word

Entry = Mapping[str, Any]


def fleet(entries: Sequence[Entry], now: float, width: int) -> RenderableType:
    """A line of totals and a table for each kind. `now` is the time of day, as the entries have it."""
    parts: list[RenderableType] = []
    for kind, what in (("relay", "flows"), ("transceiver", "calls")):
        found = [each for each in entries if each.get("kind") == kind]
        parts += [Text(_head(kind, what, found), style="bold"), _table(found, what, now, width), Text()]
    return Group(*parts[:-1])


def _head(kind: str, what: str, found: Sequence[Entry]) -> str:
    here = [each for each in found if each["state"] == "here"]
    carried = sum(_load(each, "used") for each in here)
    draining = sum(bool(each.get("draining")) for each in here)
    words = [f"{len(here)} {kind}{'' if len(here) == 1 else 's'}", f"{count(carried)} {what}"]
    words += [f"{draining} draining"] if draining else []
    silent = len(found) - len(here)
    return ", ".join([*words, *([f"{silent} silent"] if silent else [])])


def _table(found: Sequence[Entry], what: str, now: float, width: int) -> Table:
    titles = ["id", "state", "region", "address", what, "busy", "up"]
    wide = ["of", "version", "gen", "speaks", "internal"] if width >= WIDE else []
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for title in [*titles, *wide]:
        right = title in (what, "busy", "up", "of", "gen")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for each in found:
        cells = [word(each["id"]), _state(each, now), word(each.get("region")), *_cells(each, now)]
        table.add_row(
            *(Text(cell, no_wrap=True, overflow="ellipsis") for cell in [*cells, *(_more(each) if wide else [])])
        )
    return table


def _state(each: Entry, now: float) -> str:
    if each["state"] != "here":
        return f"{each['state']} {duration(now - each['at'])}"
    draining = each.get("draining")
    return ("pushing" if draining == "push" else "draining") if draining else "ok"


def _cells(each: Entry, now: float) -> list[str]:
    if each["state"] != "here":
        return ["-"] * 4
    started = each.get("started")
    age = duration(now - started) if isinstance(started, (int, float)) else "-"
    return [_first(each.get("addresses")), count(_load(each, "used")), percent(min(1.0, _load(each, "busy"))), age]


def _more(each: Entry) -> list[str]:
    generation = each.get("generation")
    return [
        count(_load(each, "capacity")),
        word(each.get("version")),
        str(generation) if isinstance(generation, int) else "-",
        _first(each.get("speaks")),
        _first(each.get("internal")),
    ]


def _load(each: Entry, name: str) -> float:
    load = each.get("load")
    value = load.get(name) if isinstance(load, Mapping) else None
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e12 else 0.0


def _first(words: Any) -> str:
    """`10.0.0.7:5000 +1`."""
    if not isinstance(words, Sequence) or isinstance(words, str) or not words:
        return word(words if isinstance(words, str) else "")
    return word(words[0]) + (f" +{len(words) - 1}" if len(words) > 1 else "")
