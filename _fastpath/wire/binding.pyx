"""Reads, verifies and writes ICE's Binding messages; the rules stand in binding.pxd. At the end, Python's view for tests and tools."""

from dataclasses import dataclass

from libc.string cimport memcpy, memset, strlen

from _fastpath.sha1 cimport SHA1_BYTES, hmac_key, hmac_sha1
from _fastpath.wire.address cimport is_mapped, load_be16, load_be32, store_be16, store_be32
from _fastpath.wire.crc32 cimport crc32
from _fastpath.wire.demux cimport STUN_COOKIE, STUN_HEADER_BYTES
from _fastpath.wire.stun cimport ATTRIBUTE_USERNAME, BINDING_REQUEST, BINDING_SUCCESS, USERNAME_MAX_BYTES

from _fastpath.wire.envelope import mapped

cdef enum:
    MAPPED_ADDRESS = 0x0001
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000a
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001c
    PASSWORD_ALGORITHM = 0x001d
    USERHASH = 0x001e
    XOR_MAPPED_ADDRESS = 0x0020
    PRIORITY = 0x0024
    USE_CANDIDATE = 0x0025
    FINGERPRINT = 0x8028
    ICE_CONTROLLED = 0x8029
    ICE_CONTROLLING = 0x802a

    COMPREHENSION_OPTIONAL = 0x8000   # RFC 8489 14: types from here on may be ignored by who does not know them
    CLASS_BITS = 0x0110               # RFC 8489 5: the rest of a message's type is its method
    TRANSACTION_AT = 8
    TRANSACTION_BYTES = 12
    INTEGRITY_BYTES = 4 + SHA1_BYTES
    FINGERPRINT_BYTES = 8

cdef uint32_t FINGERPRINT_XOR = 0x5354554e       # "STUN", so that it is not the CRC-32 of another protocol (RFC 8489 14.7)

cdef enum Taken:
    TAKEN = 0
    TAKEN_MALFORMED = 1
    TAKEN_UNKNOWN = 2


# ---------------------------------------------------------------------------------------------------------------- reading

cdef Taken take_username(Binding* out, const uint8_t* value, size_t size) noexcept nogil:
    if size > USERNAME_MAX_BYTES:
        return TAKEN_MALFORMED
    if out.username.start == NULL:
        out.username.start = value
        out.username.length = size
    return TAKEN


cdef Taken take_priority(Binding* out, const uint8_t* value, size_t size) noexcept nogil:
    if size != 4:
        return TAKEN_MALFORMED
    if not out.has_priority:
        out.has_priority = True
        out.priority = load_be32(value)
    return TAKEN


cdef Taken take_error_code(Binding* out, const uint8_t* value, size_t size) noexcept nogil:
    """RFC 8489 14.8: 21 bits reserved, the hundreds (3 to 6) in 3 bits, the rest (0 to 99) in 8."""
    cdef uint16_t hundreds
    if size < 4:
        return TAKEN_MALFORMED
    hundreds = value[2] & 7
    if hundreds < 3 or hundreds > 6 or value[3] > 99:
        return TAKEN_MALFORMED
    if out.error_code == 0:
        out.error_code = <uint16_t>(100 * hundreds + value[3])
    return TAKEN


cdef Taken take(Binding* out, uint16_t kind, const uint8_t* value, size_t size) noexcept nogil:
    """One attribute before MESSAGE-INTEGRITY."""
    if kind == ATTRIBUTE_USERNAME:
        return take_username(out, value, size)
    if kind == PRIORITY:
        return take_priority(out, value, size)
    if kind == ERROR_CODE:
        return take_error_code(out, value, size)
    if kind == USE_CANDIDATE:
        out.use_candidate = True
        return TAKEN if size == 0 else TAKEN_MALFORMED
    if kind == ICE_CONTROLLED:
        out.controlled = True
        return TAKEN if size == 8 else TAKEN_MALFORMED
    if kind == ICE_CONTROLLING:
        out.controlling = True
        return TAKEN if size == 8 else TAKEN_MALFORMED
    # Known, of no use here, and no reason to refuse the message (RFC 8489 6.3.1).
    if kind == XOR_MAPPED_ADDRESS or kind == MAPPED_ADDRESS or kind == UNKNOWN_ATTRIBUTES or kind == REALM or kind == NONCE \
            or kind == MESSAGE_INTEGRITY_SHA256 or kind == PASSWORD_ALGORITHM or kind == USERHASH:
        return TAKEN
    return TAKEN if kind >= COMPREHENSION_OPTIONAL else TAKEN_UNKNOWN


