"""The route token: vectors, every way to refuse one, minting, and the compiled code against the oracle.

A token is forged, malformed, of another version or of an unknown key in this order of looking: form first (length,
alphabet, spare bits), then version, key id, tag, and last the form inside the authentic payload.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire import token as wire
from _fastpath.wire.token import Keyring, TokenFields, derive_subkeys, mint
from tests.support import oracle, packets
from tests.support.oracle import ALPHABET, Fields

VECTORS = packets.load_vectors("token.json")
KEYS = {int(key_id): bytes.fromhex(row["route_key"]) for key_id, row in VECTORS["route_keys"].items()}
RING = Keyring(KEYS)
TOKENS = [row["token"] for row in VECTORS["tokens"]]

Row = dict[str, Any]


def description(row: Row) -> str:
    return str(row["description"])


ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)


def fields_with(address: st.SearchStrategy[str]) -> st.SearchStrategy[Fields]:
    owner = st.tuples(address, st.integers(1, 65535))
    random = st.binary(min_size=6, max_size=6)
    return st.builds(Fields, st.sampled_from(list(KEYS)), owner, st.integers(0, 1023), st.integers(0, 4095), random)


any_fields = fields_with(st.one_of(ipv4, ipv6))


def as_compiled(fields: Fields) -> TokenFields:
    """Mapped addresses are IPv4 to whoever reads them; the random bits are a little-endian number."""
    owner = (oracle.address_text(oracle.mapped(fields.owner[0])), fields.owner[1])
    return TokenFields(fields.key_id, owner, fields.cluster, fields.generation, int.from_bytes(fields.random, "little"))


def agree(keys: dict[int, bytes], token: bytes) -> str:
    """The result both sides give."""
    result, fields = Keyring(keys).verify(token) if keys is not KEYS else RING.verify(token)
    expected, expected_fields = oracle.verify(keys, token)
    assert result == expected, token
    assert fields == (as_compiled(expected_fields) if expected_fields else None)
    assert result in wire.RESULTS
    return result


# --- vectors ---


@pytest.mark.parametrize("key_id", KEYS)
def test_subkeys_are_hkdf_of_the_route_key(key_id: int) -> None:
    """`cryptography`'s HKDF against ours and the vector's."""
    row = VECTORS["route_keys"][str(key_id)]
    expected = bytes.fromhex(row["tag_key"]) + bytes.fromhex(row["stream_key"])
    assert derive_subkeys(KEYS[key_id]) == b"".join(oracle.subkeys(KEYS[key_id])) == expected


@pytest.mark.parametrize("row", VECTORS["tokens"], ids=description)
def test_vectors_are_minted_and_verified(row: Row) -> None:
    owner, random = (row["owner"], row["port"]), bytes.fromhex(row["random"])
    fields = Fields(row["key_id"], owner, row["cluster"], row["generation"], random)
    assert RING.mint(row["key_id"], owner, row["cluster"], row["generation"], random) == row["token"]
    assert oracle.mint(KEYS[row["key_id"]], fields) == row["token"]
    assert RING.verify(row["token"].encode()) == ("verified", as_compiled(fields))
    assert agree(KEYS, row["token"].encode()) == "verified"


@pytest.mark.parametrize("row", VECTORS["tokens"], ids=description)
def test_the_steps_between_payload_and_token(row: Row) -> None:
    payload, tag = bytes.fromhex(row["payload"]), bytes.fromhex(row["tag"])
    tag_key, stream_key = oracle.subkeys(KEYS[row["key_id"]])
    head = 1 << 3 | row["key_id"]
    random = bytes.fromhex(row["random"])
    assert wire.plain_payload((row["owner"], row["port"]), row["cluster"], row["generation"], random) == payload
    assert oracle.siphash_2_4(tag_key, bytes([head]) + payload).to_bytes(8, "little") == tag
    assert oracle.keystream(stream_key, tag, len(payload)).hex() == row["keystream"]
    hidden = oracle.xor(payload, bytes.fromhex(row["keystream"]))
    assert wire.encode(head, tag + hidden) == row["token"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=description)
def test_vectors_that_are_refused(row: Row) -> None:
    assert RING.verify(row["token"].encode()) == (row["result"], None)
    assert agree(KEYS, row["token"].encode()) == row["result"]


@pytest.mark.parametrize("token", TOKENS)
def test_truncated_and_extended(token: str) -> None:
    text = token.encode()
    for cut in packets.truncations(text):
        assert agree(KEYS, cut) in ("malformed", "forged"), len(cut)
        assert len(cut) == 32 or RING.verify(cut)[0] == "malformed"
    for longer in [text + b"A" * n for n in range(1, 17)] + [text + b":" + text]:
        assert agree(KEYS, longer) in ("malformed", "forged"), len(longer)


@pytest.mark.long
@pytest.mark.parametrize("token", [TOKENS[0], TOKENS[5]])
def test_every_other_character_at_every_place_is_refused(token: str) -> None:
    for at in range(len(token)):
        for character in ALPHABET + "=-_ :\0\x80\xff":
            changed = token[:at] + character + token[at + 1 :]
            if changed != token:
                assert agree(KEYS, changed.encode("latin-1")) != "verified", changed


def test_one_payload_one_string() -> None:
    """Of the 64 last characters that share the payload's bits only one is accepted: the others have spare bits."""
    for token in (TOKENS[0], TOKENS[5]):
        results = [RING.verify((token[:-1] + character).encode())[0] for character in ALPHABET]
        assert results.count("verified") == 1
        assert results.count("malformed") == 48


