"""Hostile SCTP, from a peer that has passed DTLS. The policy:

1. No packet raises, whatever its length and content; what no honest peer sends is counted in `malformed`.
2. After it the association goes on, unless the packet itself ends it (ABORT, SHUTDOWN), or the peer is cut off since it
   never completes what it sends: `failure` says so then. It never is an exception's name: aiortc does not fail inside.
3. What a peer makes us keep is bounded in bytes and in pieces, and so is what one packet costs.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path

import pytest
from aiortc import rtcsctptransport as sctp

from tests.fuzz import fuzz_sctp
from tests.support.sctp_puppet import (
    FIRST,
    FIRST_TSN,
    LAST,
    UNORDERED,
    WHOLE,
    Puppet,
    chunk,
    data,
    forward_tsn,
    init,
    opening,
    parameter,
    reset,
    sack,
)
from tests.support.virtual_loop import VirtualLoop, run
from transceiver import sctp_inbound
from transceiver.sctp import MAX_MESSAGE_BYTES
from transceiver.sctp_packets import MAX_PACKET_BYTES

CORPUS = sorted((Path(fuzz_sctp.__file__).parent / "corpus" / "sctp").iterdir())
CUT_OFF = "the peer never completes its messages"

# One chunk of each kind, or a bundle, as an honest peer could send it next.
KINDS: dict[str, Callable[[Puppet], bytes]] = {
    "DATA": lambda p: data(p.tsn, b"message", sequence=1),
    "OPEN": lambda p: data(p.tsn, opening(b"label", b"protocol"), stream=2, ppid=50),
    "INIT": lambda p: init(parameters=parameter(0x8008, b"\xc0\x82") + parameter(0xC000, b"")),
    "INIT ACK": lambda p: chunk(2, init()[4:] + parameter(7, b"cookie")),
    "SACK": lambda p: sack(p.their_tsn - 1, [(1, 1)]),
    "HEARTBEAT": lambda p: chunk(4, parameter(1, b"info")),
    "ABORT": lambda p: chunk(6, parameter(12, b"reason")),
    "SHUTDOWN": lambda p: chunk(7, struct.pack("!L", p.their_tsn)),
    "ERROR": lambda p: chunk(9, parameter(3, bytes(4))),
    "COOKIE ECHO": lambda p: chunk(10, bytes(24)),
    "RECONFIG": lambda p: reset(FIRST_TSN, p.tsn - 1, 0),
    "FORWARD TSN": lambda p: forward_tsn(p.tsn + 3, [(0, 2)]),
    "bundle": lambda p: sack(p.their_tsn - 1) + data(p.tsn, b"one", sequence=1) + chunk(63, b"unknown"),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def scene(function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test runs in a virtual loop, and leaves no timer."""

    @wraps(function)
    def wrapper(**arguments: object) -> None:
        async def play() -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            await function(**arguments)
            await asyncio.sleep(0)
            assert loop.timers() == 0

        run(play())

    return wrapper


def joined() -> Puppet:
    """With an open channel on stream 0."""
    puppet = Puppet().join()
    puppet.open()
    puppet.answers()
    return puppet


def end(puppet: Puppet) -> None:
    assert puppet.ours.channels.failure in ("", CUT_OFF)
    puppet.ours.channels.close()
    assert puppet.ours.channels._association.waiting_messages == 0


@EVERY_KIND
@scene
async def test_a_packet_of_any_length_with_a_wrong_checksum_is_counted(kind: str) -> None:
    puppet = joined()
    packet = puppet.packet(KINDS[kind](puppet))
    wrong = [packet[:length] for length in range(len(packet))]
    wrong += [packet[:at] + bytes([packet[at] ^ 0x55]) + packet[at + 1 :] for at in range(len(packet))]
    for each in wrong:
        puppet.ours.receive(each)
    assert puppet.ours.channels.malformed == len(wrong)
    assert puppet.answers() == []
    assert puppet.is_served()
    end(puppet)


@EVERY_KIND
@scene
async def test_a_packet_cut_anywhere_with_the_right_checksum_does_no_harm(kind: str) -> None:
    whole = len(KINDS[kind](joined_once := joined()))
    end(joined_once)
    for length in range(whole):
        puppet = joined()
        puppet.say(KINDS[kind](puppet)[:length])
        assert puppet.ours.channels.state == "connected" or kind in ("ABORT", "SHUTDOWN")
        end(puppet)


