"""The slot: layout as docs/wire.md gives it, refusal of anything else, steering words, and what tools read.

Offsets and sizes are written out here, not taken from the code: who changes one must also change the layout number,
docs/wire.md and this file. Values are read from the raw memory wherever another program would.
"""

from __future__ import annotations

import mmap
import struct

import pytest

from _fastpath import slot as slot_module
from _fastpath._testing import OFFSETS, SIZES
from _fastpath.slot import Slot, SlotError, flow_bytes, slot_bytes
from _fastpath.verdicts import COUNTER_NAMES, EVENT_NAMES, TOKEN_OUTCOME_NAMES
from tests.support import oracle
from tests.support.harness import (
    CLIENT,
    CLIENT6,
    LOCAL,
    LOCAL6,
    OTHER,
    OWNER,
    SECRET,
    WILDCARD6,
    Relay,
    Settings,
    memory_of,
    token,
)
from tests.support.packets import RTP, answer, check, framed

FLOWS = 100
COUNTERS = 72
PAGE = 4096


def made(flows: int = FLOWS) -> tuple[mmap.mmap, Slot]:
    memory = memory_of(flows)
    return memory, Slot.create(memory, flows, SECRET)


def word(memory: mmap.mmap, at: int, size: int = 8) -> int:
    return int.from_bytes(memory[at : at + size], "little")


# --- layout ---


def test_sizes_of_the_structures() -> None:
    assert SIZES == {
        "Flow": 96,
        "FlowsHeader": 64,
        "Peer": 64,
        "PeersHeader": 64,
        "BatchState": 64 + 512 + 2 * 8 * (1 + COUNTERS),
        "SlotHeader": 1664,
        "HoldHeader": 64,
        "Waiting": 64,
        "HeldPacket": 40,
        "mmsghdr": 64,
    }


def test_offsets_of_fields() -> None:
    flow = {"state": 36, "route": 40, "generation": 46, "token": 48, "seen": 64, "nonce": 80}
    expected = {"epoch": 128, "heart": 256} | flow
    assert expected == OFFSETS


def test_the_batch_state_leaves_its_page_to_itself() -> None:
    assert SIZES["BatchState"] <= PAGE


def test_numbers_that_are_interfaces() -> None:
    assert (slot_module.LAYOUT, slot_module.TICKS_PER_SECOND, slot_module.SECRET_BYTES) == (4, 16, 16)
    assert slot_module.MOST_FLOWS == 1 << 22
    assert len(COUNTER_NAMES) == COUNTERS
    assert len(EVENT_NAMES) == 10
    assert len(TOKEN_OUTCOME_NAMES) == 7


def test_the_header_in_memory() -> None:
    memory, slot = made()
    assert memory[:8] == b"UFRAGSLT"
    assert struct.unpack_from("<II", memory, 8) == (4, FLOWS)
    total, flows_at, peers_at, batch_at = struct.unpack_from("<4Q", memory, 24)
    assert total == len(memory) == slot_bytes(FLOWS)
    assert flows_at == 2 * PAGE
    hold_at = word(memory, 72)
    assert [at % PAGE for at in (flows_at, peers_at, batch_at, hold_at, total)] == [0] * 5
    assert memory[56:72] == SECRET
    index_words = 256  # 100 flows need 133 and a power of two
    assert peers_at - flows_at == rounded(64 + 96 * FLOWS + 2 * 4 * index_words)
    assert batch_at - peers_at == rounded(64 + 64 * 65 + 2 * 128)
    assert hold_at - batch_at == PAGE + 512 * (64 + 32 + 64 + 2048)
    assert total - hold_at == rounded(64 + 4096 * (4 + 64) + 8192 * 256)
    assert struct.unpack_from("<6I", memory, hold_at) == (4096, 8192, 0, 0, 0, 1)
    assert slot.max_flows == FLOWS


