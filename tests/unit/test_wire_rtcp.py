"""RTCP compounds: whose words count, each way of being malformed, packets whole, truncated and extended; what is
written; aiortc as another implementation; mutations, the corpus and the oracle.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import astuple, replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire import rtcp
from _fastpath.wire.rtcp import Block, Report, Sender
from tests.fuzz.fuzz_rtcp import OUR_SSRC, one
from tests.support import packets, rtp_oracle
from tests.support.rtp_oracle import APP, BYE, PSFB, RR, RTPFB, SR, XR, goodbye, receiver_report, sender_report

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus" / "rtcp"

OURS, THEIRS, OTHER = OUR_SSRC, 0xAABBCCDD, 0x55667788
NTP = 0x0123456789ABCDEF
SENDER = Sender(THEIRS, NTP >> 16 & 0xFFFFFFFF, 0x10203040, 1000, 160_000)
BLOCK = Block(OURS, 25, -3, 0x00010002, 77, 0x89ABCDEF, 0x00018000)
MALFORMED = None


def sr(sender: Sender = SENDER, *blocks: Block) -> bytes:
    return sender_report(astuple(sender), NTP, [astuple(each) for each in blocks])


def rr(ssrc: int = THEIRS, *blocks: Block) -> bytes:
    return receiver_report(ssrc, [astuple(each) for each in blocks])


SDES = rtp_oracle.description(THEIRS, b"a@b")
COMPOUND = sr(SENDER, replace(BLOCK, ssrc=OTHER), BLOCK) + SDES + goodbye(THEIRS, reason=b"bye now")
WHOLE = Report(THEIRS, SENDER, BLOCK, True)


def read(compound: bytes) -> Report | None:
    """Compared with the oracle on the way."""
    one(compound)
    return rtcp.parse(compound, OURS)


# --- whose words count ---


def test_a_compound() -> None:
    assert read(COMPOUND) == WHOLE


@pytest.mark.parametrize(
    ("compound", "expected"),
    [
        pytest.param(rr(), Report(THEIRS, None, None, False), id="an empty RR"),
        pytest.param(rr(THEIRS, BLOCK), Report(THEIRS, None, BLOCK, False), id="RR"),
        pytest.param(sr(), Report(THEIRS, SENDER, None, False), id="SR without a block"),
        pytest.param(goodbye(THEIRS), Report(THEIRS, None, None, True), id="reduced size: BYE alone"),
        pytest.param(SDES, Report(THEIRS, None, None, False), id="reduced size: SDES alone"),
    ],
)
def test_each_kind_alone(compound: bytes, expected: Report) -> None:
    assert read(compound) == expected


@pytest.mark.parametrize("kind", [0, 72, 192, APP, RTPFB, PSFB, XR, 208, 223, 255])
def test_kinds_unknown_to_us_are_stepped_over(kind: int) -> None:
    unknown = rtp_oracle.packet(kind, 1, OTHER.to_bytes(4, "big") + bytes(32))
    assert read(unknown + COMPOUND) == replace(WHOLE, from_ssrc=OTHER, bye=False)
    assert read(COMPOUND + unknown) == WHOLE


def test_blocks_about_others_are_stepped_over() -> None:
    others = [replace(BLOCK, ssrc=OTHER + n, lost=n) for n in range(30)]
    assert read(rr(THEIRS, *others)) == Report(THEIRS, None, None, False)
    assert read(rr(THEIRS, *others, BLOCK)) == Report(THEIRS, None, BLOCK, False)
    assert read(sr(SENDER, *others[:15], BLOCK, *others[15:])) == Report(THEIRS, SENDER, BLOCK, False)


def test_of_several_senders_the_first_counts() -> None:
    second = replace(SENDER, ssrc=OTHER, packets=7)
    assert read(sr() + sr(second)) == Report(THEIRS, SENDER, None, False)
    assert read(rr(OTHER) + sr() + sr(second)) == Report(OTHER, SENDER, None, False)


def test_of_several_blocks_about_us_the_first_counts() -> None:
    second = replace(BLOCK, fraction_lost=200)
    assert read(sr(SENDER, BLOCK, second)) == Report(THEIRS, SENDER, BLOCK, False)
    assert read(sr() + rr(OTHER, BLOCK) + rr(THEIRS, second)) == Report(THEIRS, SENDER, BLOCK, False)


@pytest.mark.parametrize(
    ("listed", "bye"),
    [
        ([THEIRS], True),
        ([OTHER, THEIRS], True),
        ([*range(30), THEIRS], True),
        ([OTHER], False),
        ([OURS], False),
        ([], False),
    ],
)
def test_a_bye_counts_when_it_lists_who_sent_it(listed: list[int], bye: bool) -> None:
    assert read(rr() + goodbye(*listed)) == Report(THEIRS, None, None, bye)
    assert read(rr() + goodbye(*listed, reason=b"x" * 255)) == Report(THEIRS, None, None, bye)


def test_of_several_byes_one_is_enough() -> None:
    assert read(rr() + goodbye(THEIRS) + goodbye(OTHER)) == Report(THEIRS, None, None, True)
    assert read(rr() + goodbye(OTHER) + goodbye(THEIRS)) == Report(THEIRS, None, None, True)


def test_bytes_behind_the_last_block_are_a_profiles() -> None:
    """RFC 3550 6.4.3."""
    compound = receiver_report(THEIRS, [astuple(BLOCK)], extension=bytes(40))
    assert read(compound) == Report(THEIRS, None, BLOCK, False)


@pytest.mark.parametrize("lost", [0, 1, -1, 0x7FFFFF, -0x800000])
def test_losses_have_a_sign(lost: int) -> None:
    report = read(rr(THEIRS, replace(BLOCK, lost=lost, fraction_lost=255)))
    assert report is not None
    assert report.block == replace(BLOCK, lost=lost, fraction_lost=255)


# --- malformed ---


def claiming(packet: bytes, count: int) -> bytes:
    return bytes([packet[0] & 0xE0 | count]) + packet[1:]


@pytest.mark.parametrize(
    "compound",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes.fromhex("80c90000"), id="a bare head"),
        pytest.param(bytes.fromhex("80cb0000") + rr(), id="a first packet without a sender"),
        pytest.param(bytes.fromhex("80c90000") * 2, id="reports without a sender"),
        pytest.param(claiming(rr(), 1), id="RR without its block"),
        pytest.param(claiming(rr(THEIRS, BLOCK), 31), id="RR with 31 blocks in 24 bytes"),
        pytest.param(claiming(sr(), 1), id="SR without its block"),
        pytest.param(rtp_oracle.packet(SR, 0, bytes(20)), id="SR without all of its sender"),
        pytest.param(claiming(goodbye(THEIRS), 2), id="BYE without its list"),
        pytest.param(rr() + claiming(goodbye(THEIRS), 31), id="BYE of 31 in 4 bytes"),
        pytest.param(rr() + b"\x40" + SDES[1:], id="version 1 in the middle"),
        pytest.param(b"\x00" + rr()[1:], id="version 0"),
        pytest.param(rr() + bytes.fromhex("80ccffff") + bytes(1400), id="the longest packet"),
        pytest.param(rr() + bytes.fromhex("a0cc0000"), id="padding of a bare head"),
        pytest.param(rr() + bytes.fromhex("a0cc000100000000"), id="padding without a length"),
        pytest.param(rr() + bytes.fromhex("a0cc000100000005"), id="padding longer than the packet"),
    ],
)
def test_malformed(compound: bytes) -> None:
    assert read(compound) is MALFORMED


def test_padding_is_no_part_of_what_it_fills() -> None:
    for padding in (4, 8, 252):
        padded = sender_report(astuple(SENDER), NTP, [astuple(BLOCK)], padding)
        assert read(padded) == Report(THEIRS, SENDER, BLOCK, False)
    assert read(rr() + rtp_oracle.packet(APP, 0, b"", padding=4)) == Report(THEIRS, None, None, False)
    filled = rtp_oracle.packet(RR, 1, rr(THEIRS, BLOCK)[4:-4], padding=4)
    assert len(filled) == len(rr(THEIRS, BLOCK))
    assert read(filled) is MALFORMED
    assert read(rr() + rtp_oracle.packet(BYE, 1, b"", padding=4)) is MALFORMED


def test_truncated_at_every_length() -> None:
    """It is one only where a packet ends."""
    ends = {}
    for compound in packets.truncations(COMPOUND):
        if (report := read(compound)) is not MALFORMED:
            ends[len(compound)] = report
    at = len(COMPOUND) - len(goodbye(THEIRS, reason=b"bye now"))
    assert ends == {at - len(SDES): replace(WHOLE, bye=False), at: replace(WHOLE, bye=False)}


def test_trailing_bytes() -> None:
    for compound in packets.extensions(COMPOUND):
        assert read(compound) is MALFORMED, len(compound)


def test_every_bit_of_a_compound() -> None:
    for at in range(len(COMPOUND) * 8):
        compound = bytearray(COMPOUND)
        compound[at // 8] ^= 1 << at % 8
        one(bytes(compound))


def test_the_costliest_compound_is_read_to_its_end() -> None:
    """Bare heads and lists of 31 as far as a datagram goes."""
    lists = goodbye(*[OTHER] * 31) * 250
    assert read(rr() + lists + goodbye(THEIRS)) == Report(THEIRS, None, None, True)
    assert read(rr() + bytes.fromhex("80cc0000") * 16_000 + goodbye(THEIRS)) == Report(THEIRS, None, None, True)


# --- writing ---

words = st.integers(0, 0xFFFFFFFF)
blocks = st.builds(Block, words, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), words, words, words, words)
senders = st.builds(Sender, words, st.integers(0, 0xFFFFFFFFFFFFFFFF), words, words, words)
cnames = st.binary(max_size=255)
written = st.tuples(words, cnames, st.none() | senders, st.none() | blocks, st.booleans())
Written = tuple[int, bytes, Sender | None, Block | None, bool]


@given(written)
def test_what_is_written_byte_for_byte(given_: Written) -> None:
    ssrc, cname, sender, block, bye = given_
    reports = [] if block is None else [astuple(block)]
    expected = receiver_report(ssrc, reports)
    if sender is not None:
        expected = sender_report(astuple(replace(sender, ssrc=ssrc)), sender.ntp, reports)
    expected += rtp_oracle.description(ssrc, cname) + (goodbye(ssrc) if bye else b"")
    assert rtcp.pack(*given_) == expected
    assert len(expected) <= rtcp.MAX_BYTES


@given(written)
def test_what_is_written_is_read(given_: Written) -> None:
    ssrc, _, sender, block, bye = given_
    if sender is not None:
        sender = replace(sender, ssrc=ssrc, ntp=sender.ntp >> 16 & 0xFFFFFFFF)
    assert rtcp.parse(rtcp.pack(*given_), block.ssrc if block else 0) == Report(ssrc, sender, block, bye)


def test_the_longest_is_as_long_as_promised() -> None:
    assert len(rtcp.pack(THEIRS, b"c" * 255, SENDER, BLOCK, True)) == rtcp.MAX_BYTES


def test_a_cname_has_its_limit() -> None:
    with pytest.raises(ValueError, match="at most 255 bytes, not 256"):
        rtcp.pack(THEIRS, b"c" * 256)


@pytest.mark.parametrize(("lost", "said"), [(0x800000, 0x7FFFFF), (-0x800001, -0x800000), (0x7FFFFFFF, 0x7FFFFF)])
def test_losses_beyond_24_bits_are_clamped(lost: int, said: int) -> None:
    report = read(rtcp.pack(THEIRS, b"", None, replace(BLOCK, lost=lost)))
    assert report is not None
    assert report.block == replace(BLOCK, lost=said)


# --- against aiortc ---


@pytest.fixture(scope="module")
def aiortc() -> ModuleType:
    """Imported only where it is used: it is not there for every machine the tests run on."""
    from aiortc import rtp as module

    return module


@pytest.mark.native
@given(written)
def test_aiortc_reads_what_is_written(aiortc: ModuleType, given_: Written) -> None:
    ssrc, cname, sender, block, bye = given_
    report, description, *rest = aiortc.RtcpPacket.parse(rtcp.pack(*given_))
    assert report.ssrc == ssrc
    if sender is not None:
        s = report.sender_info
        assert (s.ntp_timestamp, s.rtp_timestamp, s.packet_count, s.octet_count) == astuple(sender)[1:]
    assert [astuple(each) for each in report.reports] == ([] if block is None else [astuple(block)])
    assert [(each.ssrc, each.items) for each in description.chunks] == [(ssrc, [(1, cname)])]
    assert [each.sources for each in rest] == ([[ssrc]] if bye else [])


@pytest.mark.native
@given(senders, st.lists(blocks, max_size=31), st.lists(words, max_size=31), st.booleans())
def test_reads_what_aiortc_writes(
    aiortc: ModuleType, sender: Sender, reports: list[Block], leaving: list[int], sends: bool
) -> None:
    info = aiortc.RtcpSenderInfo(*astuple(sender)[1:])
    told = [aiortc.RtcpReceiverInfo(*astuple(each)) for each in reports]
    first = aiortc.RtcpSrPacket(sender.ssrc, info, told) if sends else aiortc.RtcpRrPacket(sender.ssrc, told)
    nack = aiortc.RtcpRtpfbPacket(1, sender.ssrc, OURS, [1, 2, 40])
    compound = b"".join(map(bytes, (first, nack, aiortc.RtcpByePacket(leaving))))
    about = reports[-1].ssrc if reports else OURS
    block = next((each for each in reports if each.ssrc == about), None)
    heard = replace(sender, ntp=sender.ntp >> 16 & 0xFFFFFFFF) if sends else None
    assert rtcp.parse(compound, about) == Report(sender.ssrc, heard, block, sender.ssrc in leaving)


@pytest.mark.native
@given(st.data())
def test_takes_all_that_aiortc_takes(aiortc: ModuleType, data: st.DataObject) -> None:
    """But for what cannot have come through SRTCP; aiortc in turn is stricter inside packets we step over."""
    compound = mutated(data.draw(st.sampled_from([COMPOUND, *CORPUS_FILES.values()])), data)
    try:
        aiortc.RtcpPacket.parse(compound)
    except ValueError:
        return
    assert (rtcp.parse(compound, OURS) is not None) == (len(compound) >= 8 and compound[2:4] != b"\0\0")


# --- mutations, the corpus, the oracle ---

CORPUS_FILES = {path.name: path.read_bytes() for path in sorted(CORPUS.iterdir())}


def mutated(original: bytes, data: st.DataObject) -> bytes:
    compound = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        compound[data.draw(st.integers(0, len(compound) - 1))] = data.draw(st.integers(0, 255))
    return bytes(compound[: data.draw(st.integers(0, len(compound)))])


def random_mutations(count: int) -> Iterator[bytes]:
    """Bytes set, pieces cut out, doubled, and put together from two files."""
    chance = random.Random(3550)
    files = list(CORPUS_FILES.values())
    for _ in range(count):
        data = bytearray(chance.choice(files))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x1F, 0x80, 0xFF, chance.randrange(256)))
        at, size = 4 * chance.randrange(len(data) // 4), 4 * chance.randrange(4)
        match chance.randrange(4):
            case 0:
                del data[at : at + size]
            case 1:
                data[at:at] = data[at : at + size]
            case 2:
                data += chance.choice(files)
        yield bytes(data)


@pytest.mark.parametrize("name", CORPUS_FILES)
def test_the_corpus_is_read_as_the_oracle_reads_it(name: str) -> None:
    one(CORPUS_FILES[name])
    assert (rtcp.parse(CORPUS_FILES[name], OURS) is MALFORMED) == name.startswith("malformed")


def test_random_mutations_of_the_corpus() -> None:
    taken = 0
    for data in random_mutations(2000):
        one(data)
        taken += rtcp.parse(data, OURS) is not MALFORMED
    assert 200 < taken < 1800, taken  # else they test one side only


@given(st.data())
def test_agrees_with_the_oracle_on_mutated_ones(data: st.DataObject) -> None:
    one(mutated(COMPOUND, data))


pieces = st.builds(
    rtp_oracle.packet,
    st.sampled_from([SR, RR, BYE, APP]),
    st.integers(0, 31),
    st.integers(0, 8).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
    st.sampled_from([0, 0, 4, 8]),
)


@given(st.lists(pieces, max_size=5), st.binary(max_size=40))
def test_agrees_with_the_oracle_on_anything(compound: list[bytes], rest: bytes) -> None:
    one(b"".join(compound))
    one(rest)
    one(bytes([0x80]) + rest)