@EVERY_KIND
@scene
async def test_a_packet_changed_anywhere_with_the_right_checksum_does_no_harm(kind: str) -> None:
    puppet = joined()
    for at in range(len(KINDS[kind](puppet))):
        for change in (0x01, 0x02, 0x80, 0xFF):
            chunks = bytearray(KINDS[kind](puppet))
            chunks[at] ^= change
            puppet.say(bytes(chunks))
            puppet.tell(b"more")
            end(puppet)
            puppet = joined()
    end(puppet)


@pytest.mark.parametrize(
    "chunks",
    {
        "nothing at all": b"",
        "only a chunk nobody knows": chunk(63, b"what?"),
        "a parameter of length 0": chunk(4, bytes(4)),
        "an INIT with a parameter of length 0": init(parameters=bytes(4)),
        "an INIT with tag 0": init(tag=0),
        "an INIT without streams": init(streams=0),
        "an INIT too short": chunk(1, bytes(15)),
        "an INIT and more": init() + chunk(4, parameter(1, b"")),
        "an empty DATA": chunk(0, bytes(12), WHOLE),
        "a SACK too short": chunk(3, bytes(11)),
        "a SACK shorter than its gaps": chunk(3, struct.pack("!LLHH", 0, 0, 9, 0)),
        "a SACK with a gap backwards": chunk(3, struct.pack("!LLHHHH", 0, 0, 1, 0, 9, 3)),
        "a SACK with overlapping gaps": chunk(3, struct.pack("!LLHHHHHH", 0, 0, 2, 0, 1, 60000, 2, 60000)),
        "two SACKs": chunk(3, bytes(12)) * 2,
        "a FORWARD TSN of half a stream": chunk(192, bytes(6)),
        "a FORWARD TSN of nothing": chunk(192, b""),
        "a SHUTDOWN without a TSN": chunk(7, b""),
        "a RECONFIG without parameters": chunk(130, b""),
        "a RECONFIG of three": chunk(130, parameter(16, bytes(8)) * 3),
        "a RECONFIG too short": chunk(130, parameter(13, bytes(8))),
        "a RECONFIG of half a stream": chunk(130, parameter(13, bytes(13))),
        "more than any packet holds": chunk(63, bytes(MAX_PACKET_BYTES - 12)),
        "a DCEP message nobody knows": data(FIRST_TSN + 1, b"\x09", ppid=50, sequence=1),
        "an ACK of no channel": data(FIRST_TSN + 1, b"\x02", stream=8, ppid=50),
        "an OPEN of an open channel": data(FIRST_TSN + 1, opening(), ppid=50, sequence=1),
        "an OPEN cut off": data(FIRST_TSN + 1, opening()[:11], stream=2, ppid=50),
        "an OPEN with a label too long for it": data(FIRST_TSN + 1, opening(b"label")[:-1], stream=2, ppid=50),
        "an OPEN of no known type": data(FIRST_TSN + 1, opening(kind=3), stream=2, ppid=50),
        "a message on no channel": data(FIRST_TSN + 1, b"x", stream=8),
        "a message of no known kind": data(FIRST_TSN + 1, b"x", ppid=99, sequence=1),
    }.items(),
    ids=lambda item: item[0],
)
@scene
async def test_what_no_honest_peer_sends_is_counted_and_the_association_goes_on(chunks: tuple[str, bytes]) -> None:
    puppet = joined()
    puppet.say(chunks[1], tag=0 if chunks[1][:1] == b"\1" else None)
    assert puppet.ours.channels.malformed == 1
    puppet.answers()
    if chunks[1][:1] == b"\0" and len(chunks[1]) > 16:
        puppet.tsn += 1
    puppet.tell(b"still there?", flags=WHOLE | UNORDERED)
    assert puppet.ours.received() == [b"still there?"]
    assert [type(each) for each in puppet.answers()] == [sctp.SackChunk]
    end(puppet)


@scene
async def test_a_sack_for_what_was_never_sent_is_counted() -> None:
    puppet = joined()
    puppet.say(sack(puppet.their_tsn + 1))
    puppet.say(sack(puppet.their_tsn - 1, [(2, 2)]))
    puppet.say(sack(puppet.their_tsn - 1, [(1, 1)], window=0))
    assert puppet.ours.channels.malformed == 2
    puppet.say(sack(puppet.their_tsn))
    assert puppet.ours.channels._association._flight_size == 0
    end(puppet)


@scene
async def test_a_wrong_tag_is_counted() -> None:
    puppet = joined()
    puppet.say(data(puppet.tsn, b"x", sequence=1), tag=puppet.tag ^ 1)
    puppet.say(init(), tag=puppet.tag)
    assert (puppet.ours.channels.malformed, puppet.ours.received()) == (2, [])
    end(puppet)


