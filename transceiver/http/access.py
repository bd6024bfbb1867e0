"""Who may ask: the client's address behind proxies, its key, and the pages of other origins.

address   the peer's own, or what trusted proxies say in X-Forwarded-For: the rightmost entry that is not one of
          them. Entries further left were written by that client and prove nothing.
key       `Authorization: Bearer <key>`, compared in constant time. Without a key configured all may ask.
origin    CORS. No cookie or other ambient credential exists here, so an allowed origin gets no more than anyone
          who can reach the port; what CORS keeps off is other pages in the browsers of people inside a network.
          Forms need no preflight, hence a cross-site POST of an origin not allowed is refused outright.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from relay.runtime.config import Network

METHODS = "GET, POST, PATCH, DELETE"
EXPOSED = "Location, ETag, Link, Retry-After"
# Authorization is never covered by the asterisk (Fetch standard, CORS non-wildcard request-header names).
HEADERS = "Authorization, Content-Type, If-Match, *"
PREFLIGHT_AGE_S = 600

_HOPS_MOST = 32


@functools.lru_cache(maxsize=1024)  # each request asks several times, and clients send many
def parse_ip(text: str) -> str | None:
    """An address as proxies write it: bare, with a port, in brackets; IPv4-mapped ones are IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip)


class Proxies:
    """The networks whose word about the client's address counts."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)
        self.trusts = functools.lru_cache(maxsize=1024)(self._trusts)  # asked with each request, mostly of a few

    def _trusts(self, address: str) -> bool:
        own = parse_ip(address) if self._trusted else None
        return own is not None and any(ipaddress.ip_address(own) in network for network in self._trusted)

    def client_of(self, peer: str, forwarded: Iterable[str]) -> str:
        """`forwarded` are the values of X-Forwarded-For in the order of the request."""
        client = parse_ip(peer) or peer
        hops = ",".join(forwarded).rsplit(",", _HOPS_MOST)[-_HOPS_MOST:] if self.trusts(client) else []
        for hop in reversed(hops):
            address = parse_ip(hop)
            if address is None:  # what stands left of it can be told by nobody we trust
                return client
            client = address
            if not self.trusts(client):
                return client
        return client


class Bearer:
    """The key that a client must show. Digests are compared, so that not even its length can be measured."""

    def __init__(self, key: str | None) -> None:
        self._digest = None if key is None else _digest(key)

    def allows(self, authorization: str) -> bool:
        if self._digest is None:
            return True
        scheme, _, token = authorization.partition(" ")
        right = hmac.compare_digest(_digest(token.strip()), self._digest)
        return right and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Origins:
    """The origins whose pages may use this server; `*` is all of them."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._all = "*" in allowed
        self._allowed = {origin.rstrip("/").lower() for origin in allowed}

    def allows(self, origin: str) -> bool:
        return self._all or origin.lower() in self._allowed

    def refuses(self, method: str, headers: Mapping[str, str]) -> bool:
        """A browser says that a page of another site makes this request, and that page may not.

        Sec-Fetch-Site cannot be set by scripts, and unlike a comparison of Origin and Host it does not depend on
        what a proxy makes of Host. Who sends none is no browser, or one whose preflights must do.
        """
        foreign = headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}
        return foreign and method not in {"GET", "HEAD", "OPTIONS"} and not self.allows(headers.get("Origin", ""))

    def headers(self, origin: str) -> dict[str, str]:
        """What every answer to a page of `origin` carries."""
        if not self._allowed:
            return {}
        if not origin or not self.allows(origin):
            return {"Vary": "Origin"}
        granted = {"Access-Control-Expose-Headers": EXPOSED}
        if self._all:
            return granted | {"Access-Control-Allow-Origin": "*"}
        return granted | {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def preflight(self, origin: str) -> dict[str, str]:
        """What the answer to an OPTIONS before the request carries in addition."""
        if not self.allows(origin):
            return {}
        return {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": HEADERS,
            "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
        }
