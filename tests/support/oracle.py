"""The wire formats once more, in plain Python: what the compiled parsers are compared with.

Written from docs/wire.md and the RFCs, not from the Cython, and slow on purpose: bytes are sliced, numbers are big
integers, nothing is shared with `_fastpath`; what is asked again and again is remembered. HKDF is the one of the
`cryptography` package, so the key schedule too has a second implementation. Rules: no import of `_fastpath`; a
disagreement is a bug on one of the two sides until docs/wire.md says which. The relay's decisions, made of these parts,
are in tests/support/model.py.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Address = tuple[str, int]

MASK = (1 << 64) - 1
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
COOKIE = bytes.fromhex("2112a442")
SPP_MAGIC = bytes.fromhex("56ec")
SPP_BYTES = 38
TOKEN_VERSION = 1

# --- SipHash (Aumasson, Bernstein 2012) ---


def _rotl(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & MASK


def _sip_round(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & MASK
    v[1] = _rotl(v[1], 13) ^ v[0]
    v[0] = _rotl(v[0], 32)
    v[2] = (v[2] + v[3]) & MASK
    v[3] = _rotl(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & MASK
    v[3] = _rotl(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & MASK
    v[1] = _rotl(v[1], 17) ^ v[2]
    v[2] = _rotl(v[2], 32)


@lru_cache(maxsize=1024)
def siphash(key: bytes, data: bytes, c_rounds: int, d_rounds: int) -> int:
    """SipHash-c-d as the paper describes it: v from the key, 8-byte words, the last with the length in its top byte."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        for _ in range(c_rounds):
            _sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(d_rounds):
        _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def siphash_2_4(key: bytes, data: bytes) -> int:
    return siphash(key, data, 2, 4)


def siphash_1_3(key: bytes, data: bytes) -> int:
    return siphash(key, data, 1, 3)


# --- the route token ---


@dataclass(frozen=True)
class Fields:
    key_id: int
    owner: Address
    cluster: int
    generation: int
    random: bytes


@lru_cache(maxsize=64)
def subkeys(route_key: bytes) -> tuple[bytes, bytes]:
    """(tag key, stream key)."""
    okm = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"ufrag route token 1").derive(route_key)
    return okm[:16], okm[16:]


