"""The parts of SCTP by themselves: what opens a channel, in bytes; reassembly, against a model; acknowledgements."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import NamedTuple, cast

import pytest
from aiortc import rtcsctptransport as sctp
from aiortc.rtcdatachannel import RTCDataChannel
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sctp_pair import Pair
from tests.support.sctp_puppet import FIRST, FIRST_TSN, LAST, UNORDERED, WHOLE, Puppet, data, forward_tsn, packet, sack
from tests.support.virtual_loop import run
from transceiver.sctp_association import Association, Channel
from transceiver.sctp_inbound import MAX_SACK_ENTRIES, Stream
from transceiver.sctp_packets import ChannelOpen, parse_open, well_formed

Message = tuple[bool, int]  # ordered, fragments


# The fields of RFC 8832, 5.1, written out by hand.
@pytest.mark.parametrize(
    ("opening", "message"),
    [
        (ChannelOpen("", ""), "03 00 0000 00000000 0000 0000"),
        (ChannelOpen("ab", "c", ordered=False), "03 80 0000 00000000 0002 0001 6162 63"),
        (ChannelOpen("ä", "", max_retransmits=3), "03 01 0000 00000003 0002 0000 c3a4"),
        (ChannelOpen("", "é", False, None, 70_000), "03 82 0000 00011170 0000 0002 c3a9"),
    ],
)
def test_an_opening_message_byte_by_byte(opening: ChannelOpen, message: str) -> None:
    assert opening.encode() == bytes.fromhex(message)
    assert parse_open(bytes.fromhex(message)) == opening


@pytest.mark.parametrize("gaps", [[(5, 4)], [(2, 9), (9, 12)], [(8, 9), (2, 3)], [(2, 9), (2, 9)]])
def test_gaps_rise_and_do_not_overlap(gaps: list[tuple[int, int]]) -> None:
    """Otherwise a packet could name the same thousand TSNs five hundred times."""
    assert well_formed(packet(0, sack(7, [(2, 3), (5, 5)])))
    assert not well_formed(packet(0, sack(7, gaps)))


class Piece(NamedTuple):
    message: int
    tsn: int
    flags: int
    sequence: int

    def chunk(self) -> sctp.DataChunk:
        chunk = sctp.DataChunk(self.flags)
        chunk.tsn, chunk.stream_seq, chunk.user_data = self.tsn, self.sequence, self.tsn.to_bytes(4, "big")
        return chunk


def pieces_of(messages: list[Message], first_tsn: int) -> list[Piece]:
    found: list[Piece] = []
    sequence = 0
    for message, (ordered, count) in enumerate(messages):
        for number in range(count):
            flags = (0 if ordered else UNORDERED) | (FIRST if number == 0 else 0) | (LAST if number == count - 1 else 0)
            found.append(Piece(message, (first_tsn + len(found)) % 2**32, flags, sequence if ordered else 0))
        sequence += ordered
    return found


def deliverable(messages: list[Message], here: Counter[int]) -> set[int]:
    """A message is due when all of it is here and, if it is ordered, so are all ordered ones before it."""
    whole = {number for number, (_, count) in enumerate(messages) if here[number] == count}
    missing = [number for number, (ordered, _) in enumerate(messages) if ordered and number not in whole]
    return {number for number in whole if not messages[number][0] or number < min(missing, default=len(messages))}


MESSAGES = st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=8)
FIRST_TSNS = st.sampled_from([0, 1000, 2**32 - 7])
RANDOMNESS = st.randoms(use_true_random=False)
LOSSES = st.sets(st.integers(0, 31))


@given(MESSAGES, FIRST_TSNS, RANDOMNESS, LOSSES)
def test_a_message_comes_as_soon_as_it_is_due(
    messages: list[Message], first_tsn: int, randomness: random.Random, losses: set[int]
) -> None:
    stream, here = Stream(), Counter[int]()
    pieces = pieces_of(messages, first_tsn)
    arrivals = [piece for at, piece in enumerate(pieces) if at not in losses]
    randomness.shuffle(arrivals)
    delivered: list[int] = []
    for arrival in arrivals:
        here[arrival.message] += 1
        stream.add_chunk(arrival.chunk())
        for _, _, payload in stream.pop_messages():
            delivered.append(next(each.message for each in pieces if each.tsn == int.from_bytes(payload[:4], "big")))
            assert payload == b"".join(each.chunk().user_data for each in pieces if each.message == delivered[-1])
        assert sorted(delivered) == sorted(deliverable(messages, here))
    assert len(stream.held) == len(arrivals) - sum(messages[each][1] for each in delivered)
    in_order = [each for each in delivered if messages[each][0]]
    assert in_order == sorted(in_order)


@given(MESSAGES, FIRST_TSNS, RANDOMNESS, LOSSES)
def test_what_is_skipped_is_what_aiortc_skips(
    messages: list[Message], first_tsn: int, randomness: random.Random, losses: set[int]
) -> None:
    ours, theirs = Stream(), sctp.InboundStream()
    for at, piece in enumerate(pieces_of(messages, first_tsn)):
        if at not in losses:
            ours.add_chunk(piece.chunk())
            theirs.add_chunk(piece.chunk())
    skipped = (first_tsn + randomness.randrange(33)) % 2**32
    assert ours.prune_chunks(skipped) == theirs.prune_chunks(skipped)
    assert set(ours.held) == {each.tsn for each in theirs.reassembly}


@given(st.lists(st.integers(1, 60), max_size=80), st.sampled_from([FIRST_TSN, 2**32 - 20]))
def test_acknowledgements_say_what_arrived(arrivals: list[int], first_tsn: int) -> None:
    async def scene() -> None:
        puppet = Puppet().join()
        puppet.ours.channels._association._last_received_tsn = (first_tsn - 1) % 2**32
        for ahead in arrivals:
            puppet.say(data(first_tsn + ahead - 1, b"x", flags=UNORDERED | WHOLE))
            said = cast(sctp.SackChunk, puppet.answers()[-1])
        seen = set(arrivals)
        together = next(number for number in range(62) if number + 1 not in seen)
        if arrivals:
            assert said.cumulative_tsn == (first_tsn - 1 + together) % 2**32
            covered = {together + at for start, end in said.gaps for at in range(start, end + 1)}
            assert covered == {number for number in seen if number > together}
            assert [start for start, _ in said.gaps] == sorted(start for start, _ in said.gaps)
        puppet.ours.channels.close()

    run(scene())


def test_an_acknowledgement_fits_a_packet_and_takes_the_nearest_gaps() -> None:
    async def scene() -> None:
        puppet = Puppet().join()
        for number in range(0, 2 * (MAX_SACK_ENTRIES + 5), 2):
            puppet.say(data(FIRST_TSN + 1 + number, b"x", flags=UNORDERED | WHOLE))
        assert len(puppet.sent[-1]) <= sctp.SCTP_MAX_PACKET_LENGTH
        last = puppet.answers()[-1]
        assert isinstance(last, sctp.SackChunk)
        assert [start for start, _ in last.gaps] == list(range(2, 2 * MAX_SACK_ENTRIES + 2, 2))
        puppet.ours.channels.close()

    run(scene())


def test_what_a_forward_tsn_skips_is_forgotten_and_the_window_given_back() -> None:
    async def scene() -> None:
        puppet = Puppet().join()
        puppet.open()
        association = puppet.ours.channels._association
        before = association._advertised_rwnd
        puppet.tell(bytes(1000), sequence=1, flags=FIRST)
        puppet.say(data(puppet.tsn + 1, b"waits", sequence=2))
        assert association._advertised_rwnd < before
        puppet.say(forward_tsn(puppet.tsn, [(0, 1)]))
        assert puppet.ours.received() == [b"waits"]
        assert (association._advertised_rwnd, association._sack_misordered) == (before, set())
        puppet.ours.channels.close()

    run(scene())


def test_tsns_may_pass_their_highest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        pair = Pair(loss=0.1, jitter_s=0.03).start()
        theirs = pair.peer.open("x")
        await pair.ours.until(lambda: pair.ours.opened)
        await pair.peer.until(lambda: pair.peer.opened)
        expected = [str(number) * 300 for number in range(200)]
        for message in expected:
            pair.ours.opened[0].send(message)
            theirs.send(message)
        await pair.ours.until(lambda: len(pair.ours.messages) == len(expected))
        await pair.peer.until(lambda: len(pair.peer.messages) == len(expected))
        assert pair.ours.received() == pair.peer.received() == expected
        assert pair.ours.channels._association._local_tsn < 1000
        await pair.close()

    monkeypatch.setattr(sctp, "random32", lambda: 2**32 - 30)
    run(scene())


def test_aiortc_is_the_version_whose_names_are_overridden() -> None:
    """A name that aiortc renames would be overridden in vain: nothing would fail but the bound it keeps."""
    for ours, theirs in ((Association, sctp.RTCSctpTransport), (Stream, sctp.InboundStream), (Channel, RTCDataChannel)):
        for each in ours.__mro__[: ours.__mro__.index(theirs)]:
            for name in vars(each):
                private = name.startswith("_") and not name.startswith("__")
                assert not private or hasattr(theirs, name) or name in OURS_ALONE, f"{name} is no name of aiortc"


OURS_ALONE = {
    "_accept", "_beyond_window", "_close_gap", "_expected_request", "_forget", "_holds_too_much", "_receive_dcep",
    "_skip_to", "_streams", "_timely",
}  # fmt: skip


def test_no_task_is_made_for_a_packet_or_a_message() -> None:
    async def scene() -> None:
        pair = Pair().start()
        channel = pair.ours.open("x")
        await pair.ours.until(lambda: pair.ours.opened)
        await pair.peer.until(lambda: pair.peer.opened)
        for _ in range(100):
            channel.send(bytes(1000))
            for wire, end in ((pair.down, pair.peer), (pair.up, pair.ours)):
                for each in wire.carried:  # those of the handshake as well
                    end.receive(each)
                wire.carried.clear()
        assert len(pair.peer.messages) == 100
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await pair.close()

    run(scene())
