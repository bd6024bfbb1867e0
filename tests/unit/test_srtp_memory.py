"""What is read ahead of libsrtp's memory is looked at first; what is in doubt is left alone."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from _fastpath.srtp_contexts import BYTES, OFFSETS
from _fastpath.wire import envelope
from tests.support import media_rig
from tests.support.peer import Address
from tests.support.world import RELAYS
from transceiver import srtp_memory
from transceiver.srtp import PROFILE_TABLE, PROFILES


@pytest.fixture(autouse=True)
def fresh() -> None:
    srtp_memory.contexts_known.cache_clear()


def test_the_wheel_of_today_is_known_by_its_own_allocator_only() -> None:
    """Under another allocator (a sanitizer's) sizes do not stand before blocks, and nothing is read ahead."""
    assert srtp_memory.contexts_known() is ("LD_PRELOAD" not in os.environ)


@pytest.mark.parametrize("name", OFFSETS)
@pytest.mark.parametrize("shift", [-16, -8, 8, 16])
def test_a_pointer_that_moved_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, shift: int) -> None:
    monkeypatch.setitem(OFFSETS, name, OFFSETS[name] + shift)
    assert not srtp_memory.contexts_known()


@pytest.mark.parametrize("name", BYTES)
def test_a_smaller_block_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(BYTES, name, BYTES[name] + 64)
    assert not srtp_memory.contexts_known()


def test_another_cipher_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(srtp_memory.ALGORITHMS, PROFILES[0], (9, "GCM"))
    assert not srtp_memory.contexts_known()


def test_memory_that_cannot_be_read_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    assert not srtp_memory.contexts_known()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("profile", PROFILE_TABLE)
def test_reading_ahead_changes_nothing(monkeypatch: pytest.MonkeyPatch, profile: str, known: bool) -> None:
    """More packets than are read ahead at a time; sessions before and after their first packet, and without
    keys; a forged packet."""
    keys = [bytes([each]) * sum(PROFILE_TABLE[profile][:2]) for each in (1, 2)]
    for name, value in {"PROFILE": profile, "TX": keys[0], "RX": keys[1]}.items():
        monkeypatch.setattr(media_rig, name, value)
    monkeypatch.setattr(media_rig, "contexts_known", lambda: known)
    rig = media_rig.Rig(sessions=12)
    lines = [rig.line(index) for index in range(11)]
    keyless = media_rig.Line(rig, 11, ("198.51.100.99", 50_000))
    keyless.open(keys=False)
    keyless.prove()
    relay = RELAYS[media_rig.RELAY]
    for count in (5, 11, 11):
        packets = [line.media(b"round %d" % count) for line in lines[:count] for _ in range(2)]
        owners = [line for line in lines[:count] for _ in range(2)]
        datagrams = [
            (envelope.pack(line.client, media_rig.RELAY) + packet, relay)
            for line, packet in zip(owners, packets, strict=True)
        ]
        datagrams.append((envelope.pack(keyless.client, media_rig.RELAY) + keyless.media(), relay))
        forged = bytes([*packets[0][:-1], packets[0][-1] ^ 1])
        datagrams.insert(0, (envelope.pack(lines[0].client, media_rig.RELAY) + forged, relay))
        sent = rig.engine.step(rig.us, datagrams)
        heard = Counter(client for client, _, _ in map(_opened, sent))
        assert heard == {line.client: 2 for line in lines[:count]}
        for client, _, packet in map(_opened, sent):
            (line,) = (line for line in lines if line.client == client)
            assert line.pair.unprotect(packet).endswith(b"round %d" % count)


def _opened(each: tuple[bytes, Address]) -> tuple[Address, Address, bytes]:
    opened = envelope.unpack(each[0])
    assert opened is not None
    return opened
