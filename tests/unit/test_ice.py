"""Candidates, passwords and call ids: values of the RFCs, of other implementations, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.wire.token import Keyring
from transceiver.ice import Candidate, candidates, derive_ice_key, derive_pwd, make_call_id, split_call_id

ICE_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
TOKENS = st.one_of(*(st.text(ICE_CHARS, min_size=size, max_size=size) for size in (32, 48)))
SECRETS = st.binary(min_size=16, max_size=16)


def test_the_first_candidate_has_the_priority_that_rfc_8445_gives() -> None:
    assert candidates([("192.0.2.1", 3478)]) == (Candidate("192.0.2.1", 3478, 2_130_706_431, "1"),)


def test_priorities_fall_by_one_local_preference_in_the_given_order() -> None:
    found = candidates([("192.0.2.2", 1), ("192.0.2.1", 1), ("192.0.2.3", 1)])
    assert [each.host for each in found] == ["192.0.2.2", "192.0.2.1", "192.0.2.3"]
    assert [each.priority for each in found] == [2_130_706_431, 2_130_706_431 - 256, 2_130_706_431 - 512]


@pytest.mark.parametrize(
    ("given_order", "order"),
    [
        (["4a", "4b", "6a", "6b"], ["4a", "6a", "4b", "6b"]),
        (["6a", "6b", "4a"], ["6a", "4a", "6b"]),
        (["4a", "6a", "4b", "6b"], ["4a", "6a", "4b", "6b"]),
        (["4a", "4b", "4c", "6a"], ["4a", "6a", "4b", "4c"]),
        (["6a"], ["6a"]),
        ([], []),
    ],
)
def test_the_families_take_turns(given_order: list[str], order: list[str]) -> None:
    hosts = {f"4{each}": f"192.0.2.{number}" for number, each in enumerate("abc")}
    hosts |= {f"6{each}": f"2001:db8::{number + 1}" for number, each in enumerate("abc")}
    found = candidates([(hosts[each], 3478) for each in given_order])
    assert [each.host for each in found] == [hosts[each] for each in order]


def test_an_address_has_one_foundation_and_counts_once_a_port() -> None:
    found = candidates([("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.1", 2), ("192.0.2.1", 1)])
    assert [(each.host, each.port, each.foundation) for each in found] == [
        ("192.0.2.1", 1, "1"),
        ("192.0.2.2", 1, "2"),
        ("192.0.2.1", 2, "1"),
    ]
    assert len(candidates([("2001:db8::1", 1), ("2001:0DB8:0::1", 1)])) == 1


@pytest.mark.parametrize("host", ["localhost", "", "192.0.2", "fe80::1%eth0", "192.0.2.1\r\na=x"])
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"address|zone"):
        candidates([(host, 1)])


def test_the_ice_key_is_hkdf_of_the_session_key() -> None:
    """Against RFC 5869 written out: extract with a salt of zeros, expand to one block."""
    session_key = bytes(range(32))
    pseudorandom = hmac.digest(bytes(32), session_key, "sha256")
    assert derive_ice_key(session_key) == hmac.digest(pseudorandom, b"ufrag ice-pwd 1\x01", "sha256")
    assert derive_ice_key(bytes(32)) != derive_ice_key(session_key)


@given(st.binary(min_size=32, max_size=32), TOKENS)
def test_a_password_is_160_bits_of_the_token_s_hmac(key: bytes, token: str) -> None:
    pwd = derive_pwd(key, token)
    assert re.fullmatch(r"[A-Za-z0-9+/]{27}", pwd)
    assert base64.b64decode(pwd + "=") == hmac.digest(key, token.encode(), hashlib.sha1)


@given(TOKENS, SECRETS)
def test_a_call_id_gives_back_what_it_was_made_of(token: str, secret: bytes) -> None:
    call_id = make_call_id(token, secret)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", call_id)
    assert len(call_id) == len(token) + 22
    assert split_call_id(call_id) == (token, secret)


def test_the_tokens_of_both_families_make_call_ids() -> None:
    for owner, size in ((("10.0.0.1", 5000), 54), (("2001:db8::1", 5000), 70)):
        token = Keyring({0: bytes(32)}).mint(0, owner)
        call_id = make_call_id(token, bytes(16))
        assert len(call_id) == size
        assert split_call_id(call_id) == (token, bytes(16))


def test_a_secret_has_one_spelling() -> None:
    call_id = make_call_id("A" * 32, bytes(16))
    assert [last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if split_call_id(call_id[:-1] + last)] == ["A", "Q"]
    assert split_call_id(call_id[:-1] + "Q") == ("A" * 32, bytes(15) + b"\x01")


def test_a_call_id_cut_or_lengthened_is_none() -> None:
    for token in ("A" * 32, "A" * 48):
        whole = make_call_id(token, bytes(range(16)))
        others = [whole[:size] for size in range(len(whole))] + [whole + "A" * size for size in range(1, 40)]
        assert not [each for each in others if len(each) != 54 and len(each) != 70 and split_call_id(each)]


@pytest.mark.parametrize("wrong", ["+", "/", "=", " ", "\n", "%", "ä", "\u0661", "\ud800"])
def test_other_characters_make_no_call_id(wrong: str) -> None:
    whole = make_call_id("A" * 32, bytes(16))
    for place in (0, 31, 32, 53):
        assert split_call_id(whole[:place] + wrong + whole[place + 1 :]) is None
    assert split_call_id(whole + wrong) is None


@given(st.text(max_size=80))
def test_any_text_is_split_or_none(text: str) -> None:
    split = split_call_id(text)
    assert split is None or make_call_id(*split) == text


def test_a_secret_of_another_length_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        make_call_id("A" * 32, bytes(15))
