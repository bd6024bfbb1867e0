"""The route-key file: what relays verify tokens with, and transceivers mint them with.

A key a line, `<key id>:<64 hex digits>`, id 0..6; blank lines and `#` comments are allowed. The first key mints,
all verify: so a new key is added below, spread to all relays, then moved to the top for the transceivers, and the
old one removed after the longest call. The file is a secret: it must be a file that others cannot read. Nothing of
a key ever goes into a message or a log.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from _fastpath.wire.token import KEY_IDS, ROUTE_KEY_BYTES, Keyring
from relay.runtime.errors import ConfigError

_LINE = re.compile(r"(\d)\s*:\s*([0-9a-fA-F]+)", re.ASCII)


@dataclass(frozen=True)
class RouteKeys:
    """The keys of a file, and the id of the one that mints."""

    minting: int
    by_id: dict[int, bytes] = field(repr=False)

    def keyring(self) -> Keyring:
        return Keyring(self.by_id)


def new_line(key_id: int) -> str:
    """A fresh key as a line of the file."""
    return f"{key_id}:{secrets.token_hex(ROUTE_KEY_BYTES)}"


def create(path: Path, key_id: int) -> None:
    """Writes a new file with one key, readable by its owner alone; an existing file is never touched."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError("the file exists", where=str(path), mend="add a line of `relay keys new` to rotate") from None
    except OSError as error:
        raise ConfigError(f"cannot write it: {error.strerror}", where=str(path), mend="name a writable place") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(new_line(key_id) + "\n")


def load(path: Path) -> RouteKeys:
    try:
        with open(path, encoding="ascii") as stream:
            _refuse_if_public(stream.fileno(), path)
            lines = stream.read().splitlines()
    except OSError as error:
        mend = "make one with `relay keys new --out FILE`"
        raise ConfigError(f"cannot read the route keys: {error.strerror}", where=str(path), mend=mend) from None
    except UnicodeDecodeError:
        raise ConfigError("this is no key file", where=str(path), mend="write a key a line, <id>:<64 hex>") from None
    return _parse(lines, path)


def _refuse_if_public(descriptor: int, path: Path) -> None:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & 0o007:
        what = f"everybody on this machine may use the route keys (mode {mode:04o})"
        raise ConfigError(what, where=str(path), mend=f"chmod 600 {path}, and replace the keys if others were here")


def _parse(lines: list[str], path: Path) -> RouteKeys:
    keys: dict[int, bytes] = {}
    for number, raw in enumerate(lines, 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        where = f"{path}:{number}"
        match = _LINE.fullmatch(line)
        if match is None or len(match[2]) != 2 * ROUTE_KEY_BYTES or int(match[1]) >= KEY_IDS:
            mend = f"write <key id 0..{KEY_IDS - 1}>:<{2 * ROUTE_KEY_BYTES} hex digits>"
            raise ConfigError("this is no route key", where=where, mend=mend)
        if int(match[1]) in keys:
            raise ConfigError(f"key id {match[1]} stands there twice", where=where, mend="give each key its own id")
        keys[int(match[1])] = bytes.fromhex(match[2])
    if not keys:
        raise ConfigError("there is no key in it", where=str(path), mend="make one with `relay keys new`")
    return RouteKeys(next(iter(keys)), keys)