@scene
async def test_nothing_is_taken_before_the_handshake_nor_after_the_end() -> None:
    puppet = Puppet()
    for make in KINDS.values():
        puppet.say(make(puppet), tag=5)
    assert puppet.ours.channels.malformed == 0
    puppet.ours.channels.start()
    puppet.tag = puppet.answers()[0].initiate_tag  # type: ignore[attr-defined]
    for make in KINDS.values():
        if make not in (KINDS["INIT"], KINDS["INIT ACK"], KINDS["ABORT"]):
            puppet.say(make(puppet))
    assert puppet.answers() == []
    end(puppet)
    puppet = joined()
    puppet.say(chunk(6, b"") + data(puppet.tsn, opening(), stream=2, ppid=50))
    assert (puppet.ours.channels.state, len(puppet.ours.opened)) == ("closed", 1)
    puppet.say(init(), tag=0)
    puppet.ours.channels.start()
    assert puppet.answers() == []
    end(puppet)


@scene
async def test_a_cookie_does_not_bring_back_what_is_shutting_down() -> None:
    puppet = joined()
    puppet.say(KINDS["SHUTDOWN"](puppet))
    assert [type(each) for each in puppet.answers()] == [sctp.ShutdownAckChunk]
    puppet.say(chunk(10, puppet.cookie))
    assert puppet.answers() == []
    puppet.say(chunk(14, b""))
    assert (puppet.ours.channels.state, puppet.ours.closed) == ("closed", puppet.ours.opened)
    end(puppet)


