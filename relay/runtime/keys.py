"""Key files: what relays and transceivers share as secrets. Read at start, in the launcher; route keys also later.

    route keys    a key a line, `<key id>:<64 hex digits>`, id 0..6. The first mints, all verify: so a new key is added
                  below, spread to all relays, then moved to the top for the transceivers, and the old one removed
                  after the longest call.
    session key   one line of 64 hex digits, the same for all transceivers among which calls are handed over.
    password      one line, taken as it is: of Redis.
    auth key      one line: what clients of the HTTP interface show as `Authorization: Bearer KEY`.

Blank lines and `#` comments are allowed. Each is a secret: it must be a file that others cannot read. Nothing of a key
ever goes into a message or a log.
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

SESSION_KEY_BYTES = 32
AUTH_KEY_LEAST, AUTH_KEY_MOST = 16, 512

_ROUTE_KEY = re.compile(r"(\d)\s*:\s*([0-9a-fA-F]+)", re.ASCII)
_SESSION_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_AUTH_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)  # RFC 6750, 2.1: b64token

_MAKE = "make one with `transceiver keys new --out FILE`"

_Lines = list[tuple[str, str]]  # (file:number, what stands there)


@dataclass(frozen=True)
class RouteKeys:
    """The keys of a file, and the id of the one that mints."""

    minting: int
    by_id: dict[int, bytes] = field(repr=False)

    def keyring(self) -> Keyring:
        return Keyring(self.by_id)


class RouteKeyFile:
    """The file of the route keys while a program runs: read again when it is another one, or was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._seen = _stamp(path)

    def look(self, *, asked: bool = False) -> RouteKeys | None:
        """The keys, if the file changed; `asked`: in any case, at once. A ConfigError says what is wrong with it, once.

        A change is taken at the second look that finds it: at the first, somebody may still be writing.
        """
        stamp, before = _stamp(self.path), self._seen
        self._seen = stamp
        if not asked and (stamp == self._known or stamp != before):
            return None
        self._known = stamp
        return load(self.path)


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells one content from another without reading it; a file that is not there has one, too."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def new_route_key(key_id: int) -> str:
    """A fresh key as a line of the file."""
    return f"{key_id}:{secrets.token_hex(ROUTE_KEY_BYTES)}"


def new_session_key() -> str:
    """The line of a fresh file; it would do as an auth key as well."""
    return secrets.token_hex(SESSION_KEY_BYTES)


def create(path: Path, line: str) -> None:
    """Writes a new file with one key, readable by its owner alone; an existing file is never touched."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError("the file exists", where=str(path), mend="take another name, or rotate by editing") from None
    except OSError as error:
        raise ConfigError(f"cannot write it: {error.strerror}", where=str(path), mend="name a writable place") from None
    with os.fdopen(descriptor, "w") as stream:
        stream.write(line + "\n")


def load(path: Path) -> RouteKeys:
    """The route keys."""
    make = "make one with `relay keys new --out FILE`"
    keys: dict[int, bytes] = {}
    for where, line in _read(path, "route keys", make):
        match = _ROUTE_KEY.fullmatch(line)
        if match is None or len(match[2]) != 2 * ROUTE_KEY_BYTES or int(match[1]) >= KEY_IDS:
            mend = f"write <key id 0..{KEY_IDS - 1}>:<{2 * ROUTE_KEY_BYTES} hex digits>"
            raise ConfigError("this is no route key", where=where, mend=mend)
        if int(match[1]) in keys:
            raise ConfigError(f"key id {match[1]} stands there twice", where=where, mend="give each key its own id")
        keys[int(match[1])] = bytes.fromhex(match[2])
    return RouteKeys(next(iter(keys)), keys)


def load_session_key(path: Path) -> bytes:
    where, line = _read_one(path, "session key")
    if not _SESSION_KEY.fullmatch(line):
        raise ConfigError("this is no session key", where=where, mend=f"write 64 hex digits; {_MAKE}")
    return bytes.fromhex(line)


def load_auth_key(path: Path) -> str:
    where, line = _read_one(path, "auth key")
    return checked_auth_key(line, where)


def checked_auth_key(key: str, where: str) -> str:
    """`key`, if a client can send it in a header and nobody can guess it."""
    if not (AUTH_KEY_LEAST <= len(key) <= AUTH_KEY_MOST and _AUTH_KEY.fullmatch(key)):
        mend = f"write {AUTH_KEY_LEAST} to {AUTH_KEY_MOST} letters, digits and -._~+/, such as `transceiver keys new`"
        raise ConfigError("this is no auth key", where=where, mend=mend)
    return key


def load_password(path: Path) -> str:
    """The first line of a file, whatever is in it: `#` and blanks may belong to a password."""
    try:
        with open(path, encoding="utf-8") as stream:
            _refuse_if_public(stream.fileno(), path, "password")
            password = stream.readline().rstrip("\r\n")
    except OSError as error:
        what = f"cannot read the password: {error.strerror}"
        raise ConfigError(what, where=str(path), mend="write it there, as one line") from None
    except UnicodeDecodeError:
        raise ConfigError("the password is no text", where=str(path), mend="write it as one line") from None
    if not password:
        raise ConfigError("there is no password in it", where=str(path), mend="write it there, as one line")
    return password


def _read_one(path: Path, what: str) -> tuple[str, str]:
    first, *more = _read(path, what, _MAKE)
    if more:
        raise ConfigError("a second key", where=more[0][0], mend=f"the {what} is one line; remove the others")
    return first


def _read(path: Path, what: str, make: str) -> _Lines:
    """The lines that hold something, at least one."""
    try:
        with open(path, encoding="ascii") as stream:
            _refuse_if_public(stream.fileno(), path, what)
            raw = stream.read().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the {what}: {error.strerror}", where=str(path), mend=make) from None
    except UnicodeDecodeError:
        raise ConfigError("this is no key file", where=str(path), mend=make) from None
    lines = [(f"{path}:{number}", line.split("#", 1)[0].strip()) for number, line in enumerate(raw, 1)]
    found = [(where, line) for where, line in lines if line]
    if not found:
        raise ConfigError("there is no key in it", where=str(path), mend=make)
    return found


def _refuse_if_public(descriptor: int, path: Path, what: str) -> None:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & 0o007:
        said = f"everybody on this machine may use the {what} (mode {mode:04o})"
        raise ConfigError(said, where=str(path), mend=f"chmod 600 {path}, and replace the keys if others were here")
