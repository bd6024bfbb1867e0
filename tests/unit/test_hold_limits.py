"""What a relay with a route cache asks for, and how often: what looks real before noise, nothing beyond its bounds."""

from __future__ import annotations

from collections import Counter

import pytest

from _fastpath._testing_audit import Audit
from tests.support.harness import CLIENT, LOCAL, OTHER, OWNER, SECOND, Relay, Settings
from tests.support.oracle import Address
from tests.support.packets import RTCP, framed, stun

RATE = 400  # of these noise may use 100; at once a quarter of each, rounded so that it is never more
AT_ONCE, NOISE_AT_ONCE = RATE // 4 - 1, RATE // 16 - 1


def client(number: int) -> Address:
    return f"203.0.{number >> 8 & 255}.{number & 255}", 1024 + (number >> 16)


def rtp(sequence: int, ssrc: bytes = b"SSRC") -> bytes:
    return b"\x80\x00" + (sequence & 0xFFFF).to_bytes(2, "big") + bytes(4) + ssrc + b"media"


def rtcp(ssrc: bytes = b"SSRC") -> bytes:
    return RTCP[:4] + ssrc


def dtls(sequence: int, epoch: int = 1) -> bytes:
    return b"\x17\xfe\xfd" + epoch.to_bytes(2, "big") + sequence.to_bytes(6, "big") + b"\0\5hello"


def limited(rate: float = RATE) -> Relay:
    return Relay(Settings(cache=True, lookups_per_s=rate))


def flood(relay: Relay, first: int, count: int, sequence: int = 1) -> Counter[str]:
    """A packet each of so many sources that nobody knows."""
    packets = [(client(first + number), LOCAL, rtp(sequence)) for number in range(count)]
    return Counter(verdict for at in range(0, count, 512) for verdict, _ in relay.up_all(packets[at : at + 512]))


# --- the rate ---


def test_noise_has_a_quarter_of_the_rate_and_all_together_no_more_than_it() -> None:
    relay = limited()
    assert flood(relay, 0, 200) == {"held": NOISE_AT_ONCE, "lookup_limited": 200 - NOISE_AT_ONCE}
    asked = 0
    for tick in range(10 * SECOND):
        relay.tick += 1
        flood(relay, 1000 * (tick + 1), 50)
        flood(relay, 1000 * (tick + 1), 50, sequence=2)
        relay.turn()
        asked += len(relay.asked())
    assert 0.9 * 10 * RATE <= asked <= 10 * RATE + RATE / 4


@pytest.mark.parametrize("second", [rtp(2), rtp(257)])
def test_what_goes_on_is_asked_for_where_noise_is_not(second: bytes) -> None:
    """The flood has used up what noise may; a flow's first packet is noise, too, and its second is not."""
    relay = limited()
    flood(relay, 0, 200)
    assert relay.up(rtp(1))[0] == "lookup_limited"
    assert relay.up(second)[0] == "held"
    assert (CLIENT, LOCAL) in relay.asked()


@pytest.mark.parametrize(
    ("first", "second", "real"),
    [
        (rtp(0xFFFF), rtp(0), True),
        (rtp(1), rtp(1), False),  # the same one again
        (rtp(2), rtp(1), False),
        (rtp(1), rtp(258), False),
        (rtp(1), rtp(2, b"ELSE"), False),
        (rtp(1), rtcp(), True),
        (rtcp(), rtp(1), True),
        (rtcp(), rtcp(), True),
        (rtcp(), rtcp(b"ELSE"), False),
        (dtls(7), dtls(8), True),
        (dtls(7, epoch=1), dtls(8, epoch=2), False),
        (dtls(7), rtp(8), False),
        (b"\x80\x00" + bytes(8), b"\x80\x00" + bytes(8), False),  # too short for RTP
        (stun(0x0011), stun(0x0011), False),
    ],
)
def test_what_looks_real(first: bytes, second: bytes, real: bool) -> None:
    relay = limited()
    flood(relay, 0, 200)
    assert relay.up(first)[0] == "lookup_limited"
    assert relay.up(second)[0] == ("held" if real else "lookup_limited")


