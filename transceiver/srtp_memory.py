"""Whether libsrtp keeps its contexts where the hot thread would look for them (`_fastpath.srtp_contexts`).

Reading the contexts of several packets ahead saves a good part of what a packet costs, and needs to know private
structures of a library: a wheel of another day, another processor or another libc may have others. So they are looked
at first, on contexts made for it, through reads that cannot fail harder than with an exception: each block is an
allocation of the size expected, the stream has the packet's SSRC, the limit counts packets, the cipher's state changes
with each. What is in doubt is not read ahead, at no loss but time.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from _fastpath.srtp_contexts import BYTES, OFFSETS
from transceiver.srtp import PROFILE_TABLE, SRTPError, SRTPKeys, SRTPPair

# libsrtp's numbers, and whether the cipher is one of those that are read to their end.
ALGORITHMS = {
    "SRTP_AEAD_AES_256_GCM": (7, True),
    "SRTP_AEAD_AES_128_GCM": (6, True),
    "SRTP_AES128_CM_SHA1_80": (1, False),
}
SSRC = bytes.fromhex("c0ffee17")
ROOM_MOST = 512  # more than that is no size, but what happens to stand there where the allocator is another
CHUNK_FLAGS = 7  # of an allocation's size, which stands before it


class Unexpected(Exception):
    pass


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
        for (limit, state), (next_limit, next_state) in zip(before, after, strict=True):
            if next_limit != limit - 1 or (state == next_state and ALGORITHMS[profile][1]):
                raise Unexpected("what should change with a packet does not")


def _packet(sequence: int) -> bytes:
    return b"\x80\x6f" + sequence.to_bytes(2, "big") + bytes(4) + SSRC + bytes(80)


def _walk(memory: Memory, context: int, profile: str) -> tuple[int, bytes]:
    """As the hot thread does it: the key's limit and the cipher's state, which a packet changes."""
    algorithm, is_gcm = ALGORITHMS[profile]
    streams = memory.block(context, OFFSETS["LIST_STREAM"] + 8)
    stream = memory.block(streams + OFFSETS["LIST_STREAM"], BYTES["STREAM"])
    if memory.read(stream, 4) != SSRC:
        raise Unexpected("the stream has another SSRC")
    memory.block(stream + OFFSETS["STREAM_WINDOW"], 8)
    keys = memory.block(stream + OFFSETS["STREAM_KEYS"], BYTES["KEYS"])
    memory.block(keys + OFFSETS["KEYS_AUTH"], 8)
    limit = memory.number(memory.block(keys + OFFSETS["KEYS_LIMIT"], 8))
    cipher = memory.block(keys, OFFSETS["CIPHER_ALGORITHM"] + 4)
    if memory.read(cipher + OFFSETS["CIPHER_ALGORITHM"], 4) != struct.pack("=I", algorithm):
        raise Unexpected("the cipher is another")
    if not is_gcm:
        return limit, b""
    # The state stands behind the cipher, in one allocation.
    state = memory.number(cipher + OFFSETS["CIPHER_STATE"])
    evp = memory.block(state + OFFSETS["STATE_EVP"], BYTES["EVP"])
    return limit, memory.read(memory.block(evp + OFFSETS["EVP_CIPHER"], BYTES["CIPHER"]), BYTES["CIPHER"])
