"""What `relay fleet` prints, and the options of the registry."""

from __future__ import annotations

import io
from typing import Any

import click
import pytest

from relay.fleet import fleet
from relay.runtime.errors import ConfigError
from relay.runtime.redis_url import parse_redis_url
from relay.runtime.registered import Entry, LatLon, Location, entry
from relay.runtime.screen import console

PLACE = parse_redis_url("redis://127.0.0.1")
NOW = 1000.0
RELAY = {
    "kind": "relay", "id": "edge-1", "state": "here", "at": 999.0, "region": "eu", "addresses": ["192.0.2.1:3478", "x"],
    "load": {"used": 1234, "capacity": 131072, "busy": 0.25}, "started": 400.0, "draining": "", "version": "1.2",
    "speaks": ["spp/1"], "internal": ["10.0.0.1:9000"],
}  # fmt: skip


def printed(*entries: dict[str, Any], width: int = 80) -> str:
    out = io.StringIO()
    shown = console(out, width)
    shown.print(fleet(entries, NOW, width))
    return out.getvalue()


def lines(*entries: dict[str, Any], width: int = 80) -> list[list[str]]:
    return [line.split() for line in printed(*entries, width=width).splitlines()]


def test_a_line_each_and_totals() -> None:
    found = lines(RELAY, {**RELAY, "kind": "transceiver", "id": "t", "draining": "wait", "generation": 7})
    assert found[0] == ["1", "relay,", "1.23k", "flows"]
    assert found[2] == ["edge-1", "ok", "eu", "192.0.2.1:3478", "+1", "1.23k", "25", "%", "10:00"]
    assert found[4] == ["1", "transceiver,", "1.23k", "calls,", "1", "draining"]
    assert found[6][:2] == ["t", "draining"]


def test_a_wide_screen_shows_more() -> None:
    (row,) = (line for line in lines(RELAY, width=140) if line[:1] == ["edge-1"])
    assert row[-5:] == ["131k", "1.2", "-", "spp/1", "10.0.0.1:9000"]


def test_who_is_silent_and_who_talks_nonsense() -> None:
    gone = {"kind": "relay", "id": "gone", "state": "silent", "at": 940.0}
    wild: dict[str, Any] = {
        **RELAY, "id": "\x1b[31m", "region": ["x"], "addresses": 7, "load": "no", "started": "x", "draining": {},
        "version": "[bold]",
    }  # fmt: skip
    text = printed(gone, wild, width=140)
    assert "gone" in text
    assert "silent 1:00" in text
    assert "\x1b" not in text
    assert "[bold]" in text
    assert text.startswith("1 relay, 0 flows, 1 silent")


def test_nobody() -> None:
    assert "0 relays, 0 flows" in printed()


# ---- options


@pytest.mark.parametrize(("text", "found"), [("52.5,13.4", (52.5, 13.4)), (" -33 , 151.2 ", (-33.0, 151.2))])
def test_places(text: str, found: tuple[float, float]) -> None:
    place = LatLon().convert(text, None, None)
    assert (place.latitude, place.longitude) == found
    assert LatLon().convert(str(place), None, None) == place


@pytest.mark.parametrize("text", ["", "x", "1", "1,2,3", "86,0", "0,181", "1e1,2", "nan,0", "\u0661,2"])
def test_no_places(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no place"):
        LatLon().convert(text, None, None)


def test_an_entry_needs_a_redis_and_names() -> None:
    assert entry(None, "a", "b", Location(1, 2)) is None
    assert entry(PLACE, None, None, None) == Entry(PLACE)
    assert entry(PLACE, "edge-1", "eu", Location(1, 2)) == Entry(PLACE, "edge-1", "eu", Location(1, 2))
    for option, names in (("--id", ("a b", None)), ("--region", (None, ""))):
        with pytest.raises(ConfigError, match=option):
            entry(PLACE, names[0], names[1], None)
