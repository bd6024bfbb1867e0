"""Verifies and mints route tokens; the format stands in docs/wire.md, the types in token.pxd.

Rules: `token_verify` runs without the GIL on hostile text and touches nothing but its arguments; the tag is compared without an
early exit; keys enter as subkeys, so the route key itself never reaches the hot path. `Keyring` is what Python holds.
"""

import base64
import hashlib
import hmac
import ipaddress
import os
from dataclasses import dataclass

from libc.string cimport memcpy, memset

from _fastpath.siphash cimport load_le64, siphash24
from _fastpath.wire.address cimport map_ipv4

cdef const char* ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

cdef enum:
    NOT_ICE_CHAR = 0xff
    BODY_MAX = 35                     # tag and the longer payload

cdef uint8_t SEXTET[256]


cdef void fill_sextets() noexcept:
    memset(SEXTET, NOT_ICE_CHAR, 256)
    for value in range(64):
        SEXTET[<uint8_t>ALPHABET[value]] = value


fill_sextets()


cdef bint decode(const uint8_t* text, size_t length, uint8_t* body) noexcept nogil:
    """Unpadded base64 of 4k+3 characters to 3k+2 bytes; refuses other characters and non-zero pad bits (one payload, one string)."""
    cdef uint8_t invalid = 0
    cdef uint8_t a, b, c, d = 0
    cdef size_t i = 0
    while i + 4 <= length:
        a = SEXTET[text[i]]
        b = SEXTET[text[i + 1]]
        c = SEXTET[text[i + 2]]
        d = SEXTET[text[i + 3]]
        invalid |= a | b | c | d
        body[0] = <uint8_t>(a << 2 | b >> 4)
        body[1] = <uint8_t>(b << 4 | c >> 2)
        body[2] = <uint8_t>(c << 6 | d)
        body += 3
        i += 4
    a = SEXTET[text[i]]
    b = SEXTET[text[i + 1]]
    c = SEXTET[text[i + 2]]
    body[0] = <uint8_t>(a << 2 | b >> 4)
    body[1] = <uint8_t>(b << 4 | c >> 2)
    return ((invalid | a | b | c) & 0xc0) == 0 and (c & 3) == 0


cdef uint64_t make_tag(const TokenKey* key, uint8_t head, const uint8_t* payload, size_t length) noexcept nogil:
    cdef uint8_t text[1 + PAYLOAD_IPV6]
    text[0] = head
    memcpy(text + 1, payload, length)
    return siphash24(&key.tag, text, 1 + length)


cdef void apply_stream(const TokenKey* key, uint64_t tag, uint8_t* payload, size_t length) noexcept nogil:
    """XORs the keystream of `tag` over the payload; the same call hides and uncovers."""
    cdef uint8_t block[TAG_BYTES + 1]
    cdef uint64_t word = 0
    cdef size_t i
    memcpy(block, &tag, TAG_BYTES)
    for i in range(length):
        if i & 7 == 0:
            block[TAG_BYTES] = <uint8_t>(i >> 3)
            word = siphash24(&key.stream, block, TAG_BYTES + 1)
        payload[i] ^= <uint8_t>word
        word >>= 8


cdef bint read_payload(const uint8_t* payload, size_t length, Route* route) noexcept nogil:
    """The fields of an authentic payload; False for a form this version does not know."""
    cdef uint8_t form = payload[0] >> 6
    cdef size_t address_bytes = length - FIELD_BYTES - 2 - RANDOM_BYTES
    if form != (FORM_IPV4 if length == PAYLOAD_IPV4 else FORM_IPV6):
        return False
    route.cluster = <uint16_t>((payload[0] & 0x3f) << 4 | payload[1] >> 4)
    route.generation = <uint16_t>((payload[1] & 0x0f) << 8 | payload[2])
    if form == FORM_IPV4:
        map_ipv4(route.owner.address, payload + FIELD_BYTES)
    else:
        memcpy(route.owner.address, payload + FIELD_BYTES, 16)
    memcpy(route.owner.port, payload + FIELD_BYTES + address_bytes, 2)
    route.nonce = 0
    memcpy(&route.nonce, payload + FIELD_BYTES + address_bytes + 2, RANDOM_BYTES)
    return True


cdef int token_key_id(const uint8_t* text) noexcept nogil:
    """The key id a token claims (0..7), for counting; -1 is never returned: what is no ice-char counts as 7."""
    return SEXTET[text[0]] & 7


cdef TokenResult token_verify(const TokenKeys* keys, const uint8_t* text, size_t length, Route* route) noexcept nogil:
    cdef uint8_t body[BODY_MAX]
    cdef uint8_t head = SEXTET[text[0]]
    cdef size_t payload_bytes = PAYLOAD_IPV4 if length == TOKEN_CHARS_IPV4 else PAYLOAD_IPV6
    cdef const TokenKey* key
    cdef uint64_t tag
    if length != TOKEN_CHARS_IPV4 and length != TOKEN_CHARS_IPV6:
        return TOKEN_MALFORMED
    if head == NOT_ICE_CHAR or not decode(text + 1, length - 1, body):
        return TOKEN_MALFORMED
    if head >> 3 != TOKEN_VERSION:
        return TOKEN_OTHER_VERSION
    key = &keys.by_id[head & 7]
    if not key.present:
        return TOKEN_UNKNOWN_KEY
    tag = load_le64(body)
    apply_stream(key, tag, body + TAG_BYTES, payload_bytes)
    # One 64-bit comparison: no byte-wise early exit, so timing tells nothing of where a guess differs.
    if make_tag(key, head, body + TAG_BYTES, payload_bytes) ^ tag:
        return TOKEN_FORGED
    if not read_payload(body + TAG_BYTES, payload_bytes, route):
        return TOKEN_MALFORMED
    route.key_id = head & 7
    return TOKEN_VERIFIED