cdef bint read_header(const uint8_t* message, size_t length, Binding* out) noexcept nogil:
    memset(out, 0, sizeof(Binding))
    if length < STUN_HEADER_BYTES or length & 3 or load_be16(message + 2) != length - STUN_HEADER_BYTES:
        return False
    out.kind = load_be16(message)
    out.transaction = message + TRANSACTION_AT
    return out.kind & ~CLASS_BITS == BINDING_REQUEST and load_be32(message + 4) == <uint32_t>STUN_COOKIE


cdef int binding_parse(const uint8_t* message, size_t length, Binding* out) noexcept nogil:
    cdef size_t at = STUN_HEADER_BYTES
    cdef size_t size
    cdef uint16_t kind
    cdef Taken taken
    cdef int seen = 0
    cdef size_t fingerprint_at = 0
    cdef bint unknown = False
    if not read_header(message, length, out):
        return BINDING_MALFORMED
    while at < length:                           # both are multiples of four: an attribute's four bytes are there
        kind = load_be16(message + at)
        size = load_be16(message + at + 2)
        if size > length - at - 4 or seen == BINDING_ATTRIBUTES or fingerprint_at:
            return BINDING_MALFORMED
        if kind == FINGERPRINT:
            if size != 4:
                return BINDING_MALFORMED
            fingerprint_at = at
        elif out.integrity_at == 0 and kind == MESSAGE_INTEGRITY:
            if size != SHA1_BYTES:
                return BINDING_MALFORMED
            out.integrity_at = at
        elif out.integrity_at == 0:
            taken = take(out, kind, message + at + 4, size)
            if taken == TAKEN_MALFORMED:
                return BINDING_MALFORMED
            unknown |= taken == TAKEN_UNKNOWN
        at += 4 + ((size + 3) & ~<size_t>3)      # values are padded to 32 bits
        seen += 1
    if fingerprint_at and not fingerprint_fits(message, fingerprint_at):
        return BINDING_BAD_FINGERPRINT
    if out.kind == BINDING_REQUEST and out.username.start == NULL:
        return BINDING_NO_USERNAME
    if out.integrity_at == 0:
        return BINDING_NO_INTEGRITY
    return BINDING_UNKNOWN_REQUIRED if unknown else BINDING_OK


cdef bint fingerprint_fits(const uint8_t* message, size_t at) noexcept nogil:
    return load_be32(message + at + 4) == crc32(message, at) ^ FINGERPRINT_XOR


cdef bint binding_verify(const uint8_t* message, const Binding* binding, const HmacKey* key) noexcept nogil:
    """The length hashed is that of a message that ends with MESSAGE-INTEGRITY (RFC 8489 14.5), whatever follows it."""
    cdef uint8_t header[STUN_HEADER_BYTES]
    cdef uint8_t expected[SHA1_BYTES]
    cdef uint8_t difference = 0
    cdef size_t at = binding.integrity_at
    cdef int i
    if at == 0:
        return False
    memcpy(header, message, STUN_HEADER_BYTES)
    store_be16(header + 2, <uint16_t>(at + INTEGRITY_BYTES - STUN_HEADER_BYTES))
    hmac_sha1(key, header, STUN_HEADER_BYTES, message + STUN_HEADER_BYTES, at - STUN_HEADER_BYTES, expected)
    for i in range(SHA1_BYTES):
        difference |= expected[i] ^ message[at + 4 + i]
    return difference == 0


# ---------------------------------------------------------------------------------------------------------------- writing

cdef size_t begin(uint8_t* out, uint16_t kind, const uint8_t* transaction) noexcept nogil:
    """The header; its length field is written at the end. Like `attribute`, returns where the next byte goes."""
    store_be16(out, kind)
    store_be32(out + 4, STUN_COOKIE)
    memcpy(out + TRANSACTION_AT, transaction, TRANSACTION_BYTES)
    return STUN_HEADER_BYTES


