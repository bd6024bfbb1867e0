"""The admin port: a small HTTP server for metrics and health, in a child process of its own.

It stands apart from the launcher and the workers, so that no scraper, slow or hostile, ever holds those up. It
knows no page: the program gives `Pages`, callables that answer (status, content type, body) at once. It takes one
request a connection, GET and HEAD for what is to be read, POST for what is to be done, whose body is not looked at.
Whoever reaches the port may read `public`; `local` and `actions` are for this machine's own users, and an action is
never taken from a browser, which any web page can make send a POST to 127.0.0.1. What a peer can hold is bounded:

    request head     8 KiB            431
    time             5 s to ask       408; 5 s more to take the answer, 1 s more to close
    connections      64               503

The launcher opens the listening socket and keeps it, so that a new admin child goes on with it. The server ends when
`alive_fd` reports end-of-file.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

log = logging.getLogger("ufrag.runtime.admin")

Answer = tuple[int, str, bytes]
Route = Callable[[], Answer]
Action = Callable[[str], Answer]

HEAD_LIMIT = 8192
DEADLINE_S = 5.0
CONNECTION_LIMIT = 64

_LINGER_LIMIT = 65_536  # bytes of a request that was not read in full, taken and forgotten before the close
_LINGER_S = 1.0
_FINISH_S, _FINISH_LOOK_S = 0.3, 0.01
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for no time
_BACKLOG = 64
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110, 5.6.2


class _Refusal(Exception):
    """A request that is answered with nothing but a status."""

    def __init__(self, status: HTTPStatus, allow: str = "") -> None:
        self.status = status
        self.allow = allow


@dataclass(frozen=True)
class Pages:
    """What is served, by path. The path of a look or an action holds a `*`, one segment, which it is called with."""

    public: Mapping[str, Route]
    local: Mapping[str, Route] = field(default_factory=dict)
    looks: Mapping[str, Action] = field(default_factory=dict)  # local, too
    actions: Mapping[str, Action] = field(default_factory=dict)


class _Head(NamedTuple):
    """A request's head, as far as it matters."""

    method: str
    path: str
    from_browser: bool


def health(draining: Callable[[], bool], stale_workers: Callable[[], list[int]]) -> dict[str, Route]:
    """Live: this process answers. Ready: every worker beats, and new calls are taken."""

    def live() -> Answer:
        return 200, "text/plain", b"ok\n"

    def ready() -> Answer:
        state = {"draining": draining(), "stale_workers": stale_workers()}
        is_ready = not state["draining"] and not state["stale_workers"]
        return as_json(200 if is_ready else 503, {"ready": is_ready, **state})

    return {"/livez": live, "/live": live, "/readyz": ready, "/ready": ready}


def as_json(status: int, document: object) -> Answer:
    return status, "application/json", json.dumps(document).encode() + b"\n"


Readers = Mapping[int, Callable[[], None]]


def serve(
    sock: socket.socket, pages: Pages, alive_fd: int, *, readers: Readers | None = None, deadline_s: float = DEADLINE_S
) -> None:
    """Answer at `sock` until `alive_fd` reports end-of-file. Of `readers`, each is called, and must not wait, when its
    descriptor has something to read."""
    asyncio.run(_serve(sock, pages, alive_fd, readers or {}, deadline_s))


async def _serve(sock: socket.socket, pages: Pages, alive_fd: int, readers: Readers, deadline_s: float) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(alive_fd, over.set)
    for descriptor, reader in readers.items():
        loop.add_reader(descriptor, reader)
    own = _Server(pages, deadline_s)
    server = await asyncio.start_server(own.handle, sock=sock, limit=HEAD_LIMIT, backlog=_BACKLOG)
    await over.wait()
    loop.remove_reader(sock)  # a server that is closed at once fails at what it has just accepted
    await own.finish()
    server.close()  # asyncio.run cancels the connections still open


