"""State that is not taken on: each is refused with its reason, removed, and a clean start follows."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from _fastpath.slot import Slot
from relay.runtime.errors import ConfigError
from tests.support.states import MAX_FLOWS, Life, in_slot, lived, now, patch, record, rewrite

FLOWS_AT = 8192
FLOW = FLOWS_AT + 64
HEART_AT = 256


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def assert_refused(path: Path, caplog: pytest.LogCaptureFixture, why: str, **changed: Any) -> None:
    caplog.clear()
    life = Life(path, **changed)
    said = [each for each in caplog.records if each.message == "state refused"]
    assert [each.levelname for each in said] == ["WARNING"]
    assert why in str(said[0].__dict__["fields"]["why"])
    assert life.adopted == life.orphans == []
    assert sorted(file.name for file in path.iterdir()) == ["lock", "slot-0", "slot-1", "state.json"]
    assert [slot.flows_used for slot in life.slots] == [0, 0]
    life.live().end()
    successor = Life(path, **changed)
    assert successor.adopted == ["slot-0", "slot-1"]
    successor.live().end()


# ---- the record

WRONG: list[tuple[str, object, str]] = [
    ("format", 2, "has format 2"),
    ("layout", 99, "lays its memory out differently"),
    ("checksum", "0" * 16, "lays its memory out differently"),
    ("clock", "another/1", "the machine was started anew"),
    ("listen", ["127.0.0.1:3479"], "a relay that listens at 127.0.0.1:3479"),
    ("listen", ["127.0.0.1:3478", "127.0.0.2:3478"], "a relay that listens at"),
    ("backends", ["10.0.0.0/8"], "--backends has 10.0.0.0/8 no more"),
    ("backends", ["nonsense"], "--backends has nonsense no more"),
    ("slots", [], "torn"),
    ("slots", ["slot-0", "slot-0"], "torn"),
    ("slots", ["slot-0", 1], "torn"),
    ("slots", "slot-0", "torn"),
    ("slots", ["slot-0", "../state/slot-1"], "is not there"),
    ("slots", ["slot-0", "lock"], "no slot has that size"),
    ("orphans", ["slot-2"], "slot-2 is not there"),
    ("orphans", ["slot-1"], "torn"),
    ("max_flows", MAX_FLOWS + 1, "another size"),
    ("max_flows", True, "torn"),
    ("launcher", None, "torn"),
]


@pytest.mark.parametrize(("key", "value", "why"), WRONG)
def test_a_record_of_something_else(
    path: Path, key: str, value: object, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    lived(path)
    rewrite(path, **{key: value})
    assert_refused(path, caplog, why)


def test_a_record_cut_anywhere(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lived(path)
    whole = (path / "state.json").read_bytes().rstrip()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (path / "state.json").write_bytes(whole[:length])
        assert_refused(path, caplog, "state.json is torn")


@pytest.mark.parametrize("text", [b"[]", b"null", b"7", b'"format"', b"\xff\xfe", b"{}", b'{"format": 1}'])
def test_a_record_that_is_none(path: Path, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    lived(path)
    (path / "state.json").write_bytes(text)
    assert_refused(path, caplog, "state.json is torn")


def test_a_field_too_much_or_too_few(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lived(path)
    rewrite(path, more=1)
    assert_refused(path, caplog, "torn")
    (path / "state.json").write_text(str({k: v for k, v in record(path).items() if k != "clock"}).replace("'", '"'))
    assert_refused(path, caplog, "torn")


def test_no_record(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after a launcher that was killed before it had written the first one."""
    lived(path)
    (path / "state.json").unlink()
    assert_refused(path, caplog, "a start did not come to its end")


