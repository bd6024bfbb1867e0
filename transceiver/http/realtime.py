"""OpenAI's calls API for WebRTC.

    POST /v1/realtime/calls              an offer (`body` says in which forms) -> 201, the answer, Location of the call
    POST /v1/realtime/calls/{id}/hangup  -> 200, or 404
    POST /v1/realtime/calls/{id}         an offer with new ICE credentials, application/sdp -> 200, the answer

The last one is our extension: OpenAI's API knows no ICE restart. Every other method is answered by 405. Clients that
end a call as their page closes do so by a `fetch` that outlives the page, hence hangup needs no body and ignores one.
Errors are raised as `Refused`; `server` writes them.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from transceiver.http.body import Bodies, parse_media
from transceiver.http.calls import Calls, Refused, no_such_call

CALLS = "/v1/realtime/calls"
CALL = CALLS + "/{call_id:[A-Za-z0-9_-]{1,160}}"
HANGUP = CALL + "/hangup"

SDP = "application/sdp"  # without a charset: some clients compare the whole header


class Realtime:
    """The handlers. `client_of` tells the address that a request comes from."""

    def __init__(self, calls: Calls, bodies: Bodies, client_of: Callable[[web.Request], str]) -> None:
        self._calls = calls
        self._bodies = bodies
        self._client_of = client_of

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(CALLS, self.create),
            web.options(CALLS, _options),
            web.options(CALL, _options),
            web.options(HANGUP, _options),
            web.post(CALL, self.restart),
            web.post(HANGUP, self.hangup),
        ]

    async def create(self, request: web.Request) -> web.Response:
        offer = await self._bodies.read_offer(request)
        created = await self._calls.create(offer.sdp, offer.session, self._client_of(request))
        return sdp_answer(201, created.answer, {"Location": f"{CALLS}/{created.call_id}"})

    async def restart(self, request: web.Request) -> web.Response:
        if parse_media(request.headers.get("Content-Type", "")).kind != SDP:
            raise Refused(415, "unsupported_content_type", f"An ICE restart is an offer as {SDP}.")
        offer = await self._bodies.read_offer(request)
        return sdp_answer(200, await self._calls.restart(request.match_info["call_id"], offer.sdp))

    async def hangup(self, request: web.Request) -> web.Response:
        if not await self._calls.hangup(request.match_info["call_id"]):
            raise no_such_call()
        return web.Response()


def sdp_answer(status: int, sdp: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=sdp.encode(), content_type=SDP, headers=headers)


async def _options(request: web.Request) -> web.Response:
    """Which forms an offer may have; a preflight never comes here."""
    accepted = f"{SDP}, multipart/form-data, application/json" if request.path == CALLS else SDP
    headers = {"Allow": "POST, OPTIONS"}
    if not request.path.endswith("/hangup"):
        headers["Accept-Post"] = accepted
    return web.Response(headers=headers)