cdef size_t attribute(uint8_t* out, size_t at, uint16_t kind, const void* value, size_t size) noexcept nogil:
    """Padding is zeros (RFC 8489 14)."""
    cdef size_t padded = (size + 3) & ~<size_t>3
    store_be16(out + at, kind)
    store_be16(out + at + 2, <uint16_t>size)
    if size:
        memset(out + at + padded, 0, 4)          # the value's last four bytes, of which padding is up to three
        memcpy(out + at + 4, value, size)
    return at + 4 + padded


cdef size_t seal(uint8_t* out, size_t at, const HmacKey* key) noexcept nogil:
    """MESSAGE-INTEGRITY, then FINGERPRINT; for each the length field already counts it (RFC 8489 14.5, 14.7)."""
    store_be16(out + 2, <uint16_t>(at + INTEGRITY_BYTES - STUN_HEADER_BYTES))
    store_be16(out + at, MESSAGE_INTEGRITY)
    store_be16(out + at + 2, SHA1_BYTES)
    hmac_sha1(key, out, at, NULL, 0, out + at + 4)
    at += INTEGRITY_BYTES
    store_be16(out + 2, <uint16_t>(at + FINGERPRINT_BYTES - STUN_HEADER_BYTES))
    store_be16(out + at, FINGERPRINT)
    store_be16(out + at + 2, 4)
    store_be32(out + at + 4, crc32(out, at) ^ FINGERPRINT_XOR)
    return at + FINGERPRINT_BYTES


cdef size_t binding_success(uint8_t* out, const uint8_t* transaction, const uint8_t* address16, const uint8_t* port2,
                            const HmacKey* key) noexcept nogil:
    """XOR-MAPPED-ADDRESS is XORed with the cookie and the transaction id, as they stand in the header (RFC 8489 14.2)."""
    cdef uint8_t value[20]
    cdef size_t at = begin(out, BINDING_SUCCESS, transaction)
    cdef bint ipv4 = is_mapped(address16)
    cdef size_t size = 4 if ipv4 else 16
    cdef size_t i
    value[0] = 0
    value[1] = 1 if ipv4 else 2
    value[2] = port2[0] ^ out[4]
    value[3] = port2[1] ^ out[5]
    for i in range(size):
        value[4 + i] = address16[16 - size + i] ^ out[4 + i]
    return seal(out, attribute(out, at, XOR_MAPPED_ADDRESS, value, 4 + size), key)


cdef const char* reason_of(int code) noexcept nogil:
    if code == 400:
        return b"Bad Request"
    if code == 401:
        return b"Unauthenticated"
    if code == 403:
        return b"Forbidden"
    if code == 420:
        return b"Unknown Attribute"
    if code == 487:
        return b"Role Conflict"
    return b"Server Error" if code == 500 else b"Error"