@pytest.mark.parametrize("flags", [0, UNORDERED])
@pytest.mark.parametrize("size", [1, 1000])
@scene
async def test_a_peer_that_never_completes_a_message_is_cut_off(size: int, flags: int) -> None:
    puppet = joined()
    pieces = 0
    while puppet.ours.channels.state == "connected":
        puppet.tell(bytes(size), sequence=1, flags=flags | (0 if pieces else FIRST))
        pieces += 1
    assert pieces <= min(sctp_inbound.MAX_HELD_CHUNKS, sctp_inbound.MAX_HELD_BYTES // size) + 1
    assert isinstance(puppet.answers()[-1], sctp.AbortChunk)
    assert puppet.ours.channels.failure == CUT_OFF
    end(puppet)


@pytest.mark.parametrize("flags", [FIRST, UNORDERED | FIRST, UNORDERED, UNORDERED | WHOLE])
@pytest.mark.parametrize(("size", "step"), [(1, 1), (1150, 1), (1, 60), (1, 100_000)])
@scene
async def test_behind_a_gap_a_window_is_kept_and_no_more_and_all_comes_right(size: int, step: int, flags: int) -> None:
    puppet = joined()
    association = puppet.ours.channels._association
    for number in range(2000):
        puppet.say(data(puppet.tsn + 1 + number * step, bytes(size), sequence=9, flags=flags))
        assert max(map(len, puppet.sent)) <= sctp.SCTP_MAX_PACKET_LENGTH
        puppet.sent.clear()
    held = [each for stream in association._streams() for each in stream.held.values()]
    assert len(held) <= len(association._sack_misordered) <= sctp_inbound.MAX_MISORDERED
    assert sum(len(each.user_data) for each in held) <= sctp_inbound.WINDOW_BYTES + size
    assert association.turned_away >= 900
    puppet.tell(b"the missing one", sequence=1)
    assert puppet.ours.received()[-1] == b"the missing one"
    end(puppet)


@scene
async def test_a_message_longer_than_promised_closes_its_channel_alone() -> None:
    puppet = joined()
    puppet.open(2)
    payload = bytes(MAX_MESSAGE_BYTES + 1)
    pieces = [payload[at : at + 1100] for at in range(0, len(payload), 1100)]
    for number, piece in enumerate(pieces):
        flags = (FIRST if number == 0 else 0) | (LAST if number == len(pieces) - 1 else 0)
        puppet.tell(piece, stream=2, sequence=1, flags=flags)
    puppet.tell(b"after", stream=2, sequence=2)
    await asyncio.sleep(0)
    puppet.tell(b"on the other", sequence=1)
    assert puppet.ours.received() == [b"on the other"]
    assert [channel.state for channel in puppet.ours.opened] == ["open", "closing"]
    end(puppet)


@scene
async def test_at_most_256_streams_and_channels_are_kept() -> None:
    puppet = joined()
    for number in range(6):
        puppet.ours.open(str(number))
    for stream in range(2, 2000, 2):
        puppet.open(stream)
    puppet.say(forward_tsn(puppet.tsn, [(stream, 5) for stream in range(2001, 2300)]))
    assert len(puppet.ours.opened) == 250
    assert len(puppet.ours.channels._association._data_channels) == 256
    assert len(puppet.ours.channels._association._inbound_streams) == 256
    puppet.tsn += 1
    assert puppet.is_served()
    end(puppet)


@scene
async def test_a_channel_with_a_number_of_ours_is_closed_and_not_acknowledged() -> None:
    puppet = joined()
    puppet.open(1)
    await asyncio.sleep(0)
    said = puppet.answers()
    assert not any(isinstance(each, sctp.DataChunk) for each in said)
    assert any(isinstance(each, sctp.ReconfigChunk) for each in said)
    assert puppet.ours.channels.malformed == 1
    puppet.say(reset(FIRST_TSN, puppet.tsn - 1, 1))
    puppet.say(chunk(130, parameter(16, struct.pack("!LL", puppet.their_tsn, 1))))
    assert list(puppet.ours.channels._association._data_channels) == [0]
    assert (len(puppet.ours.opened), puppet.ours.closed) == (1, [])
    end(puppet)


@scene
async def test_a_message_that_overtakes_the_acknowledgement_opens_the_channel() -> None:
    puppet = Puppet().join()
    await asyncio.sleep(0)
    channel = puppet.ours.open("ours")
    puppet.tell(b"at once", stream=1, flags=WHOLE | UNORDERED)
    puppet.tell(b"\2", stream=1, ppid=50)
    assert (puppet.ours.opened, puppet.ours.received()) == ([channel], [b"at once"])
    end(puppet)


@scene
async def test_a_long_label_is_refused_and_bytes_that_are_no_text_are_read_as_browsers_do() -> None:
    puppet = joined()
    for at in range(0, 5000, 1000):
        flags = (FIRST if at == 0 else 0) | (LAST if at == 4000 else 0)
        puppet.tell(opening(bytes(4988))[at : at + 1000], stream=2, ppid=50, flags=flags)
    puppet.open(4, label=b"\xff")
    puppet.tell(b"\xfe", ppid=51, sequence=1)
    assert ([each.label for each in puppet.ours.opened], puppet.ours.received()) == (["x", "\ufffd"], ["\ufffd"])
    end(puppet)


@scene
async def test_a_reset_comes_once_and_a_late_copy_leaves_the_next_channel_alone() -> None:
    puppet = joined()
    puppet.tell(b"never completed", sequence=1, flags=FIRST)
    first, second = reset(FIRST_TSN, puppet.tsn - 1, 0), reset(FIRST_TSN + 1, puppet.tsn - 1, 2)
    for request in (first, second):
        puppet.say(request)
        await asyncio.sleep(0)
    ours = next(each for each in puppet.answers() if isinstance(each, sctp.ReconfigChunk) and each.params[0][0] == 13)
    puppet.say(chunk(130, parameter(16, ours.params[0][1][:4] + struct.pack("!L", 1))))
    assert [channel.state for channel in puppet.ours.opened] == ["closed"]
    assert puppet.ours.channels._association._advertised_rwnd == sctp_inbound.WINDOW_BYTES
    puppet.open()
    puppet.say(first)
    assert [channel.state for channel in puppet.ours.opened] == ["closed", "open"]
    end(puppet)


@scene
async def test_nothing_the_peer_chose_is_echoed_beyond_a_packet_of_ours() -> None:
    puppet = joined()
    puppet.say(chunk(4, parameter(1, bytes(1900))))
    assert puppet.answers() == []
    puppet.say(chunk(4, parameter(1, bytes(500))))
    assert [type(each) for each in puppet.answers()] == [sctp.HeartbeatAckChunk]
    end(puppet)


@scene
async def test_a_fault_in_aiortc_ends_the_association_with_its_name() -> None:
    puppet = joined()
    puppet.ours.channels._association._sack_misordered = None  # type: ignore[assignment]
    puppet.tell(b"x", sequence=1)
    assert puppet.ours.channels.state == "closed"
    assert "TypeError" in puppet.ours.channels.failure
    assert isinstance(puppet.answers()[-1], sctp.AbortChunk)


@scene
async def test_a_coroutine_that_waits_is_a_fault() -> None:
    puppet = joined()

    async def wait(data: bytes) -> None:
        await asyncio.sleep(0)

    puppet.ours.channels._association._handle_data = wait  # type: ignore[method-assign]
    puppet.tell(b"x", sequence=1)
    assert "waits" in puppet.ours.channels.failure


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_fuzzers_corpus(path: Path) -> None:
    fuzz_sctp.one(path.read_bytes())
