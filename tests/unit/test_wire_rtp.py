"""RTP's header: each rule, packets whole, truncated and extended; aiortc as another implementation; mutations and the
oracle.
"""

from __future__ import annotations

from dataclasses import astuple
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire import rtp
from tests.support import packets, rtp_oracle

HEADER = bytes.fromhex("80ef0102030405060708090a")
PAYLOAD = bytes(range(1, 21))
CSRCS = bytes.fromhex("a1a2a3a4b1b2b3b4")
EXTENSION = bytes.fromhex("bede0001 10b20000")


def with_bits(bits: int, rest: bytes) -> bytes:
    """HEADER with other low bits of its first byte, and what follows."""
    return bytes([0x80 | bits]) + HEADER[1:] + rest


WHOLE = with_bits(0x32, CSRCS + EXTENSION + PAYLOAD + b"\0\0\x03")


def fields(packet: bytes) -> rtp_oracle.RTPFields | None:
    header = rtp.parse(packet)
    return None if header is None else astuple(header)


# --- parsing ---


def test_a_plain_packet() -> None:
    expected = rtp.Header(0x0708090A, 0x03040506, 0x0102, 111, True, PAYLOAD)
    assert rtp.parse(HEADER + PAYLOAD) == expected


def test_the_payload_stands_behind_csrcs_and_extension_and_before_padding() -> None:
    header = rtp.parse(WHOLE)
    assert header is not None
    assert header.payload == PAYLOAD


def test_a_packet_may_be_empty() -> None:
    """What probes and keep-alives look like: no payload, or padding alone."""
    for packet in (HEADER, with_bits(0x20, b"\x01"), with_bits(0x20, bytes(254) + b"\xff")):
        header = rtp.parse(packet)
        assert header is not None
        assert header.payload == b""


@pytest.mark.parametrize("version", [0, 1, 3])
def test_other_versions(version: int) -> None:
    assert rtp.parse(bytes([version << 6]) + HEADER[1:] + PAYLOAD) is None


@pytest.mark.parametrize(
    ("bits", "rest"),
    [
        pytest.param(0x01, b"", id="a CSRC that is not there"),
        pytest.param(0x0F, bytes(59), id="15 CSRCs in 59 bytes"),
        pytest.param(0x10, b"", id="no extension"),
        pytest.param(0x10, bytes.fromhex("bede00"), id="half an extension's head"),
        pytest.param(0x10, bytes.fromhex("bede0001aabbcc"), id="an extension of 3 bytes"),
        pytest.param(0x10, bytes.fromhex("bedeffff") + bytes(1400), id="the longest extension"),
        pytest.param(0x20, b"", id="padding of nothing"),
        pytest.param(0x20, b"\x00", id="padding without a length"),
        pytest.param(0x20, b"\x01\x03", id="padding longer than the payload"),
        pytest.param(0x30, EXTENSION + b"\x02", id="padding that reaches into the extension"),
        pytest.param(0x21, b"\0\0\0\x01", id="padding that reaches into the CSRCs"),
    ],
)
def test_claims_of_more_than_there_is(bits: int, rest: bytes) -> None:
    assert rtp.parse(with_bits(bits, rest)) is None


def test_truncated_at_every_length() -> None:
    """Padding gone, its last byte is the payload's, so that a cut packet may still be one; the oracle knows which."""
    valid = []
    for packet in packets.truncations(WHOLE):
        assert fields(packet) == rtp_oracle.rtp(packet), len(packet)
        if fields(packet):
            valid.append(len(packet))
    assert valid  # some are
    assert min(valid) > 12 + len(CSRCS) + len(EXTENSION)


def test_a_plain_packet_truncated_is_one_from_the_whole_header_on() -> None:
    for packet in packets.truncations(HEADER + PAYLOAD):
        header = rtp.parse(packet)
        assert (header is None) == (len(packet) < len(HEADER))
        assert header is None or header.payload == packet[len(HEADER) :]


def test_trailing_bytes_are_payload_and_padding_counts_from_the_end() -> None:
    for packet in packets.extensions(HEADER + PAYLOAD):
        header = rtp.parse(packet)
        assert header is not None
        assert header.payload == packet[len(HEADER) :]
    for packet in packets.extensions(WHOLE):
        assert fields(packet) == rtp_oracle.rtp(packet)