cdef size_t binding_error(uint8_t* out, const uint8_t* transaction, int code, const HmacKey* key) noexcept nogil:
    cdef uint8_t value[32]
    cdef const char* reason = reason_of(code)
    cdef size_t reason_bytes = strlen(reason)
    cdef unsigned int number = <unsigned int>code
    memset(value, 0, 2)
    value[2] = <uint8_t>(number // 100)
    value[3] = <uint8_t>(number % 100)
    memcpy(value + 4, reason, reason_bytes)
    return seal(out, attribute(out, begin(out, BINDING_ERROR, transaction), ERROR_CODE, value, 4 + reason_bytes), key)


cdef size_t write_request(uint8_t* out, const uint8_t* transaction, Span username, uint32_t priority, uint16_t role,
                          uint64_t tie_breaker, bint use_candidate, const HmacKey* key) noexcept nogil:
    cdef uint8_t value[8]
    cdef size_t at
    if username.length > USERNAME_MAX_BYTES:
        return 0
    at = begin(out, BINDING_REQUEST, transaction)
    at = attribute(out, at, ATTRIBUTE_USERNAME, username.start, username.length)
    store_be32(value, <uint32_t>(tie_breaker >> 32))
    store_be32(value + 4, <uint32_t>tie_breaker)
    at = attribute(out, at, role, value, 8)
    if use_candidate:
        at = attribute(out, at, USE_CANDIDATE, NULL, 0)
    store_be32(value, priority)
    return seal(out, attribute(out, at, PRIORITY, value, 4), key)


cdef size_t binding_request(uint8_t* out, const uint8_t* transaction, const uint8_t* username, size_t username_bytes, uint32_t priority,
                            uint64_t tie_breaker, const HmacKey* key) noexcept nogil:
    cdef Span name
    name.start = username
    name.length = username_bytes
    return write_request(out, transaction, name, priority, ICE_CONTROLLED, tie_breaker, False, key)


# ---------------------------------------------------------------------------------------------------------------- Python's side

REQUEST, INDICATION, SUCCESS, ERROR = BINDING_REQUEST, BINDING_INDICATION, BINDING_SUCCESS, BINDING_ERROR
RESULTS = ("ok", "malformed", "bad_fingerprint", "no_username", "no_integrity", "unknown_required")
MOST_BYTES = BINDING_MAX_BYTES
MOST_ATTRIBUTES = BINDING_ATTRIBUTES


@dataclass(frozen=True)
class Fields:
    """What a Binding message says; None and 0 for what it does not say."""

    kind: int
    transaction: bytes
    username: bytes | None
    integrity_at: int
    priority: int | None
    use_candidate: bool
    controlling: bool
    controlled: bool
    error_code: int


def parse(message: bytes) -> tuple[str, Fields | None]:
    """(one of RESULTS, what it says unless it is malformed); nothing of it is authentic."""
    cdef Binding binding
    cdef int result = binding_parse(message, len(message), &binding)
    if result == BINDING_MALFORMED:
        return RESULTS[result], None
    username = binding.username.start[:binding.username.length] if binding.username.start != NULL else None
    priority = binding.priority if binding.has_priority else None
    return RESULTS[result], Fields(
        binding.kind, binding.transaction[:TRANSACTION_BYTES], username, binding.integrity_at, priority,
        bool(binding.use_candidate), bool(binding.controlling), bool(binding.controlled), binding.error_code,
    )


def verify(message: bytes, password: bytes) -> bool:
    """Whether MESSAGE-INTEGRITY is there and was made with the password."""
    cdef Binding binding
    cdef HmacKey key
    hmac_key(&key, password, len(password))
    return binding_parse(message, len(message), &binding) != BINDING_MALFORMED and binding_verify(message, &binding, &key)


def checked(transaction: bytes) -> bytes:
    if len(transaction) != TRANSACTION_BYTES:
        raise ValueError(f"a transaction id has {TRANSACTION_BYTES} bytes, this one has {len(transaction)}")
    return transaction


def success(transaction: bytes, address: tuple[str, int], password: bytes) -> bytes:
    """The answer that tells a client its own address."""
    cdef uint8_t out[BINDING_MAX_BYTES]
    cdef HmacKey key
    packed, port = mapped(address[0]), address[1].to_bytes(2, "big")
    hmac_key(&key, password, len(password))
    return out[:binding_success(out, checked(transaction), packed, port, &key)]


def error(transaction: bytes, code: int, password: bytes) -> bytes:
    """An authenticated error response."""
    cdef uint8_t out[BINDING_MAX_BYTES]
    cdef HmacKey key
    if not 300 <= code <= 699:
        raise ValueError(f"error code {code} is not in 300..699")
    hmac_key(&key, password, len(password))
    return out[:binding_error(out, checked(transaction), code, &key)]


def request(transaction: bytes, username: bytes, password: bytes, *, priority: int, tie_breaker: int,
            controlling: bool = False, use_candidate: bool = False) -> bytes:
    """A check as clients send it (controlling) or as we do."""
    cdef uint8_t out[BINDING_MAX_BYTES]
    cdef HmacKey key
    cdef Span name
    if len(username) > USERNAME_MAX_BYTES:
        raise ValueError(f"a USERNAME has {USERNAME_MAX_BYTES} bytes at most, this one has {len(username)}")
    name.start = username
    name.length = len(username)
    hmac_key(&key, password, len(password))
    role = ICE_CONTROLLING if controlling else ICE_CONTROLLED
    return out[:write_request(out, checked(transaction), name, priority, role, tie_breaker, use_candidate, &key)]
