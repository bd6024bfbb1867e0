"""Whether libsrtp keeps its contexts where the hot thread would look for them (`_fastpath.srtp_contexts`).

Reading the contexts of several packets ahead saves a good part of what a packet costs, and needs to know private
structures of a library: a wheel of another day, another processor or another libc may have others. So they are looked
at first, on contexts made for it, through reads that cannot fail harder than with an exception: each block is an
allocation of the size expected, the stream has the packet's SSRC, the limit counts packets, the states of cipher and
HMAC change with each, the two that the HMAC's key became do not. What is in doubt is not read ahead, at no loss but
time.
"""

from __future__ import annotations

import operator
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from _fastpath.srtp_contexts import BYTES, OFFSETS
from transceiver.srtp import PROFILE_TABLE, SRTPError, SRTPKeys, SRTPPair

# libsrtp's numbers, and as which of the two kinds the cipher is read.
ALGORITHMS = {
    "SRTP_AEAD_AES_256_GCM": (7, "GCM"),
    "SRTP_AEAD_AES_128_GCM": (6, "GCM"),
    "SRTP_AES128_CM_SHA1_80": (1, "ICM"),
}
SSRC = bytes.fromhex("c0ffee17")
ROOM_MOST = 512  # more than that is no size, but what happens to stand there where the allocator is another
CHUNK_FLAGS = 7  # of an allocation's size, which stands before it


class Unexpected(Exception):
    pass


class Seen(NamedTuple):
    """What the end of a walk looks like: how many packets the key is good for, and the states."""

    limit: int
    changing: tuple[bytes, ...]  # with each packet
    fixed: tuple[bytes, ...] = ()


class Memory:
    """This process's own, read so that a wrong address is an OSError."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, address: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, address)
        if len(data) != size:
            raise Unexpected(f"{size} bytes at {address:#x}")
        return data

    def number(self, address: int) -> int:
        return int(struct.unpack("=Q", self.read(address, 8))[0])

    def block(self, address: int, size: int) -> int:
        """What the pointer there leads to, which must be an allocation of this size, or little more."""
        found = self.number(address)
        room = (self.number(found - 8) & ~CHUNK_FLAGS) - 8
        if not size <= room < size + ROOM_MOST:
            raise Unexpected(f"the block at {found:#x} has {room} bytes, not {size}")
        return found


@contextmanager
def own_memory() -> Iterator[Memory]:
    descriptor = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Memory(descriptor)
    finally:
        os.close(descriptor)


@cache
def contexts_known() -> bool:
    try:
        with own_memory() as memory:
            for profile in PROFILE_TABLE:
                _look_at(memory, profile)
    except (OSError, OverflowError, Unexpected, SRTPError):
        return False
    return True


def _look_at(memory: Memory, profile: str) -> None:
    size = PROFILE_TABLE[profile].key_bytes + PROFILE_TABLE[profile].salt_bytes
    pair = SRTPPair(SRTPKeys(profile, bytes(size), bytes(size)))
    for context in (pair.tx, pair.rx):
        if memory.number(memory.block(context, 8) + OFFSETS["LIST_STREAM"]):
            raise Unexpected("a stream before the first packet")
    seen = []
    for sequence in range(3):
        pair.unprotect(pair.protect(_packet(sequence)))
        seen.append([_walk(memory, context, profile) for context in (pair.tx, pair.rx)])
    for before, after in zip(seen, seen[1:], strict=False):
        for old, new in zip(before, after, strict=True):
            _compare(old, new)


def _compare(old: Seen, new: Seen) -> None:
    if new.limit != old.limit - 1 or any(map(operator.eq, old.changing, new.changing)):
        raise Unexpected("what should change with a packet does not")
    if new.fixed != old.fixed or len(set(new.fixed)) != len(new.fixed):
        raise Unexpected("the key's states are not two that stay as they are")


def _packet(sequence: int) -> bytes:
    return b"\x80\x6f" + sequence.to_bytes(2, "big") + bytes(4) + SSRC + bytes(80)


def _walk(memory: Memory, context: int, profile: str) -> Seen:
    """As the hot thread does it."""
    algorithm, kind = ALGORITHMS[profile]
    streams = memory.block(context, OFFSETS["LIST_STREAM"] + 8)
    stream = memory.block(streams + OFFSETS["LIST_STREAM"], BYTES["STREAM"])
    if memory.read(stream, 4) != SSRC:
        raise Unexpected("the stream has another SSRC")
    memory.block(stream + OFFSETS["STREAM_WINDOW"], 8)
    keys = memory.block(stream + OFFSETS["STREAM_KEYS"], BYTES["KEYS"])
    auth = memory.block(keys + OFFSETS["KEYS_AUTH"], OFFSETS["AUTH_STATE"] + 8)
    limit = memory.number(memory.block(keys + OFFSETS["KEYS_LIMIT"], 8))
    cipher = memory.block(keys, OFFSETS["CIPHER_ALGORITHM"] + 4)
    if memory.read(cipher + OFFSETS["CIPHER_ALGORITHM"], 4) != struct.pack("=I", algorithm):
        raise Unexpected("the cipher is another")
    if kind == "GCM":
        # The state stands behind the cipher, in one allocation.
        return Seen(limit, (_cipher(memory, memory.number(cipher + OFFSETS["CIPHER_STATE"]), kind),))
    state = memory.block(cipher + OFFSETS["CIPHER_STATE"], OFFSETS["ICM_EVP"] + 8)
    digest, *fixed = _hmac(memory, auth)
    return Seen(limit, (_cipher(memory, state, kind), digest), tuple(fixed))


def _cipher(memory: Memory, state: int, kind: str) -> bytes:
    evp = memory.block(state + OFFSETS[f"{kind}_EVP"], BYTES["EVP"])
    return memory.read(memory.block(evp + OFFSETS["EVP_CIPHER"], BYTES[kind]), BYTES[kind])


def _hmac(memory: Memory, auth: int) -> list[bytes]:
    """The three SHA-1 states: the packet's, and the two that the key became."""
    state = memory.block(auth + OFFSETS["AUTH_STATE"], OFFSETS["HMAC_MAC"] + 8)
    mac = memory.block(state + OFFSETS["HMAC_MAC"], OFFSETS["MAC_PROVIDER"] + 8)
    provider = memory.block(mac + OFFSETS["MAC_PROVIDER"], BYTES["PROVIDER"])
    hmac = memory.block(provider + OFFSETS["PROVIDER_HMAC"], OFFSETS["HMAC_OUTER"] + 8)
    digests = [
        memory.block(hmac + OFFSETS[name], BYTES["DIGEST"]) for name in ("HMAC_DIGEST", "HMAC_INNER", "HMAC_OUTER")
    ]
    hashes = [memory.block(digest + OFFSETS["DIGEST_SHA1"], BYTES["SHA1"]) for digest in digests]
    return [memory.read(each, BYTES["SHA1"]) for each in hashes]
