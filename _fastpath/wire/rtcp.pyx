"""Reads and writes RTCP compounds; types, bounds and whose word counts stand in rtcp.pxd.

Rules: every length is checked before what it covers is read; the walk takes at most one step per 4 bytes. At the end is Python's
view, for tools and tests.
"""

from dataclasses import dataclass

from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from _fastpath.wire.address cimport load_be16, store_be16, store_be32
from _fastpath.wire.demux cimport RTCP_HEADER_BYTES
from _fastpath.wire.rtp cimport RTP_PADDING, RTP_VERSION

cdef enum:
    HEAD_BYTES = 4                    # version and count, kind, length in words less one
    COUNT = 0x1f
    SDES_CNAME = 1


# --- reading ---


cdef size_t packet_bytes(const uint8_t* packet, size_t left) noexcept nogil:
    """The size that the header of one packet tells; 0 where that is no RTCP or more than there is."""
    cdef size_t size
    if left < HEAD_BYTES or packet[0] >> 6 != RTP_VERSION:
        return 0
    size = HEAD_BYTES + 4 * <size_t>load_be16(packet + 2)
    return size if size <= left else 0


cdef size_t unpadded_bytes(const uint8_t* packet, size_t size) noexcept nogil:
    """The size without padding, 0 where padding is claimed that cannot be. Padding is taken on any packet, as others do."""
    cdef size_t padding
    if not packet[0] & RTP_PADDING:
        return size
    padding = packet[size - 1]            # in a bare header the length's low byte, which is 0 then
    return size - padding if 0 < padding <= size - HEAD_BYTES else 0


cdef void read_sender(const uint8_t* packet, RTCPReport* out) noexcept nogil:
    if out.has_sender:
        return
    out.has_sender = True
    out.sender_ssrc = load_be32(packet + 4)
    out.ntp_middle = load_be32(packet + 10)
    out.rtp_timestamp = load_be32(packet + 16)
    out.packets = load_be32(packet + 20)
    out.octets = load_be32(packet + 24)


cdef void read_blocks(const uint8_t* block, size_t count, uint32_t our_ssrc, RTCPReport* out) noexcept nogil:
    while count and not out.has_block:
        if load_be32(block) == our_ssrc:
            out.has_block = True
            out.fraction_lost = block[4]
            out.lost = <int32_t>(load_be32(block + 4) << 8) >> 8
            out.highest = load_be32(block + 8)
            out.jitter = load_be32(block + 12)
            out.last_sr = load_be32(block + 16)
            out.delay_since_sr = load_be32(block + 20)
        block += RTCP_BLOCK_BYTES
        count -= 1


cdef bint lists(const uint8_t* ssrcs, size_t count, uint32_t ssrc) noexcept nogil:
    cdef size_t i
    for i in range(count):
        if load_be32(ssrcs + 4 * i) == ssrc:
            return True
    return False


cdef bint read_packet(const uint8_t* packet, size_t size, uint32_t our_ssrc, RTCPReport* out) noexcept nogil:
    """One packet of `size` bytes; bytes behind what its count covers are a profile's extension or a reason, and not looked at."""
    cdef size_t count = packet[0] & COUNT
    cdef size_t blocks_at = HEAD_BYTES + 4
    if packet[1] == RTCP_BYE:
        if size < HEAD_BYTES + 4 * count:
            return False
        out.bye = out.bye or lists(packet + HEAD_BYTES, count, out.from_ssrc)
    elif packet[1] == RTCP_SR or packet[1] == RTCP_RR:
        if packet[1] == RTCP_SR:
            blocks_at += RTCP_SENDER_BYTES
        if size < blocks_at + RTCP_BLOCK_BYTES * count:
            return False
        if packet[1] == RTCP_SR:
            read_sender(packet, out)
        read_blocks(packet + blocks_at, count, our_ssrc, out)
    return True


cdef bint rtcp_parse(const uint8_t* packet, size_t length, uint32_t our_ssrc, RTCPReport* out) noexcept nogil:
    cdef size_t at = 0
    cdef size_t size, unpadded
    memset(out, 0, sizeof(RTCPReport))
    # The first packet has a sender: SRTCP took its SSRC from there (RFC 3711 3.4).
    if length < RTCP_HEADER_BYTES or load_be16(packet + 2) == 0:
        return False
    out.from_ssrc = rtcp_ssrc(packet)
    while at < length:
        size = packet_bytes(packet + at, length - at)
        if size == 0:
            return False
        unpadded = unpadded_bytes(packet + at, size)
        if unpadded == 0 or not read_packet(packet + at, unpadded, our_ssrc, out):
            return False
        at += size
    return True


# --- writing ---


