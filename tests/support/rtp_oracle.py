"""RTP and RTCP once more, in plain Python: what the compiled parsers are compared with, and packets to compare them on.

Written from RFC 3550, not from the Cython: packets are sliced and unpacked, an RTCP compound is first cut into its
packets and only then looked at. Results are plain tuples in the order of the fields of `_fastpath.wire.rtp.Header`
and `_fastpath.wire.rtcp.Report`. Rule: no import of `_fastpath`.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack, unpack_from

SR, RR, SDES, BYE, APP, RTPFB, PSFB, XR = 200, 201, 202, 203, 204, 205, 206, 207

RTPFields = tuple[int, int, int, int, bool, bytes]
SenderFields = tuple[int, int, int, int, int]
BlockFields = tuple[int, int, int, int, int, int, int]
ReportFields = tuple[int, SenderFields | None, BlockFields | None, bool]
RTCPPacket = tuple[int, int, bytes]  # kind, count, body without padding


# --- RTP ---


def rtp(packet: bytes) -> RTPFields | None:
    """(SSRC, timestamp, sequence number, payload type, marker, payload)."""
    if len(packet) < 12 or packet[0] >> 6 != 2:
        return None
    first, second, sequence, timestamp, ssrc = unpack("!BBHII", packet[:12])
    rest = packet[12:]
    if len(rest) < 4 * (first & 15):
        return None
    rest = rest[4 * (first & 15) :]
    if first & 0x10:
        if len(rest) < 4 or len(rest) < 4 + 4 * unpack_from("!H", rest, 2)[0]:
            return None
        rest = rest[4 + 4 * unpack_from("!H", rest, 2)[0] :]
    if first & 0x20:
        if not rest or not 1 <= rest[-1] <= len(rest):
            return None
        rest = rest[: -rest[-1]]
    return ssrc, timestamp, sequence, second & 127, second >= 128, rest


# --- RTCP ---


def cut(compound: bytes) -> list[RTCPPacket] | None:
    """The packets of a compound; None where one has another version, or a length or padding that cannot be."""
    packets = []
    while compound:
        if len(compound) < 4 or compound[0] >> 6 != 2:
            return None
        first, kind, words = unpack("!BBH", compound[:4])
        body, compound = compound[4 : 4 + 4 * words], compound[4 + 4 * words :]
        if len(body) != 4 * words:
            return None
        if first & 0x20:
            if not body or not 1 <= body[-1] <= len(body):
                return None
            body = body[: -body[-1]]
        packets.append((kind, first & 31, body))
    return packets


def fits(packet: RTCPPacket) -> bool:
    """Is there what its count announces?"""
    kind, count, body = packet
    return len(body) >= {SR: 24 + 24 * count, RR: 4 + 24 * count, BYE: 4 * count}.get(kind, 0)


def block(data: bytes) -> BlockFields:
    ssrc, fraction, lost = data[:4], data[4], int.from_bytes(data[5:8], "big", signed=True)
    return (int.from_bytes(ssrc, "big"), fraction, lost, *unpack("!IIII", data[8:24]))


def rtcp(compound: bytes, our_ssrc: int) -> ReportFields | None:
    """(SSRC of the first packet, the first SR's sender, the first block about us, whether a BYE lists that SSRC)."""
    packets = cut(compound)
    if packets is None or len(compound) < 8 or compound[2:4] == b"\0\0" or not all(map(fits, packets)):
        return None
    first = int.from_bytes(compound[4:8], "big")
    senders, blocks, leaving = [], [], set[int]()
    for kind, count, body in packets:
        if kind == SR:
            ssrc, middle, *numbers = unpack("!I2xI2xIII", body[:24])
            senders.append((ssrc, middle, *numbers))
        if kind in (SR, RR):
            at = 24 if kind == SR else 4
            blocks += [block(body[at + 24 * i : at + 24 * i + 24]) for i in range(count)]
        if kind == BYE:
            leaving |= set(unpack(f"!{count}I", body[: 4 * count]))
    ours = [each for each in blocks if each[0] == our_ssrc]
    return first, next(iter(senders), None), next(iter(ours), None), first in leaving


# --- packets ---


def packet(kind: int, count: int, body: bytes, padding: int = 0) -> bytes:
    """One RTCP packet; `padding` is the number of bytes added, a multiple of four."""
    filled = body + (bytes(padding - 1) + bytes([padding]) if padding else b"")
    return pack("!BBH", 0x80 | (0x20 if padding else 0) | count, kind, len(filled) // 4) + filled


def block_bytes(fields: BlockFields) -> bytes:
    ssrc, fraction, lost, *numbers = fields
    return pack("!IB", ssrc, fraction) + lost.to_bytes(3, "big", signed=True) + pack("!IIII", *numbers)


def sender_report(sender: SenderFields, ntp: int, blocks: Sequence[BlockFields] = (), padding: int = 0) -> bytes:
    """`ntp` has all 64 bits; the sender's own field, its middle, is not looked at."""
    ssrc, _, *numbers = sender
    body = pack("!IQIII", ssrc, ntp, *numbers) + b"".join(map(block_bytes, blocks))
    return packet(SR, len(blocks), body, padding)


def receiver_report(ssrc: int, blocks: Sequence[BlockFields] = (), extension: bytes = b"") -> bytes:
    return packet(RR, len(blocks), pack("!I", ssrc) + b"".join(map(block_bytes, blocks)) + extension)


def goodbye(*ssrcs: int, reason: bytes = b"") -> bytes:
    text = bytes([len(reason)]) + reason if reason else b""
    return packet(BYE, len(ssrcs), pack(f"!{len(ssrcs)}I", *ssrcs) + text + bytes(-len(text) % 4))


def description(ssrc: int, cname: bytes) -> bytes:
    item = pack("!IBB", ssrc, 1, len(cname)) + cname
    return packet(SDES, 1, item + bytes(4 - len(item) % 4))
