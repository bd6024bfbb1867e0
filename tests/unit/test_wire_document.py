"""docs/wire.md says what is true: its vectors verify, and its tables are those of the code."""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path

import pytest

from _fastpath._testing import MOST_PAYLOAD, OFFSETS, SIZES
from _fastpath.slot import LAYOUT, MOST_FLOWS, Slot, slot_bytes
from _fastpath.verdicts import COUNTER_NAMES, EVENT_NAMES, TOKEN_OUTCOME_NAMES, VERDICTS_BY_NUMBER
from _fastpath.wire.envelope import pack
from _fastpath.wire.token import Keyring
from tests.support import packets
from tests.support.harness import SECRET, memory_of

pytestmark = pytest.mark.tree  # reads docs/

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "wire.md"
ROUTE_KEYS = packets.load_vectors("token.json")["route_keys"]


@functools.cache
def text() -> str:
    return DOCUMENT.read_text()


def rows(*headings: str) -> list[list[str]]:
    """The body of the one table with these headings."""
    pattern = re.escape("| " + " | ".join(headings) + " |") + r"\n\|[ -|]*\|\n((?:\|.*\n)+)"
    [body] = re.findall(pattern, text())
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body.splitlines()]


def document_ring() -> Keyring:
    keys = rows("key id", "route key", "tag key", "stream key")
    return Keyring({int(key_id): bytes.fromhex(route_key) for key_id, route_key, _, _ in keys})


def test_keys_are_those_of_the_vectors() -> None:
    found = rows("key id", "route key", "tag key", "stream key")
    assert found == [[key_id, *row.values()] for key_id, row in ROUTE_KEYS.items()]


def test_tokens_verify_and_are_those_of_the_vectors() -> None:
    found = rows("key id", "owner", "port", "cluster", "generation", "random", "token")
    ring = document_ring()
    for key_id, owner, port, cluster, generation, random, token in found:
        minted = ring.mint(int(key_id), (owner, int(port)), int(cluster), int(generation), bytes.fromhex(random))
        assert minted == token
        assert ring.verify(token.encode())[0] == "verified"
    assert [row[-1] for row in found] == [row["token"] for row in packets.load_vectors("token.json")["tokens"]]


def test_the_first_token_in_steps() -> None:
    first = packets.load_vectors("token.json")["tokens"][0]
    steps = re.search(r"payload `(\w+)`, head `08`, tag `(\w+)`,\nkeystream `(\w+)`", text())
    assert steps is not None
    assert steps.groups() == (first["payload"], first["tag"], first["keystream"])


def test_what_is_refused_is_refused() -> None:
    found = rows("text", "what it is", "result")
    assert len(found) == len(packets.load_vectors("token.json")["refused"])
    for text, _, result in found:
        assert document_ring().verify(text.encode()) == (result, None)


def test_headers_of_the_internal_leg() -> None:
    found = rows("client", "port", "local", "port", "header")
    assert len(found) == len(packets.load_vectors("envelope.json"))
    for client, client_port, local, local_port, header in found:
        assert pack((client, int(client_port)), (local, int(local_port))).hex() == header


def test_sizes_of_payloads() -> None:
    limits = dict(rows("limit", "value"))
    assert limits["payload up"].startswith(f"{MOST_PAYLOAD:,} ")
    assert limits["payload down"].startswith(f"{MOST_PAYLOAD - 38:,} ")


def test_verdicts_by_number() -> None:
    [up, down] = rows("direction", "forwarded", "dropped")
    for way, *cells in (up, down):
        for forwarded, cell in zip((True, False), cells, strict=True):
            listed = [(int(number), reason) for number, reason in re.findall(r"(\d+) `?(\w+)`?", cell)]
            expected = [
                (n, reason) for n, (d, f, reason) in enumerate(VERDICTS_BY_NUMBER) if (d, f) == (way, forwarded)
            ]
            assert listed == expected


def test_numbers_of_the_counters() -> None:
    names = ("packets_up", "packets_down", "bytes_up", "bytes_down", "batches", "batch_le_1", "batch_le_512")
    numbers = [COUNTER_NAMES.index(name) for name in names]
    assert numbers == [57, 58, 59, 60, 61, 62, 71]
    assert "57 packets up, 58 packets down, 59 bytes up, 60 bytes down" in text()
    assert "61 batches, and 62 to 71 batches" in text()
    assert f"{COUNTER_NAMES.index('held')} is how many were ever put on hold" in text()
    assert f"then u64[{len(COUNTER_NAMES)}]" in text()


def test_sections_and_sizes() -> None:
    memory = memory_of(1000)
    Slot.create(memory, 1000, SECRET)
    flows_at, peers_at, batch_at = struct.unpack_from("<3Q", memory, 32)
    [hold_at] = struct.unpack_from("<Q", memory, 72)
    sections = {name: (at, size) for name, at, size in rows("section", "at", "size")}
    assert sections["header"] == ("0", f"{flows_at:,}")
    assert sections["batch"][1] == f"{hold_at - batch_at:,}"
    assert sections["hold"][1] == f"{slot_bytes(1000) - hold_at:,}"
    assert "96 x flows + 8 x index words" in sections["flow table"][1]
    assert (SIZES["Flow"], SIZES["FlowsHeader"], SIZES["Peer"], SIZES["PeersHeader"]) == (96, 64, 64, 64)
    assert peers_at > flows_at
    assert MOST_FLOWS < 1 << 24


def field_at(name: str) -> int:
    """Where a table says a field is: the first row whose text begins so."""
    found = re.search(rf"^\| (\d+) \| [^|]+ \| {re.escape(name)}", text(), re.MULTILINE)
    assert found is not None, name
    return int(found.group(1))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("epoch:", "epoch"),
        ("heart:", "heart"),
        ("state: 0 free", "state"),
        ("generation: odd", "generation"),
        ("fingerprint of its token", "token"),
        ("tick of its last packet", "seen"),
        ("nonce of the token", "nonce"),
    ],
)
def test_offsets_of_fields(text: str, field: str) -> None:
    assert field_at(text) == OFFSETS[field]


def test_the_last_fields_end_where_the_structures_do() -> None:
    """The header with the key ids, the batch state with the second block of counters."""
    assert field_at("token outcomes by key id") + 8 * 8 * len(TOKEN_OUTCOME_NAMES) + 40 == field_at("asks:")
    assert field_at("key ids:") + 8 == field_at("bytes that wait in the sockets")
    assert field_at("bytes that wait in the sockets") + 8 * 17 + 48 == field_at("what the route cache's keeper")
    assert field_at("what the route cache's keeper") + 8 * 32 == SIZES["SlotHeader"]
    assert field_at("events:") + 8 * len(EVENT_NAMES) == field_at("token outcomes by key id")
    block = 8 * (1 + len(COUNTER_NAMES))
    assert f"| 576, {576 + block} | {block} bytes each |" in text()
    assert SIZES["BatchState"] == 576 + 2 * block
    assert f"layout: {LAYOUT}" in text()
