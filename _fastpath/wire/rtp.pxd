"""RTP's fixed header (RFC 3550 5.1), and RTP told from RTCP on one port (RFC 5761).

    0      1      2             4                    8                12
    +------+------+-------------+--------------------+----------------+------------------------------------
    |V P X | M PT | sequence    | timestamp          | SSRC           | CSRCs, extension, payload, padding
    +------+------+-------------+--------------------+----------------+------------------------------------

SRTP leaves the header in clear: `is_rtcp`, `rtp_ssrc` and `rtp_payload_type` are read before a packet is authenticated, to find its
session, and prove nothing. `rtp_parse` runs on what came out of SRTP: its sender is known, its content is still whatever that sender
liked to write. Nothing here looks into header extensions. The hot loop and the RTCP code call this.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from _fastpath.wire.address cimport load_be16, load_be32, store_be16, store_be32

cdef enum:
    RTP_HEADER_BYTES = 12
    RTP_VERSION = 2                   # of RTCP as well
    RTP_PADDING = 0x20                # bits of the first byte; the padding bit is RTCP's too
    RTP_EXTENSION = 0x10
    RTP_CSRC_COUNT = 0x0f
    RTCP_KIND_FIRST = 192             # RFC 5761 4: the second byte of every RTCP packet there is or will be
    RTCP_KIND_LAST = 223

cdef struct RTPHeader:                # host order
    uint32_t ssrc
    uint32_t timestamp
    uint16_t sequence
    uint8_t payload_type
    bint marker
    uint32_t payload_at
    uint32_t payload_bytes            # without padding; 0 is legal

cdef inline bint is_rtcp(const uint8_t* packet) noexcept nogil:
    """For a packet that `classify` called RTP. RTP payload types 64..95 with the marker would look the same: no offer uses them."""
    return RTCP_KIND_FIRST <= packet[1] <= RTCP_KIND_LAST

cdef inline uint32_t rtp_ssrc(const uint8_t* packet) noexcept nogil:
    """For RTP_HEADER_BYTES or more: `classify` vouches for 8 only."""
    return load_be32(packet + 8)

cdef inline uint8_t rtp_payload_type(const uint8_t* packet) noexcept nogil:
    return packet[1] & 0x7f

cdef inline bint rtp_parse(const uint8_t* packet, size_t length, RTPHeader* out) noexcept nogil:
    """False for another version, or where CSRCs, extension or padding claim more than there is; then `out` means nothing."""
    cdef size_t at = RTP_HEADER_BYTES
    cdef size_t padding = 0
    if length < RTP_HEADER_BYTES or packet[0] >> 6 != RTP_VERSION:
        return False
    at += 4 * <size_t>(packet[0] & RTP_CSRC_COUNT)
    if packet[0] & RTP_EXTENSION:
        if length < at + 4:
            return False
        at += 4 + 4 * <size_t>load_be16(packet + at + 2)
    if at > length:
        return False
    if packet[0] & RTP_PADDING:
        padding = packet[length - 1]      # counts itself, so 0 is a lie
        if padding == 0 or padding > length - at:
            return False
    out.ssrc = rtp_ssrc(packet)
    out.timestamp = load_be32(packet + 4)
    out.sequence = load_be16(packet + 2)
    out.payload_type = rtp_payload_type(packet)
    out.marker = packet[1] >> 7
    out.payload_at = <uint32_t>at
    out.payload_bytes = <uint32_t>(length - at - padding)
    return True

cdef inline void rtp_write(uint8_t* out12, uint8_t payload_type, bint marker, uint16_t sequence, uint32_t timestamp, uint32_t ssrc) noexcept nogil:
    """A header without CSRCs, extension and padding."""
    out12[0] = RTP_VERSION << 6
    out12[1] = <uint8_t>((0x80 if marker else 0) | (payload_type & 0x7f))
    store_be16(out12 + 2, sequence)
    store_be32(out12 + 4, timestamp)
    store_be32(out12 + 8, ssrc)
