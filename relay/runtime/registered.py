"""Under which name and where a program is to be found in the registry (`relay.runtime.registry`): its options.

Apart from it so that reading a configuration does not take the libraries that announcing takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import click

from relay.runtime.errors import ConfigError
from relay.runtime.redis_url import RedisPlace

NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)

Kind = Literal["relay", "transceiver"]


@dataclass(frozen=True)
class Location:
    """Degrees north and east."""

    latitude: float
    longitude: float

    def __str__(self) -> str:
        return f"{self.latitude:g},{self.longitude:g}"


@dataclass(frozen=True)
class Entry:
    """Where and under which name a program announces itself. `id` may be empty: the host's name and a port, then."""

    place: RedisPlace
    id: str = ""
    region: str = ""
    location: Location | None = None


def entry(place: RedisPlace | None, own_id: str | None, region: str | None, location: Location | None) -> Entry | None:
    """Of the options; None without a Redis."""
    for option, text in (("--id", own_id), ("--region", region)):
        if text is not None and not NAME.fullmatch(text):
            mend = "write up to 64 letters, digits and ._:-"
            raise ConfigError("that is no name", where=f"{option} {text}", mend=mend)
    return Entry(place, own_id or "", region or "", location) if place else None


class LatLon(click.ParamType[Location]):
    """`52.5,13.4`: degrees north and east."""

    name = "LAT,LON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Location:
        if isinstance(value, Location):
            return value
        match = re.fullmatch(r"\s*(-?\d{1,3}(?:\.\d+)?)\s*,\s*(-?\d{1,3}(?:\.\d+)?)\s*", str(value), re.ASCII)
        latitude, longitude = map(float, match.groups()) if match else (999.0, 999.0)
        if abs(latitude) > 85 or abs(longitude) > 180:  # Redis's own bounds are 85.05 and 180
            self.fail(f"{value!r} is no place; write degrees north and east, such as 52.5,13.4", param, ctx)
        return Location(latitude, longitude)