cdef void write_head(uint8_t* out, uint8_t kind, uint8_t count, size_t size) noexcept nogil:
    out[0] = <uint8_t>(RTP_VERSION << 6 | count)
    out[1] = kind
    store_be16(out + 2, <uint16_t>(size // 4 - 1))


cdef void write_block(uint8_t* out, const RTCPBlock* block) noexcept nogil:
    cdef int32_t lost = min(max(block.lost, <int32_t>RTCP_LOST_MIN), <int32_t>RTCP_LOST_MAX)
    store_be32(out, block.ssrc)
    store_be32(out + 4, <uint32_t>block.fraction_lost << 24 | (<uint32_t>lost & 0xffffff))
    store_be32(out + 8, block.highest)
    store_be32(out + 12, block.jitter)
    store_be32(out + 16, block.last_sr)
    store_be32(out + 20, block.delay_since_sr)


cdef size_t write_report(uint8_t* out, const RTCPOut* what) noexcept nogil:
    cdef size_t size = HEAD_BYTES + 4
    store_be32(out + HEAD_BYTES, what.ssrc)
    if what.has_sender:
        store_be32(out + 8, <uint32_t>(what.ntp >> 32))
        store_be32(out + 12, <uint32_t>what.ntp)
        store_be32(out + 16, what.rtp_timestamp)
        store_be32(out + 20, what.packets)
        store_be32(out + 24, what.octets)
        size += RTCP_SENDER_BYTES
    if what.has_block:
        write_block(out + size, &what.block)
        size += RTCP_BLOCK_BYTES
    write_head(out, RTCP_SR if what.has_sender else RTCP_RR, 1 if what.has_block else 0, size)
    return size


cdef size_t write_cname(uint8_t* out, const RTCPOut* what) noexcept nogil:
    cdef size_t end = HEAD_BYTES + 4 + 2 + what.cname_bytes
    cdef size_t size = (end + 4) & ~<size_t>3     # 1 to 4 zeros end the chunk (RFC 3550 6.5)
    store_be32(out + HEAD_BYTES, what.ssrc)
    out[8] = SDES_CNAME
    out[9] = what.cname_bytes
    memcpy(out + 10, what.cname, what.cname_bytes)
    memset(out + end, 0, size - end)
    write_head(out, RTCP_SDES, 1, size)
    return size


cdef size_t write_bye(uint8_t* out, uint32_t ssrc) noexcept nogil:
    write_head(out, RTCP_BYE, 1, HEAD_BYTES + 4)
    store_be32(out + HEAD_BYTES, ssrc)
    return HEAD_BYTES + 4


cdef size_t rtcp_write(uint8_t* out, const RTCPOut* what) noexcept nogil:
    cdef size_t size = write_report(out, what)
    size += write_cname(out + size, what)
    if what.bye:
        size += write_bye(out + size, what.ssrc)
    return size


# --- Python's view ---

MAX_BYTES = RTCP_MAX_BYTES


@dataclass(frozen=True)
class Sender:
    """Of an SR. `ntp`: all 64 bits when written, their middle 32 when read."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int


@dataclass(frozen=True)
class Block:
    ssrc: int
    fraction_lost: int
    lost: int
    highest: int
    jitter: int
    last_sr: int
    delay_since_sr: int


@dataclass(frozen=True)
class Report:
    from_ssrc: int
    sender: Sender | None
    block: Block | None
    bye: bool


def parse(packet: bytes, our_ssrc: int) -> Report | None:
    """None where `rtcp_parse` refuses."""
    cdef RTCPReport r
    if not rtcp_parse(packet, len(packet), our_ssrc, &r):
        return None
    sender = Sender(r.sender_ssrc, r.ntp_middle, r.rtp_timestamp, r.packets, r.octets) if r.has_sender else None
    block = Block(our_ssrc, r.fraction_lost, r.lost, r.highest, r.jitter, r.last_sr, r.delay_since_sr) if r.has_block else None
    return Report(r.from_ssrc, sender, block, bool(r.bye))


def pack(ssrc: int, cname: bytes, sender: Sender | None = None, block: Block | None = None, bye: bool = False) -> bytes:
    """What `rtcp_write` writes; the sender's own SSRC is not looked at."""
    cdef uint8_t out[RTCP_MAX_BYTES]
    cdef RTCPOut what
    if len(cname) > RTCP_CNAME_MAX:
        raise ValueError(f"a CNAME has at most {RTCP_CNAME_MAX} bytes, not {len(cname)}")
    memset(&what, 0, sizeof(what))
    what.ssrc, what.bye = ssrc, bye
    what.cname, what.cname_bytes = cname, len(cname)
    if sender is not None:
        what.has_sender = True
        what.ntp, what.rtp_timestamp, what.packets, what.octets = sender.ntp, sender.rtp_timestamp, sender.packets, sender.octets
    if block is not None:
        what.has_block = True
        what.block = RTCPBlock(
            block.ssrc, block.fraction_lost, block.lost, block.highest, block.jitter, block.last_sr, block.delay_since_sr)
    return out[:rtcp_write(out, &what)]