def keystream(stream_key: bytes, tag: bytes, length: int) -> bytes:
    blocks = [siphash_2_4(stream_key, tag + bytes([i])).to_bytes(8, "little") for i in range((length + 7) // 8)]
    return b"".join(blocks)[:length]


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def to_text(body: bytes) -> str:
    """Base64 without padding, by bits: the last character's spare bits are zero."""
    bits = "".join(f"{byte:08b}" for byte in body)
    bits += "0" * (-len(bits) % 6)
    return "".join(ALPHABET[int(bits[at : at + 6], 2)] for at in range(0, len(bits), 6))


def from_text(text: str) -> bytes | None:
    """None for a character that is no ice-char and for spare bits that are not zero."""
    if any(character not in ALPHABET for character in text):
        return None
    bits = "".join(f"{ALPHABET.index(character):06b}" for character in text)
    whole = len(bits) // 8 * 8
    if "1" in bits[whole:]:
        return None
    return bytes(int(bits[at : at + 8], 2) for at in range(0, whole, 8))


def plain_payload(fields: Fields) -> bytes:
    address = ipaddress.ip_address(fields.owner[0])
    form = {4: 0, 6: 1}[address.version]
    head = form << 22 | fields.cluster << 12 | fields.generation
    return head.to_bytes(3, "big") + address.packed + fields.owner[1].to_bytes(2, "big") + fields.random


def seal(route_key: bytes, head: int, payload: bytes) -> str:
    """The token of any payload, well-formed or not: how tests make what an honest mint never would."""
    tag_key, stream_key = subkeys(route_key)
    tag = siphash_2_4(tag_key, bytes([head]) + payload).to_bytes(8, "little")
    return ALPHABET[head] + to_text(tag + xor(payload, keystream(stream_key, tag, len(payload))))


def mint(route_key: bytes, fields: Fields) -> str:
    return seal(route_key, TOKEN_VERSION << 3 | fields.key_id, plain_payload(fields))


def verify(keys: dict[int, bytes], token: bytes) -> tuple[str, Fields | None]:
    """(result, fields when verified), in the order docs/wire.md gives."""
    text = token.decode("latin-1")
    if len(text) not in (32, 48) or text[0] not in ALPHABET:
        return "malformed", None
    body = from_text(text[1:])
    if body is None:
        return "malformed", None
    head = ALPHABET.index(text[0])
    version, key_id = head >> 3, head & 7
    if version != TOKEN_VERSION:
        return "other_version", None
    if key_id not in keys:
        return "unknown_key", None
    tag_key, stream_key = subkeys(keys[key_id])
    tag, hidden = body[:8], body[8:]
    payload = xor(hidden, keystream(stream_key, tag, len(hidden)))
    if siphash_2_4(tag_key, bytes([head]) + payload).to_bytes(8, "little") != tag:
        return "forged", None
    if payload[0] >> 6 != (0 if len(payload) == 15 else 1):
        return "malformed", None
    return "verified", read_fields(key_id, payload)


def read_fields(key_id: int, payload: bytes) -> Fields:
    head = int.from_bytes(payload[:3], "big")
    owner = (address_text(payload[3:-8]), int.from_bytes(payload[-8:-6], "big"))
    return Fields(key_id, owner, head >> 12 & 0x3FF, head & 0xFFF, payload[-6:])


def claimed_key_id(token: bytes) -> int:
    """What a token's first character says, for the counters; 7 when it says nothing."""
    return ALPHABET.index(chr(token[0])) & 7 if chr(token[0]) in ALPHABET else 7


# --- demux and STUN ---


def kind_of(datagram: bytes) -> str:
    """RFC 7983, with the least length each protocol's header has."""
    if not datagram:
        return "too_short"
    first = datagram[0]
    ranges = ((0, 3, 20, "stun"), (20, 63, 13, "dtls"), (128, 191, 8, "rtp"))
    for low, high, least, name in ranges:
        if low <= first <= high:
            if len(datagram) < least:
                return "too_short"
            return "bad_cookie" if name == "stun" and datagram[4:8] != COOKIE else name
    return "unknown"


def is_request(message: bytes) -> bool:
    return message[:2] == b"\x00\x01"


def is_success(message: bytes) -> bool:
    return len(message) >= 20 and message[:2] == b"\x01\x01" and message[4:8] == COOKIE


def username_of(message: bytes) -> tuple[str, bytes]:
    """(result, USERNAME) of a Binding Request: the first USERNAME among the first 16 attributes."""
    if kind_of(message) != "stun" or not is_request(message):
        return "malformed", b""
    rest = message[20:]
    if int.from_bytes(message[2:4], "big") != len(rest) or len(rest) % 4:
        return "malformed", b""
    for _ in range(16):
        if not rest:
            return "no_username", b""
        kind, length = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")
        if length > len(rest) - 4:
            return "malformed", b""
        if kind == 0x0006:
            return ("ok", rest[4 : 4 + length]) if length <= 512 else ("long_username", b"")
        rest = rest[4 + (length + 3) // 4 * 4 :]
    return ("malformed", b"") if rest else ("no_username", b"")


def token_of(username: bytes) -> bytes | None:
    """What stands before the colon when it has a token's length."""
    return next((username[:length] for length in (32, 48) if username[length : length + 1] == b":"), None)


# --- addresses and the internal leg (Simple Proxy Protocol) ---


@lru_cache(maxsize=1024)
def mapped(address: str) -> bytes:
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes.fromhex("00000000000000000000ffff") + parsed.packed


@lru_cache(maxsize=1024)
def address_text(packed: bytes) -> str:
    """4 or 16 bytes; IPv4-mapped ones as IPv4."""
    address = ipaddress.ip_address(packed)
    return str(address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else str(address)


@lru_cache(maxsize=1024)
def answerable(address: str, port: int) -> bool:
    """Whether a client can have this address: not 0/8, multicast, 240/4, broadcast, link-local, `::`; not port 0."""
    parsed = ipaddress.ip_address(address_text(mapped(address)))
    if port == 0 or parsed.is_multicast or parsed.is_link_local or parsed.is_unspecified:
        return False
    return parsed.version == 6 or not (parsed.packed[0] == 0 or parsed.packed[0] >= 224)


def spp_key(client: Address, local: Address) -> bytes:
    return mapped(client[0]) + mapped(local[0]) + client[1].to_bytes(2, "big") + local[1].to_bytes(2, "big")


def spp_pack(client: Address, local: Address) -> bytes:
    return SPP_MAGIC + spp_key(client, local)


def spp_unpack(datagram: bytes) -> tuple[Address, Address, bytes] | None:
    if len(datagram) <= SPP_BYTES or datagram[:2] != SPP_MAGIC:
        return None
    client = address_text(datagram[2:18]), int.from_bytes(datagram[34:36], "big")
    local = address_text(datagram[18:34]), int.from_bytes(datagram[36:38], "big")
    return client, local, datagram[SPP_BYTES:]
