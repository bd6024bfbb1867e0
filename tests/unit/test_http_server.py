"""The server around the API: sizes, and clients that are slow, many or rude; TLS."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.signaling import CALLS, OFFER, Served, run, served
from transceiver.http.limits import Connections, UnderWay
from transceiver.http.server import Access

HEAD = f"POST {CALLS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/sdp\r\nConnection: close\r\n".encode()
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


# Sizes


def test_body_at_and_over_the_bound() -> None:
    async def test() -> None:
        async with served(body_bytes=1000) as server:
            assert (await server.post(OFFER.ljust(1000))).status == 201
            answer = await server.post(OFFER.ljust(1001))
            assert (answer.status, answer.error["code"]) == (413, "body_too_large")

    run(test())


@pytest.mark.parametrize("length", [65_537, 10**7, 10**18])
def test_announced_length_is_refused_before_anything_is_read(length: int) -> None:
    async def test() -> None:
        async with served(linger_s=0.01) as server:
            assert (await server.raw(HEAD + b"Content-Length: %d\r\n\r\n" % length)).status == 413

    run(test())


def test_chunked_body() -> None:
    async def test() -> None:
        async with served(linger_s=0.01) as server:
            chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
            small = b"3\r\nv=0\r\n2\r\n\r\n\r\n0\r\n\r\n"
            assert (await server.raw(chunked + small)).status == 201
            assert (await server.raw(chunked + b"4000\r\n" + bytes(0x4000) + b"\r\n" * 1 + b"x")).status == 400
            many = b"".join(b"1000\r\n" + bytes(0x1000) + b"\r\n" for _ in range(17))
            assert (await server.raw(chunked + many)).status == 413
            assert (await server.raw(chunked + many + b"0\r\n\r\n")).status == 413

    run(test())


def test_compressed_body_is_refused() -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.post(b"\x1f\x8b", Content_Encoding="gzip")
            assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
            assert (await server.post(Content_Encoding="Identity")).status == 201

    run(test())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X: " + b"y" * 8000 + b"\r\n", 201),
        (b"X: " + b"y" * 8200 + b"\r\n", 431),
        (b"X" * 8200 + b": y\r\n", 431),
        (b"".join(b"X%d: %s\r\n" % (each, b"y" * 4000) for each in range(5)), 431),
        (b"".join(b"X%d: y\r\n" % each for each in range(70)), 400),
    ],
)
def test_size_of_the_head(head: bytes, status: int) -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.raw(HEAD + head + b"Content-Length: 5\r\n\r\nv=0\r\n")
            assert answer.status == status
            assert status == 201 or answer.error["message"]

    run(test())


def test_long_target_is_refused() -> None:
    async def test() -> None:
        async with served() as server:
            assert (await server.raw(b"GET /" + b"y" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")).status == 431

    run(test())


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_closed_and_not_logged(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.raw(request_)
            assert (answer.status, answer.error["code"]) == (400, "bad_request")
            assert answer.headers["Server"] == "ufrag"
            assert (await server.post()).status == 201

    with caplog.at_level(logging.INFO):
        run(test())
    assert caplog.records == []


# Time and number


def test_slow_head_is_cut_off() -> None:
    async def test() -> None:
        async with served(head_s=0.05) as server:
            assert (await server.raw(b"")).status == 0  # it closes, without a word
            assert (await server.raw(HEAD)).status == 0

    run(test())


def test_bytes_that_drip_do_not_lengthen_the_time_for_a_head() -> None:
    async def test() -> None:
        async with served(head_s=0.2) as server, server.connect() as (reader, writer):
            end = asyncio.create_task(reader.read())
            drops = 0
            while not end.done():
                writer.write(HEAD[drops : drops + 1])
                drops += 1
                await asyncio.wait([end], timeout=0.02)
            assert drops < len(HEAD)
            with suppress(ConnectionResetError):  # the kernel's word for it when a drop comes too late
                assert await end == b""

    run(test())


def test_slow_body_is_told_and_closed() -> None:
    async def test() -> None:
        async with served(body_s=0.05, linger_s=0.01) as server:
            answer = await server.raw(HEAD + b"Content-Length: 5\r\n\r\nv=")
            assert (answer.status, answer.error["code"]) == (408, "body_timeout")
            answer = await server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nv=0\r\n")
            assert answer.status == 408
            assert server.calls.offers == {}

    run(test())


async def write(writer: asyncio.StreamWriter, data: bytes, *, times: int) -> None:
    for _ in range(times):
        writer.write(data)
        await writer.drain()


def test_body_that_never_ends_costs_a_moment_only() -> None:
    """After the refusal the rest is read for `linger_s`, so that the client gets to its answer, and then cut off."""

    async def test() -> None:
        async with served(linger_s=0.05) as server, server.connect() as (_, writer):
            writer.write(HEAD + b"Content-Length: 1000000000\r\n\r\n")
            with pytest.raises(ConnectionError):
                await write(writer, bytes(65_536), times=15_000)

    run(test())


def test_client_that_goes_away_in_the_middle_of_its_body() -> None:
    async def test() -> None:
        async with served() as server:
            async with server.connect() as (_, writer):
                writer.write(HEAD + b"Content-Length: 5\r\n\r\nv=")
            assert (await server.post()).status == 201
            assert len(server.calls.offers) == 1

    run(test())


async def hold(server: Served, count: int) -> list[asyncio.Task[int]]:
    """Requests that are under way until the gate opens."""
    server.calls.gate = asyncio.Event()

    async def one() -> int:
        return (await server.post()).status

    held = []
    for _ in range(count):
        server.calls.entered.clear()
        held.append(asyncio.create_task(one()))
        await server.calls.entered.wait()
    return held


def test_requests_under_way_are_bounded() -> None:
    async def test() -> None:
        async with served(requests=2) as server:
            held = await hold(server, 2)
            answer = await server.ask("GET", "/")
            assert (answer.status, answer.headers["Retry-After"], answer.error["code"]) == (503, "1", "busy")
            assert server.calls.gate is not None
            server.calls.gate.set()
            assert await asyncio.gather(*held) == [201, 201]
            assert (await server.post()).status == 201

    run(test())


def test_place_is_given_back_whatever_happens() -> None:
    under_way = UnderWay(1)
    with pytest.raises(ZeroDivisionError), under_way.one():
        raise ZeroDivisionError
    with under_way.one() as admitted, under_way.one() as second:
        assert (admitted, second) == (True, False)
    assert under_way.count == 0


async def open_until_refused(server: Served, stack: AsyncExitStack, limit: int) -> int:
    """How many connections stayed open before one was refused."""
    for count in range(limit):
        reader, writer = await stack.enter_async_context(server.connect())
        writer.write(GET + b"\r\n")
        first = await reader.readline()
        if b" 503 " in first:
            rest = await reader.read()
            assert b"Retry-After: 1\r\n" in rest
            assert b'"code":"busy"' in rest
            return count
    return limit


def test_connections_are_bounded_in_all_and_by_client() -> None:
    async def test() -> None:
        for limit, most in (("connections", 3), ("connections_per_client", 2)):
            async with served(**{limit: most}) as server:  # type: ignore[arg-type]
                async with AsyncExitStack() as stack:
                    assert await open_until_refused(server, stack, 10) == most
                await answers_again(server)

    run(test())


async def answers_again(server: Served) -> None:
    """Nobody tells when a server has noticed the end of a connection: ask until it has, or the test's time is over."""
    while (await server.raw(GET + b"Connection: close\r\n\r\n")).status != 200:
        await asyncio.sleep(0.02)


