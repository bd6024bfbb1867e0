"""Requests that reach another media process than the call's own: passed on between real servers, refused there, and
owners that are slow, gone or strange."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.signaling import CALLS, OFFER, Answer, Clock, MemoryCalls, answer_to, listening, run
from transceiver.http.calls import Refused
from transceiver.http.limits import Limits
from transceiver.http.owner import (
    Address,
    OwnerClient,
    RoutedCalls,
    Stamps,
    owner_application,
)
from transceiver.http.server import Access, HTTPServer, public_application

KEY = bytes(range(32))
NOW = 1_800_000_000.0
RESTART = OFFER + "a=ice-ufrag:new\r\n"


# Two processes: `a` is asked, `b` owns the calls whose ids begin with b


@dataclass
class Process:
    calls: MemoryCalls
    clock: Clock
    public: int
    internal: Address
    client: OwnerClient
    internal_server: HTTPServer


@asynccontextmanager
async def process(name: str, owners: dict[str, Address], clock: Clock, key: bytes = KEY) -> AsyncIterator[Process]:
    calls, limits = MemoryCalls(name, owners), Limits(rate_per_s=0.0)
    public, internal = listening(), listening()
    address = internal.getsockname()
    client = OwnerClient(key, clock=clock, timeout_s=0.5)
    await client.open()
    serving = owner_application(calls, key, address, limits, clock=clock)
    servers = [HTTPServer(serving, [internal], limits)]
    asked = public_application(RoutedCalls(calls, client), Access(), limits, clock=Clock())
    servers.append(HTTPServer(asked, [public], limits))
    for server in servers:
        await server.start()
    try:
        yield Process(calls, clock, public.getsockname()[1], address, client, servers[0])
    finally:
        await client.close()
        for server in servers:
            await server.stop()


async def ask(port: int, path: str, body: str = "", **headers: str) -> Answer:
    typed = {"Content-Type": "application/sdp"} | headers
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}{path}"
        async with http.post(url, data=body, headers=typed) as response:
            return Answer(response.status, response.headers, await response.read())


def with_two(test: Callable[[Process, Process], Awaitable[None]], **other: Any) -> None:
    async def whole() -> None:
        clock = Clock(NOW)
        owner = process("b", {}, other.pop("clock", clock), **other)
        async with owner as b, process("a", {"b": b.internal}, clock) as a:
            b.calls.owners["a"] = a.internal
            await test(a, b)

    run(whole())


def test_hangup_and_restart_reach_the_owner_from_anywhere() -> None:
    async def test(a: Process, b: Process) -> None:
        call = (await ask(b.public, CALLS, OFFER)).headers["Location"]
        answer = await ask(a.public, call, RESTART)
        assert (answer.status, answer.body.decode()) == (200, answer_to(RESTART))
        assert answer.headers["Content-Type"] == "application/sdp"
        assert b.calls.offers == {"b-0": RESTART}
        assert (await ask(a.public, f"{call}/hangup")).status == 200
        assert b.calls.offers == {}
        assert (await ask(a.public, f"{call}/hangup")).status == 404

    with_two(test)


def test_own_calls_are_not_passed_on() -> None:
    async def test(a: Process, b: Process) -> None:
        await b.internal_server.stop()
        call = (await ask(a.public, CALLS, OFFER)).headers["Location"]
        assert (await ask(a.public, call, RESTART)).status == 200
        assert (await ask(a.public, f"{call}/hangup")).status == 200

    with_two(test)


@pytest.mark.parametrize("path", ["b-0", "b-0/hangup", "nobody-0", "nobody-0/hangup"])
def test_call_of_nobody_is_404(path: str) -> None:
    async def test(a: Process, b: Process) -> None:
        answer = await ask(a.public, f"{CALLS}/{path}", OFFER)
        assert (answer.status, answer.error["code"]) == (404, "call_not_found")

    with_two(test)


def test_what_the_owner_refuses_is_told_as_it_said_it() -> None:
    async def test(a: Process, b: Process) -> None:
        call = (await ask(b.public, CALLS, OFFER)).headers["Location"]
        answer = await ask(a.public, call, OFFER)
        assert (answer.status, answer.headers["Retry-After"]) == (409, "3")
        assert (answer.error["code"], answer.error["param"]) == ("no_restart", "sdp")
        assert answer.error["message"] == "the same offer again"

    with_two(test)


def test_owner_that_is_gone_is_404() -> None:
    async def test(a: Process, b: Process) -> None:
        call = (await ask(b.public, CALLS, OFFER)).headers["Location"]
        assert (await ask(a.public, call, RESTART)).status == 200  # so that a connection is open, too
        await b.internal_server.stop()
        for path in (call, f"{call}/hangup"):
            answer = await ask(a.public, path, OFFER)
            assert (answer.status, answer.error["code"]) == (404, "call_not_found")

    with_two(test)


def test_owner_that_hangs_is_504() -> None:
    async def test(a: Process, b: Process) -> None:
        call = (await ask(b.public, CALLS, OFFER)).headers["Location"]
        b.calls.gate = asyncio.Event()
        answer = await ask(a.public, call, RESTART)
        assert (answer.status, answer.error["code"]) == (504, "owner_timeout")
        b.calls.gate.set()

    with_two(test)


def test_owner_with_another_key_or_time_is_502_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test(a: Process, b: Process) -> None:
        call = (await ask(b.public, CALLS, OFFER)).headers["Location"]
        answer = await ask(a.public, f"{call}/hangup")
        assert (answer.status, answer.error["code"]) == (502, "owner_failed")
        assert len(b.calls.offers) == 1

    with_two(test, key=bytes(32))
    with_two(test, clock=Clock(NOW + 100))
    assert caplog.text.count("do all have the same key and time?") == 2


def test_internal_port_serves_owners_only() -> None:
    async def test(a: Process, b: Process) -> None:
        await ask(b.public, CALLS, OFFER)
        port = b.internal[1]
        for path in (f"{CALLS}/b-0", f"{CALLS}/b-0/hangup"):
            assert (await ask(port, path, RESTART)).status == 401
            assert (await ask(port, path, RESTART, Authorization="Ufrag 1.2.3")).status == 401
        for path in (CALLS, "/"):
            assert (await ask(port, path, OFFER)).status == 404
        assert (await ask(port, f"{CALLS}/b-0", "x" * 70_000)).status == 413
        assert b.calls.offers == {"b-0": OFFER}

    with_two(test)


def test_request_seen_on_the_wire_is_worth_nothing() -> None:
    async def test(a: Process, b: Process) -> None:
        await ask(b.public, CALLS, OFFER)
        path = f"{CALLS}/b-0"
        shown = Stamps(KEY, Clock(NOW)).make("POST", path, RESTART.encode(), b.internal)
        assert (await ask(b.internal[1], path, RESTART, Authorization=shown)).status == 200
        assert (await ask(b.internal[1], path, RESTART, Authorization=shown)).status == 401
        assert (await ask(b.internal[1], f"{path}/hangup", "", Authorization=shown)).status == 401
        assert (await ask(a.internal[1], path, RESTART, Authorization=shown)).status == 401
        assert b.calls.offers == {"b-0": RESTART}

    with_two(test)


def test_nothing_is_passed_on_twice() -> None:
    """A process that is asked as the owner, and is not, says so: else two could send a request round for ever."""

    async def test(a: Process, b: Process) -> None:
        await ask(a.public, CALLS, OFFER)
        with pytest.raises(Refused) as caught:
            await a.client.restart(b.internal, "a-0", RESTART)
        assert caught.value.status == 404
        assert await a.client.hangup(b.internal, "a-0") is False
        assert a.calls.offers == {"a-0": OFFER}

    with_two(test)


# Owners that are no such thing


@asynccontextmanager
async def strange(answer: web.Response) -> AsyncIterator[Address]:
    async def handler(_request: web.BaseRequest) -> web.Response:
        return answer

    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    sock = listening()
    await web.SockSite(runner, sock).start()
    try:
        yield sock.getsockname()
    finally:
        await runner.cleanup()


def refused_by(answer: web.Response) -> Refused:
    async def test() -> Refused:
        client = OwnerClient(KEY, clock=Clock(NOW), timeout_s=0.5)
        await client.open()
        async with strange(answer) as address:
            try:
                await client.restart(address, "b-0", OFFER)
            except Refused as refused:
                return refused
            finally:
                await client.close()
        raise AssertionError("it was believed")

    return run(test())


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 400, "text": "no json"},
        {"status": 400, "text": "[]"},
        {"status": 400, "text": '{"error": {}}'},
        {"status": 404, "text": '{"error": "x"}'},
        {"status": 400, "text": "[" * 50_000},
        {"status": 301, "headers": {"Location": "http://127.0.0.1:1/"}},
        {"status": 500, "text": "x"},
        {"status": 200, "body": b"x" * 200_000},
    ],
)
def test_strange_answer_is_502(answer: dict[str, Any]) -> None:
    refused = refused_by(web.Response(**answer))
    assert (refused.status, refused.code) == (502, "owner_failed")


def test_strange_retry_after_is_left_out() -> None:
    said = '{"error": {"message": "m", "code": "c", "param": null}}'
    for shown, wait in (("-1", None), ("soon", None), ("1.5", None), ("9" * 20, None), ("60", 60)):
        refused = refused_by(web.Response(status=503, text=said, headers={"Retry-After": shown}))
        assert (refused.status, refused.code, refused.retry_after) == (503, "c", wait)


def test_garbage_instead_of_http_is_502() -> None:
    async def test() -> None:
        async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"\x00\x01garbage\r\n\r\n")
            writer.close()

        client = OwnerClient(KEY, clock=Clock(NOW), timeout_s=0.5)
        await client.open()
        async with await asyncio.start_server(garbage, sock=listening()) as server:
            with pytest.raises(Refused) as caught:
                await client.hangup(server.sockets[0].getsockname(), "b-0")
        assert caught.value.status == 502
        await client.close()

    run(test())


def test_address_that_swallows_connections_is_an_owner_that_is_gone() -> None:
    """A pod's address after the pod: nothing refuses. Here it is a queue of connections that is full."""

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
            address = sock.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for each in fillers:
                each.setblocking(False)
                each.connect_ex(address)
            client = OwnerClient(KEY, clock=Clock(NOW), timeout_s=0.2)
            await client.open()
            assert await client.hangup(address, "b-0") is False
            await client.close()
            for each in fillers:
                each.close()

    run(test())
