"""What an SCTP packet must look like before aiortc's parser may see it, and the messages that open a channel.

aiortc believes lengths and numbers its peer wrote: a parameter of length 0 keeps its parser busy for ever and eats
memory on the way, a gap block may name 65,536 chunks, each chunk may be one of hundreds. `well_formed` is the door:
lengths inside their bounds (RFC 9260, 3), fields that have to be there, numbers that rise, and of every chunk but DATA
and ERROR one a packet. What depends on the state of the association (which TSNs were sent, whether an INIT is still
welcome) is judged in `transceiver.sctp`; so is the checksum, by aiortc.

The second half is RFC 8832 in bytes, in both directions; aiortc counts a label's characters where octets are meant.

Rules: no state, no clock, never raises for what a peer sent. Called by `transceiver.sctp` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

# No WebRTC stack sends packets above an Ethernet frame: dcsctp and aiortc stay below 1,192 bytes, usrsctp below 1,280.
MAX_PACKET_BYTES = 2048
COMMON_HEADER_BYTES = 12
CHUNK_HEADER_BYTES = 4
PARAMETER_HEADER_BYTES = 4

DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR = range(10)
COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE, RECONFIG, FORWARD_TSN = 10, 11, 14, 130, 192
ALONE = {INIT, INIT_ACK, SHUTDOWN_COMPLETE}  # RFC 9260, 6.10: never bundled
REPEATED = {DATA, ERROR}

# Value bytes a parameter of RE-CONFIG has at least (RFC 6525, 4): reset of outgoing streams, response, more streams.
RESET_OUTGOING, RESET_RESPONSE, ADD_OUTGOING = 13, 16, 17
RECONFIG_BYTES = {RESET_OUTGOING: 12, RESET_RESPONSE: 8, ADD_OUTGOING: 8}
RECONFIG_PARAMETERS = 2  # RFC 6525, 3.1

CHUNK_HEADER = Struct("!BxH")
PARAMETER_HEADER = Struct("!HH")
INIT_BODY = Struct("!LLHHL")  # tag, window, outbound streams, inbound streams, first TSN
SACK_BODY = Struct("!LLHH")  # cumulative TSN, window, gap blocks, duplicates
GAP = Struct("!HH")

OPEN = Struct("!BBHLHH")  # type, channel type, priority, reliability, label and protocol length (RFC 8832, 5.1)
OPEN_MESSAGE, ACK_MESSAGE = 3, 2
ACK = bytes([ACK_MESSAGE])
UNORDERED = 0x80
RELIABLE, LIMITED_RETRANSMITS, LIMITED_TIME = 0, 1, 2
# Payload protocol identifiers (RFC 8831, 8).
DCEP, STRING, BINARY, EMPTY_STRING, EMPTY_BINARY = 50, 51, 53, 56, 57
MAX_NAME_BYTES = 4096  # label and protocol; RFC 8832 allows 128 KiB, and each of 256 channels keeps its own


class ChannelError(Exception):
    """A message or a channel that cannot be: the caller's affair, never the peer's doing."""


class ChannelFull(ChannelError):
    """Too much waits to be sent; later there may be room."""


def well_formed(packet: bytes) -> bool:
    """Whether the packet's structure is sound, and no chunk of it asks for more work than it may."""
    if not COMMON_HEADER_BYTES + CHUNK_HEADER_BYTES <= len(packet) <= MAX_PACKET_BYTES:
        return False
    known: list[int] = []
    at = COMMON_HEADER_BYTES
    while at + CHUNK_HEADER_BYTES <= len(packet):
        kind, length = CHUNK_HEADER.unpack_from(packet, at)
        if length < CHUNK_HEADER_BYTES or at + length > len(packet):
            return False
        check = CHECKS.get(kind)
        if check is not None:
            if not check(packet, at + CHUNK_HEADER_BYTES, at + length):
                return False
            known.append(kind)
        at += length + (-length & 3)
    return bundle_allowed(known)


def bundle_allowed(kinds: list[int]) -> bool:
    """RFC 9260 has no use for two of a kind, and the answer to each would cost us a packet."""
    if len(kinds) == 1:
        return True
    single = [kind for kind in kinds if kind not in REPEATED]
    return bool(kinds) and len(single) == len(set(single)) and ALONE.isdisjoint(single)


def check_data(packet: bytes, at: int, end: int) -> bool:
    return end - at > 12  # an empty one is a violation (RFC 9260, 3.3.1)


def check_init(packet: bytes, at: int, end: int) -> bool:
    if end - at < INIT_BODY.size:
        return False
    tag, _, outbound, inbound, _ = INIT_BODY.unpack_from(packet, at)
    return bool(tag and outbound and inbound) and check_parameters(packet, at + INIT_BODY.size, end)


def check_sack(packet: bytes, at: int, end: int) -> bool:
    if end - at < SACK_BODY.size:
        return False
    _, _, gaps, duplicates = SACK_BODY.unpack_from(packet, at)
    if end - at != SACK_BODY.size + 4 * (gaps + duplicates):
        return False
    first = at + SACK_BODY.size
    blocks = list(GAP.iter_unpack(packet[first : first + 4 * gaps]))
    return all(start <= last for start, last in blocks) and all(
        last < start for (_, last), (start, _) in pairwise(blocks)
    )