def test_connections_of_a_trusted_proxy_count_in_all_only() -> None:
    async def test() -> None:
        access = Access(trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
        async with served(access, connections_per_client=1, connections=4) as server, AsyncExitStack() as stack:
            assert await open_until_refused(server, stack, 10) == 4

    run(test())


def test_book_of_connections_forgets_who_has_none() -> None:
    book = Connections(3, 2, lambda address: False)
    assert [book.enter(address) for address in ("a", "a", "a", "b", "c")] == [True, True, False, True, False]
    for address in ("a", "b", "a"):
        book.leave(address)
    assert book.total == 0
    assert not book._open


def test_client_that_does_not_read_is_cut_off() -> None:
    """By the kernel, which is told how long data may stay unread."""

    async def test() -> None:
        async with served(connections=1, unread_s=0.1, rate_per_s=0.0) as server, server.connect() as (_, writer):
            cast(asyncio.Transport, writer.transport).pause_reading()
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            writer.write((GET + b"\r\n") * 500)
            await answers_again(server)

    run(test())


def test_stop_closes_idle_connections_and_lets_a_request_finish() -> None:
    async def test() -> None:
        async with served() as server:
            held = await hold(server, 1)
            async with server.connect() as (reader, writer):
                writer.write(GET + b"\r\n")
                assert b" 200 " in await reader.readline()
                stopping = asyncio.create_task(server.server.stop())
                await reader.read()  # until the server closes it
            assert server.calls.gate is not None
            server.calls.gate.set()
            assert await asyncio.gather(*held) == [201]
            await stopping
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)

    run(test())


def test_every_answer_is_observed() -> None:
    async def test() -> None:
        async with served(requests=1, burst=4) as server:
            await server.post()
            await server.post("")
            await server.ask("GET", "/nothing")
            held = await hold(server, 1)
            await server.ask("GET", "/")
            assert server.calls.gate is not None
            server.calls.gate.set()
            await asyncio.gather(*held)
            await server.post()
            assert server.statuses == [201, 400, 404, 503, 201, 429]

    run(test())


# TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime(2000, 1, 1, tzinfo=UTC)
    unsigned = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    unsigned = unsigned.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=36_500))
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    plain = serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(text + unsigned.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_calls_over_tls(tls: ssl.SSLContext) -> None:
    async def test() -> None:
        async with served(tls=tls) as server:
            url = f"https://127.0.0.1:{server.port}{CALLS}"
            typed = {"Content-Type": "application/sdp"}
            async with server.http.post(url, data=OFFER, headers=typed, ssl=False) as response:
                assert (response.status, response.headers["Location"]) == (201, f"{CALLS}/a-0")

    run(test())


def test_handshake_that_does_not_go_on_is_cut_off(tls: ssl.SSLContext) -> None:
    async def test() -> None:
        async with served(tls=tls, head_s=0.05) as server:
            for start in (b"", b"\x16\x03\x01\x02\x00\x01"):
                assert (await server.raw(start)).status == 0

    run(test())
