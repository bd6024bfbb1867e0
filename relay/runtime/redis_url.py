"""Where Redis is, as one URL: what `--redis` takes, checked before anything connects.

    redis://[[user]:password@]host[:6379][/db]               rediss:// the same over TLS
    unix://[[user]:password@]/path/to/redis.sock[?db=0]
    redis+sentinel://[...@]host[:26379],host/service[/db]     the master that the Sentinels name
    redis+cluster://[...@]host[:6379],host                    some of the nodes; the others are found
    redis+sentinel+tls://, redis+cluster+tls://               over TLS

After a `?`, joined by `&`: `ca=FILE` (who may have signed the server's certificate), `cert=FILE` and `key=FILE` (ours),
`sentinel_user=`, `sentinel_password=` (of the Sentinels themselves). `valkey` may be written for `redis`.
What may not stand in a URL (`@ : / ? #` in a password) is written as %40 and so on. The password is never shown again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

import click

from relay.runtime.config import Hidden, Secret
from relay.runtime.errors import ConfigError

Kind = Literal["single", "unix", "sentinel", "cluster"]

REDIS_PORT = 6379
SENTINEL_PORT = 26379
HOSTS_MOST = 32

_SCHEMES: Mapping[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "redis+sentinel+tls": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "redis+cluster+tls": ("cluster", True),
}
_FILES = ("ca", "cert", "key")
_QUERY = (*_FILES, "sentinel_user", "sentinel_password")


@dataclass(frozen=True)
class RedisPlace(Hidden):
    """A server, or several that belong together, and who we are there. Its text is the URL without passwords."""

    kind: Kind = "single"
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    sentinel_user: str = ""
    sentinel_password: str = field(default="", repr=False)
    ca: str = ""
    cert: str = ""
    key: str = ""

    @property
    def secret(self) -> bool:
        return bool(self.password or self.sentinel_password)

    def with_password(self, password: str) -> RedisPlace:
        return replace(self, password=password)

    def __str__(self) -> str:
        return self.text


class RedisURL(Secret):
    """Such a URL."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RedisPlace:
        if isinstance(value, RedisPlace):
            return value
        try:
            return parse_redis_url(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def with_password_file(place: RedisPlace | None, file: str | None) -> RedisPlace | None:
    """`--redis` with `--redis-password-file`."""
    if file is None:
        return place
    if place is None:
        raise ConfigError(
            "there is no --redis to use it at", where="--redis-password-file", mend="name the server, too"
        )
    if place.password:
        raise ConfigError("--redis has a password, too", where="--redis-password-file", mend="give it in one place")
    from relay.runtime.keys import load_password  # compiled code comes with it, and a URL needs none

    return place.with_password(load_password(Path(file)))


def parse_redis_url(text: str) -> RedisPlace:
    """The place that `text` writes; a ValueError says what is wrong with it, and repeats no part that may be secret."""
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("it is no URL") from None
    scheme = parts.scheme.replace("valkey", "redis", 1)
    if scheme not in _SCHEMES:
        raise ValueError(f"{parts.scheme or 'no scheme'} is none of {', '.join(_SCHEMES)}")
    if parts.fragment:
        raise ValueError("a # stands in it; in a password it is written %23")
    kind, tls = _SCHEMES[scheme]
    login, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = login.partition(":")
    if at and not colon:
        raise ValueError("before the @ stands user:password, or :password")
    query = _query(parts, kind)
    db = query.pop("db", "")
    path = unquote(parts.path)
    place = RedisPlace(
        text=_shown(parts, user, hosts),
        kind=kind,
        hosts=_hosts(hosts, kind),
        path=path if kind == "unix" else "",
        tls=tls,
        user=unquote(user),
        password=unquote(password),
        **query,
    )
    _check_files(place)
    return _with_path(place, path, db)


def _query(parts: SplitResult, kind: Kind) -> dict[str, Any]:
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("after the ? stand pairs such as ca=FILE, joined by &") from None
    known = (*_QUERY, "db") if kind == "unix" else _QUERY
    for name, value in pairs:
        if name not in known or not value:
            raise ValueError(f"something after the ? is none of {', '.join(known)}, or is empty")
    if len(dict(pairs)) != len(pairs):
        raise ValueError("something stands twice after the ?")
    return dict(pairs)


def _hosts(text: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    if kind == "unix":
        if text:
            raise ValueError("the socket's path begins with a /, as in unix:///run/redis.sock")
        return ()
    found = tuple(_host(each, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT) for each in text.split(","))
    if kind == "single" and len(found) > 1:
        raise ValueError("several servers are redis+sentinel:// or redis+cluster://")
    if len(found) > HOSTS_MOST:
        raise ValueError(f"{HOSTS_MOST} hosts are the most")
    return found


def _host(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]` or `[v6]:port`."""
    bracket = text.startswith("[")
    host, _, port = text[1:].partition("]") if bracket else text.partition(":")
    port = port.removeprefix(":") if bracket else port
    if not host or not host.isprintable() or " " in host:
        raise ValueError("a host is missing, or is none")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"the port of {host} is no number from 1 to 65535")
    return host, int(port or default_port)


def _with_path(place: RedisPlace, path: str, db: str) -> RedisPlace:
    """What the path says: a socket, a database, or a Sentinel's service and perhaps a database."""
    if place.kind == "unix":
        if not path.startswith("/"):
            raise ValueError("the socket's path is missing, as in unix:///run/redis.sock")
        return replace(place, db=_db(db))
    names = path.strip("/").split("/") if path.strip("/") else []
    if place.kind == "sentinel":
        if not names or len(names) > 2:
            raise ValueError("behind the Sentinels stands the service they watch, as in .../mymaster")
        return replace(place, service=names[0], db=_db(names[1] if names[1:] else ""))
    if len(names) > (0 if place.kind == "cluster" else 1):
        raise ValueError("a Cluster has no databases" if place.kind == "cluster" else "behind the host stands a number")
    return replace(place, db=_db(names[0] if names else ""))


def _db(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError("the database is no number; a / in a password is written %2F")
    return int(text or 0)


def _check_files(place: RedisPlace) -> None:
    if not place.tls and any(getattr(place, name) for name in _FILES):
        raise ValueError(f"{', '.join(_FILES)} belong to TLS: rediss:// or +tls")
    if bool(place.cert) != bool(place.key):
        raise ValueError("cert and key belong together")
    if place.kind != "sentinel" and (place.sentinel_user or place.sentinel_password):
        raise ValueError("sentinel_user and sentinel_password belong to redis+sentinel://")


def _shown(parts: SplitResult, user: str, hosts: str) -> str:
    """The URL without its passwords."""
    query = "&".join(each for each in parts.query.split("&") if not each.startswith("sentinel_password"))
    return urlunsplit((parts.scheme, f"{user}@{hosts}" if user else hosts, parts.path, query, ""))
