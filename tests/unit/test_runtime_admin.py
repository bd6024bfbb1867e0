"""The admin server: pages, refusals, and clients that are slow, large, many or rude. The server runs in a thread here;
that it lives as a child process is tested with the launcher."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import pytest

from relay.runtime import admin
from relay.runtime.config import parse_address
from relay.runtime.sockets import listen

PATIENCE_S = 10.0


def broken() -> admin.Answer:
    raise ZeroDivisionError


PUBLIC: dict[str, admin.Route] = {
    "/metrics": lambda: (200, "text/plain; version=1.0.0", b"a 1\n"),
    "/readyz": lambda: (503, "text/plain", b"draining\n"),
    "/ready": lambda: (503, "text/plain", b"draining\n"),
    "/large": lambda: (200, "text/plain", b"x" * 16_000_000),
    "/broken": broken,
}
PAGES = admin.Pages(
    PUBLIC,
    local={"/list": lambda: (200, "application/json", b"[]\n")},
    looks={"/rows/*": lambda word: (200, "text/plain", word.encode())},
    actions={"/list/*/end": lambda word: (202, "text/plain", word.encode()), "/list/*/break": lambda _: broken()},
)


@dataclass
class Running:
    """A server, and the write end whose close ends it."""

    address: tuple[str, int]
    alive_write: int
    thread: threading.Thread

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE_S)

    def exchange(self, request: bytes) -> bytes:
        """Everything the server answers to these bytes, after which it has closed, without a reset."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_all(sock)

    def status(self, request: bytes) -> int:
        return int(self.exchange(request).split(b" ", 2)[1])

    def ask(self, method: str, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def end(self) -> None:
        if self.alive_write >= 0:
            os.close(self.alive_write)
            self.alive_write = -1
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def _start(deadline_s: float = PATIENCE_S) -> Running:
            sock = listen(parse_address("127.0.0.1:0"), "--admin")
            alive_read, alive_write = os.pipe()
            stack.callback(os.close, alive_read)
            serve = threading.Thread(
                target=admin.serve, args=(sock, PAGES, alive_read), kwargs={"deadline_s": deadline_s}
            )
            running = Running(sock.getsockname(), alive_write, serve)
            serve.start()
            stack.callback(running.end)
            return running

        yield _start


# Pages


def test_get(start: Start) -> None:
    response, body = start().ask("GET", "/metrics")
    assert (response.status, body) == (200, b"a 1\n")
    assert response.headers["Content-Type"] == "text/plain; version=1.0.0"
    assert response.headers["Connection"] == "close"


def test_head_has_no_body(start: Start) -> None:
    server = start()
    response, body = server.ask("HEAD", "/metrics")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "4")
    assert server.exchange(b"HEAD /metrics HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n")


def test_route_decides_its_status(start: Start) -> None:
    response, body = start().ask("GET", "/ready")
    assert (response.status, body) == (503, b"draining\n")


def test_large_page_arrives_whole(start: Start) -> None:
    _, body = start().ask("GET", "/large")
    assert len(body) == 16_000_000


@pytest.mark.parametrize("target", ["/metrics?x=1", "http://example/metrics", "http://example/metrics?x"])
def test_forms_of_a_target(start: Start, target: str) -> None:
    assert start().status(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) == 200


# Refusals


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.0\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.0\r\n\r\n", 404),
        (b"POST /nothing HTTP/1.0\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"BREW /metrics HTTP/1.0\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.0\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\nno colon\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\nbad name: x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\n folded: x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\na: b\rc\r\n\r\n", 400),
        (b"GET metrics HTTP/1.0\r\n\r\n", 400),
        (b"GET http://[/metrics HTTP/1.0\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.0\r\n\r\n", 400),
        (b"GET /\xff\x80 HTTP/1.0\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /broken HTTP/1.0\r\n\r\n", 500),
        (b"GET / HTTP/1.0\r\nx: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (b"y" * 60_000, 431),
    ],
)
def test_refusal(start: Start, request_: bytes, status: int) -> None:
    server = start()
    assert server.status(request_) == status
    assert server.status(b"GET /metrics HTTP/1.0\r\n\r\n") == 200


def test_refused_method_is_told_what_is_allowed(start: Start) -> None:
    response, _ = start().ask("DELETE", "/metrics")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_every_cut_of_a_request_is_400(start: Start) -> None:
    server = start()
    request = b"GET /metrics HTTP/1.0\r\n\r\n"
    for length in range(len(request)):
        with server.connect() as sock:
            sock.sendall(request[:length])
            sock.shutdown(socket.SHUT_WR)
            assert b" 400 " in read_all(sock), length


# Time and number


def test_slow_client_is_told_and_closed(start: Start) -> None:
    server = start(deadline_s=0.05)
    with server.connect() as sock:
        sock.sendall(b"GET /metrics HT")
        assert b" 408 " in read_all(sock)


def test_client_that_does_not_read_is_cut_off(start: Start) -> None:
    server = start(deadline_s=0.05)
    with server.connect() as sock:
        sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        server.ask("GET", "/metrics")  # the server is not held up meanwhile
        wait_for_reset(sock)


