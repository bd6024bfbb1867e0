"""Python's view of `rtp.pxd`, for tools and tests; the hot path uses the inline functions."""

from dataclasses import dataclass

from _fastpath.wire.demux cimport KIND_RTP, classify


@dataclass(frozen=True)
class Header:
    ssrc: int
    timestamp: int
    sequence: int
    payload_type: int
    marker: bool
    payload: bytes


def clear(packet: bytes) -> tuple[str, int, int] | None:
    """What can be told before SRTP: ("rtcp", 0, 0) or ("rtp", payload type, SSRC); None for what has no such header."""
    cdef const uint8_t* raw = packet
    if classify(raw, len(packet)) != KIND_RTP:
        return None
    if is_rtcp(raw):
        return "rtcp", 0, 0
    return ("rtp", rtp_payload_type(raw), rtp_ssrc(raw)) if len(packet) >= RTP_HEADER_BYTES else None


def parse(packet: bytes) -> Header | None:
    """None where `rtp_parse` refuses."""
    cdef RTPHeader h
    if not rtp_parse(packet, len(packet), &h):
        return None
    payload = packet[h.payload_at:h.payload_at + h.payload_bytes]
    return Header(h.ssrc, h.timestamp, h.sequence, h.payload_type, bool(h.marker), payload)


def pack(payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int) -> bytes:
    """The 12 bytes that `rtp_write` writes."""
    cdef uint8_t out[RTP_HEADER_BYTES]
    rtp_write(out, payload_type, marker, sequence, timestamp, ssrc)
    return out[:RTP_HEADER_BYTES]
