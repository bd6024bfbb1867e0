"""The HTTP server of a media process: every request passes its gate, every connection its door.

    door   connections in all and of one client, a head within its bounds in time, answers that are not read -> 503,
           400, 431, or the close of the connection
    gate   requests under way (503), their rate by client (429), pages of other sites (403), preflights (204), the
           key (401); then the handler; then what it raised, as JSON. The page at `/` needs no key: it asks for it.

Rules: sockets are given, already listening, and a listening socket may be shared with other processes. A hostile
request is answered, counted and never logged; our own mistakes are logged, and told nobody. No answer may be cached.
`clock` is any monotonic one.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.typedefs import Handler, Middleware

from relay.runtime.config import Network
from transceiver.http import answers
from transceiver.http.access import Bearer, Origins, Proxies
from transceiver.http.body import Bodies
from transceiver.http.calls import Calls, Refused
from transceiver.http.limits import Connections, Limits, TokenBuckets, UnderWay
from transceiver.http.page import Page
from transceiver.http.realtime import Realtime

log = logging.getLogger("ufrag.transceiver.http")

Observe = Callable[[int], None]  # told the status of every answer

SECURITY = {
    "Server": "ufrag",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Of an answer that is no page, nothing is ever to be executed.
NO_CONTENT = "default-src 'none'; frame-ancestors 'none'"

_TCP_INFO = struct.Struct("24xI")  # of a socket that listens, tcpi_unacked is how many connections wait
_RETRY_S = 1
_OPEN = {"/"}  # what needs no key
_STOP_S = 2.0  # for requests under way when the server stops


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask, as the operator said it."""

    auth_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()


def public_application(
    calls: Calls, access: Access, limits: Limits, *, clock: Callable[[], float], observe: Observe | None = None
) -> web.Application:
    """What clients reach: the calls API and the page."""
    gate = _Gate(access, limits, clock)
    realtime = Realtime(calls, Bodies(limits.body_bytes, limits.body_s), gate.client_of)
    app = application([gate.admit], limits, observe)
    app.add_routes([web.get("/", Page().get), *realtime.routes()])
    app.on_response_prepare.append(gate.add_cors)
    return app


def application(gates: Sequence[Middleware], limits: Limits, observe: Observe | None) -> web.Application:
    """An application that answers errors as JSON, bounds what is under way, and lets a request through `gates`."""
    under_way = UnderWay(limits.requests)

    @web.middleware
    async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
        with under_way.one() as admitted:
            response = await _guarded(request, handler, limits) if admitted else _busy()
        if observe:
            observe(response.status)
        return response

    app = web.Application(middlewares=[outermost, *gates])
    app.on_response_prepare.append(_add_security)
    return app


async def _guarded(request: web.Request, handler: Handler, limits: Limits) -> web.StreamResponse:
    """The handler's answer or, as an answer, what it raised."""
    try:
        if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > limits.head_bytes:
            raise Refused(431, "headers_too_large", f"The headers are larger than {limits.head_bytes} bytes.")
        return await handler(request)
    except Refused as refused:
        return answers.refusal(refused)
    except web.HTTPException as exception:
        return answers.from_framework(exception)
    except Exception:
        log.exception("a request failed by our own fault")
        return answers.error(500, "internal_error", "The server made a mistake; it is in its log.")


def _busy() -> web.Response:
    return answers.refusal(Refused(503, "busy", "Too many requests are under way; try again.", _RETRY_S))


async def _add_security(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY)
    response.headers.setdefault("Content-Security-Policy", NO_CONTENT)


class _Gate:
    """What a client's request must pass before anything reads its body."""

    def __init__(self, access: Access, limits: Limits, clock: Callable[[], float]) -> None:
        self._bearer = Bearer(access.auth_key)
        self._origins = Origins(access.cors_origins)
        self._proxies = Proxies(access.trusted_proxies)
        self._buckets = TokenBuckets(limits.rate_per_s, limits.burst, limits.clients, clock)

    def client_of(self, request: web.Request) -> str:
        return self._proxies.client_of(request.remote or "", request.headers.getall("X-Forwarded-For", ()))

    async def add_cors(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._origins.headers(request.headers.get("Origin", "")))

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        wait = self._buckets.take(self.client_of(request))
        if wait is not None:
            raise Refused(429, "rate_limit_exceeded", f"Too many requests; try again in {wait} s.", wait)
        if self._origins.refuses(request.method, request.headers):
            raise Refused(403, "origin_not_allowed", "Pages of this origin may not call here; see --cors-origin.")
        origin = request.headers.get("Origin", "")
        if request.method == "OPTIONS" and origin and "Access-Control-Request-Method" in request.headers:
            return web.Response(status=204, headers=self._origins.preflight(origin))
        if request.path not in _OPEN and request.method != "OPTIONS":
            shown = request.headers.get("Authorization", "")
            if not self._bearer.allows(shown):
                return _unauthorized(bool(shown))
        return await handler(request)


