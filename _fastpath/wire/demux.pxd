"""What a datagram from a client is, told by its first byte and length (RFC 7983 as updated by RFC 9443).

    0..3     STUN    at least 20 bytes, and the magic cookie must stand where RFC 8489 puts it
    20..63   DTLS    at least a record header
    128..191 RTP or RTCP (told apart by the transceiver, RFC 5761)
    else     nothing a WebRTC session sends over one bundled transport: ZRTP, TURN channels, QUIC
"""

from libc.stdint cimport uint8_t

from _fastpath.wire.address cimport load_be32

cdef enum Kind:
    KIND_UNKNOWN = 0
    KIND_STUN = 1
    KIND_DTLS = 2
    KIND_RTP = 3
    KIND_TOO_SHORT = 4
    KIND_BAD_COOKIE = 5

cdef enum:
    STUN_COOKIE = 0x2112a442
    STUN_HEADER_BYTES = 20
    DTLS_HEADER_BYTES = 13
    RTCP_HEADER_BYTES = 8             # the shortest legal RTCP packet; RTP's header is 12

cdef inline Kind classify(const uint8_t* datagram, size_t length) noexcept nogil:
    cdef uint8_t first
    if length == 0:
        return KIND_TOO_SHORT
    first = datagram[0]
    if 128 <= first <= 191:
        return KIND_RTP if length >= RTCP_HEADER_BYTES else KIND_TOO_SHORT
    if first <= 3:
        if length < STUN_HEADER_BYTES:
            return KIND_TOO_SHORT
        return KIND_STUN if load_be32(datagram + 4) == <unsigned int>STUN_COOKIE else KIND_BAD_COOKIE
    if 20 <= first <= 63:
        return KIND_DTLS if length >= DTLS_HEADER_BYTES else KIND_TOO_SHORT
    return KIND_UNKNOWN