# --- minting ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, ("10.0.0.1", 1)), "no key with id 2"),
        ((7, ("10.0.0.1", 1)), "no key with id 7"),
        ((-1, ("10.0.0.1", 1)), "no key with id -1"),
        ((0, ("10.0.0.1", 0)), "port 0"),
        ((0, ("10.0.0.1", 65536)), "port 65536"),
        ((0, ("10.0.0.1", 1), 1024), "cluster 1024"),
        ((0, ("10.0.0.1", 1), -1), "cluster -1"),
        ((0, ("10.0.0.1", 1), 0, 4096), "generation 4096"),
        ((0, ("10.0.0.1", 1), 0, -1), "generation -1"),
        ((0, ("10.0.0.1", 1), 0, 0, b"12345"), "6 bytes"),
        ((0, ("localhost", 1)), "localhost"),
    ],
)
def test_what_cannot_be_minted(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RING.mint(*arguments)


@pytest.mark.parametrize("keys", [{0: b"short"}, {0: bytes(33)}, {7: bytes(32)}, {-1: bytes(32)}])
def test_what_is_no_key(keys: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="route key|key id"):
        Keyring(keys)


def test_two_mints_differ_by_their_random_bits() -> None:
    tokens = {RING.mint(0, ("10.1.2.3", 4000)) for _ in range(100)}
    assert len(tokens) == 100
    nonces = {fields.nonce for fields in (RING.verify(token.encode())[1] for token in tokens) if fields}
    assert len(nonces) == 100


def test_minting_from_a_bare_key() -> None:
    key = os.urandom(32)
    token = mint(4, key, ("10.9.8.7", 6), 5, 4)
    result, fields = oracle.verify({4: key}, token.encode())
    assert result == "verified"
    assert fields is not None
    assert (fields.key_id, fields.owner, fields.cluster, fields.generation) == (4, ("10.9.8.7", 6), 5, 4)


def test_constants() -> None:
    assert (wire.VERSION, wire.KEY_IDS, wire.CLUSTERS, wire.GENERATIONS, wire.ROUTE_KEY_BYTES) == (1, 7, 1024, 4096, 32)
    assert wire.SUBKEY_INFO == b"ufrag route token 1"


@pytest.mark.parametrize("key_id", range(7))
def test_the_first_character_tells_the_key(key_id: int) -> None:
    token = mint(key_id, bytes(32), ("10.1.2.3", 4000))
    assert token[0] == "IJKLMNO"[key_id]
    assert (len(token), len(mint(key_id, bytes(32), ("::1", 4000)))) == (32, 48)


def test_rotation() -> None:
    """A relay that has both keys verifies old and new; once the old one is retired only new ones."""
    old, new = bytes(range(32)), bytes(range(32, 64))
    old_token, new_token = mint(0, old, ("10.1.2.3", 4000)).encode(), mint(1, new, ("10.1.2.3", 4000)).encode()
    during, after = Keyring({1: new, 0: old}), Keyring({1: new})
    assert (during.verify(old_token)[0], during.verify(new_token)[0]) == ("verified", "verified")
    assert (after.verify(old_token)[0], after.verify(new_token)[0]) == ("unknown_key", "verified")


def test_a_reused_key_id_with_another_key_is_a_forgery() -> None:
    assert Keyring({0: bytes(32)}).verify(TOKENS[0].encode())[0] == "forged"


# --- against the oracle ---


@given(any_fields)
def test_what_is_minted_agrees(fields: Fields) -> None:
    token = RING.mint(fields.key_id, fields.owner, fields.cluster, fields.generation, fields.random)
    assert token == oracle.mint(KEYS[fields.key_id], fields)
    assert agree(KEYS, token.encode()) == "verified"


@given(any_fields, st.data())
def test_mutated_tokens_agree(fields: Fields, data: st.DataObject) -> None:
    token = oracle.mint(KEYS[fields.key_id], fields)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(token) - 1))
        token = token[:at] + data.draw(st.sampled_from(ALPHABET + "-=")) + token[at + 1 :]
    agree(KEYS, token.encode())


@given(
    st.one_of(st.binary(max_size=60), *[st.text(ALPHABET, min_size=n, max_size=n).map(str.encode) for n in (32, 48)])
)
def test_anything_agrees(token: bytes) -> None:
    assert agree(KEYS, token) != "verified"


@given(st.sampled_from(list(KEYS)), st.one_of(*[st.binary(min_size=n, max_size=n) for n in (15, 27)]))
def test_any_authentic_payload_agrees(key_id: int, payload: bytes) -> None:
    """What only the holder of a key can make: every form and every field."""
    token = oracle.seal(KEYS[key_id], 1 << 3 | key_id, payload).encode()
    expected = "verified" if payload[0] >> 6 == (0 if len(payload) == 15 else 1) else "malformed"
    assert agree(KEYS, token) == expected