def test_every_bit_of_a_packet() -> None:
    for at in range(len(WHOLE) * 8):
        packet = bytearray(WHOLE)
        packet[at // 8] ^= 1 << at % 8
        assert fields(bytes(packet)) == rtp_oracle.rtp(bytes(packet)), at


# --- before SRTP ---


def test_what_is_told_of_protected_packets() -> None:
    assert rtp.clear(HEADER) == ("rtp", 111, 0x0708090A)
    assert rtp.clear(HEADER[:11]) is None
    assert rtp.clear(packets.RTCP) == ("rtcp", 0, 0)
    assert rtp.clear(packets.RTCP[:7]) is None
    assert rtp.clear(packets.DTLS) is None


def test_rtcp_is_told_by_its_second_byte() -> None:
    """RFC 5761 4: 192 to 223, which leaves RTP all payload types, but 64 to 95 only without the marker."""
    kinds = {second: rtp.clear(bytes([0x80, second]) + bytes(10)) for second in range(256)}
    assert [second for second, kind in kinds.items() if kind == ("rtcp", 0, 0)] == list(range(192, 224))
    assert all(kinds[second] == ("rtp", second & 127, 0) for second in (*range(192), *range(224, 256)))


# --- writing ---

headers = st.tuples(
    st.integers(0, 127), st.booleans(), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)
)


@given(headers, st.binary(max_size=20))
def test_what_is_written_is_read(given_: tuple[int, bool, int, int, int], payload: bytes) -> None:
    payload_type, marker, sequence, timestamp, ssrc = given_
    packet = rtp.pack(*given_) + payload
    assert fields(packet) == (ssrc, timestamp, sequence, payload_type, marker, payload)
    assert rtp_oracle.rtp(packet) == fields(packet)


def test_a_payload_type_never_touches_the_marker() -> None:
    assert rtp.pack(255, False, 0, 0, 0) == bytes([0x80, 127]) + bytes(10)


# --- against aiortc ---


@pytest.fixture(scope="module")
def aiortc() -> ModuleType:
    """Imported only where it is used: it is not there for every machine the tests run on."""
    from aiortc import rtp as module

    return module


@pytest.mark.native
@given(headers, st.lists(st.integers(0, 0xFFFFFFFF), max_size=15), st.binary(max_size=40), st.integers(0, 255))
def test_reads_what_aiortc_writes(
    aiortc: ModuleType, given_: tuple[int, bool, int, int, int], csrcs: list[int], payload: bytes, padding: int
) -> None:
    payload_type, marker, sequence, timestamp, ssrc = given_
    packet = aiortc.RtpPacket(payload_type, int(marker), sequence, timestamp, ssrc, payload)
    packet.csrc, packet.padding_size = csrcs, padding
    assert fields(packet.serialize()) == (ssrc, timestamp, sequence, payload_type, marker, payload)


@pytest.mark.native
@given(headers, st.binary(max_size=20))
def test_aiortc_reads_what_is_written(
    aiortc: ModuleType, given_: tuple[int, bool, int, int, int], payload: bytes
) -> None:
    packet = aiortc.RtpPacket.parse(rtp.pack(*given_) + payload)
    read = (packet.payload_type, bool(packet.marker), packet.sequence_number, packet.timestamp, packet.ssrc)
    assert read == given_
    assert packet.payload == payload


def aiortc_fields(aiortc: ModuleType, packet: bytes) -> rtp_oracle.RTPFields | None:
    try:
        p = aiortc.RtpPacket.parse(packet)
    except ValueError:
        return None
    return p.ssrc, p.timestamp, p.sequence_number, p.payload_type, bool(p.marker), p.payload


@pytest.mark.native
@given(st.sampled_from([HEADER, WHOLE]), st.data())
def test_agrees_with_aiortc_on_mutated_ones(aiortc: ModuleType, original: bytes, data: st.DataObject) -> None:
    """Not about the inside of header extensions, which aiortc reads as well: 0xBEDE and 0x1000 are taken out."""
    packet = mutated(original, data)
    packet = packet.replace(b"\xbe\xde", b"\xbe\xdf").replace(b"\x10\x00", b"\x10\x01")
    assert fields(packet) == aiortc_fields(aiortc, packet)


# --- against the oracle ---


def mutated(original: bytes, data: st.DataObject) -> bytes:
    packet = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    return bytes(packet[: data.draw(st.integers(0, len(packet)))])


@given(st.sampled_from([HEADER, WHOLE]), st.data())
def test_agrees_with_the_oracle_on_mutated_ones(original: bytes, data: st.DataObject) -> None:
    packet = mutated(original, data)
    assert fields(packet) == rtp_oracle.rtp(packet)


@given(st.integers(0x80, 0xBF), st.binary(max_size=90))
def test_agrees_with_the_oracle_on_anything(first: int, rest: bytes) -> None:
    packet = bytes([first]) + rest
    assert fields(packet) == rtp_oracle.rtp(packet)
    assert fields(rest) == rtp_oracle.rtp(rest)