def rounded(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE


def test_the_checksum_is_siphash_over_the_sizes() -> None:
    """So that another build, with another layout, refuses the slot."""
    memory, _ = made()
    sizes = [SIZES[name] for name in ("SlotHeader", "FlowsHeader", "Flow", "PeersHeader", "Peer", "BatchState")]
    verdicts = COUNTER_NAMES.index("packets_up")
    packed = struct.pack("<14Q", *sizes, 512, 2048, COUNTERS, verdicts, 64, 64, 4096, 8192 * 256)
    assert word(memory, 16) == oracle.siphash_2_4(bytes(16), packed)


def test_the_steering_words_in_memory() -> None:
    memory, slot = made()
    assert slot.next_epoch() == slot.epoch == 2
    assert slot.next_epoch() == slot.epoch == 3
    slot.draining, slot.heart, slot.pid, slot.restarts = True, 0x1_0000_0007, 4711, 3
    assert word(memory, 128) == 3
    assert struct.unpack_from("<IIII", memory, 192) == (1, 0, 4711, 3)
    slot.draining, slot.stopping = False, True
    assert struct.unpack_from("<II", memory, 192) == (0, 1)
    assert word(memory, 256, 4) == 7
    slot.busy_ratio = 0.25
    slot.set_socket(0, 5)
    slot.set_socket(16, 6)
    assert word(memory, 320) == 250_000
    assert (word(memory, 384), word(memory, 384 + 8 * 16)) == (5, 6)


def test_what_is_set_is_read() -> None:
    memory, writer = made()
    reader = Slot.open(memory)
    writer.draining = writer.stopping = True
    writer.heart, writer.pid, writer.busy_ratio, writer.restarts = 9, 10, 0.5, 11
    writer.set_socket(3, 12)
    assert (reader.draining, reader.stopping) == (True, True)
    assert (reader.heart, reader.pid, reader.busy_ratio, reader.restarts) == (9, 10, 0.5, 11)
    assert reader.socket_drops(3) == 12
    assert reader.max_flows == FLOWS


@pytest.mark.parametrize("index", [-1, 17, 1000])
def test_sockets_there_are_not(index: int) -> None:
    _, slot = made()
    with pytest.raises(IndexError):
        slot.socket_drops(index)
    with pytest.raises(IndexError):
        slot.set_socket(index, 1)


def test_a_flow_in_memory() -> None:
    """Every field where docs/wire.md puts it."""
    memory = memory_of(FLOWS)
    relay = Relay(Settings(max_flows=FLOWS), Slot.create(memory, FLOWS, SECRET))
    relay.tick = 70_000
    relay.up(check(token()))
    relay.tick += 1
    relay.up(check(token()))
    relay.tick += 2
    relay.down(framed(CLIENT, LOCAL, answer()))
    relay.tick += 4
    relay.up(check(token(OTHER)))
    at = word(memory, 32) + 64
    key = oracle.spp_key(CLIENT, LOCAL)
    assert memory[at : at + 36] == key
    state, socket, checked, next_hop, owner, pending, generation = struct.unpack_from("<2B5H", memory, at + 36)
    assert (state, socket, checked, generation) == (2, 0, 70_001 & 0xFFFF, 2)
    fingerprint, pending_fingerprint = struct.unpack_from("<2Q", memory, at + 48)
    assert fingerprint == oracle.siphash_1_3(SECRET, token().encode())
    assert pending_fingerprint == oracle.siphash_1_3(SECRET, token(OTHER).encode())
    assert struct.unpack_from("<4I", memory, at + 64) == (70_007, 70_003, 70_000, 0)  # seen, answered, opened, bucket
    assert word(memory, at + 80) == int.from_bytes((1).to_bytes(6, "big"), "little")
    assert word(memory, at + 88, 4) == oracle.siphash_1_3(SECRET, key) & 0xFFFFFFFF
    assert word(memory, at + 92, 4) == 0xFFFFFFFF
    assert next_hop == owner
    for number, endpoint in ((owner, OWNER), (pending, OTHER)):
        peer = word(memory, 40) + 64 + 64 * number
        assert memory[peer + 40 : peer + 58] == oracle.mapped(endpoint[0]) + endpoint[1].to_bytes(2, "big")


def test_the_index_words_of_a_flow() -> None:
    memory = memory_of(FLOWS)
    relay = Relay(Settings(max_flows=FLOWS), Slot.create(memory, FLOWS, SECRET))
    relay.up(check(token()))
    by_key = word(memory, 32) + 64 + 96 * FLOWS
    mask = word(memory, word(memory, 32) + 4, 4)
    assert mask == 255
    places = {
        by_key: oracle.siphash_1_3(SECRET, oracle.spp_key(CLIENT, LOCAL)) & 0xFFFFFFFF,
        by_key + 4 * (mask + 1): oracle.siphash_1_3(SECRET, token().encode()) & 0xFFFFFFFF,
    }
    for base, hashed in places.items():
        assert word(memory, base + 4 * (hashed & mask), 4) == (hashed & 0xFF000000) | 1


# --- refusals ---


def test_what_is_no_slot_is_refused() -> None:
    for length in (0, 1, 8191):
        with pytest.raises((SlotError, ValueError)):
            Slot.open(bytearray(length))
    with pytest.raises(SlotError, match="not a slot"):
        Slot.open(mmap.mmap(-1, 1 << 20))


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (0, "version"),  # magic
        (7, "version"),
        (8, "version"),  # layout
        (16, "version"),  # checksum
        (23, "version"),
        (24, "size"),  # total
        (13, "size"),  # flows
    ],
)
def test_a_slot_of_another_kind_is_refused(at: int, message: str) -> None:
    memory, _ = made()
    memory[at] ^= 1
    with pytest.raises(SlotError, match=message):
        Slot.open(memory)


