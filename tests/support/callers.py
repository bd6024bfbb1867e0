"""Clients that only ask: one offer after the other, at a rate, over new connections and over one that is kept; each
call is hung up again. What came of it is told in the end."""

from __future__ import annotations

import http.client
import itertools
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.peer import Peer

CALLS = "/v1/realtime/calls"
PATIENCE_S = 5.0


@dataclass
class Callers:
    """While its context is open. Each request comes from a client of its own, as a proxy in front would say it, so that
    no client's rate is exceeded: the server must trust 127.0.0.1."""

    server: tuple[str, int]
    every_s: float = 0.02
    tls: ssl.SSLContext | None = None
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    kept: int = 0  # answers over a connection that had one before

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._offer = Peer(("127.0.0.1", 1)).offer()
        self._numbers = itertools.count(1)
        self._threads = [threading.Thread(target=self._call_anew), threading.Thread(target=self._call_on)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Returns when the last one was answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def made(self) -> int:
        return self.statuses["call 201"]

    def _call_anew(self) -> None:
        while not self._over.wait(self.every_s):
            try:
                call = self._post("call", CALLS)
                if call:
                    self._post("hangup", f"{call}/hangup")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"a new connection: {error!r}")

    def _call_on(self) -> None:
        """Over one connection, until the server says that it ends."""
        connection, before = self._connection(), 0
        while not self._over.wait(self.every_s):
            try:
                call = self._ask(connection, "call", CALLS)
                self.kept += bool(before)
                before += 1
                if connection.sock is None:  # an answer with `Connection: close`
                    before = 0
                if call:
                    self._ask(connection, "hangup", f"{call}/hangup")
                    before = 0 if connection.sock is None else before
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"a kept connection: {error!r}")
                connection, before = self._connection(), 0
        connection.close()

    def _post(self, what: str, path: str) -> str:
        connection = self._connection()
        try:
            return self._ask(connection, what, path)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls:
            return http.client.HTTPSConnection(*self.server, timeout=PATIENCE_S, context=self.tls)
        return http.client.HTTPConnection(*self.server, timeout=PATIENCE_S)

    def _ask(self, connection: http.client.HTTPConnection, what: str, path: str) -> str:
        """The path of the call that was made."""
        number = next(self._numbers)
        client = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        headers = {"Content-Type": "application/sdp", "X-Forwarded-For": client}
        connection.request("POST", path, self._offer if what == "call" else "", headers)
        response = connection.getresponse()
        response.read()
        self.statuses[f"{what} {response.status}"] += 1
        return response.headers.get("Location", "")
