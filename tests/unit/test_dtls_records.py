"""DTLS records: cut, packed, sealed and opened, compared with the TLS 1.2 PRF's known answer and with any bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transceiver.dtls_records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    DTLS_1_2,
    HANDSHAKE,
    NUMBER_BITS,
    REPLAY_WINDOW,
    SUITES,
    Record,
    RecordKey,
    RecordReader,
    RecordWriter,
    _expand,
    cut,
    pack,
    record_keys,
    unseal,
)

KEY = RecordKey(bytes(range(16)), b"salt")
EPOCH_1 = 1 << NUMBER_BITS

records = st.builds(
    Record,
    st.integers(CHANGE_CIPHER_SPEC, APPLICATION_DATA),
    st.sampled_from([0xFEFD, 0xFEFF]),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
)


def sealed(count: int = 1, plain: bytes = b"plain") -> list[Record]:
    """Records of epoch 1 with the numbers 0, 1, ..."""
    writer = RecordWriter()
    writer.key = KEY
    written = [writer.write(Record(APPLICATION_DATA, DTLS_1_2, EPOCH_1, plain)) for _ in range(count)]
    return [record for each in written for record in cut(each)]


@given(st.lists(records, max_size=5), st.binary(max_size=12))
def test_what_was_encoded_is_cut_again_and_a_rest_is_left(whole: list[Record], rest: bytes) -> None:
    assert list(cut(b"".join(each.encode() for each in whole) + rest)) == whole


@given(st.binary(max_size=200))
def test_any_bytes_are_cut_into_records_that_are_in_them(datagram: bytes) -> None:
    found = b"".join(each.encode() for each in cut(datagram))
    assert datagram.startswith(found)


@pytest.mark.parametrize("position_and_byte", [(0, 19), (0, 24), (1, 3), (11, 0xFF)])
def test_what_is_no_record_ends_the_datagram(position_and_byte: tuple[int, int]) -> None:
    good = Record(HANDSHAKE, DTLS_1_2, 7, b"hello").encode()
    position, byte = position_and_byte
    bad = good[:position] + bytes([byte]) + good[position + 1 :]
    assert [each.stamp for each in cut(good + bad + good)] == [7]


@given(st.lists(st.binary(min_size=1, max_size=700), max_size=12))
def test_packed_datagrams_hold_all_in_order_and_no_two_fit_into_one(whole: list[bytes]) -> None:
    packed = list(pack(whole, 1000))
    assert b"".join(packed) == b"".join(whole)
    assert all(len(each) <= 1000 for each in packed)
    rest = list(whole)
    for datagram, following in pairwise([*packed, b""]):
        while datagram:
            datagram = datagram.removeprefix(rest.pop(0))
        assert not following or len(rest[0]) + len(packed[packed.index(following) - 1]) > 1000


def test_one_above_the_mtu_goes_alone() -> None:
    assert list(pack([b"a", b"b" * 20, b"c"], 10)) == [b"a", b"b" * 20, b"c"]


def test_the_prf_gives_the_known_answer() -> None:
    """P_SHA256 vector of the IETF TLS list (2009), the one all implementations use."""
    secret = bytes.fromhex("9bbe436ba940f017b17652849a71db35")
    seed = b"test label" + bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c")
    expected = "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af"
    assert _expand(secret, seed, 48, "sha256").hex() == expected


@pytest.mark.parametrize("suite", SUITES)
def test_keys_have_the_suites_lengths_and_differ(suite: str) -> None:
    client, server = record_keys(bytes(48), b"c" * 32, b"s" * 32, suite)
    assert {len(client.key), len(server.key)} == {SUITES[suite][0]}
    assert {len(client.salt), len(server.salt)} == {4}
    assert len({client.key, server.key, client.salt, server.salt}) == 4
    assert repr(client.key) not in repr(client)


def test_numbers_rise_in_each_epoch_by_itself() -> None:
    writer = RecordWriter()
    writer.key = KEY
    stamps = [0, EPOCH_1 + 9, 77, EPOCH_1, 0]
    written = b"".join(writer.write(Record(ALERT, DTLS_1_2, stamp, b"ab")) for stamp in stamps)
    assert [each.stamp for each in cut(written)] == [0, EPOCH_1, 1, EPOCH_1 + 1, 2]


def test_a_record_opens_once() -> None:
    reader = RecordReader(KEY)
    [record] = sealed()
    assert [reader.open(record), reader.open(record)] == [b"plain", None]


def test_order_does_not_matter_within_the_window() -> None:
    reader = RecordReader(KEY)
    many = sealed(REPLAY_WINDOW + 1)
    assert reader.open(many[-1]) == b"plain"
    assert reader.open(many[0]) is None
    for record in reversed(many[1:-1]):
        assert reader.open(record) == b"plain"
    assert [reader.open(record) for record in many] == [None] * len(many)


@given(st.lists(st.integers(0, 199), max_size=200))
def test_the_window_takes_each_number_at_most_once(order: list[int]) -> None:
    reader, newest, seen = RecordReader(KEY), 0, set()
    for number in order:
        expected = number not in seen and newest - number < REPLAY_WINDOW
        assert (reader.open(MANY[number]) is not None) == expected
        seen.add(number)
        newest = max(newest, number)


MANY = sealed(200)


def test_what_was_changed_does_not_open_and_moves_nothing() -> None:
    reader = RecordReader(KEY)
    [record] = sealed()
    changed = [
        record._replace(content_type=ALERT),
        record._replace(version=0xFEFF),
        record._replace(stamp=EPOCH_1 + 2**40),
        record._replace(stamp=2 * EPOCH_1),
        record._replace(stamp=0),
        *(record._replace(fragment=record.fragment[:length]) for length in range(len(record.fragment))),
    ]
    assert [reader.open(each) for each in changed] == [None] * len(changed)
    assert reader.open(record) == b"plain"


@given(st.binary(max_size=80))
def test_any_fragment_is_opened_or_not_but_never_raises(fragment: bytes) -> None:
    record = Record(APPLICATION_DATA, DTLS_1_2, EPOCH_1, fragment)
    assert unseal(record, KEY) is None