@pytest.mark.parametrize("max_flows", [0, (1 << 22) + 1, 0xFFFFFFFF])
def test_a_slot_of_impossible_size_is_refused(max_flows: int) -> None:
    memory, _ = made()
    memory[12:16] = max_flows.to_bytes(4, "little")
    with pytest.raises(SlotError):
        Slot.open(memory)


@pytest.mark.parametrize("section_at", [32, 40, 48, 72])
def test_a_slot_whose_sections_lie_elsewhere_is_refused(section_at: int) -> None:
    memory, _ = made()
    memory[section_at : section_at + 8] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(SlotError):
        Slot.open(memory)


def test_memory_of_another_size_is_refused() -> None:
    memory, _ = made()
    larger = mmap.mmap(-1, len(memory) + PAGE)
    larger[: len(memory)] = memory[:]
    with pytest.raises(SlotError, match="size"):
        Slot.open(larger)
    with pytest.raises(SlotError, match="too few"):
        Slot.create(mmap.mmap(-1, len(memory) - PAGE), FLOWS, SECRET)


@pytest.mark.parametrize("secret", [b"", bytes(15), bytes(17)])
def test_a_secret_of_another_size_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Slot.create(memory_of(FLOWS), FLOWS, secret)


def test_memory_that_cannot_be_written_is_refused() -> None:
    with pytest.raises((BufferError, ValueError, TypeError)):
        Slot.open(bytes(slot_bytes(FLOWS)))


def test_a_slot_half_formatted_is_none() -> None:
    """The magic number is written last."""
    memory, _ = made()
    memory[:8] = bytes(8)
    with pytest.raises(SlotError, match="not a slot"):
        Slot.open(memory)


def test_the_memory_cannot_be_closed_under_a_slot() -> None:
    memory, slot = made()
    with pytest.raises(BufferError):
        memory.close()
    assert slot.counters()["packets_up"] == 0


# --- reading ---


