"""A peer that says whatever a test wants: it joins an association of ours by hand, then sends chunks of any content.

What ours answers is parsed by aiortc's parser into `answers`. Packets are handed over at once, no link, no loss.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from aiortc import rtcsctptransport as sctp
from google_crc32c import value as crc32c

from tests.support.sctp_pair import Ours
from transceiver.sctp_budget import PROCESS, Budget

TAG = 0x01020304
FIRST_TSN = 1000
FIRST, LAST, UNORDERED = 2, 1, 4
WHOLE = FIRST | LAST


def chunk(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def parameter(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, 4 + len(value)) + value + bytes(-len(value) % 4)


def data(tsn: int, payload: bytes, *, stream: int = 0, sequence: int = 0, ppid: int = 53, flags: int = WHOLE) -> bytes:
    return chunk(0, struct.pack("!LHHL", tsn & 0xFFFFFFFF, stream, sequence, ppid) + payload, flags)


def init(tag: int = TAG, streams: int = 65535, tsn: int = FIRST_TSN, parameters: bytes = b"") -> bytes:
    return chunk(1, struct.pack("!LLHHL", tag, 1 << 20, streams, streams, tsn) + parameters)


def sack(cumulative: int, gaps: Iterable[tuple[int, int]] = (), window: int = 1 << 20) -> bytes:
    blocks = b"".join(struct.pack("!HH", *gap) for gap in gaps)
    return chunk(3, struct.pack("!LLHH", cumulative & 0xFFFFFFFF, window, len(blocks) // 4, 0) + blocks)


def forward_tsn(tsn: int, streams: Iterable[tuple[int, int]] = ()) -> bytes:
    return chunk(192, struct.pack("!L", tsn) + b"".join(struct.pack("!HH", *each) for each in streams))


def reset(sequence: int, last_tsn: int, *streams: int) -> bytes:
    return chunk(130, parameter(13, struct.pack(f"!LLL{len(streams)}H", sequence, 0, last_tsn, *streams)))


def opening(label: bytes = b"x", protocol: bytes = b"", kind: int = 0, reliability: int = 0) -> bytes:
    return struct.pack("!BBHLHH", 3, kind, 0, reliability, len(label), len(protocol)) + label + protocol


def seal(head: bytes, chunks: bytes) -> bytes:
    """A packet with the checksum it must have."""
    return head + struct.pack("<L", crc32c(head + bytes(4) + chunks)) + chunks


def packet(tag: int, *chunks: bytes) -> bytes:
    return seal(struct.pack("!HHL", 5000, 5000, tag), b"".join(chunks))


class Puppet:
    """Ours is the DTLS server unless told otherwise, so that the puppet's streams are even."""

    def __init__(self, role: str = "server", budget: Budget = PROCESS) -> None:
        self.sent: list[bytes] = []
        self.ours = Ours(role, self.sent.append, budget=budget)
        self.tag = 0
        self.tsn = FIRST_TSN
        self.their_tsn = 0
        self.cookie = b""

    def join(self) -> Puppet:
        self.ours.channels.start()
        first = self.answers()[0]
        assert isinstance(first, sctp.InitChunk)
        self.tag, self.their_tsn = first.initiate_tag, first.initial_tsn
        self.say(init(), tag=0)
        self.cookie = next(value for kind, value in self.answers()[0].params if kind == 7)  # type: ignore[attr-defined]
        self.say(chunk(10, self.cookie))
        assert [type(each) for each in self.answers()] == [sctp.CookieAckChunk]
        return self

    def packet(self, *chunks: bytes, tag: int | None = None) -> bytes:
        return packet(self.tag if tag is None else tag, *chunks)

    def say(self, *chunks: bytes, tag: int | None = None) -> None:
        self.ours.receive(self.packet(*chunks, tag=tag))

    def tell(self, payload: bytes, *, stream: int = 0, sequence: int = 0, ppid: int = 53, flags: int = WHOLE) -> None:
        """One DATA chunk with the next TSN."""
        self.say(data(self.tsn, payload, stream=stream, sequence=sequence, ppid=ppid, flags=flags))
        self.tsn += 1

    def open(self, stream: int = 0, label: bytes = b"x") -> None:
        self.tell(opening(label), stream=stream, ppid=50)

    def answers(self) -> list[sctp.Chunk]:
        """What came since the last call."""
        found = [each for packet in self.sent for each in sctp.parse_packet(packet)[3]]
        self.sent.clear()
        return found

    def is_served(self) -> bool:
        """Whether a message on an open stream still arrives; the next one in order on stream 0."""
        before = len(self.ours.messages)
        self.tell(b"still there?", flags=WHOLE | UNORDERED)
        return len(self.ours.messages) == before + 1
