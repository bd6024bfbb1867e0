"""What stands in the body of a request: bytes within bounds, an SDP offer, and perhaps a session object.

Three forms carry an offer, after OpenAI's API:
    application/sdp         the offer itself
    multipart/form-data     a part `sdp` and perhaps a part `session`, which is JSON
    application/json        {"sdp": ..., "session": {...}}, what clients sent before they knew of the form
Whatever a client sends is read to one of these or is a `Refused` that names the field; no other exception leaves
this file. Bodies are read whole before anything is parsed: with 64 KiB at most that is simpler than parsing a stream.
Compressed bodies are refused, as a small one could become a large one.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from dataclasses import dataclass
from email.message import Message
from typing import Any, NamedTuple, NoReturn

from aiohttp import web

from transceiver.http.calls import Refused

FIELDS = ("sdp", "session")

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")  # RFC 2046, 5.1.1
_CHARSETS = {"", "utf-8", "utf8", "us-ascii", "ascii"}


class Offer(NamedTuple):
    sdp: str
    session: dict[str, Any] | None


class Media(NamedTuple):
    """A Content-Type header, taken apart."""

    kind: str
    charset: str
    boundary: str


@dataclass(frozen=True, slots=True)
class Bodies:
    """How large a body may be, and how long it may take to arrive."""

    most_bytes: int
    seconds: float

    async def read(self, request: web.Request) -> bytes:
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise Refused(415, "unsupported_encoding", "Send the body without Content-Encoding.")
        if (request.content_length or 0) > self.most_bytes:
            self._too_large()
        try:
            if request.content.is_eof():  # it came with the head, as most do: nothing to wait for
                return await self._read_all(request)
            async with asyncio.timeout(self.seconds):
                return await self._read_all(request)
        except TimeoutError:
            raise Refused(408, "body_timeout", f"The body took longer than {self.seconds:g} s.") from None
        except (web.RequestPayloadError, ConnectionError):
            raise Refused(400, "bad_body", "The body is not framed as its headers say.") from None

    async def read_offer(self, request: web.Request) -> Offer:
        return parse_offer(request.headers.get("Content-Type", ""), await self.read(request))

    async def _read_all(self, request: web.Request) -> bytes:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self.most_bytes:  # the length is announced by none or by a liar
                self._too_large()
        return bytes(body)

    def _too_large(self) -> NoReturn:
        raise Refused(413, "body_too_large", f"The body is larger than {self.most_bytes} bytes.")


def parse_offer(content_type: str, body: bytes) -> Offer:
    media = parse_media(content_type)
    if media.kind == "application/sdp":
        _check_charset(media.charset, "sdp")
        return Offer(_sdp(body), None)
    if media.kind == "multipart/form-data":
        return _from_fields(parse_form(body, media.boundary))
    if media.kind == "application/json":
        _check_charset(media.charset, None)
        return _from_json(body)
    message = "Send the offer as application/sdp, or as multipart/form-data with a part sdp and a part session."
    raise Refused(415, "unsupported_content_type", message)


@functools.lru_cache(maxsize=64)  # clients say the same again and again
def parse_media(content_type: str) -> Media:
    header = Message()
    header["Content-Type"] = content_type
    return Media(header.get_content_type(), _parameter(header, "charset"), _parameter(header, "boundary"))


def _parameter(header: Message, name: str, of: str = "Content-Type") -> str:
    value = header.get_param(name, "", of)
    return value.strip() if isinstance(value, str) else ""  # a tuple is RFC 2231's form, which RFC 7578, 4.2 forbids


# The form, RFC 7578: a boundary, head and content of each part, a closing boundary


def parse_form(body: bytes, boundary: str) -> dict[str, bytes]:
    """The content of each field. A field may stand there once only: of two offers, which one was meant?"""
    if not _BOUNDARY.fullmatch(boundary):
        raise _bad_form("Its Content-Type has no valid boundary.")
    _preamble, *pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    fields: dict[str, bytes] = {}
    for piece in pieces:
        if piece.startswith(b"--"):
            return fields
        name, content = _parse_part(piece)
        if name in fields:
            raise Refused(400, "duplicate_parameter", f"The part {name} stands there twice.", param=name)
        fields[name] = content
    raise _bad_form("Its closing boundary is missing." if pieces else "Its boundary does not occur in it.")


def _parse_part(piece: bytes) -> tuple[str, bytes]:
    padding, _, rest = piece.partition(b"\r\n")
    head, blank, content = rest.partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not blank:
        raise _bad_form("A part is cut off, or its lines do not end with CRLF.")
    header = _parse_head(head)
    name = _parameter(header, "name", "Content-Disposition")
    if header.get_content_disposition() != "form-data" or not name:
        raise _bad_form("A part has no Content-Disposition: form-data with a name.")
    if name not in FIELDS:
        raise _unknown(name)
    if str(header.get("Content-Transfer-Encoding", "binary")).lower() not in {"7bit", "8bit", "binary"}:
        raise _bad_form(f"The part {name} has a Content-Transfer-Encoding; RFC 7578 wants none.")
    _check_charset(_parameter(header, "charset"), name)
    return name, content


def _parse_head(head: bytes) -> Message:
    header = Message()
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or name in header:
            raise _bad_form("A part has a header line that is none, or one twice.")
        header[name] = value.strip()
    return header


def _bad_form(what: str) -> Refused:
    return Refused(400, "bad_form", f"The form cannot be read. {what}")


def _unknown(name: str) -> Refused:
    shown = name[:64].encode("ascii", "backslashreplace").decode()
    return Refused(400, "unknown_parameter", f"Unknown parameter: '{shown}'.", param=shown)


# Fields


def _from_fields(fields: dict[str, bytes]) -> Offer:
    session = fields.get("session")
    return Offer(_sdp(fields.get("sdp", b"")), None if session is None else _session(_parse_json(session, "session")))


def _from_json(body: bytes) -> Offer:
    fields = _parse_json(body, None)
    if not isinstance(fields, dict):
        raise Refused(400, "bad_json", "The body must be a JSON object with sdp and perhaps session.")
    for name in fields:
        if name not in FIELDS:
            raise _unknown(name)
    sdp, session = fields.get("sdp", ""), fields.get("session")
    if not isinstance(sdp, str):
        raise Refused(400, "invalid_sdp", "sdp must be a string.", param="sdp")
    return Offer(_sdp(sdp.encode("utf-8", "surrogatepass")), None if session is None else _session(session))


def _sdp(raw: bytes) -> str:
    sdp = _text(raw, "invalid_sdp", "sdp")
    if not sdp.strip():
        raise Refused(400, "missing_sdp", "There is no SDP offer in the request.", param="sdp")
    return sdp


def _session(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(400, "invalid_session", "session must be a JSON object.", param="session")
    return value


def _parse_json(raw: bytes, param: str | None) -> object:
    text = _text(raw, "bad_json", param)
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # the latter of deep nesting
        raise Refused(400, "bad_json", f"{param or 'The body'} is not valid JSON.", param=param) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity, which are no JSON


def _text(raw: bytes, code: str, param: str | None) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused(400, code, f"{param or 'The body'} is not UTF-8.", param=param) from None


def _check_charset(charset: str, param: str | None) -> None:
    if charset.lower() not in _CHARSETS:
        raise Refused(415, "unsupported_charset", f"{param or 'The body'} must be UTF-8.", param=param)
