"""What the hot thread does not do: take more sources, packets and memory of a session than it may, lose the end of one,
or keep anything of one that is over. Single sessions with known keys: tests/support/media_rig.py.
"""

from __future__ import annotations

from collections import Counter

import pytest

from _fastpath.wire import rtp
from tests.support.media_rig import PAYLOAD_TYPE, Line, Rig

FLOOD_MOST = 64
RECORD = b"\x16\xfe\xfd" + bytes(1200)


@pytest.mark.long
def test_ten_thousand_sessions_of_the_hot_thread_leave_nothing() -> None:
    """With paths, keys and media; their tokens and flows lead nowhere afterwards."""
    rig = Rig(8)
    some = []
    for number in range(10_000):
        line = Line(rig, number % 8, ("198.51.100.7", 1 + number))
        line.open(keys=number % 10 == 0)
        if number % 10 == 0:
            line.prove()
            assert rig.up(line.media(), line.client)[0] == "rtp"
            some.append(line)
        line.close()
        rig.us += 100
    assert Counter(name for name, *_ in rig.events())["closed"] == 10_000
    assert rig.engine.wait_us() == -1
    for line in some[::50]:
        assert rig.up(line.check(), line.client)[0] == "gone"
        assert rig.up(line.media(), line.client)[0] == "no_path"


def test_what_was_held_is_echoed_in_the_round_of_the_keys() -> None:
    """Though no other packet comes in it."""
    rig = Rig(1)
    line = Line(rig, 0, ("198.51.100.7", 1))
    line.open(keys=False)
    line.prove()
    assert rig.up(line.media(b"early"), line.client) == ("held", [])
    rig.engine.set_keys(0, line.serial, line.server.tx, line.server.rx)
    (echo,) = rig.rest()
    assert line.pair.unprotect(echo.datagram)[12:] == b"early"


def test_the_rings_of_a_number_are_empty_for_its_next_call() -> None:
    rig = Rig(1)
    line = rig.line(0, echo=False)
    assert rig.up(line.media(b"for nobody"), line.client)[0] == "rtp"
    assert rig.engine.write_frame(0, b"never sent", timestamp=1, at_us=rig.us + 10_000_000)
    line.close()
    again = rig.line(0, echo=False)
    rig.engine.pump(0, again.serial)
    assert [each for each in rig.rest(12) if each.datagram[1] & 0x7F == PAYLOAD_TYPE] == []
    assert rig.engine.read_frames(0) == []


# --- what one client may send ---


def test_more_than_four_sources_are_refused() -> None:
    """Thousands would make libsrtp slow. RTCP counts too, and whatever is authentic but no RTP."""
    rig = Rig(1)
    line = rig.line(0)
    assert rig.up(line.media(ssrc=1), line.client)[0] == "rtp"
    assert rig.up(line.report(ssrc=2), line.client)[0] == "rtcp"
    assert rig.up(line.media(ssrc=3), line.client)[0] == "rtp"
    assert rig.up(line.report(ssrc=1), line.client)[0] == "rtcp"
    assert rig.up(unreadable(line, 4), line.client)[0] == "rtp_malformed"
    for ssrc in range(5, 500):
        assert rig.up(line.media(ssrc=ssrc), line.client)[0] == "ssrc_full"
        assert rig.up(line.report(ssrc=ssrc), line.client)[0] == "ssrc_full"
        assert rig.up(unreadable(line, ssrc), line.client)[0] == "ssrc_full"
    for ssrc in (1, 2, 3, 4):
        assert rig.up(line.media(ssrc=ssrc), line.client)[0] == "rtp"
        assert rig.up(line.report(ssrc=ssrc), line.client)[0] == "rtcp"
    assert rig.engine.debug(0)["sources"] == 4


def unreadable(line: Line, ssrc: int) -> bytes:
    """Authentic, but its padding is longer than it."""
    line.sequence += 1
    header = bytearray(rtp.pack(111, False, line.sequence, 1, ssrc))
    header[0] |= 0x20
    return line.pair.protect(bytes(header) + b"\xff" * 8)


