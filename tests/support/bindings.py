"""ICE's Binding messages once more, in plain Python: what `_fastpath.wire.binding` is compared with.

Written from RFC 8489 and RFC 8445 like tests/support/oracle.py and by its rules: nothing of `_fastpath`, HMAC and
CRC-32 are the standard library's. `sealed` builds any message with any attributes, right and wrong ones.
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import Sequence

from tests.support.oracle import COOKIE
from tests.support.packets import TRANSACTION, Attribute, attribute

REQUEST, INDICATION, SUCCESS, ERROR = 0x0001, 0x0011, 0x0101, 0x0111
USERNAME, INTEGRITY, ERROR_CODE, INTEGRITY_SHA256 = 0x0006, 0x0008, 0x0009, 0x001C
MAPPED, PRIORITY, USE_CANDIDATE = 0x0020, 0x0024, 0x0025
SOFTWARE, FINGERPRINT, CONTROLLED, CONTROLLING = 0x8022, 0x8028, 0x8029, 0x802A
KNOWN_AND_IGNORED = {0x0001, 0x000A, 0x0014, 0x0015, INTEGRITY_SHA256, 0x001D, 0x001E, MAPPED}
FIXED_SIZES = {PRIORITY: 4, USE_CANDIDATE: 0, CONTROLLED: 8, CONTROLLING: 8, INTEGRITY: 20, FINGERPRINT: 4}

Fields = tuple[int, bytes, bytes | None, int, int | None, bool, bool, bool, int]


def header(kind: int, body_bytes: int, transaction: bytes = TRANSACTION) -> bytes:
    return kind.to_bytes(2, "big") + body_bytes.to_bytes(2, "big") + COOKIE + transaction


def with_length(message: bytes, more: int = 0) -> bytes:
    """The same with the length field of a message that is whole with `more` bytes behind it."""
    return message[:2] + (len(message) + more - 20 & 0xFFFF).to_bytes(2, "big") + message[4:]


def integrity(covered: bytes, key: bytes) -> bytes:
    """Of a message up to MESSAGE-INTEGRITY, which its length counts in (RFC 8489 14.5)."""
    return hmac.digest(key, with_length(covered, 24), "sha1")


def fingerprint(covered: bytes) -> bytes:
    return (zlib.crc32(with_length(covered, 8)) ^ 0x5354554E).to_bytes(4, "big")


def sealed(
    kind: int,
    attributes: Sequence[Attribute],
    key: bytes | None,
    after: Sequence[Attribute] = (),
    with_fingerprint: bool = True,
) -> bytes:
    """`after` stands between MESSAGE-INTEGRITY and FINGERPRINT; without a key there is no MESSAGE-INTEGRITY."""
    message = header(kind, 0) + b"".join(attribute(*each) for each in attributes)
    if key is not None:
        message += attribute(INTEGRITY, integrity(message, key))
    message += b"".join(attribute(*each) for each in after)
    if with_fingerprint:
        message += attribute(FINGERPRINT, fingerprint(message))
    return with_length(message)


def plausible(message: bytes) -> bytes:
    """With what a mutation breaks first made right: cookie, length, and a FINGERPRINT at the end."""
    message = with_length(message[:4] + COOKIE + message[8 : len(message) & ~3])
    if message[-8:-4] == bytes.fromhex("80280004"):
        message = message[:-4] + fingerprint(message[:-8])
    return message


def split(message: bytes) -> list[tuple[int, int, bytes]] | None:
    """(offset, type, value) of each attribute; None for what is no Binding message."""
    if len(message) < 20 or len(message) % 4 or int.from_bytes(message[2:4], "big") != len(message) - 20:
        return None
    if int.from_bytes(message[:2], "big") not in (REQUEST, INDICATION, SUCCESS, ERROR) or message[4:8] != COOKIE:
        return None
    found, at = [], 20
    while at < len(message):
        kind, size = int.from_bytes(message[at : at + 2], "big"), int.from_bytes(message[at + 2 : at + 4], "big")
        value = message[at + 4 : at + 4 + size]
        if len(value) != size:
            return None
        found.append((at, kind, value))
        at += 4 + (size + 3) // 4 * 4
    return found if len(found) <= 32 else None


def is_malformed(kind: int, value: bytes) -> bool:
    if kind == ERROR_CODE:
        return len(value) < 4 or value[2] % 8 not in (3, 4, 5, 6) or value[3] > 99
    if kind == USERNAME:
        return len(value) > 512
    return len(value) != FIXED_SIZES.get(kind, len(value))


def is_unknown(kind: int) -> bool:
    known = {USERNAME, INTEGRITY, ERROR_CODE, PRIORITY, USE_CANDIDATE} | KNOWN_AND_IGNORED
    return kind < 0x8000 and kind not in known


def parse(message: bytes) -> tuple[str, Fields | None]:
    """As `_fastpath.wire.binding.parse`, with the fields as a tuple."""
    found = split(message)
    if found is None or any(kind == FINGERPRINT for _, kind, _ in found[:-1]):
        return "malformed", None
    integrity_at = next((at for at, kind, _ in found if kind == INTEGRITY), 0)
    covered = [(kind, value) for at, kind, value in found if not integrity_at or at <= integrity_at]
    last = [(kind, value) for _, kind, value in found[-1:] if kind == FINGERPRINT]
    if any(is_malformed(*each) for each in covered + last):
        return "malformed", None
    fields = read_fields(message, integrity_at, covered)
    if last and last[0][1] != fingerprint(message[:-8]):
        return "bad_fingerprint", fields
    if fields[0] == REQUEST and fields[2] is None:
        return "no_username", fields
    if not integrity_at:
        return "no_integrity", fields
    return "unknown_required" if any(is_unknown(kind) for kind, _ in covered) else "ok", fields


def read_fields(message: bytes, integrity_at: int, covered: list[Attribute]) -> Fields:
    first = dict(reversed(covered))
    priority, error = first.get(PRIORITY), first.get(ERROR_CODE, bytes(4))
    return (
        int.from_bytes(message[:2], "big"),
        message[8:20],
        first.get(USERNAME),
        integrity_at,
        None if priority is None else int.from_bytes(priority, "big"),
        USE_CANDIDATE in first,
        CONTROLLING in first,
        CONTROLLED in first,
        error[2] % 8 * 100 + error[3],
    )


def verify(message: bytes, key: bytes) -> bool:
    _, fields = parse(message)
    if fields is None or not fields[3]:
        return False
    return integrity(message[: fields[3]], key) == message[fields[3] + 4 : fields[3] + 24]
