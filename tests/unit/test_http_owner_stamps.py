"""The authentication between media processes: forged, replayed, expired, meant for another, and its bounded memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.signaling import Clock
from transceiver.http.calls import Refused
from transceiver.http.owner import WINDOW_S, Address, Stamps, authority

KEY = bytes(range(32))
NOW = 1_800_000_000.0
HERE: Address = ("10.0.0.7", 4000)


def stamp(stamps: Stamps, path: str = "/x", body: bytes = b"b", to: Address = HERE, method: str = "POST") -> str:
    return stamps.make(method, path, body, to)


def refusal(stamps: Stamps, shown: str, **changed: Any) -> tuple[int, str]:
    asked = {"method": "POST", "path": "/x", "body": b"b", "to": HERE} | changed
    with pytest.raises(Refused) as caught:
        stamps.check(shown, **asked)
    return caught.value.status, caught.value.message


def test_request_of_a_process_with_the_key_counts_once() -> None:
    here, there = Stamps(KEY, Clock(NOW)), Stamps(KEY, Clock(NOW))
    shown = stamp(there)
    here.check(shown, "POST", "/x", b"b", HERE)
    assert refusal(here, shown) == (401, "The request was here before.")
    here.check(stamp(there), "POST", "/x", b"b", HERE)


@pytest.mark.parametrize(
    "changed",
    [{"method": "GET"}, {"path": "/y"}, {"body": b"c"}, {"to": ("10.0.0.7", 4001)}, {"to": ("10.0.0.8", 4000)}],
)
def test_stamp_is_for_this_request_at_this_address_only(changed: dict[str, Any]) -> None:
    stamps = Stamps(KEY, Clock(NOW))
    assert refusal(stamps, stamp(stamps), **changed)[0] == 401


def test_every_character_of_a_stamp_counts() -> None:
    stamps = Stamps(KEY, Clock(NOW))
    shown = stamp(stamps)
    for at in range(len(shown)):
        for other in "09af. ":
            forged = shown[:at] + other + shown[at + 1 :]
            assert forged == shown or refusal(stamps, forged)[0] == 401, (at, other)
    for length in range(len(shown)):
        assert refusal(stamps, shown[:length])[0] == 401
    stamps.check(shown, "POST", "/x", b"b", HERE)  # none of these used it up


def test_stamp_of_another_key() -> None:
    assert refusal(Stamps(KEY, Clock(NOW)), stamp(Stamps(bytes(32), Clock(NOW))))[0] == 401


def test_no_stamp_is_made_of_nothing() -> None:
    """Without a form there is nothing to compare with, and an empty mac is no mac."""
    for shown in ("", "Ufrag", "Ufrag 0..", "Bearer x", "Ufrag 1." + "0" * 32 + ".", "é"):
        assert refusal(Stamps(KEY, Clock(NOW)), shown)[0] == 401


@pytest.mark.parametrize(
    ("seconds", "taken"), [(0, True), (WINDOW_S, True), (-WINDOW_S, True), (31, False), (-31, False)]
)
def test_window(seconds: int, taken: bool) -> None:
    here, there = Stamps(KEY, Clock(NOW + seconds)), Stamps(KEY, Clock(NOW))
    if taken:
        here.check(stamp(there), "POST", "/x", b"b", HERE)
    else:
        assert "too old" in refusal(here, stamp(there))[1]


def test_no_request_counts_twice_for_as_long_as_it_counts_at_all() -> None:
    """Also one that was stamped at the far end of the window: by a clock 30 s ahead of ours."""
    clock = Clock(NOW)
    here = Stamps(KEY, clock)
    shown = stamp(Stamps(KEY, Clock(NOW + WINDOW_S)))
    here.check(shown, "POST", "/x", b"b", HERE)
    for _ in range(4 * WINDOW_S):
        clock.now += 1.0
        with pytest.raises(Refused):
            here.check(shown, "POST", "/x", b"b", HERE)


def test_memory_of_nonces_is_bounded_and_does_not_forget_when_full() -> None:
    clock = Clock(NOW)
    stamps = Stamps(KEY, clock, most=3)
    first = stamp(stamps)
    for shown in (first, stamp(stamps), stamp(stamps)):
        stamps.check(shown, "POST", "/x", b"b", HERE)
    assert refusal(stamps, stamp(stamps))[0] == 503
    assert refusal(stamps, first)[0] == 401
    clock.now += 2 * WINDOW_S + 1
    stamps.check(stamp(stamps), "POST", "/x", b"b", HERE)
    assert len(stamps._seen) == 1


def test_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Stamps(bytes(15), Clock())


@pytest.mark.parametrize(("address", "text"), [(("10.0.0.7", 1), "10.0.0.7:1"), (("fd00:0::7", 1), "[fd00::7]:1")])
def test_authority(address: Address, text: str) -> None:
    assert authority(address) == text
