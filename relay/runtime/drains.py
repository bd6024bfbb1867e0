"""Drain and undrain on an operator's word: what the admin port obeys, and what the commands ask it.

A drain that was begun by SIGTERM ends with the process and cannot be taken back; `Ending` is how the launcher, which
takes the signal, tells the admin process, which is asked. One that was begun by command lasts until it is taken back,
and a launcher that is told to end goes on from there.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

from relay.runtime import admin
from relay.runtime.admin_client import AdminClient
from relay.runtime.errors import ConfigError

OFF = "off"  # the word that takes a drain back
POLL_S = 0.25


class Ending:
    """Whether the launcher was told to end: a word that it writes and its children, forked after this, read."""

    def __init__(self) -> None:
        self._word = mmap.mmap(-1, mmap.PAGESIZE)

    def begin(self) -> None:
        self._word[0] = 1

    def __bool__(self) -> bool:
        return self._word[0] != 0


def action(ending: Ending, begin: Callable[[str], bool], take_back: Callable[[], None]) -> admin.Action:
    """Obeys POST /drain/<word>; `begin` says whether the word is one that it knows."""

    def obey(word: str) -> admin.Answer:
        if ending:
            return admin.as_json(409, {"error": "it was told to end, and drains for that"})
        if word == OFF:
            take_back()
        elif not begin(word):
            return admin.as_json(404, {"error": "there is no such way to drain"})
        return admin.as_json(200, {"drain": word})

    return obey


# The asking side


def ask(client: AdminClient, word: str) -> None:
    status = client.act(f"/drain/{word}")
    if status == 409:
        mend = "a second SIGTERM ends it at once"
        raise ConfigError("it was told to end, and drains for that", where=str(client.address), mend=mend)
    client.expect(status, "drain")


def wait(left: Callable[[], int], timeout_s: float | None, say: Callable[[int], None]) -> bool:
    """Looks until nothing is left, and says whenever that has changed; False when there was no more time."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    said = None
    while number := left():
        if number != said:
            say(said := number)
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
