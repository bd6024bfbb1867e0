"""What clients are told to send to: the relays' public addresses, from `--advertise` and `--advertise-file`.

An endpoint is an address or a name, and a port. Names change under us (a relay is replaced), so they are resolved
again and again, and the file is read again when it changes. Two rules hold whatever goes wrong meanwhile: a name that
does not resolve keeps the addresses it had last, and a file that cannot be read or understood leaves the list as it
was. A list that says the same in another order is no change, as resolvers shuffle their answers.

No sockets, no clock: the media process resolves, and says what came of it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.runtime.errors import ConfigError

ENDPOINTS_MOST = 16
ADDRESSES_MOST = 16  # each is a candidate in every answer, and a check of every client

Resolve = Callable[[str], Awaitable[Iterable[str]]]  # a name to addresses as text; OSError: not now

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_NAME_MOST = 253


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A literal address or a host name, and a port."""

    host: str
    port: int

    @property
    def is_literal(self) -> bool:
        return usable(self.host) is not None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Endpoint:
    """`HOST:PORT` or `[V6]:PORT`; a ValueError says what is wrong with it."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not HOST:PORT; an IPv6 address stands in brackets, [2001:db8::1]:3478")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= 65535):
        raise ValueError(f"the port of {text!r} is not a number from 1 to 65535")
    return Endpoint(_host(host[1:-1] if bracketed else host, bracketed), int(port))


def _host(host: str, bracketed: bool) -> str:
    last = host.rpartition(".")[2]
    if bracketed or (last.isascii() and last.isdigit()):  # what ends in a number is an address or a mistake
        address = usable(host)
        if address is None or (":" in address) != bracketed:
            raise ValueError(f"{host!r} is no address that a client could send to")
        return address
    name = host.removesuffix(".").lower()
    if len(name) > _NAME_MOST or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError(f"{host!r} is neither an address nor a host name")
    return name


def usable(text: str) -> str | None:
    """An address in its usual form, if a client elsewhere could send to it; IPv4-mapped ones are IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    if address.is_unspecified or address.is_multicast or address.is_link_local or str(address) == "255.255.255.255":
        return None
    return str(address)


def parse_file(text: str, name: str) -> tuple[Endpoint, ...]:
    """An endpoint a line; blank lines and `#` comments are allowed. A ConfigError names the line."""
    found: list[Endpoint] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if line:
            try:
                found.append(parse(line))
            except ValueError as error:
                raise ConfigError(str(error), where=f"{name}:{number}", mend="write HOST:PORT a line") from None
    if not 1 <= len(set(found)) <= ENDPOINTS_MOST:
        what = f"{len(set(found))} endpoints" if found else "there is no endpoint in it"
        raise ConfigError(what, where=name, mend=f"write 1 to {ENDPOINTS_MOST}, HOST:PORT a line")
    return tuple(dict.fromkeys(found))


class Advertised:
    """The present list. The media process asks `reread` every second or so, `refresh` every half minute and after a
    change of the file, and reads `current` for each answer."""

    def __init__(self, fixed: Sequence[Endpoint], file: str | None = None) -> None:
        """Reads the file; a ConfigError says what is wrong with it."""
        self._fixed = tuple(fixed)
        self._file = file
        self._stamp: tuple[int, ...] = ()
        self._from_file: tuple[Endpoint, ...] = ()
        self._known: dict[str, tuple[str, ...]] = {}
        self.current: tuple[tuple[str, int], ...] = ()
        self.reread()
        self._rebuild()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(dict.fromkeys((*self._fixed, *self._from_file)))

    def names(self) -> tuple[str, ...]:
        """What is to be resolved."""
        return tuple(dict.fromkeys(each.host for each in self.endpoints if not each.is_literal))

    def unresolved(self) -> tuple[str, ...]:
        """Names that have never had an address: nothing is advertised for them."""
        return tuple(name for name in self.names() if name not in self._known)

    def reread(self) -> bool:
        """Whether `current` is another list now, by a file that changed. A ConfigError is raised once for each
        content that is wrong; the list stays."""
        if self._file is None:
            return False
        try:
            status = Path(self._file).stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            if stamp == self._stamp:
                return False
            text = Path(self._file).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            if self._stamp == (-1,):
                return False
            self._stamp = (-1,)
            what = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise ConfigError(f"cannot read it: {what}", where=self._file, mend="write HOST:PORT a line") from None
        self._stamp = stamp
        self._from_file = parse_file(text, self._file)
        return self._rebuild()

    async def refresh(self, resolve: Resolve) -> bool:
        """Resolves all names, one after the other; whether `current` is another list now."""
        resolved: dict[str, Iterable[str]] = {}
        for name in self.names():
            try:
                resolved[name] = await resolve(name)
            except OSError:
                continue
        return self.take(resolved)

    def take(self, resolved: Mapping[str, Iterable[str]]) -> bool:
        """What names resolved to; one that is missing here, or has no usable address, keeps what it had. Whether
        `current` is another list now."""
        for name, texts in resolved.items():
            addresses = tuple(dict.fromkeys(filter(None, map(usable, texts))))
            if addresses and set(addresses) != set(self._known.get(name, ())):
                self._known[name] = addresses
        return self._rebuild()

    def _rebuild(self) -> bool:
        known = {name: self._known[name] for name in self.names() if name in self._known}
        pairs = (
            (host, each.port)
            for each in self.endpoints
            for host in ((each.host,) if each.is_literal else known.get(each.host, ()))
        )
        before, self._known = self.current, known
        self.current = tuple(dict.fromkeys(pairs))[:ADDRESSES_MOST]
        return self.current != before
