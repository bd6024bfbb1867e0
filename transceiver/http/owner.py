"""From any media process to the one that owns a call.

A call id names its owner's internal address, so a hangup or restart may arrive at any process: `RoutedCalls` asks
`owner_of` and either does it here or passes it on, over HTTP to the owner's internal address. There it is a call like
any other, except that it is never passed on again.

Authentication: `Authorization: Ufrag <unix seconds>.<nonce>.<mac>`, where the mac is HMAC-SHA256 with a key that all
media processes share, over method, path, the digest of the body, time, nonce, and the address it is meant for. A
request counts for 30 s before and after its time, and once: nonces are remembered for as long as they could count.
When that memory is full requests are refused rather than believed. The path holds the call's secret and goes in
clear, as the internal network is where media goes in clear between relay and owner, too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from transceiver.http.body import Bodies, parse_offer
from transceiver.http.calls import Calls, Created, Owner, Refused, no_such_call
from transceiver.http.limits import Limits
from transceiver.http.realtime import CALL, CALLS, HANGUP, SDP, sdp_answer
from transceiver.http.server import Observe, application

log = logging.getLogger("ufrag.transceiver.http.owner")

WINDOW_S = 30
NONCES_MOST = 65_536
TIMEOUT_S = 2.0
CONNECTIONS_MOST = 64

_SCHEME = "Ufrag"
_STAMP = re.compile(r"Ufrag (\d{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})", re.ASCII)
_SECONDS = re.compile(r"\d{1,5}", re.ASCII)
_ANSWER_MOST = 131_072
_CLIENTS_AFFAIR = {400, 404, 409, 413, 415, 422, 429, 503}

Address = tuple[str, int]


def authority(address: Address) -> str:
    """As both sides write it, whichever way an IPv6 address was written before."""
    host = ipaddress.ip_address(address[0])
    return f"[{host}]:{address[1]}" if host.version == 6 else f"{host}:{address[1]}"


class Stamps:
    """Makes and checks the Authorization of requests between owners. `clock` is the time of day, in unix seconds."""

    def __init__(self, key: bytes, clock: Callable[[], float], *, most: int = NONCES_MOST) -> None:
        if len(key) < 16:
            raise ValueError("a key of fewer than 16 bytes protects nothing")
        self._key = key
        self._clock = clock
        self._most = most
        self._seen: OrderedDict[str, float] = OrderedDict()  # nonce -> when it was accepted; oldest first

    def make(self, method: str, path: str, body: bytes, to: Address) -> str:
        seconds, nonce = int(self._clock()), secrets.token_hex(16)
        return f"{_SCHEME} {seconds}.{nonce}.{self._mac(method, path, body, to, str(seconds), nonce)}"

    def check(self, shown: str, method: str, path: str, body: bytes, to: Address) -> None:
        """Returns if the request is a process's of ours, fresh, and here for the first time."""
        match = _STAMP.fullmatch(shown)
        seconds, nonce, mac = match.groups() if match else ("0", "", "")
        if not hmac.compare_digest(mac, self._mac(method, path, body, to, seconds, nonce)):
            raise _forbidden("This port is for the media processes' own requests.")
        now = self._clock()
        if abs(now - int(seconds)) > WINDOW_S:
            raise _forbidden("The request is too old, or the clocks of two machines differ by more than 30 s.")
        self._forget(now)
        if nonce in self._seen:
            raise _forbidden("The request was here before.")
        if len(self._seen) >= self._most:
            raise Refused(503, "busy", "Too many requests between owners; try again.", 1)
        self._seen[nonce] = now

    def _forget(self, now: float) -> None:
        """One stamped at the far end of the window counts for two windows from its arrival."""
        while self._seen and now - next(iter(self._seen.values())) > 2 * WINDOW_S:
            self._seen.popitem(last=False)

    def _mac(self, method: str, path: str, body: bytes, to: Address, seconds: str, nonce: str) -> str:
        digest = hashlib.sha256(body).hexdigest()
        text = "\n".join(("ufrag owner 1", method, path, digest, authority(to), seconds, nonce))
        return hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), "sha256").hex()


def _forbidden(message: str) -> Refused:
    return Refused(401, "not_an_owner", message)


# The asking side


