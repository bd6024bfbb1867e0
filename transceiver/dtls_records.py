"""DTLS 1.2 records as bytes: cut out of datagrams, packed into them, sealed and opened (RFC 6347, 4.1; RFC 5288).

`transceiver.dtls` has OpenSSL make the handshake; what stands around it is here. A record gets its number only when
it leaves: what is sent again needs a number of its own, or the peer's replay window drops it (4.1.2.6). That takes
the keys of epoch 1, and as they are here anyway, no OpenSSL object has to outlive the handshake: at 60-80 KB each
they would be most of a session's memory. Epoch 1 is AES-GCM always, in the suites that `SUITES` names.

Rules: no clock, no sockets, no OpenSSL; hostile bytes are cut off or None, never an exception. A cipher object takes
2.5 KB and 1.6 us to make: it is made for each record, not kept for each session. Called by `transceiver.dtls` only.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23
DTLS_1_2 = 0xFEFD

# Type, version, epoch (16 bits) and number (48 bits) in one, length of the fragment.
_HEADER = struct.Struct(">BHQH")
_ASSOCIATED = struct.Struct(">QBHH")  # RFC 5246, 6.2.3.3: epoch and number, type, version, length of the plain text
NUMBER_BITS = 48
MAX_FRAGMENT_BYTES = 2**14 + 2048

EXPLICIT_NONCE_BYTES = 8  # RFC 5288, 3: the salt is not sent, this part is
SALT_BYTES = 4
TAG_BYTES = 16
REPLAY_WINDOW = 64

# Name in OpenSSL -> bytes of a key, hash of the PRF. ECDSA for our own certificate, RSA for peers that have such a one.
SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": (16, "sha256"),
    "ECDHE-RSA-AES128-GCM-SHA256": (16, "sha256"),
    "ECDHE-ECDSA-AES256-GCM-SHA384": (32, "sha384"),
    "ECDHE-RSA-AES256-GCM-SHA384": (32, "sha384"),
}


class Record(NamedTuple):
    content_type: int
    version: int
    stamp: int
    """Epoch and number as the header has them in one word, and as the nonce takes them."""
    fragment: bytes

    @property
    def epoch(self) -> int:
        return self.stamp >> NUMBER_BITS

    def encode(self) -> bytes:
        return _HEADER.pack(self.content_type, self.version, self.stamp, len(self.fragment)) + self.fragment


class RecordKey(NamedTuple):
    """What one side seals its records of epoch 1 with."""

    key: bytes
    salt: bytes

    def __repr__(self) -> str:
        return "RecordKey()"


def cut(datagram: bytes) -> list[Record]:
    """The whole records from the beginning on; ends silently at the first that is none (4.1.2.7)."""
    found = []
    at = _HEADER.size
    while at <= len(datagram):
        content_type, version, stamp, length = _HEADER.unpack_from(datagram, at - _HEADER.size)
        known = CHANGE_CIPHER_SPEC <= content_type <= APPLICATION_DATA and version >> 8 == 0xFE
        if not known or length > min(MAX_FRAGMENT_BYTES, len(datagram) - at):
            break
        found.append(Record(content_type, version, stamp, datagram[at : at + length]))
        at += length + _HEADER.size
    return found


def pack(records: Iterable[bytes], mtu: int) -> Iterator[bytes]:
    """Whole records into as few datagrams as hold them in order; one above the MTU goes alone."""
    datagram = b""
    for record in records:
        if datagram and len(datagram) + len(record) > mtu:
            yield datagram
            datagram = b""
        datagram += record
    if datagram:
        yield datagram


def record_keys(master: bytes, client_random: bytes, server_random: bytes, suite: str) -> tuple[RecordKey, RecordKey]:
    """The client's and the server's, from the master secret (RFC 5246, 6.3)."""
    key_bytes, digest = SUITES[suite]
    block = _expand(master, b"key expansion" + server_random + client_random, 2 * (key_bytes + SALT_BYTES), digest)
    salts = block[2 * key_bytes :]
    return (
        RecordKey(block[:key_bytes], salts[:SALT_BYTES]),
        RecordKey(block[key_bytes : 2 * key_bytes], salts[SALT_BYTES:]),
    )


def _expand(secret: bytes, seed: bytes, length: int, digest: str) -> bytes:
    """P_hash of RFC 5246, 5."""
    output, link = b"", seed
    while len(output) < length:
        link = hmac.digest(secret, link, digest)
        output += hmac.digest(secret, link + seed, digest)
    return output[:length]


def unseal(record: Record, key: RecordKey) -> bytes | None:
    """What a sealed record says, if it was made with this key."""
    plain_bytes = len(record.fragment) - EXPLICIT_NONCE_BYTES - TAG_BYTES
    if plain_bytes < 0:
        return None
    nonce = key.salt + record.fragment[:EXPLICIT_NONCE_BYTES]
    try:
        sealed = record.fragment[EXPLICIT_NONCE_BYTES:]
        associated = _ASSOCIATED.pack(record.stamp, record.content_type, record.version, plain_bytes)
        return AESGCM(key.key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        return None


class RecordWriter:
    """Numbers what leaves, and seals it when it is of epoch 1."""

    __slots__ = ("_next", "key")

    def __init__(self) -> None:
        self.key: RecordKey | None = None
        self._next = [0, 1 << NUMBER_BITS]

    def write(self, record: Record) -> bytes:
        """As bytes, with a number that was never used; that of `record` itself only tells its epoch."""
        content_type, version, stamp, fragment = record
        epoch = stamp >> NUMBER_BITS
        stamp = self._next[epoch]
        self._next[epoch] += 1
        if epoch:
            # Epoch and number are the nonce, as RFC 5288, 3 proposes for DTLS: unique as long as they are.
            explicit = stamp.to_bytes(EXPLICIT_NONCE_BYTES, "big")
            assert self.key is not None
            associated = _ASSOCIATED.pack(stamp, content_type, version, len(fragment))
            fragment = explicit + AESGCM(self.key.key).encrypt(self.key.salt + explicit, fragment, associated)
        return _HEADER.pack(content_type, version, stamp, len(fragment)) + fragment


class RecordReader:
    """Opens the peer's records of epoch 1, each once (4.1.2.6)."""

    __slots__ = ("_key", "_newest", "_seen")

    def __init__(self, key: RecordKey) -> None:
        self._key = key
        self._newest = 1 << NUMBER_BITS
        self._seen = 0  # bit n: newest - n was here

    def open(self, record: Record) -> bytes | None:
        """None for another epoch, a repeated or too old number, and whatever the peer did not seal."""
        behind = self._newest - record.stamp
        if record.epoch != 1 or behind >= REPLAY_WINDOW or (behind >= 0 and self._seen >> behind & 1):
            return None
        plain = unseal(record, self._key)
        if plain is not None:
            self._mark(behind)
        return plain

    def _mark(self, behind: int) -> None:
        if behind < 0:
            ahead = min(-behind, REPLAY_WINDOW)
            self._newest -= behind
            self._seen = self._seen << ahead & (1 << REPLAY_WINDOW) - 1
            behind = 0
        self._seen |= 1 << behind
