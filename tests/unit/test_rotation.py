"""Route keys that change while a worker runs."""

from __future__ import annotations

import pytest

from _fastpath.wire.token import Keyring
from tests.support.harness import CLIENT, KEYS, LOCAL, Relay, token
from tests.support.packets import RTP, answer, check, framed

NEW = {5: bytes(range(40, 72))}
NEWCOMER = ("198.51.100.9", 4000)


def new_token(serial: int = 1) -> str:
    return token(serial=serial, key_id=5, keys=NEW)


def test_new_keys_are_in_force_from_the_next_round_on() -> None:
    relay = Relay()
    assert relay.up(check(new_token()))[0] == "token_key"
    relay.harness.forwarder.set_keys(Keyring(KEYS | NEW))
    assert relay.up(check(new_token()))[0] == "token_key"
    relay.harness.round()
    assert relay.up(check(new_token()))[0] == "opened"
    assert relay.up(check(token()), NEWCOMER)[0] == "opened"
    assert relay.slot.tokens()[5, "verified"] == relay.slot.tokens()[0, "verified"] == 1
    assert relay.slot.tokens()[5, "unknown_key"] == 2


def test_a_retired_key_ends_no_flow() -> None:
    """Its token is recognised; a new flow, or a restart with another token of that key, is not had with it."""
    relay = Relay()
    relay.up(check(token()))
    relay.down(framed(CLIENT, LOCAL, answer()))
    relay.harness.forwarder.set_keys(Keyring(NEW))
    relay.harness.round()
    assert relay.up(check(token()))[0] == "check"
    assert relay.up(RTP)[0] == "media"
    assert relay.up(check(token()), NEWCOMER)[0] == "token_key"
    assert relay.up(check(token(serial=2)))[0] == "token_key"
    assert relay.up(check(new_token()))[0] == "restart"


def test_only_the_last_of_several_changes_counts() -> None:
    relay = Relay()
    for ring in (NEW, KEYS | NEW, NEW):
        relay.harness.forwarder.set_keys(Keyring(ring))
    relay.harness.round()
    assert relay.up(check(token()))[0] == "token_key"
    assert relay.up(check(new_token()))[0] == "opened"
    relay.harness.round()
    assert relay.up(check(new_token()))[0] == "check"


@pytest.mark.parametrize("ids", [(), (0,), (0, 3, 6)])
def test_the_slot_says_which_keys_there_are(ids: tuple[int, ...]) -> None:
    relay = Relay()
    relay.slot.key_ids = ids
    assert relay.slot.key_ids == frozenset(ids)
