"""What the tests of signaling share: calls kept in a dictionary, and real servers on 127.0.0.1.

`MemoryCalls` implements the `Calls` protocol without media: an answer repeats its offer, an id is made of the owner's
name and a counter, and `owners` says where the calls of other names live. `Served.raw` sends
what an HTTP client would not send.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from transceiver.http.calls import Created, Owner, Refused
from transceiver.http.limits import Limits
from transceiver.http.server import Access, HTTPServer, public_application

PATIENCE_S = 20.0
OFFER = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\n"
CALLS = "/v1/realtime/calls"

T = TypeVar("T")


def run(test: Coroutine[Any, Any, T]) -> T:
    """One test with a loop of its own, which must not hang."""
    return asyncio.run(asyncio.wait_for(test, PATIENCE_S))


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class MemoryCalls:
    def __init__(self, name: str = "a", owners: dict[str, tuple[str, int]] | None = None) -> None:
        self.name = name
        self.owners = owners or {}
        self.offers: dict[str, str] = {}
        self.sessions: list[dict[str, Any] | None] = []
        self.clients: list[str] = []
        self.full = False
        self.broken = False
        self.gate: asyncio.Event | None = None  # a request waits for it
        self.entered = asyncio.Event()

    async def create(self, offer_sdp: str, session: dict[str, Any] | None, client: str) -> Created:
        await self._wait()
        if self.full:
            raise Refused(503, "at_capacity", "All sessions are taken.", retry_after=7)
        if self.broken:
            raise ZeroDivisionError
        if not offer_sdp.startswith("v=0"):
            raise Refused(400, "invalid_sdp", "line 1: no v=0", param="sdp")
        call_id = f"{self.name}-{len(self.offers)}"
        self.offers[call_id] = offer_sdp
        self.sessions.append(session)
        self.clients.append(client)
        return Created(call_id, answer_to(offer_sdp))

    async def restart(self, call_id: str, offer_sdp: str) -> str:
        await self._wait()
        if call_id not in self.offers:
            raise Refused(404, "call_not_found", "no call")
        if offer_sdp == self.offers[call_id]:
            raise Refused(409, "no_restart", "the same offer again", retry_after=3, param="sdp")
        self.offers[call_id] = offer_sdp
        return answer_to(offer_sdp)

    async def hangup(self, call_id: str) -> bool:
        await self._wait()
        return self.offers.pop(call_id, None) is not None

    def owner_of(self, call_id: str) -> Owner:
        name = call_id.partition("-")[0]
        return "self" if name == self.name else self.owners.get(name)

    async def _wait(self) -> None:
        self.entered.set()
        if self.gate:
            await self.gate.wait()


def answer_to(offer: str) -> str:
    return f"{offer}s=answer\r\n"


@dataclass
class Served:
    """A running server and a client of it."""

    calls: MemoryCalls
    clock: Clock
    port: int
    http: aiohttp.ClientSession
    server: HTTPServer
    statuses: list[int]

    async def ask(self, method: str, path: str = CALLS, **options: Any) -> Answer:
        async with self.http.request(method, f"http://127.0.0.1:{self.port}{path}", **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, body: Any = OFFER, kind: str | None = "application/sdp", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("POST", data=body, headers=named | ({"Content-Type": kind} if kind else {}))

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def raw(self, request: bytes) -> Answer:
        """Everything that comes back for these bytes until the server closes."""
        async with self.connect() as (reader, writer):
            writer.write(request)
            return parse_answer(await reader.read())


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        (found,) = json.loads(self.body).values()
        assert set(found) == {"message", "type", "code", "param"}
        return dict(found)


def parse_answer(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = (line.partition(": ") for line in lines)
    return Answer(int((first.split(" ") + ["0"])[1] or 0), {name: value for name, _, value in fields}, body)


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@asynccontextmanager
async def served(
    access: Access | None = None,
    calls: MemoryCalls | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    **limits: Any,
) -> AsyncIterator[Served]:
    calls, clock, access = calls or MemoryCalls(), Clock(), access or Access()
    bounds, sock, statuses = Limits(**limits), listening(), list[int]()
    app = public_application(calls, access, bounds, clock=clock, observe=statuses.append)
    server = HTTPServer(app, [sock], bounds, trusted=access.trusted_proxies, tls=tls)
    port = sock.getsockname()[1]
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield Served(calls, clock, port, http, server, statuses)
    finally:
        await server.stop()
