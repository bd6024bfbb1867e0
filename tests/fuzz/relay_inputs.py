"""What fuzz_relay feeds a relay: tokens of a few sessions, owners and keys, and datagrams made of them, good and bad.

All is made once; an input only chooses. `owner_of` is the test's own knowledge of which tokens are authentic: those
minted here, since nobody finds another one within the age of the universe.
"""

from __future__ import annotations

from functools import lru_cache

from _fastpath.wire.token import Keyring
from tests.support import oracle, packets
from tests.support.harness import BOUND, BOUND6, KEYS, OTHER, OWNER, RETIRED, STRANGER, WILDCARD, WILDCARD6, token
from tests.support.oracle import Address

FOREIGN: Address = ("10.2.0.1", 4000)
OWNER6: Address = ("fd00:1::3", 4000)
NEW = {5: bytes(range(40, 72))}
RINGS = (KEYS, KEYS | NEW, NEW, {3: KEYS[3]}, KEYS | RETIRED, KEYS, KEYS | NEW)
KEYRINGS = tuple(map(Keyring, RINGS))

EDGE: Address = ("10.1.255.255", 1)  # of the backends' network, just so
# (owner, key id): sessions of one owner, of two that contend, of keys that come and go, of owners not allowed.
MINTED = [
    *[(OWNER, 0), (OWNER, 0), (OTHER, 0), (OTHER, 0), (OWNER, 3), (OTHER, 5), (OWNER, 6), (OWNER6, 0), (OWNER6, 3)],
    *[(FOREIGN, 0), (("10.1.0.1", 0), 0), (EDGE, 5)],
]
TEXTS = [token(owner, 1 + at, key_id, KEYS | NEW).encode() for at, (owner, key_id) in enumerate(MINTED)]
AUTHENTIC = {text: (key_id, owner) for text, (owner, key_id) in zip(TEXTS, MINTED, strict=True)}
FORGED = [b"A" + TEXTS[0][1:], TEXTS[0][:-3] + b"AAA", TEXTS[7][:-1] + b"B", b"IYICo2VW"]

CHECKS = [packets.check(text) for text in TEXTS + FORGED + 3 * TEXTS[:3]]
ATTRIBUTES: list[packets.Attribute] = [(packets.SOFTWARE, b"")] * 17
OTHERS = [
    *[packets.RTP, packets.RTCP, packets.DTLS, packets.answer(), packets.stun(packets.BINDING_INDICATION)],
    *[b"", b"\x80", b"\x7fGET", bytes(40), packets.RTP + bytes(1984 - 172), packets.RTP + bytes(1985 - 172)],
    packets.stun(packets.BINDING_REQUEST),
    packets.stun(packets.BINDING_REQUEST, [(packets.USERNAME, TEXTS[0] + b":" + b"x" * 600)]),
    packets.stun(packets.BINDING_REQUEST, [*ATTRIBUTES, (packets.USERNAME, TEXTS[0] + b":x")]),
    packets.stun(packets.BINDING_REQUEST, [*ATTRIBUTES[:3], (packets.USERNAME, TEXTS[1] + b":x")]),
]
PAYLOADS = [packets.answer(), packets.answer(), *OTHERS, packets.answer(packets.BINDING_ERROR)]

# As many as a token may have flows and some more; then some that nobody may have.
CLIENTS4: list[Address] = [
    *[(f"198.51.{100 + host // 5}.{host}", 50000) for host in range(1, 11)],
    *[("198.51.100.1", 50001), ("198.51.100.1", 0), ("169.254.1.1", 50000)],
]
CLIENTS6: list[Address] = [
    *[(f"2001:db8:7::{host}", 50000) for host in range(1, 7)],
    *[("2001:db8:8::1", 50000), ("2001:db8:8::1", 0), ("fe80::1", 50000)],
]
LOCALS = {
    WILDCARD: [("192.0.2.1", 3478), ("192.0.2.2", 3478), ("192.0.2.255", 3478)],
    BOUND: [("192.0.2.9", 3479)],
    WILDCARD6: [("2001:db8::1", 3478), ("2001:db8::2", 3478), ("ff02::1", 3478)],
    BOUND6: [("2001:db8::9", 443)],
}
SOCKETS = (WILDCARD, WILDCARD, WILDCARD, WILDCARD, WILDCARD, BOUND, WILDCARD6, BOUND6)
SENDERS = {
    4: (OWNER, OWNER, OTHER, OTHER, STRANGER, FOREIGN, EDGE),
    6: (OWNER, OWNER6, OTHER, OWNER6, STRANGER, FOREIGN, EDGE),
}


def place(chosen: int) -> tuple[int, Address]:
    """(socket, local address) of a byte; the first ones more often than not."""
    socket = SOCKETS[chosen & 7]
    at = max(0, (chosen >> 3) % 6 - 3)
    return socket, LOCALS[socket][min(at, len(LOCALS[socket]) - 1)]


SOCKET_OF = {local: socket for socket, locals_ in LOCALS.items() for local in locals_}
PLACES = [place(chosen) for chosen in range(64)]


@lru_cache(maxsize=4096)
def token_in(datagram: bytes) -> bytes | None:
    """The token a check bears, by the oracle's reading."""
    result, username = oracle.username_of(datagram)
    return oracle.token_of(username) if result == "ok" else None


@lru_cache(maxsize=4096)
def header(client: Address, local: Address) -> bytes:
    return oracle.spp_pack(client, local)


@lru_cache(maxsize=4096)
def flow_named(head: bytes) -> tuple[Address, Address] | None:
    """(client, local) that the first 38 bytes of a datagram name."""
    opened = oracle.spp_unpack(head + b"\0")
    return opened[:2] if opened else None