def test_media_goes_on_beside_its_rtcp() -> None:
    relay = limited()
    flood(relay, 0, 200)
    packets = [rtp(1), rtcp(b"ELSE"), rtp(2), rtp(3)]
    assert [relay.up(each)[0] for each in packets] == ["lookup_limited"] * 3 + ["held"]


def test_what_an_owner_sends_is_real_from_the_first_packet_on() -> None:
    relay = limited()
    flood(relay, 0, 200)
    assert relay.down(framed(CLIENT, LOCAL, rtp(1)), OTHER)[0] == "held"


def test_even_what_looks_real_is_bounded() -> None:
    relay = limited()
    flood(relay, 0, 400)
    verdicts = flood(relay, 0, 400, sequence=2)
    # Those of the first round that were asked for wait; of the others as many as the burst still holds are asked for.
    assert verdicts["held"] == AT_ONCE
    assert len(relay.asked()) == AT_ONCE


# --- the room ---


def test_a_flood_of_large_packets_leaves_three_quarters_of_the_room() -> None:
    relay = limited(0)
    large = [(client(number), LOCAL, rtp(1) + bytes(1900)) for number in range(600)]
    verdicts = Counter(verdict for packet in large for verdict, _ in relay.up_all([packet]))
    assert verdicts == {"held": 2048 // 8, "hold_full": 600 - 2048 // 8}
    real = [(f"198.51.100.{number}", 1) for number in range(20)]
    assert {relay.down(framed(each, LOCAL, rtp(1)))[0] for each in real} == {"held"}
    Audit([relay.slot], [OWNER]).check()
    relay.tick += SECOND
    left = Counter(verdict for _, _, verdict, _ in relay.turn())
    assert left == {"hold_expired": 2048 // 8 + 20}
    assert relay.slot.held() == {"packets": 0, "flows": 0}
    Audit([relay.slot], [OWNER]).check()


def test_more_flows_than_there_are_places_for() -> None:
    """Most of 4,096 can be used, each is found again, and the rest is told from what waits."""
    relay = limited(0)
    verdicts = flood(relay, 0, 6000)
    assert verdicts["held"] + verdicts["hold_full"] == 6000
    assert 2048 <= verdicts["held"] <= 4096  # small packets: a block each, of a quarter of the blocks
    Audit([relay.slot], [OWNER]).check()
    [waiting] = {relay.slot.held()[what] for what in ("packets", "flows")}
    assert waiting == verdicts["held"]


def test_what_was_nobodys_for_longest_makes_room() -> None:
    relay = limited(0)
    for number in range(6000):
        relay.up(rtp(1), client(number))
        relay.unknown(client(number))
        if number % 500 == 0:
            relay.tick += 1
    assert relay.up(rtp(1), client(5999))[0] == "no_route"
    Audit([relay.slot], [OWNER]).check()


def test_a_full_ring_of_asks_is_a_limit_like_another() -> None:
    """Nobody takes them. Who is not asked for does not wait either."""
    relay = limited(0)
    asks = (1 << 20) // 96
    for round_ in range(6):
        flood(relay, 3000 * round_, 3000)
        relay.tick += SECOND
        relay.turn()
    counted = relay.counted()
    assert counted["held"] <= asks
    assert counted["up_lookup_limited"] == relay.slot.events()["asks_lost"] > 0
    assert len(relay.asked()) == counted["held"]
    assert relay.up(rtp(1))[0] == "held"


def test_news_leave_room_for_look_ups() -> None:
    """Half of the ring; what is lost is counted."""
    relay = Relay(Settings(cache=True, max_flows=8192))
    owner = ("10.1.0.9", 9)
    relay.harness.fill(7000, 0x0A000000, 5000, LOCAL, owner)
    relay.tick += 100 * SECOND
    assert relay.harness.sweep(8192) == 7000
    lost = relay.slot.events()["asks_lost"]
    assert lost > 0
    assert relay.up(rtp(1))[0] == "held"
    kinds = Counter(ask.kind for ask in relay.harness.forwarder.take_asks(1 << 20))
    assert kinds == {1: 1, 3: 7000 - lost}
