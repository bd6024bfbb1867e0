"""The calls API from the side of a client: `transceiver call` makes its offer and hangs up here.

Every way in which a server cannot be reached, or says no, becomes a `Failure` in words that tell where to look. The
key is shown to the origin of the given URL and to no other, so redirects are not followed.
"""

from __future__ import annotations

import errno
import json
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import aiohttp

from transceiver.caller_report import Failure

ANSWER_MOST = 64 << 10
GOODBYE_S = 2.0

_Unreachable = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True)
class Answer:
    sdp: str
    location: str

    @property
    def relays(self) -> list[str]:
        """Where media goes: the candidates' addresses."""
        words = (line.split() for line in self.sdp.splitlines() if line.startswith("a=candidate:"))
        found = [(each[4], each[5]) for each in words if len(each) > 5]
        return list(dict.fromkeys(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found))


class Signaling:
    """One server. To be made while a loop runs, and closed."""

    def __init__(self, url: str, *, key: str | None, timeout_s: float, insecure: bool) -> None:
        self._url = url
        self._key_shown = key is not None
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            connector=aiohttp.TCPConnector(ssl=not insecure),
        )

    async def close(self) -> None:
        await self._session.close()

    async def offer(self, sdp: str) -> Answer:
        headers = {"Content-Type": "application/sdp"}
        try:
            post = self._session.post(self._url, data=sdp.encode(), headers=headers, allow_redirects=False)
            async with post as response:
                body = await _text_of(response)
        except _Unreachable as error:
            raise self._unreachable(error) from None
        if response.status not in (200, 201):
            raise self._refused(response, body)
        return Answer(body, response.headers.get("Location", ""))

    async def hangup(self, location: str) -> None:
        """Best effort: who cannot be told will notice."""
        timeout = aiohttp.ClientTimeout(total=GOODBYE_S)
        with suppress(*_Unreachable, ValueError):
            url = urljoin(self._url, f"{location}/hangup")
            if location and urlsplit(url)[:2] == urlsplit(self._url)[:2]:
                async with self._session.post(url, timeout=timeout, allow_redirects=False):
                    pass

    def _unreachable(self, error: Exception) -> Failure:
        place = urlsplit(self._url).netloc
        match error:
            case aiohttp.ClientConnectorCertificateError():
                what = f"the certificate of {place} is not to be trusted: {error.certificate_error}"
                return Failure(what, "--insecure accepts any")
            case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
                return Failure(f"{place} does not speak TLS", "is it an http:// address?")
            case aiohttp.ClientConnectorDNSError():
                return Failure(f"the name in {place} is not known", "is it spelt right?")
            case TimeoutError():
                return Failure(f"{place} did not answer within {self._timeout_s:g} s", "is a firewall in between?")
            case OSError(errno=errno.ECONNREFUSED):
                what = f"connection to {place} refused: nobody listens there"
                return Failure(what, "is the transceiver running, and is this its --http?")
            case OSError(errno=int(number)):
                return Failure(f"{place} cannot be reached: {os.strerror(number)}")
        return Failure(f"{place} does not speak HTTP ({type(error).__name__})", "is it an https:// address?")

    def _refused(self, response: aiohttp.ClientResponse, body: str) -> Failure:
        if response.status == 401:
            what = "the key is wrong" if self._key_shown else "a key is wanted there"
            return Failure(f"HTTP 401: {what}", "give the right one with --auth-key-file")
        wait = response.headers.get("Retry-After", "")
        elsewhere = f"is {self._url} a calls API?"
        mend = f"try again in {wait} s" if wait.isdigit() else elsewhere if response.status in (404, 405) else ""
        try:
            error = json.loads(body)["error"]
            return Failure(f"HTTP {response.status}, {plain(error['code'])}: {plain(error['message'])}", mend)
        except (ValueError, KeyError, TypeError):  # not one of ours
            return Failure(f"HTTP {response.status}: {plain(response.reason)}", mend or elsewhere)


async def _text_of(response: aiohttp.ClientResponse) -> str:
    """The body, or as much of it as any answer of ours has."""
    body = b""
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_MOST:
            break
    return body.decode("utf-8", "replace")


def plain(text: object) -> str:
    """What comes from outside must not steer the terminal."""
    return str(text) if str(text).isprintable() else repr(text)
