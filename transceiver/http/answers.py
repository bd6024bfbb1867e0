"""How an error looks: {"error": {"message", "type", "code", "param"}}, as clients of OpenAI's API know it.

`type` follows from the status and tells a program whether to mend the request, wait, or complain; `code` is the
precise reason, stable, and part of the interface; `message` is for people.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from transceiver.http.calls import Refused

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error(
    status: int, code: str, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "code": code, "param": param}}
    return web.json_response(body, status=status, headers=headers)


def refusal(refused: Refused) -> web.Response:
    wait = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    return error(refused.status, refused.code, refused.message, param=refused.param, headers=wait)


def from_framework(exception: web.HTTPException) -> web.Response:
    """What aiohttp itself raises, such as 404 and 405 of its router, in the common form."""
    code = exception.reason.lower().replace(" ", "_")
    allow = exception.headers.get("Allow")
    return error(exception.status, code, f"{exception.reason}.", headers={"Allow": allow} if allow else None)
