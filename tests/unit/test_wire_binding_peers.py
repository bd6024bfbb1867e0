"""Binding messages as they are written, read back by the plain-Python reading and by aioice, an ICE agent of other
authors; any attributes and any bytes against the plain-Python reading; the fuzz target's corpus and mutations of it.

aioice comes with the transceiver's dependencies, which the Arm emulator's Python lacks: it is imported by a fixture,
and its tests are native.
"""

from __future__ import annotations

import importlib
import ipaddress
import random
import zlib
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire import binding
from _fastpath.wire.crc32 import checksum
from tests.fuzz import fuzz_binding
from tests.fuzz.fuzz_binding import PASSWORD
from tests.support import bindings, oracle, packets
from tests.support.bindings import (
    CONTROLLED,
    CONTROLLING,
    ERROR,
    ERROR_CODE,
    FINGERPRINT,
    INDICATION,
    INTEGRITY,
    MAPPED,
    PRIORITY,
    REQUEST,
    SOFTWARE,
    SUCCESS,
    USE_CANDIDATE,
    USERNAME,
    sealed,
)
from tests.support.packets import TRANSACTION, Attribute, attribute

VECTOR = packets.load_vectors("stun_rfc5769.json")
SAMPLES = [bytes.fromhex(each["message"]) for each in (VECTOR, *VECTOR["responses"])]
CORPUS = sorted((Path(fuzz_binding.__file__).parent / "corpus" / "binding").iterdir())

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(
    lambda each: str(getattr(each, "ipv4_mapped", None) or each)
)
transactions = st.binary(min_size=12, max_size=12)
passwords = st.binary(max_size=100)
ports = st.integers(0, 0xFFFF)
priorities = st.integers(0, 0xFFFFFFFF)
tie_breakers = st.integers(0, (1 << 64) - 1)


def accepted(message: bytes, password: bytes = PASSWORD) -> binding.Fields:
    """What it says, after both readings took it."""
    result, fields = binding.parse(message)
    assert result == "ok"
    assert fields is not None
    assert bindings.parse(message) == ("ok", astuple(fields))
    assert binding.verify(message, password)
    assert bindings.verify(message, password)
    return fields


# --- what is written ---


@given(transactions, addresses, ports, passwords)
def test_success(transaction: bytes, host: str, port: int, password: bytes) -> None:
    message = binding.success(transaction, (host, port), password)
    mask = oracle.COOKIE + transaction
    packed = ipaddress.ip_address(host).packed
    (value, *rest) = [value for _, _, value in bindings.split(message) or []]
    assert value[:2] == (b"\0\1" if len(packed) == 4 else b"\0\2")
    assert bytes(a ^ b for a, b in zip(value[2:4], mask, strict=False)) == port.to_bytes(2, "big")
    assert bytes(a ^ b for a, b in zip(value[4:], mask, strict=False)) == packed
    assert [len(each) for each in rest] == [20, 4]
    assert astuple(accepted(message, password))[:3] == (SUCCESS, transaction, None)


@pytest.mark.parametrize("code", [300, 400, 401, 403, 420, 487, 500, 699])
def test_error(code: int) -> None:
    message = binding.error(TRANSACTION, code, PASSWORD)
    assert (accepted(message).kind, accepted(message).error_code) == (ERROR, code)
    assert [kind for _, kind, _ in bindings.split(message) or []] == [ERROR_CODE, INTEGRITY, FINGERPRINT]


@given(
    transactions,
    st.binary(max_size=512),
    passwords,
    priorities,
    tie_breakers,
    st.booleans(),
    st.booleans(),
)
def test_request(
    transaction: bytes, username: bytes, password: bytes, priority: int, tie: int, controlling: bool, nominate: bool
) -> None:
    message = binding.request(
        transaction,
        username,
        password,
        priority=priority,
        tie_breaker=tie,
        controlling=controlling,
        use_candidate=nominate,
    )
    fields = accepted(message, password)
    assert astuple(fields)[:3] == (REQUEST, transaction, username)
    assert (fields.priority, fields.use_candidate, fields.controlling) == (priority, nominate, controlling)
    assert fields.controlled != controlling
    role = CONTROLLING if controlling else CONTROLLED
    assert (role, tie.to_bytes(8, "big")) in [each[1:] for each in bindings.split(message) or []]


def test_padding_we_write_is_zeros() -> None:
    for size in range(9):
        message = binding.request(TRANSACTION, b"u" * size, PASSWORD, priority=1, tie_breaker=2)
        assert message[20 : 24 + size + -size % 4] == attribute(USERNAME, b"u" * size)


def test_the_longest_message_of_ours() -> None:
    longest = binding.request(TRANSACTION, b"u" * 512, PASSWORD, priority=1, tie_breaker=2, use_candidate=True)
    assert len(longest) == binding.MOST_BYTES


def test_arguments_of_tools_are_checked() -> None:
    with pytest.raises(ValueError, match="transaction id has 12 bytes"):
        binding.success(TRANSACTION + b"x", ("192.0.2.1", 1), PASSWORD)
    with pytest.raises(ValueError, match="error code 299"):
        binding.error(TRANSACTION, 299, PASSWORD)
    with pytest.raises(ValueError, match="512 bytes at most"):
        binding.request(TRANSACTION, b"u" * 513, PASSWORD, priority=1, tie_breaker=2)


# --- aioice ---


@pytest.fixture(scope="module")
def aioice() -> Any:
    return importlib.import_module("aioice.stun")