# ---------------------------------------------------------------------------------------------------------------- Python's side

VERSION = TOKEN_VERSION
KEY_IDS = TOKEN_KEY_IDS
CLUSTERS = 1 << 10
GENERATIONS = 1 << 12
ROUTE_KEY_BYTES = 32
RESULTS = ("verified", "malformed", "other_version", "unknown_key", "forged")

SUBKEY_INFO = b"ufrag route token 1"


@dataclass(frozen=True)
class TokenFields:
    """What an authentic token says."""

    key_id: int
    owner: tuple[str, int]
    cluster: int
    generation: int
    nonce: int


def derive_subkeys(route_key: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) with an empty salt: 16 bytes of tag key, 16 bytes of stream key. One block, so it is two HMACs."""
    if len(route_key) != ROUTE_KEY_BYTES:
        raise ValueError(f"a route key has {ROUTE_KEY_BYTES} bytes, this one has {len(route_key)}")
    prk = hmac.digest(bytes(hashlib.sha256().digest_size), route_key, "sha256")
    return hmac.digest(prk, SUBKEY_INFO + b"\x01", "sha256")


cdef class Keyring:
    """The route keys that verify (all) and mint (one of them), as the subkeys the hot path uses."""

    def __init__(self, keys: dict[int, bytes]) -> None:
        memset(&self.keys, 0, sizeof(TokenKeys))
        for key_id, route_key in keys.items():
            if not 0 <= key_id < TOKEN_KEY_IDS:
                raise ValueError(f"key id {key_id} is not in 0..{TOKEN_KEY_IDS - 1}")
            self.add(key_id, derive_subkeys(route_key))

    cdef void add(self, int key_id, bytes subkeys):
        cdef const uint8_t* raw = subkeys
        cdef TokenKey* key = &self.keys.by_id[key_id]
        memcpy(&key.tag, raw, 16)
        memcpy(&key.stream, raw + 16, 16)
        key.present = True

    def verify(self, token: bytes) -> tuple[str, TokenFields | None]:
        """(one of RESULTS, the fields when verified)."""
        cdef Route route
        cdef TokenResult result = token_verify(&self.keys, token, len(token), &route)
        if result != TOKEN_VERIFIED:
            return RESULTS[<int>result], None
        packed = ipaddress.IPv6Address(bytes(route.owner.address[:16]))
        address = str(packed.ipv4_mapped or packed)
        port = route.owner.port[0] << 8 | route.owner.port[1]
        return RESULTS[0], TokenFields(route.key_id, (address, port), route.cluster, route.generation, route.nonce)

    def mint(self, key_id: int, owner: tuple[str, int], cluster: int = 0, generation: int = 0,
             random: bytes | None = None) -> str:
        """A token for `owner`; `random` is for test vectors only."""
        cdef uint8_t plain[PAYLOAD_IPV6]
        cdef TokenKey* key
        if not 0 <= key_id < TOKEN_KEY_IDS or not self.keys.by_id[key_id].present:
            raise ValueError(f"there is no key with id {key_id}")
        cdef uint8_t head = TOKEN_VERSION << 3 | key_id
        payload = plain_payload(owner, cluster, generation, os.urandom(RANDOM_BYTES) if random is None else random)
        memcpy(plain, <const uint8_t*>payload, len(payload))
        key = &self.keys.by_id[key_id]
        cdef uint64_t tag = make_tag(key, head, plain, len(payload))
        apply_stream(key, tag, plain, len(payload))
        return encode(head, tag.to_bytes(TAG_BYTES, "little") + bytes(plain[:len(payload)]))


def plain_payload(owner: tuple[str, int], cluster: int, generation: int, random: bytes) -> bytes:
    address = ipaddress.ip_address(owner[0])
    if not 0 < owner[1] < 65536:
        raise ValueError(f"port {owner[1]} is not in 1..65535")
    if not 0 <= cluster < CLUSTERS:
        raise ValueError(f"cluster {cluster} is not in 0..{CLUSTERS - 1}")
    if not 0 <= generation < GENERATIONS:
        raise ValueError(f"generation {generation} is not in 0..{GENERATIONS - 1}")
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"the random part has {RANDOM_BYTES} bytes")
    form = FORM_IPV4 if address.version == 4 else FORM_IPV6
    fields = form << 22 | cluster << 12 | generation
    return fields.to_bytes(FIELD_BYTES, "big") + address.packed + owner[1].to_bytes(2, "big") + random


def encode(head: int, body: bytes) -> str:
    """First character, then unpadded base64; 23 or 35 bytes give 31 or 47 characters with two zero pad bits."""
    return chr(ALPHABET[head]) + base64.b64encode(body).rstrip(b"=").decode("ascii")


def mint(key_id: int, route_key: bytes, owner: tuple[str, int], cluster: int = 0, generation: int = 0) -> str:
    """A token from a bare route key, for tools and tests."""
    return Keyring({key_id: route_key}).mint(key_id, owner, cluster, generation)