class OwnerClient:
    """Asks the owner of a call. Opened and closed within the loop it is used in."""

    def __init__(self, key: bytes, *, clock: Callable[[], float], timeout_s: float = TIMEOUT_S) -> None:
        self._stamps = Stamps(key, clock)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MOST, keepalive_timeout=5.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._timeout_s / 2),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def restart(self, owner: Address, call_id: str, offer_sdp: str) -> str:
        answer = await self._post(owner, f"{CALLS}/{call_id}", offer_sdp.encode())
        return answer.decode("utf-8", "replace")

    async def hangup(self, owner: Address, call_id: str) -> bool:
        try:
            await self._post(owner, f"{CALLS}/{call_id}/hangup", b"")
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    async def _post(self, owner: Address, path: str, body: bytes) -> bytes:
        """The body of a good answer; anything else as `Refused`, so that the client is told what the owner said."""
        assert self._session is not None
        url = URL(f"http://{authority(owner)}{path}", encoded=True)
        headers = {"Authorization": self._stamps.make("POST", path, body, owner), "Content-Type": SDP}
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await _read(response)
                if response.status == 200:
                    return answer
                raise _as_refused(response.status, answer, response.headers.get("Retry-After", ""))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ServerDisconnectedError):
            raise no_such_call() from None  # the owner is gone, and its calls with it
        except TimeoutError:
            raise Refused(504, "owner_timeout", "The process that owns this call does not answer.") from None
        except (aiohttp.ClientError, ValueError, LookupError, TypeError, RecursionError):
            raise Refused(502, "owner_failed", "The process that owns this call could not be asked.") from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > _ANSWER_MOST:
            raise ValueError("an answer longer than any SDP")
    return bytes(answer)


def _as_refused(status: int, answer: bytes, retry_after: str) -> Refused:
    """What the owner said to the client's request. What it said to ours, such as 401, is our own affair."""
    if status not in _CLIENTS_AFFAIR:
        log.warning("the owner of a call answered %d to another process: do all have the same key and time?", status)
        return Refused(502, "owner_failed", "The process that owns this call could not be asked.")
    said = json.loads(answer)["error"]
    wait = int(retry_after) if _SECONDS.fullmatch(retry_after) else None
    param = said["param"]
    return Refused(status, str(said["code"]), str(said["message"]), wait, None if param is None else str(param))


class RoutedCalls:
    """`Calls` for the HTTP server: ours are done here, those of others where they live."""

    def __init__(self, calls: Calls, owners: OwnerClient) -> None:
        self._calls = calls
        self._owners = owners

    async def create(self, offer_sdp: str, session: dict[str, Any] | None, client: str) -> Created:
        return await self._calls.create(offer_sdp, session, client)

    async def restart(self, call_id: str, offer_sdp: str) -> str:
        owner = self._calls.owner_of(call_id)
        if owner is None:
            raise no_such_call()
        if owner == "self":
            return await self._calls.restart(call_id, offer_sdp)
        return await self._owners.restart(owner, call_id, offer_sdp)

    async def hangup(self, call_id: str) -> bool:
        owner = self._calls.owner_of(call_id)
        if owner is None:
            return False
        if owner == "self":
            return await self._calls.hangup(call_id)
        return await self._owners.hangup(owner, call_id)

    def owner_of(self, call_id: str) -> Owner:
        return self._calls.owner_of(call_id)


# The serving side


def owner_application(
    calls: Calls,
    key: bytes,
    address: Address,
    limits: Limits,
    *,
    clock: Callable[[], float],
    observe: Observe | None = None,
) -> web.Application:
    """What other media processes reach at `address`, which is the one that our call ids name."""
    serving = _Serving(calls, Stamps(key, clock), address, Bodies(limits.body_bytes, limits.body_s))
    app = application([], limits, observe)
    app.add_routes([web.post(CALL, serving.restart), web.post(HANGUP, serving.hangup)])
    return app


class _Serving:
    def __init__(self, calls: Calls, stamps: Stamps, address: Address, bodies: Bodies) -> None:
        self._calls = calls
        self._stamps = stamps
        self._address = address
        self._bodies = bodies

    async def restart(self, request: web.Request) -> web.Response:
        call_id, body = await self._authentic(request)
        return sdp_answer(200, await self._calls.restart(call_id, parse_offer(SDP, body).sdp))

    async def hangup(self, request: web.Request) -> web.Response:
        call_id, _ = await self._authentic(request)
        if not await self._calls.hangup(call_id):
            raise no_such_call()
        return web.Response()

    async def _authentic(self, request: web.Request) -> tuple[str, bytes]:
        body = await self._bodies.read(request)
        shown = request.headers.get("Authorization", "")
        self._stamps.check(shown, request.method, request.raw_path, body, self._address)
        call_id = request.match_info["call_id"]
        if self._calls.owner_of(call_id) != "self":
            raise no_such_call()
        return call_id, body