def _unauthorized(shown: bool) -> web.Response:
    """RFC 6750, 3: an error code only for one who tried."""
    message = "The key is wrong." if shown else "This server wants a key: Authorization: Bearer <key>."
    challenge = 'Bearer realm="ufrag"' + (', error="invalid_token"' if shown else "")
    code = "invalid_api_key" if shown else "missing_api_key"
    return answers.error(401, code, message, headers={"WWW-Authenticate": challenge})


class HTTPServer:
    """An application on given sockets. Connections from `trusted` proxies do not count as one client's."""

    def __init__(
        self,
        app: web.Application,
        sockets: Sequence[socket.socket],
        limits: Limits,
        *,
        trusted: Sequence[Network] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._sockets = sockets
        self._limits = limits
        self._tls = tls
        self._doors = Connections(limits.connections, limits.connections_per_client, Proxies(trusted).trusts)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)
        self._servers: list[asyncio.Server] = []
        app.on_response_prepare.append(self._take_leave)

    async def start(self) -> None:
        await self._runner.setup()
        await self.listen(True)

    async def listen(self, wanted: bool) -> None:
        """Whether connections are accepted. While they are not, the kernel lets them wait, for whoever else has these
        sockets, and each answer is the last of its connection."""
        if not wanted:
            self._stop_listening()
        elif not self._servers:
            await self._start_listening()

    async def _start_listening(self) -> None:
        loop = asyncio.get_running_loop()
        patience = (
            self._limits.head_s if self._tls else None
        )  # nothing else bounds a handshake: the door comes after it
        for sock in self._sockets:
            server = await loop.create_server(
                self._connection, sock=sock.dup(), ssl=self._tls, ssl_handshake_timeout=patience
            )
            self._servers.append(server)

    def _stop_listening(self) -> None:
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    async def _take_leave(self, _request: web.Request, response: web.StreamResponse) -> None:
        if not self._servers:
            response.force_close()
            response.headers["Connection"] = "close"  # the framework has written its own by now

    @property
    def connections(self) -> int:
        return self._doors.total

    def waiting(self) -> int:
        """Connections that nobody has accepted yet."""
        return sum(_TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))[0]
                   for sock in self._sockets)  # fmt: skip

    async def stop(self) -> None:
        """No new connections, a moment for requests under way; the listening sockets are closed in this process."""
        self._stop_listening()
        for sock in self._sockets:
            sock.close()
        await self._runner.cleanup()

    def _connection(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        return _Connection(self._runner.server, self._doors, self._limits)


class _Connection(web.RequestHandler):
    """aiohttp's connection, with a door before it, and errors of framing in the common form and unlogged."""

    __slots__ = ("_address", "_doors", "_inside", "_limits")

    def __init__(self, server: web.Server, doors: Connections, limits: Limits) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # its own word for "no log"
            auto_decompress=False,
            keepalive_timeout=limits.head_s,  # it runs from the connection's start and is no matter of bytes received
            lingering_time=limits.linger_s,
            max_line_size=limits.line_bytes,
            max_field_size=limits.line_bytes,
            max_headers=limits.headers,
        )
        self._doors = doors
        self._limits = limits
        self._address = ""
        self._inside = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._address = (transport.get_extra_info("peername") or ("",))[0]
        self._inside = self._doors.enter(self._address)
        if not self._inside:
            cast(asyncio.Transport, transport).write(_FULL)  # uvloop's own class is not one of asyncio's
            transport.close()
            self.force_close()
            return
        # Ends it, too, when the peer's window stays closed (tcp(7)).
        user_timeout = int(self._limits.unread_s * 1000)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._inside:
            self._doors.leave(self._address)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Of requests that are no HTTP; what handlers raise has been answered before."""
        if isinstance(exc, LineTooLong):
            response = answers.error(
                431, "headers_too_large", f"A line of the head is longer than {self._limits.line_bytes} bytes."
            )
        else:
            response = answers.error(status, "bad_request", "This is no HTTP request.")
        response.headers.update(SECURITY)
        response.force_close()
        return response


_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b'\r\n{"error":{"message":"Too many connections are open; try again.","type":"server_error","code":"busy",'
    b'"param":null}}'
)