def test_forged_sources_take_no_place() -> None:
    rig = Rig(1)
    line = rig.line(0)
    for ssrc in range(100):
        forged = bytearray(line.media(ssrc=ssrc + 1000))
        forged[-1] ^= 1
        assert rig.up(bytes(forged), line.client)[0] == "srtp_forged"
        forged = bytearray(line.report(ssrc=ssrc + 1000))
        forged[-1] ^= 1
        assert rig.up(bytes(forged), line.client)[0] == "srtp_forged"
    assert rig.engine.debug(0)["sources"] == 0
    assert rig.up(line.media(ssrc=1), line.client)[0] == "rtp"


def test_replays_and_forgeries_are_counted_as_such() -> None:
    rig = Rig(2)
    line, other = rig.line(0), rig.line(1)
    media = [line.media() for _ in range(1200)]
    assert [rig.up(each, line.client)[0] for each in media] == ["rtp"] * 1200
    assert [rig.up(each, line.client)[0] for each in media[-50:]] == ["srtp_replayed"] * 50
    assert rig.up(media[0], line.client)[0] == "srtp_replayed"  # older than the window
    report = line.report()
    assert [rig.up(report, line.client)[0] for _ in range(2)] == ["rtcp", "srtp_replayed"]
    # Both lines have the same keys here, so what is of the other is known by its path alone.
    assert rig.up(other.media(), other.client)[0] == "rtp"
    forged = line.media()[:-1] + b"?"
    assert rig.up(forged, line.client)[0] == "srtp_forged"
    assert rig.slot.session(0).packets_up == 1200


def test_media_of_another_codec_is_not_handed_over() -> None:
    rig = Rig(1)
    line = rig.line(0)
    outcome, sent = rig.up(line.media(payload_type=8), line.client)
    assert (outcome, sent) == ("rtp_unwanted", [])


def test_an_application_that_does_not_keep_up_loses_its_own_packets() -> None:
    """Some 700 ms of audio wait; then packets are dropped, counted, and the call goes on."""
    rig = Rig(2)
    line, other = rig.line(0, echo=False), rig.line(1)
    outcomes = [rig.up(line.media(b"x" * 80), line.client)[0] for _ in range(200)]
    full = outcomes.index("ring_full")
    assert full > 30
    assert set(outcomes[full:]) == {"ring_full"}
    assert rig.slot.session(0).ring_drops == 200 - full
    assert rig.up(other.media(), other.client)[0] == "rtp"
    assert len(rig.engine.read_frames(0, 200)) == full
    assert rig.up(line.media(), line.client)[0] == "rtp"


def test_a_flood_for_the_loop_is_bounded_and_takes_nothing_from_others() -> None:
    """The loop is away: 64 datagrams of one session wait, those of all together fill three quarters of the ring."""
    rig = Rig(16)
    lines = [rig.line(index) for index in range(16)]
    rig.events()
    assert rig.pour([RECORD] * 400, lines[0].client) == {"dtls": FLOOD_MOST, "dtls_flood": 400 - FLOOD_MOST}
    for line in lines[1:]:
        assert rig.pour([RECORD], line.client) == {"dtls": 1}
    for line in lines[1:]:
        rig.pour([RECORD] * 300, line.client)
    assert {rig.up(RECORD, line.client)[0] for line in lines} == {"dtls_flood"}
    # What must be told still is.
    assert rig.up(lines[5].media(), lines[5].client)[0] == "rtp"
    lines[6].close()
    names = Counter(name for name, *_ in rig.events())
    assert names["media"] == names["closed"] == 1
    assert FLOOD_MOST < names["datagram"] < 1000
    assert rig.pour([RECORD] * 300, lines[0].client)["dtls"] == FLOOD_MOST


@pytest.mark.long
def test_no_end_of_a_session_is_lost_on_a_loop_that_is_away() -> None:
    """However full the events are: some clients flood with records, checks and BYEs, all fall silent, all end."""
    rig = Rig(200)
    lines = [rig.line(index) for index in range(200)]
    rig.events()
    for line in lines[:16]:
        rig.pour([RECORD] * 80, line.client)
    for line in lines[100:]:
        rig.pour([line.report(bye=True) for _ in range(20)], line.client)
    for _ in range(20):
        for line in lines:
            rig.pour([line.check()] * 20, line.client)
        rig.us += 30_000
    rig.rest(70)
    names = Counter(name for name, *_ in rig.events())
    assert names["datagram"] > 500
    assert names["expired"] >= 200
    for line in lines:
        line.close()
    assert Counter(name for name, *_ in rig.events())["closed"] == 200
    assert rig.engine.wait_us() == -1
