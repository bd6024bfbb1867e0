"""RTCP (RFC 3550 6): what one incoming packet says of us, and the one we send.

A packet is a compound of several, each with a length of its own, or just one of them (reduced size, RFC 5506). Read are SR, RR and
BYE; everything else (SDES, feedback, APP, XR) is stepped over by its length. The walk runs on what came out of SRTCP: authenticated,
and still hostile. One bad length makes the whole malformed, and nothing of it counts.

Whose: `from_ssrc` is the SSRC of the compound's first packet, the one SRTCP finds its key by. Where a sender has several streams,
the first SR, and the first report block about our SSRC, count; blocks about others are stepped over. A BYE counts when it lists
`from_ssrc`: one that lists only another stream, or nobody, ends nothing. The caller compares SSRCs with those it knows.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from _fastpath.wire.address cimport load_be32

cdef enum:
    RTCP_SR = 200
    RTCP_RR = 201
    RTCP_SDES = 202
    RTCP_BYE = 203

    RTCP_SENDER_BYTES = 20            # NTP time, RTP timestamp, packets, octets
    RTCP_BLOCK_BYTES = 24
    RTCP_LOST_MAX = 0x7fffff          # 24 bits with a sign
    RTCP_LOST_MIN = -0x800000
    RTCP_CNAME_MAX = 255              # as the length byte of an SDES item
    # SR with one block 28 + 24, SDES 4 + 4 + 2 + 255 with its end padded to 268, BYE 8. SRTCP's trailer is not in it.
    RTCP_MAX_BYTES = 328

cdef struct RTCPBlock:                # a report block (RFC 3550 6.4.1), host order
    uint32_t ssrc                     # the stream it is about
    uint8_t fraction_lost             # of 256, since the last report
    int32_t lost                      # in all, 24 bits; negative when duplicates outnumber losses
    uint32_t highest                  # extended sequence number
    uint32_t jitter                   # in units of the RTP clock
    uint32_t last_sr                  # middle 32 bits of the NTP time of the last SR; 0: none came
    uint32_t delay_since_sr           # 1/65536 s

cdef struct RTCPReport:               # what an incoming one says, host order
    uint32_t from_ssrc
    bint has_sender                   # an SR, so the next five are set
    uint32_t sender_ssrc
    uint32_t ntp_middle
    uint32_t rtp_timestamp
    uint32_t packets
    uint32_t octets
    bint has_block                    # a report block about our SSRC, so the next six are set
    uint8_t fraction_lost
    int32_t lost
    uint32_t highest
    uint32_t jitter
    uint32_t last_sr
    uint32_t delay_since_sr
    bint bye

cdef struct RTCPOut:                  # what an outgoing one is made of
    uint32_t ssrc
    bint has_sender                   # we have sent media: SR, else RR
    uint64_t ntp                      # 32.32 fixed point seconds since 1900, of the same instant as rtp_timestamp
    uint32_t rtp_timestamp
    uint32_t packets
    uint32_t octets
    bint has_block
    RTCPBlock block
    const uint8_t* cname              # borrowed for the call
    uint8_t cname_bytes
    bint bye

cdef inline uint32_t rtcp_ssrc(const uint8_t* packet) noexcept nogil:
    """The first sender's SSRC, which SRTCP leaves in clear; for a packet that `classify` called RTP (8 bytes are there)."""
    return load_be32(packet + 4)

# False if malformed; then `out` means nothing.
cdef bint rtcp_parse(const uint8_t* packet, size_t length, uint32_t our_ssrc, RTCPReport* out) noexcept nogil

# SR or RR, SDES with the CNAME (RFC 3550 6.1 wants both in every compound), BYE; at most RTCP_MAX_BYTES are written, their count returned.
cdef size_t rtcp_write(uint8_t* out, const RTCPOut* what) noexcept nogil
