"""The two things the relay needs of a STUN message (RFC 8489): is it a Binding Request, and where is its USERNAME.

Nothing is verified here: MESSAGE-INTEGRITY is the transceiver's affair. The walk stops at the first USERNAME (later ones must be
ignored, RFC 8489 14) and never reads beyond the datagram; an attribute that claims more than there is makes the message malformed.
"""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.wire.address cimport load_be16, load_be32
from _fastpath.wire.demux cimport STUN_COOKIE, STUN_HEADER_BYTES

cdef enum:
    BINDING_REQUEST = 0x0001
    BINDING_SUCCESS = 0x0101
    ATTRIBUTE_USERNAME = 0x0006
    USERNAME_MAX_BYTES = 512          # RFC 8489 14.3: fewer than 513
    # Real clients put USERNAME first; the bound keeps a message made of empty attributes from costing a microsecond.
    ATTRIBUTES_BEFORE_USERNAME = 16

cdef enum StunResult:
    STUN_OK = 0
    STUN_MALFORMED = 1
    STUN_NO_USERNAME = 2
    STUN_LONG_USERNAME = 3

cdef struct Span:
    const uint8_t* start
    size_t length

cdef inline bint is_binding_request(const uint8_t* message) noexcept nogil:
    """For a message that `classify` called STUN."""
    return load_be16(message) == BINDING_REQUEST

cdef inline bint is_binding_success(const uint8_t* message, size_t length) noexcept nogil:
    return length >= STUN_HEADER_BYTES and load_be16(message) == BINDING_SUCCESS \
        and load_be32(message + 4) == <uint32_t>STUN_COOKIE

cdef inline StunResult find_username(const uint8_t* message, size_t length, Span* username) noexcept nogil:
    """For a message that `classify` called STUN (20 bytes are there). The length field must match the datagram exactly."""
    cdef size_t at = STUN_HEADER_BYTES
    cdef size_t value_bytes
    cdef int seen = 0
    if load_be16(message + 2) != length - STUN_HEADER_BYTES or length & 3:
        return STUN_MALFORMED
    while at + 4 <= length and seen < ATTRIBUTES_BEFORE_USERNAME:
        value_bytes = load_be16(message + at + 2)
        if value_bytes > length - at - 4:
            return STUN_MALFORMED
        if load_be16(message + at) == ATTRIBUTE_USERNAME:
            username.start = message + at + 4
            username.length = value_bytes
            return STUN_OK if value_bytes <= USERNAME_MAX_BYTES else STUN_LONG_USERNAME
        at += 4 + ((value_bytes + 3) & ~<size_t>3)   # values are padded to 32 bits
        seen += 1
    return STUN_NO_USERNAME if at >= length else STUN_MALFORMED
