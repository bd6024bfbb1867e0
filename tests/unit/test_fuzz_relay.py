"""The fuzz targets of the relay: their corpora, with mutations; that these reach what they are for; and that the audit
of the slots finds what is planted.
"""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from _fastpath._testing_audit import Audit
from _fastpath.slot import Slot
from tests.fuzz import fuzz_relay
from tests.fuzz.run import Mutator
from tests.support.harness import (
    CLIENT,
    LOCAL,
    OTHER,
    OWNER,
    SECRET,
    STRANGER,
    Relay,
    Settings,
    memory_of,
    token,
)
from tests.support.oracle import Address
from tests.support.packets import answer, check, framed

PLACE = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
CORPUS = sorted((PLACE / "relay").iterdir())
PARSERS = ("stun", "token", "demux", "envelope")

# What needs more owners than a target has, or a socket.
OUT_OF_REACH = {"up_peers_full", "up_send_buffer", "up_send_too_big", "down_send_buffer", "down_send_too_big"}


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus(path: Path) -> None:
    assert fuzz_relay.one(path.read_bytes()) > 10


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_mutations_of_the_corpus(seed: int) -> None:
    mutator = Mutator([path.read_bytes() for path in CORPUS], seed)
    assert sum(fuzz_relay.one(mutator.next()) for _ in range(10)) > 100


@pytest.mark.long
def test_nearly_every_verdict_is_met() -> None:
    mutator = Mutator([path.read_bytes() for path in CORPUS], 0)
    met: Counter[str] = Counter()
    for data in [*(path.read_bytes() for path in CORPUS), *(mutator.next() for _ in range(60))]:
        machine = fuzz_relay.Machine(data)
        machine.run()
        for slot in machine.rig.slots:
            met.update(slot.counters() | slot.events())
    verdicts = {name for name in met if name.startswith(("up_", "down_"))}
    assert {name for name in verdicts if not met[name]} <= OUT_OF_REACH
    assert all(
        met[event] for event in ("flows_created", "flows_evicted", "flows_adopted", "flows_moved", "flows_recovered")
    )


@pytest.mark.parametrize("target", PARSERS)
def test_parsers(target: str) -> None:
    one = import_module(f"tests.fuzz.fuzz_{target}").one
    corpus = [path.read_bytes() for path in sorted((PLACE / target).iterdir())]
    mutator = Mutator(corpus, 0)
    for data in [b"", *corpus, *(mutator.next() for _ in range(100))]:
        one(data)


# --- the audit ---

MAX_FLOWS = 64
OWNERS = [OWNER, OTHER]


def client(number: int) -> Address:
    return f"10.9.{number}.7", 5000


def busy() -> tuple[Relay, bytearray]:
    """With two flows of one token, one of another, and a freed one; after six batches the first block counts."""
    memory = bytearray(len(memory_of(MAX_FLOWS)))
    relay = Relay(Settings(max_flows=MAX_FLOWS), Slot.create(memory, MAX_FLOWS, SECRET))
    relay.up(check(token(serial=9)), client(9))
    relay.up(b"?", client(9))
    relay.tick += 1000
    relay.harness.sweep(MAX_FLOWS)
    for number in range(3):
        relay.up(check(token(serial=number // 2)), client(number))
    relay.down(framed(client(0), LOCAL, answer()))
    return relay, memory


def test_a_whole_slot_passes_the_audit() -> None:
    relay, _ = busy()
    audit = Audit([relay.slot], OWNERS)
    audit.check()
    assert audit.hops(0, framed(client(0), LOCAL, b"")[2:]) == (
        bytes.fromhex("00" * 10 + "ffff0a0102030fa0"),
        bytes(18),
    )
    assert audit.hops(0, framed(STRANGER, LOCAL, b"")[2:]) is None


def section(memory: bytearray, field: int) -> int:
    """Where a section begins: the flows (40), the peers (48) or the batch state (56)."""
    return int.from_bytes(memory[field : field + 8], "little")


@pytest.mark.parametrize(
    ("field", "at", "complaint"),
    [
        (32, 16, "established flows"),
        (32, 20, "half-open flows"),
        (32, 8, "free flows"),
        (32, 28, "words of the index by key"),
        (32, 32, "words of the index by token"),
        (40, 64 + 64 + 32, "a peer is held"),
        (48, 64 + 512 + 8 + 8, "packets up"),
    ],
)
def test_a_count_that_is_wrong_is_found(field: int, at: int, complaint: str) -> None:
    relay, memory = busy()
    memory[section(memory, field) + at] ^= 4
    with pytest.raises(AssertionError, match=complaint):
        Audit([relay.slot], OWNERS).check()


def test_an_owner_that_may_not_be_is_found() -> None:
    relay, _ = busy()
    with pytest.raises(AssertionError, match="no owner"):
        Audit([relay.slot], [OTHER]).check()


def test_a_ninth_flow_in_another_worker_is_found() -> None:
    """Workers that do not know of each other."""
    relays = Relay(), Relay()
    for number in range(8):
        relays[number % 2].up(check(token()), client(number))
    audit = Audit([relay.slot for relay in relays], OWNERS)
    audit.check()
    relays[1].up(check(token()), client(0))
    audit.check()  # the same flow, once more
    relays[1].up(check(token()), CLIENT)
    with pytest.raises(AssertionError, match="more flows of a token"):
        audit.check()