def check_forward_tsn(packet: bytes, at: int, end: int) -> bool:
    return end - at >= 4 and (end - at) % 4 == 0


def check_shutdown(packet: bytes, at: int, end: int) -> bool:
    return end - at == 4


def check_parameters(packet: bytes, at: int, end: int) -> bool:
    return parameters(packet, at, end) is not None


def check_reconfig(packet: bytes, at: int, end: int) -> bool:
    found = parameters(packet, at, end)
    if found is None or not 1 <= len(found) <= RECONFIG_PARAMETERS:
        return False
    return all(size >= RECONFIG_BYTES.get(kind, 0) and size % 2 == 0 for kind, size in found)


def parameters(packet: bytes, at: int, end: int) -> list[tuple[int, int]] | None:
    """Kind and size of each parameter's value; None where a length leads nowhere or out of the chunk."""
    found = []
    while at + PARAMETER_HEADER_BYTES <= end:
        kind, length = PARAMETER_HEADER.unpack_from(packet, at)
        if length < PARAMETER_HEADER_BYTES or at + length > end:
            return None
        found.append((kind, length - PARAMETER_HEADER_BYTES))
        at += length + (-length & 3)
    return found


def check_nothing(packet: bytes, at: int, end: int) -> bool:
    return True


CHECKS: dict[int, Callable[[bytes, int, int], bool]] = {
    DATA: check_data,
    INIT: check_init,
    INIT_ACK: check_init,
    SACK: check_sack,
    HEARTBEAT: check_parameters,
    HEARTBEAT_ACK: check_parameters,
    ABORT: check_parameters,
    SHUTDOWN: check_shutdown,
    SHUTDOWN_ACK: check_nothing,
    ERROR: check_parameters,
    COOKIE_ECHO: check_nothing,
    COOKIE_ACK: check_nothing,
    SHUTDOWN_COMPLETE: check_nothing,
    RECONFIG: check_reconfig,
    FORWARD_TSN: check_forward_tsn,
}


class ChannelOpen(NamedTuple):
    """What a DATA_CHANNEL_OPEN says."""

    label: str
    protocol: str = ""
    ordered: bool = True
    max_retransmits: int | None = None
    max_packet_life_time: int | None = None  # milliseconds

    def encode(self) -> bytes:
        """ValueError if it cannot be said."""
        limits = [each for each in (self.max_retransmits, self.max_packet_life_time) if each is not None]
        if len(limits) > 1 or not all(0 <= each < 1 << 32 for each in limits):
            raise ValueError("one of max_retransmits and max_packet_life_time, in 32 bits")
        label, protocol = self.label.encode(), self.protocol.encode()
        if len(label) + len(protocol) > MAX_NAME_BYTES:
            raise ValueError(f"label and protocol of more than {MAX_NAME_BYTES} bytes")
        kind, reliability = RELIABLE, 0
        if self.max_retransmits is not None:
            kind, reliability = LIMITED_RETRANSMITS, self.max_retransmits
        elif self.max_packet_life_time is not None:
            kind, reliability = LIMITED_TIME, self.max_packet_life_time
        kind |= 0 if self.ordered else UNORDERED
        return OPEN.pack(OPEN_MESSAGE, kind, 0, reliability, len(label), len(protocol)) + label + protocol


def parse_open(message: bytes) -> ChannelOpen | None:
    if not OPEN.size <= len(message) <= OPEN.size + MAX_NAME_BYTES:
        return None
    _, kind, _, reliability, label_bytes, protocol_bytes = OPEN.unpack_from(message)
    if OPEN.size + label_bytes + protocol_bytes != len(message) or (kind & ~UNORDERED) > LIMITED_TIME:
        return None
    names = message[OPEN.size :]
    return ChannelOpen(
        label=names[:label_bytes].decode(errors="replace"),
        protocol=names[label_bytes:].decode(errors="replace"),
        ordered=not kind & UNORDERED,
        max_retransmits=reliability if kind & 3 == LIMITED_RETRANSMITS else None,
        max_packet_life_time=reliability if kind & 3 == LIMITED_TIME else None,
    )


def decode_text(data: bytes) -> str:
    return data.decode(errors="replace")  # as browsers do (W3C WebRTC, 6.6)


DECODERS: dict[int, Callable[[bytes], str | bytes]] = {
    STRING: decode_text,
    BINARY: bytes,
    # RFC 8831, 6.6: SCTP has no empty messages, so one byte stands for them.
    EMPTY_STRING: lambda data: "",
    EMPTY_BINARY: lambda data: b"",
}


def encode_message(data: str | bytes) -> tuple[int, bytes]:
    if isinstance(data, bytes):
        return (BINARY, data) if data else (EMPTY_BINARY, b"\0")
    try:
        text = data.encode()
    except UnicodeEncodeError as error:
        raise ChannelError("the text has no form in UTF-8") from error
    return (STRING, text) if text else (EMPTY_STRING, b"\0")