def test_refused_client_may_finish_its_request(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the answer could be lost to it; two sends, as a reset caused by the first shows at the second."""
    monkeypatch.setattr(admin, "_LINGER_S", PATIENCE_S)
    with start().connect() as sock:
        sock.sendall(b"y" * 9000)
        assert b" 431 " in read_all(sock)
        for _ in range(2):
            sock.sendall(b"more")


def test_endless_request_is_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_LINGER_S", 6 * PATIENCE_S)  # so that it is the number of bytes that ends it
    with start().connect() as sock, pytest.raises((ConnectionResetError, BrokenPipeError)):
        sock.sendall(b"y" * 50_000_000)


def wait_for_reset(sock: socket.socket) -> None:
    """A poll for nothing returns on error and hang-up alone, whatever lies unread."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(PATIENCE_S * 1000), "the connection is still held"


def test_too_many_connections_are_refused_and_later_ones_are_not(start: Start) -> None:
    server = start()
    with ExitStack() as stack:
        held = [stack.enter_context(server.connect()) for _ in range(admin.CONNECTION_LIMIT)]
        for sock in held:
            sock.sendall(b"GET ")  # accepted in order, so that the next one is the one too many
        for _ in range(3):
            with server.connect() as sock:
                assert b" 503 " in read_all(sock)
        held[0].sendall(b"/metrics HTTP/1.0\r\n\r\n")
        assert b" 200 " in read_all(held[0])
    # The server learns of the closed ones in its own time, hence several attempts.
    assert any(server.status(b"GET /metrics HTTP/1.0\r\n\r\n") == 200 for _ in range(1000))


def test_it_ends_with_connections_open(start: Start) -> None:
    server = start()
    with server.connect() as sock:
        sock.sendall(b"GET ")
        server.ask("GET", "/metrics")
        server.end()
        assert read_all(sock) == b""


# What is for this machine's users


def test_an_action_gets_the_word_of_its_path(start: Start) -> None:
    response, body = start().ask("POST", "/list/0-1-2/end")
    assert (response.status, body) == (202, b"0-1-2")
    assert start().status(b"POST /list/a/end?x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello") == 202


@pytest.mark.parametrize("path", ["/list//end", "/list/end", "/list/a/b/end", "/list/a/end/", "/list/a", "/"])
def test_other_paths_are_no_action(start: Start, path: str) -> None:
    assert start().status(f"POST {path} HTTP/1.0\r\n\r\n".encode()) == 404


def test_a_look_gets_the_word_of_its_path(start: Start) -> None:
    response, body = start().ask("GET", "/rows/1-8192")
    assert (response.status, body) == (200, b"1-8192")
    assert start().status(b"GET /rows/ HTTP/1.0\r\n\r\n") == start().status(b"GET /rows/a/b HTTP/1.0\r\n\r\n") == 404


def test_the_methods_of_pages_and_actions(start: Start) -> None:
    server = start()
    for method, path, allowed in (
        ("GET", "/list/a/end", "POST"),
        ("HEAD", "/list/a/end", "POST"),
        ("POST", "/list", "GET, HEAD"),
        ("POST", "/rows/7", "GET, HEAD"),
    ):
        response, _ = server.ask(method, path)
        assert (response.status, response.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize("field", ["Origin: http://127.0.0.1:9465", "origin: null", "Sec-Fetch-Site: cross-site"])
def test_a_browser_cannot_act(start: Start, field: str) -> None:
    server = start()
    assert server.status(f"POST /list/a/end HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode()) == 403
    assert server.status(f"GET /list HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode()) == 200


def test_an_action_that_fails_is_500(start: Start) -> None:
    assert start().status(b"POST /list/a/break HTTP/1.0\r\n\r\n") == 500


class Writer:
    """Only what says who talks to whom."""

    def __init__(self, peer: str | None, own: str) -> None:
        self.names = {"peername": peer and (peer, 1), "sockname": (own, 2)}

    def get_extra_info(self, name: str) -> object:
        return self.names[name]


@pytest.mark.parametrize(
    ("peer", "own", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.6", "10.0.0.5", False),
        ("::ffff:10.0.0.6", "::ffff:10.0.0.5", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        (None, "10.0.0.5", False),
    ],
)
def test_who_is_of_this_machine(peer: str | None, own: str, local: bool) -> None:
    assert admin._is_local(cast("asyncio.StreamWriter", Writer(peer, own))) is local


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /list HTTP/1.0\r\n\r\n", 403),
        (b"GET /rows/7 HTTP/1.0\r\n\r\n", 403),
        (b"POST /list HTTP/1.0\r\n\r\n", 403),
        (b"POST /list/a/end HTTP/1.0\r\n\r\n", 403),
        (b"POST /list/a/b HTTP/1.0\r\n\r\n", 404),
    ],
)
def test_others_read_public_pages_and_nothing_else(
    start: Start, monkeypatch: pytest.MonkeyPatch, request_: bytes, status: int
) -> None:
    monkeypatch.setattr(admin, "_is_local", lambda _writer: False)
    assert start().status(request_) == status


def test_health_pages() -> None:
    draining = [False]
    stale: list[list[int]] = [[]]
    pages = admin.health(lambda: draining[0], lambda: stale[0])
    assert set(pages) == {"/livez", "/live", "/readyz", "/ready"}
    assert pages["/livez"]() == (200, "text/plain", b"ok\n")
    assert pages["/readyz"]()[0] == 200
    stale[0] = [1]
    status, _, body = pages["/ready"]()
    assert (status, json.loads(body)) == (503, {"ready": False, "draining": False, "stale_workers": [1]})
    draining[0], stale[0] = True, []
    assert pages["/readyz"]()[0] == 503
