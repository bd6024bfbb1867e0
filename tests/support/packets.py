"""Datagrams for tests, built from the RFCs: STUN checks and answers, media, DTLS, and the internal leg's frames.

Nothing here is parsed, and nothing of `_fastpath` is used: what is built is what a browser or a transceiver would
send. Content that the relay does not look at (MESSAGE-INTEGRITY, media payload) is left out or arbitrary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support import oracle
from tests.support.oracle import Address

VECTORS = Path(__file__).resolve().parents[1] / "vectors"

BINDING_REQUEST, BINDING_INDICATION, BINDING_SUCCESS, BINDING_ERROR = 0x0001, 0x0011, 0x0101, 0x0111
USERNAME, PRIORITY, USE_CANDIDATE, SOFTWARE, ICE_CONTROLLING = 0x0006, 0x0024, 0x0025, 0x8022, 0x802A
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")

Attribute = tuple[int, bytes]

RTP = bytes.fromhex("806f00010000000000001234") + bytes(160)
RTCP = bytes.fromhex("80c9000100001234")
DTLS = bytes.fromhex("16fefd0000000000000000000a") + bytes(10)


def load_vectors(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)


def stun(kind: int, attributes: Sequence[Attribute] = (), cookie: bytes = oracle.COOKIE) -> bytes:
    body = b"".join(attribute(*each) for each in attributes)
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + cookie + TRANSACTION + body


def check(token: str | bytes, client_ufrag: str = "h6vY", *more: Attribute) -> bytes:
    """A Binding Request as browsers send it: USERNAME first."""
    text = token.encode() if isinstance(token, str) else token
    return stun(
        BINDING_REQUEST, [(USERNAME, text + b":" + client_ufrag.encode()), (PRIORITY, b"\x6e\x00\x01\xff"), *more]
    )


def answer(kind: int = BINDING_SUCCESS) -> bytes:
    return stun(kind, [(0x0020, bytes.fromhex("0001a147e112a643"))])


def framed(client: Address, local: Address, payload: bytes) -> bytes:
    """As an owner puts it on the internal leg."""
    return oracle.spp_pack(client, local) + payload


def truncations(datagram: bytes) -> Iterator[bytes]:
    """Every proper prefix."""
    return (datagram[:length] for length in range(len(datagram)))


def extensions(datagram: bytes, most: int = 9) -> Iterator[bytes]:
    """With 1 to `most` trailing bytes, zeros and others."""
    return (datagram + fill * count for count in range(1, most + 1) for fill in (b"\x00", b"\xff"))