def test_a_new_slot_is_all_zero() -> None:
    _, slot = made()
    assert slot.flows() == {"established": 0, "half_open": 0}
    assert slot.flow_list() == []
    for values in (slot.counters(), slot.events(), slot.tokens()):
        assert set(values.values()) == {0}
    assert (slot.epoch, slot.heart, slot.pid, slot.restarts, slot.busy_ratio) == (1, 0, 0, 0, 0)
    assert [slot.socket_drops(index) for index in range(17)] == [0] * 17


def test_formatting_again_forgets_everything() -> None:
    relay = Relay()
    relay.up(check(token()))
    relay.slot.next_epoch()
    memory = memory_of(64)
    slot = Slot.create(memory, 64, SECRET)
    slot.next_epoch()
    slot.format(64, bytes(16))
    assert (slot.epoch, slot.flows()) == (1, {"established": 0, "half_open": 0})
    assert memory[56:72] == bytes(16)


def test_counters_are_those_of_finished_batches() -> None:
    relay = Relay()
    relay.up(check(token()))
    before = relay.slot.counters()
    relay.harness.take_up([(CLIENT, LOCAL, RTP)])
    relay.harness.mark_sent(1)
    assert relay.slot.counters() == before


def test_names_of_counters_are_in_the_order_of_the_memory() -> None:
    memory = memory_of(FLOWS)
    relay = Relay(Settings(max_flows=FLOWS), Slot.create(memory, FLOWS, SECRET))
    relay.up(check(token()))
    relay.up(RTP)
    relay.down(framed(CLIENT, LOCAL, RTP))
    state = word(memory, 48)
    active = word(memory, state + 16, 4)
    block = state + 64 + 512 + active * 8 * (1 + COUNTERS)
    assert word(memory, block) == word(memory, state) == 3
    values = struct.unpack_from(f"<{COUNTERS}Q", memory, block + 8)
    assert dict(zip(COUNTER_NAMES, values, strict=True)) == relay.slot.counters()
    assert values[1] == 1  # up_media


def test_resumptions_of_the_open_batch_are_counted_in_memory() -> None:
    memory = memory_of(FLOWS)
    slot = Slot.create(memory, FLOWS, SECRET)
    for workers in (1, 2, 3):
        Relay(Settings(max_flows=FLOWS), slot)
        assert word(memory, word(memory, 48) + 20, 4) == workers


def test_tokens_are_counted_by_key_and_outcome() -> None:
    relay = Relay()
    relay.up(check(token()))
    relay.up(check(token()))
    relay.up(check(token(key_id=6)))
    relay.up(check(token(key_id=3)[:-4] + "AAAA"))
    relay.up(check("A" + token()[1:]))
    relay.up(check("x"))
    relay.up(check(token(("10.2.0.1", 1), key_id=3)))
    expected = {
        (0, "verified"): 1,
        (0, "flow"): 1,
        (6, "unknown_key"): 1,
        (3, "forged"): 1,
        (7, "other_version"): 1,
        (7, "malformed"): 1,
        (3, "foreign_owner"): 1,
    }
    assert {key: value for key, value in relay.slot.tokens().items() if value} == expected


def test_flows_are_listed_with_all_that_is_known() -> None:
    relay = Relay()
    relay.up(check(token(serial=7)), CLIENT6, LOCAL6, WILDCARD6)
    relay.tick += 5
    relay.up(check(token(OTHER)), CLIENT6, LOCAL6, WILDCARD6)
    assert Slot.flow_list(relay.slot) == [
        {
            "client": CLIENT6,
            "local": LOCAL6,
            "state": "half_open",
            "socket": WILDCARD6,
            "next_hop": OWNER,
            "owner": OWNER,
            "pending_owner": OTHER,
            "seen": 1005,
            "answered": 1000,
            "opened": 1000,
            "nonce": 7 << 40,
        }
    ]


def test_flow_bytes_is_what_the_sections_take() -> None:
    memory, _ = made(131072)
    assert flow_bytes(131072) == (word(memory, 48) - word(memory, 32)) / 131072