def aioice_accepts(aioice: Any, message: bytes, password: bytes) -> bool:
    """It raises whatever comes along on malformed input."""
    try:
        return bool(aioice.parse_message(message).check_message_integrity(password))
    except Exception:
        return False


@pytest.mark.native
@given(transactions, st.text(max_size=100), passwords, priorities, tie_breakers, st.booleans(), st.booleans())
def test_aioice_reads_our_request_and_we_its(
    aioice: Any,
    transaction: bytes,
    username: str,
    password: bytes,
    priority: int,
    tie: int,
    controlling: bool,
    nominate: bool,
) -> None:
    role = "ICE-CONTROLLING" if controlling else "ICE-CONTROLLED"
    attributes = {
        "USERNAME": username,
        role: tie,
        **({"USE-CANDIDATE": None} if nominate else {}),
        "PRIORITY": priority,
    }
    theirs = aioice.Message(aioice.Method.BINDING, aioice.Class.REQUEST, transaction, dict(attributes))
    theirs.add_message_integrity(password)
    ours = binding.request(
        transaction,
        username.encode(),
        password,
        priority=priority,
        tie_breaker=tie,
        controlling=controlling,
        use_candidate=nominate,
    )
    assert ours == bytes(theirs)
    assert accepted(bytes(theirs), password).username == username.encode()
    read = aioice.parse_message(ours)
    assert read.check_message_integrity(password)
    assert attributes.items() <= read.attributes.items()


@pytest.mark.native
@given(transactions, addresses, ports, passwords)
def test_aioice_writes_the_same_success(aioice: Any, transaction: bytes, host: str, port: int, password: bytes) -> None:
    theirs = aioice.Message(aioice.Method.BINDING, aioice.Class.RESPONSE, transaction)
    theirs.attributes["XOR-MAPPED-ADDRESS"] = (host, port)
    theirs.add_message_integrity(password)
    assert binding.success(transaction, (host, port), password) == bytes(theirs)


@pytest.mark.native
@pytest.mark.parametrize("code", [300, 400, 401, 403, 420, 487, 500, 699])
def test_aioice_reads_our_error_and_we_its(aioice: Any, code: int) -> None:
    read = aioice.parse_message(binding.error(TRANSACTION, code, PASSWORD))
    assert read.check_message_integrity(PASSWORD)
    assert read.attributes["ERROR-CODE"][0] == code
    theirs = aioice.Message(
        aioice.Method.BINDING, aioice.Class.ERROR, TRANSACTION, {"ERROR-CODE": (code, "Gr\u00fcnde")}
    )
    theirs.add_message_integrity(PASSWORD)
    assert accepted(bytes(theirs)).error_code == code


@pytest.mark.native
@pytest.mark.parametrize("message", SAMPLES, ids=["request", "IPv4 response", "IPv6 response"])
def test_aioice_accepts_the_same_flipped_bits(aioice: Any, message: bytes) -> None:
    """But for those of FINGERPRINT's length: aioice takes what there is of an attribute that claims more."""
    for bit in [*range((len(message) - 6) * 8), *range((len(message) - 4) * 8, len(message) * 8)]:
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        ours = binding.parse(bytes(flipped))[0] == "ok" and binding.verify(bytes(flipped), PASSWORD)
        assert ours == aioice_accepts(aioice, bytes(flipped), PASSWORD), bit


# --- against the plain-Python reading ---

sorts = st.sampled_from(
    [USERNAME, PRIORITY, USE_CANDIDATE, ERROR_CODE, MAPPED, SOFTWARE, CONTROLLED, CONTROLLING, INTEGRITY, 0x7FFF]
)
values = st.one_of(st.binary(max_size=24), st.sampled_from([b"", bytes(4), bytes(8), b"\0\0\4\0", bytes(20)]))
attribute_lists = st.lists(st.tuples(sorts, values), max_size=8)


@given(
    st.sampled_from([REQUEST, SUCCESS, ERROR, INDICATION]),
    attribute_lists,
    st.sampled_from([PASSWORD, b"", None]),
    attribute_lists,
    st.booleans(),
)
def test_any_attributes(
    kind: int, before: list[Attribute], key: bytes | None, after: list[Attribute], with_fingerprint: bool
) -> None:
    fuzz_binding.one(sealed(kind, before, key, after, with_fingerprint))


@given(st.binary(max_size=150))
def test_any_bytes(body: bytes) -> None:
    fuzz_binding.one(body)
    fuzz_binding.one(bindings.header(REQUEST, len(body)) + body)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_of_the_fuzz_target(path: Path) -> None:
    fuzz_binding.one(path.read_bytes())


def test_mutations_of_the_corpus() -> None:
    chance = random.Random(8489)
    seeds = [path.read_bytes() for path in CORPUS]
    results = set()
    for _ in range(2000):
        message = mutated(chance, seeds)
        fuzz_binding.one(message)
        results |= {binding.parse(message)[0], binding.parse(bindings.plausible(message))[0]}
    assert results == set(binding.RESULTS)


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    message = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(message) + 1)
        other = chance.choice(seeds)
        match chance.randrange(4):
            case 0:
                message[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del message[at : at + chance.randrange(9)]
            case 2:
                message[at:at] = other[at : at + 4 * chance.randrange(9)]
            case 3:
                message[at:] = other[at:]
    return bytes(message)


@given(st.binary(max_size=300))
def test_crc32_agrees_with_zlib(data: bytes) -> None:
    assert checksum(data) == zlib.crc32(data)


def test_crc32_of_every_length_to_100() -> None:
    data = bytes(range(255, 155, -1))
    assert [checksum(data[:n]) for n in range(101)] == [zlib.crc32(data[:n]) for n in range(101)]