class _Server:
    def __init__(self, pages: Pages, deadline_s: float) -> None:
        self._pages = pages
        self._deadline_s = deadline_s
        self._connections = 0

    async def finish(self) -> None:
        """What was accepted gets its answer: who comes later may find another process here that listens, too."""
        left_s = _FINISH_S
        await asyncio.sleep(_FINISH_LOOK_S)  # for connections that wait for their turn in the loop
        while self._connections and left_s > 0:
            await asyncio.sleep(_FINISH_LOOK_S)
            left_s -= _FINISH_LOOK_S

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its start to its end."""
        if self._connections >= CONNECTION_LIMIT:
            writer.write(_plain(HTTPStatus.SERVICE_UNAVAILABLE))
            writer.close()  # without lingering, else the refused ones could be held open in any number
            return
        self._connections += 1
        try:
            await self._send(writer, await self._respond(reader, _is_local(writer)))
            async with asyncio.timeout(_LINGER_S):
                await _linger(reader, writer)
        except OSError:  # and TimeoutError, which is one
            pass  # a peer that went away, or does not read or close; nobody is left to tell
        except asyncio.CancelledError:
            pass  # this process ends; Python 3.11 would log a traceback of it
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter, response: bytes) -> None:
        """Hand all of it to the kernel. Of a peer that does not take it nothing is kept there either: without the
        reset the kernel would hold the rest of the answer, megabytes perhaps, for minutes after the close."""
        writer.transport.set_write_buffer_limits(high=0)
        try:
            async with asyncio.timeout(self._deadline_s):
                writer.write(response)
                await writer.drain()
        except TimeoutError:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            raise

    async def _respond(self, reader: asyncio.StreamReader, is_local: bool) -> bytes:
        try:
            head = _parse_head(await self._read_head(reader))
            answer = self._answer(self._find(head, is_local), head.path)
            return _response(*answer, with_body=head.method != "HEAD")
        except _Refusal as refusal:
            return _plain(refusal.status, refusal.allow)

    async def _read_head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise _Refusal(HTTPStatus.REQUEST_TIMEOUT) from None
        except asyncio.LimitOverrunError:
            raise _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
        except asyncio.IncompleteReadError:
            raise _Refusal(HTTPStatus.BAD_REQUEST) from None

    def _find(self, head: _Head, is_local: bool) -> Route:
        """What answers this request."""
        public = self._pages.public.get(head.path)
        route = public or self._pages.local.get(head.path) or _match(self._pages.looks, head.path)
        action = None if route else _match(self._pages.actions, head.path)
        if route is None and action is None:
            raise _Refusal(HTTPStatus.NOT_FOUND)
        if public is None and not is_local:
            raise _Refusal(HTTPStatus.FORBIDDEN)
        if head.method not in (("GET", "HEAD") if route else ("POST",)):
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "GET, HEAD" if route else "POST")
        if action is not None and head.from_browser:
            raise _Refusal(HTTPStatus.FORBIDDEN)
        found = route or action
        assert found is not None
        return found

    def _answer(self, route: Route, path: str) -> Answer:
        try:
            return route()
        except Exception:
            log.exception("admin page failed", extra={"fields": {"path": path}})
            raise _Refusal(HTTPStatus.INTERNAL_SERVER_ERROR) from None


def _match(patterns: Mapping[str, Action], path: str) -> Route | None:
    for pattern, action in patterns.items():
        before, _, behind = pattern.partition("*")
        word = path[len(before) : len(path) - len(behind)]
        if word and "/" not in word and path == before + word + behind:
            return partial(action, word)
    return None


def _is_local(writer: asyncio.StreamWriter) -> bool:
    """Whether this machine talks to itself: over loopback, or from the very address that it was reached at."""
    peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    if not peer or not own:
        return False
    address = ipaddress.ip_address(peer[0])
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback or peer[0] == own[0]


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what the peer still sends: a close with bytes unread would reset the connection and could destroy the
    answer on its way."""
    writer.write_eof()
    taken = 0
    while taken < _LINGER_LIMIT and (chunk := await reader.read(HEAD_LIMIT)):
        taken += len(chunk)


def _parse_head(head: bytes) -> _Head:
    """A request head (RFC 9112, 3); anything not well-formed is 400."""
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.0", "HTTP/1.1") or not _is_token(parts[0]):
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    names = [_field_name(line) for line in lines[1:]]
    if names.count("host") > 1 or (parts[2] == "HTTP/1.1" and "host" not in names):
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    # Browsers send Origin with every POST, and a page cannot take it away.
    return _Head(parts[0], _path(parts[1]), from_browser="origin" in names or "sec-fetch-site" in names)


def _field_name(line: str) -> str:
    name, colon, value = line.partition(":")
    if not colon or not _is_token(name) or any(sign in value for sign in "\r\n\0"):
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    return name.lower()


def _path(target: str) -> str:
    """The path of `/path?query` or `http://host/path`."""
    try:
        path = urlsplit(target).path if target.startswith("http://") else target.partition("?")[0]
    except ValueError:
        path = ""
    if not path.startswith("/") or not path.isprintable():
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    return path


def _is_token(text: str) -> bool:
    return text != "" and _TOKEN.issuperset(text)


def _plain(status: HTTPStatus, allow: str = "") -> bytes:
    return _response(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode(), allow=allow)


def _response(status: int, content_type: str, body: bytes, *, with_body: bool = True, allow: str = "") -> bytes:
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if allow:
        lines.append(f"Allow: {allow}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + body if with_body else head