def test_a_record_that_is_a_link(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lived(path)
    (path / "state.json").rename(tmp_path / "elsewhere")
    (path / "state.json").symlink_to(tmp_path / "elsewhere")
    assert_refused(path, caplog, "Too many levels of symbolic links")
    assert (tmp_path / "elsewhere").exists()


def test_networks_that_are_allowed_no_more(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More of them is no reason."""
    lived(path, backends=[ip_network("10.1.0.0/16")])
    life = Life(path, backends=[ip_network("10.0.0.0/8")]).live()
    assert life.adopted == ["slot-0", "slot-1"]
    life.end()
    other = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    assert_refused(path, caplog, "--backends has 10.0.0.0/8 no more", backends=other)


def test_state_of_long_ago(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last beat of any worker is older than the silence that ends a flow."""
    lived(path)
    patch(path, "slot-0", HEART_AT, struct.pack("<I", now() - 31 * 16))
    patch(path, "slot-1", HEART_AT, struct.pack("<I", now() - 29 * 16))
    life = Life(path).live()
    assert life.adopted
    life.end()
    for name in life.files:
        patch(path, name, HEART_AT, struct.pack("<I", now() - 31 * 16))
    assert_refused(path, caplog, "nobody has written it for 31 s")


# ---- the slots


def cut(path: Path) -> None:
    os.truncate(path / "slot-1", (path / "slot-1").stat().st_size - 4096)


def grow(path: Path) -> None:
    os.truncate(path / "slot-1", (path / "slot-1").stat().st_size + 4096)


def empty(path: Path) -> None:
    os.truncate(path / "slot-1", 0)


def enormous(path: Path) -> None:
    """Sparse: to have all of it there would take the machine's memory."""
    os.truncate(path / "slot-1", 1 << 36)


def hollow(path: Path) -> None:
    size = (path / "slot-1").stat().st_size
    os.truncate(path / "slot-1", 0)
    os.truncate(path / "slot-1", size)


def half_zeros(path: Path) -> None:
    """What was behind the header is lost."""
    size = (path / "slot-1").stat().st_size
    os.truncate(path / "slot-1", FLOWS_AT)
    os.truncate(path / "slot-1", size)


def missing(path: Path) -> None:
    (path / "slot-1").unlink()


def directory(path: Path) -> None:
    (path / "slot-1").unlink()
    os.link(path / "slot-0", path / "slot-1")


def magic(path: Path) -> None:
    patch(path, "slot-1", 0, b"X")


def other_secret(path: Path) -> None:
    """Whole, but of another relay: its flows would not be found, or be somebody else's."""

    def without_flows(slot: Slot, memory: bytearray) -> None:
        slot_of_another = Slot.create(bytearray(len(memory)), MAX_FLOWS, b"another secret !")
        assert slot_of_another.secret != slot.secret
        buffer = bytearray(len(memory))
        Slot.create(buffer, MAX_FLOWS, b"another secret !")
        memory[:] = buffer

    in_slot(path, "slot-1", without_flows)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut, "slot-1: a slot of another size"),
        (grow, "slot-1: a slot of another size"),
        (empty, "slot-1: no slot has that size"),
        (enormous, "slot-1: no slot has that size"),
        (hollow, "slot-1: not a slot of this version"),
        (half_zeros, "slot-1: its flow table has another size"),
        (missing, "slot-1 is not there"),
        (directory, "not a plain file of ours"),
        (magic, "slot-1: not a slot of this version"),
        (other_secret, "its slots are of different relays"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_a_slot_that_is_none(
    path: Path, harm: Callable[[Path], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    lived(path)
    harm(path)
    assert_refused(path, caplog, why)


def word(value: int) -> bytes:
    return struct.pack("<I", value)


@pytest.mark.parametrize(
    ("at", "data", "why"),
    [
        (FLOWS_AT, word(MAX_FLOWS + 1), "its flow table has another size"),
        (FLOWS_AT + 4, word(0xFFFFFFFF), "its flow table has another size"),
        (FLOWS_AT + 8, word(MAX_FLOWS + 1), "its flow table has another size"),
        (FLOW, b"\xff", "is no flow of this relay"),  # its key
        (FLOW + 37, b"\x10", "is no flow of this relay"),  # the socket
        (FLOW + 40, b"\xff\xff", "is no flow of this relay"),  # the next hop
        (FLOW + 42, b"\x00\x00", "is no flow of this relay"),  # the owner
        (FLOW + 44, b"\xff\xff", "is no flow of this relay"),  # the owner that a check named
        (FLOW + 88, word(0), "is no flow of this relay"),  # the hash
        (-1, word(0), "its table of owners has another size"),
        (-1, word(0xFFFF), "its table of owners has another size"),
        (-5, word(0xFFFFFFFF), "its table of owners has another size"),  # the index's mask
        (-9, word(0xFFFFFFFF), "its table of owners has another size"),  # numbers given out
    ],
)
def test_a_slot_whose_numbers_lead_elsewhere(
    path: Path, at: int, data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Below zero: so far behind the beginning of the peers, less one."""
    lived(path)
    memory = (path / "slot-1").read_bytes()
    peers_at = struct.unpack_from("<Q", memory, 40)[0]
    patch(path, "slot-1", at if at >= 0 else peers_at - at - 1, data)
    assert_refused(path, caplog, why)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({8: 7}, {}),  # no such stage
        ({8: 1, 12: 16}, {}),  # no such socket
        ({8: 1, 12: 256 + 16}, {}),
        ({8: 1, 12: 0}, {56: 1985}),  # longer than its place
        ({8: 1, 12: 0}, {56: 100, 8: 33}),  # its sender's address is
        ({8: 1, 12: 0}, {56: 100, 40: 65}),  # its control message is
    ],
)
def test_a_batch_that_is_none(
    path: Path, state: dict[int, int], message: dict[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    lived(path)
    batch_at = struct.unpack_from("<Q", (path / "slot-1").read_bytes(), 48)[0]
    for at, value in state.items():
        patch(path, "slot-1", batch_at + at, word(value))
    for at, value in message.items():
        patch(path, "slot-1", batch_at + 4096 + at, word(value))
    assert_refused(path, caplog, "the batch in it is none")


@pytest.mark.parametrize("source", [0, 15, 255, 256, 256 + 15, 256 + 255])
def test_a_batch_under_way_is_no_reason(path: Path, source: int) -> None:
    """Its packets may have come from a socket, or from the hold (256)."""
    lived(path)
    batch_at = struct.unpack_from("<Q", (path / "slot-1").read_bytes(), 48)[0]
    patch(path, "slot-1", batch_at + 8, word(1) + word(source))
    assert Life(path).adopted == ["slot-0", "slot-1"]


def test_flows_half_made_or_free_are_no_reason(path: Path) -> None:
    """A writer that was killed leaves such, and its successor deals with them."""
    lived(path)
    patch(path, "slot-1", FLOW + 46, b"\x01\x00")
    patch(path, "slot-1", FLOW, b"\xff")
    patch(path, "slot-1", FLOW + 96 + 36, b"\x00")
    patch(path, "slot-1", FLOW + 96, b"\xff")
    assert Life(path).adopted == ["slot-0", "slot-1"]


def test_what_cannot_be_removed_is_said(path: Path) -> None:
    (path / "slot-0").mkdir(parents=True)
    path.chmod(0o700)
    with pytest.raises(ConfigError, match="cannot remove slot-0"):
        Life(path)
