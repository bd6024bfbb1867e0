"""Which calls there are: number -> session, token -> session, call id -> session; and which numbers are free.

A number goes with one call until the hot thread has let go of it (`release`); its tokens are known until then too, so
that a call id of a call that is ending is answered as one that has ended. The secret of a call id is compared in
constant time: the token in it travels in clear in every check and authorises nothing. Knows no sockets, no crypto.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Iterator

from transceiver.ice import split_call_id
from transceiver.session import Session


class Registry:
    def __init__(self, numbers: int) -> None:
        self._free = deque(range(numbers))
        self._by_number: dict[int, Session] = {}
        self._by_token: dict[str, Session] = {}

    def __len__(self) -> int:
        """Calls that have a number, those that are ending too."""
        return len(self._by_number)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_number.values()))

    def take_number(self) -> int | None:
        """One longest free; None when there is none."""
        return self._free.popleft() if self._free else None

    def give_back(self, number: int) -> None:
        """A number that no call came to have."""
        self._free.append(number)

    def add(self, session: Session) -> None:
        self._by_number[session.place.index] = session
        self.add_token(session, session.token)

    def add_token(self, session: Session, token: str) -> None:
        session.tokens.append(token)
        self._by_token[token] = session

    def at(self, number: int, serial: int) -> Session | None:
        session = self._by_number.get(number)
        return session if session is not None and session.place.serial == serial else None

    def find(self, call_id: str) -> Session | None:
        """The call of this id that is not ending."""
        split = split_call_id(call_id)
        if split is None:
            return None
        token, secret = split
        session = self._by_token.get(token)
        if session is None or not hmac.compare_digest(session.secret, secret):
            return None
        return None if session.state in ("closing", "gone") else session

    def release(self, session: Session) -> None:
        """The hot thread has let go: the number may be given to another call."""
        del self._by_number[session.place.index]
        for token in session.tokens:
            del self._by_token[token]
        self._free.append(session.place.index)
