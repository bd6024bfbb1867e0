"""The admin port: a small HTTP server for metrics and health, in a child process of its own.

It stands apart from the launcher and the workers, so that no scraper, slow or hostile, ever holds those up. It
knows no page: the program gives routes, each a callable without arguments that answers (status, content type,
body) at once. It serves GET and HEAD, one request a connection, and bounds everything a peer can hold:

    request head     8 KiB            431
    time             5 s to ask       408; 5 s more to take the answer, 1 s more to close
    connections      64               503

The launcher opens the listening socket with `listen` and keeps it, so that a new admin child goes on with it. The
server ends when `alive_fd` reports end-of-file.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable, Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from relay.runtime.config import Address
from relay.runtime.errors import ConfigError, PortBusy

log = logging.getLogger("ufrag.runtime.admin")

Answer = tuple[int, str, bytes]
Route = Callable[[], Answer]

HEAD_LIMIT = 8192
DEADLINE_S = 5.0
CONNECTION_LIMIT = 64

_LINGER_LIMIT = 65_536  # bytes of a request that was not read in full, taken and forgotten before the close
_LINGER_S = 1.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for no time
_BACKLOG = 64
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110, 5.6.2


class _Refusal(Exception):
    """A request that is answered with nothing but a status."""

    def __init__(self, status: HTTPStatus) -> None:
        self.status = status


def listen(address: Address) -> socket.socket:
    """A TCP socket that listens at `address`."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not keep us out
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address.sockaddr)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        where = f"tcp {address}"
        if error.errno == errno.EADDRINUSE:
            raise PortBusy("the address is in use", where=where, mend="end its user or choose another port") from None
        raise ConfigError(f"cannot listen: {error.strerror}", where=where, mend="choose another address") from None
    return sock


def serve(sock: socket.socket, routes: Mapping[str, Route], alive_fd: int, *, deadline_s: float = DEADLINE_S) -> None:
    """Answer at `sock` until `alive_fd` reports end-of-file."""
    asyncio.run(_serve(sock, routes, alive_fd, deadline_s))


async def _serve(sock: socket.socket, routes: Mapping[str, Route], alive_fd: int, deadline_s: float) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(alive_fd, over.set)
    handler = _Server(routes, deadline_s).handle
    server = await asyncio.start_server(handler, sock=sock, limit=HEAD_LIMIT, backlog=_BACKLOG)
    await over.wait()
    server.close()  # asyncio.run cancels the connections still open


class _Server:
    def __init__(self, routes: Mapping[str, Route], deadline_s: float) -> None:
        self._routes = routes
        self._deadline_s = deadline_s
        self._connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its start to its end."""
        if self._connections >= CONNECTION_LIMIT:
            writer.write(_plain(HTTPStatus.SERVICE_UNAVAILABLE))
            writer.close()  # without lingering, else the refused ones could be held open in any number
            return
        self._connections += 1
        try:
            await self._send(writer, await self._respond(reader))
            async with asyncio.timeout(_LINGER_S):
                await _linger(reader, writer)
        except OSError:  # and TimeoutError, which is one
            pass  # a peer that went away, or does not read or close; nobody is left to tell
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

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            method, path = _parse_head(await self._read_head(reader))
            return self._dispatch(method, path)
        except _Refusal as refusal:
            return _plain(refusal.status)

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

    def _dispatch(self, method: str, path: str) -> bytes:
        route = self._routes.get(path)
        if route is None:
            raise _Refusal(HTTPStatus.NOT_FOUND)
        if method not in ("GET", "HEAD"):
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            status, content_type, body = route()
        except Exception:
            log.exception("admin page failed", extra={"fields": {"path": path}})
            raise _Refusal(HTTPStatus.INTERNAL_SERVER_ERROR) from None
        return _response(status, content_type, body, with_body=method == "GET")


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take what the peer still sends: a close with bytes unread would reset the connection and could destroy the
    answer on its way."""
    writer.write_eof()
    taken = 0
    while taken < _LINGER_LIMIT and (chunk := await reader.read(HEAD_LIMIT)):
        taken += len(chunk)


def _parse_head(head: bytes) -> tuple[str, str]:
    """Method and path of a request head (RFC 9112, 3); anything not well-formed is 400."""
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.0", "HTTP/1.1") or not _is_token(parts[0]):
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    names = [_field_name(line) for line in lines[1:]]
    if names.count("host") > 1 or (parts[2] == "HTTP/1.1" and "host" not in names):
        raise _Refusal(HTTPStatus.BAD_REQUEST)
    return parts[0], _path(parts[1])


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


def _plain(status: HTTPStatus) -> bytes:
    return _response(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode())


def _response(status: int, content_type: str, body: bytes, *, with_body: bool = True) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + body if with_body else head
