"""A client whose address changes in mid-call: what goes to its new one before that has answered a request of ours."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.media_rig import Address, Line, Rig, Sent

BEFORE: Address = ("198.51.100.1", 50_000)
AFTER: Address = ("198.51.100.1", 50_001)
SILENT_S = 1.1  # longer than the path in use may be silent before another one is courted
AUDIO = bytes(80)


def talking() -> tuple[Rig, Line]:
    rig = Rig()
    line = Line(rig, 0, BEFORE)
    line.open(echo=True)
    line.prove()
    rig.up(line.media(AUDIO), BEFORE)
    rig.rest()
    return rig, line


def audio_to(sent: list[Sent]) -> Counter[Address]:
    return Counter(each.client for each in sent if each.datagram[0] >> 6 == 2)


def test_a_silent_path_shares_with_the_new_one_until_that_is_proven() -> None:
    rig, line = talking()
    rig.rest(SILENT_S)
    _, sent = rig.up(line.check(), AFTER)
    requests = [each for each in sent if each.datagram[:2] == b"\0\1"]
    _, sent = rig.up(line.media(AUDIO), AFTER)
    assert audio_to(sent) == {BEFORE: 1, AFTER: 1}
    first, second = (each.datagram for each in sent if each.datagram[0] >> 6 == 2)
    assert first == second
    rig.up(line.answer(requests[0].datagram), AFTER)
    _, sent = rig.up(line.media(AUDIO), AFTER)
    assert audio_to(sent) == {AFTER: 1}


def test_a_path_that_speaks_shares_with_nobody() -> None:
    rig, line = talking()
    rig.up(line.check(), AFTER)
    _, sent = rig.up(line.media(AUDIO), BEFORE)
    assert audio_to(sent) == {BEFORE: 1}
    _, sent = rig.up(line.media(AUDIO), AFTER)
    assert audio_to(sent) == {BEFORE: 1}


@pytest.mark.parametrize("copies", [1, 20])
def test_copies_of_a_check_get_at_most_three_times_their_bytes(copies: int) -> None:
    rig, line = talking()
    rig.rest(SILENT_S)
    check = line.check()
    came = left = 0
    for _ in range(copies):
        came += len(check)
        for sent in (rig.up(check, AFTER)[1], rig.up(line.media(AUDIO), BEFORE)[1], rig.rest(SILENT_S)):
            left += sum(len(each.datagram) for each in sent if each.client == AFTER)
            assert left <= 3 * came
    assert audio_to(rig.up(line.media(AUDIO), BEFORE)[1])[BEFORE] == 1
    assert rig.slot.session(0).client == f"{BEFORE[0]}:{BEFORE[1]}"
