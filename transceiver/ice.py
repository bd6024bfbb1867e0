"""What a session says of ICE: its candidates, its password, and the id of the call that its token stands in.

The transceiver is ICE-lite (RFC 8445, 2.5): it gathers nothing and checks nothing by itself, it names the public
addresses of its relays as host candidates. Its ufrag is the route token. The password follows from the token and a
key that transceivers alone hold, so a relay, or whoever stole one, can neither answer nor forge a check, and nothing
has to be stored to know it. A token travels in clear in every check and authorises nothing: a call id is the token
and 128 random bits, which the owner keeps and compares in constant time (that is the registry's affair).

Rules: no clock, no sockets, no names to resolve. Called by the session, the registry and the signaling rooms.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import chain, zip_longest
from typing import NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ICE_KEY_INFO = b"ufrag ice-pwd 1"
ICE_KEY_BYTES = 32
PWD_CHARS = 27  # 160 bits of HMAC in base64, without the "="; RFC 8839, 5.4 asks for 22 characters at least
SECRET_BYTES = 16
SECRET_CHARS = 22  # 16 bytes in base64, without the "=="

# RFC 8445, 5.1.2.1: 2^24 x type preference + 2^8 x local preference + (256 - component).
HOST_PREFERENCE = 126
BEST_LOCAL_PREFERENCE = 65_535
COMPONENT = 1

# Tokens of IPv4 and of IPv6 owners differ in length, which tells where the secret begins.
_CALL_ID = re.compile(rf"([\w-]{{32}}|[\w-]{{48}})([\w-]{{{SECRET_CHARS}}})", re.ASCII)
_TO_URL, _FROM_URL = str.maketrans("+/", "-_"), str.maketrans("-_", "+/")


class Candidate(NamedTuple):
    """A public UDP address, as a host candidate of component 1."""

    host: str
    port: int
    priority: int
    foundation: str


def candidates(advertised: Iterable[tuple[str, int]]) -> tuple[Candidate, ...]:
    """Host candidates with falling priority in the given order, but with the two families taking turns.

    A client with one broken family then finds the other after one check, not after all of the first (RFC 8421, 4).
    What is named twice counts once; what is no address, or has a zone, is a ValueError.
    """
    addresses = list(dict.fromkeys((_address(host), port) for host, port in advertised))
    first = [each for each in addresses if each[0].version == addresses[0][0].version]
    second = [each for each in addresses if each[0].version != addresses[0][0].version]
    turns = (each for each in chain(*zip_longest(first, second)) if each)
    foundations: dict[str, str] = {}
    found = []
    for place, (address, port) in enumerate(turns):
        host = str(address)
        # RFC 8445, 5.1.1.3: same type, protocol and base address, same foundation.
        foundation = foundations.setdefault(host, str(len(foundations) + 1))
        found.append(Candidate(host, port, _priority(place), foundation))
    return tuple(found)


def _address(host: str) -> IPv4Address | IPv6Address:
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{host!r} has a zone, which means nothing to a client")
    return address


def _priority(place: int) -> int:
    return (HOST_PREFERENCE << 24) + ((BEST_LOCAL_PREFERENCE - place) << 8) + 256 - COMPONENT


def derive_ice_key(session_key: bytes) -> bytes:
    """The key that the passwords of all sessions follow from: HKDF-SHA256 (RFC 5869) without salt."""
    return HKDF(algorithm=SHA256(), length=ICE_KEY_BYTES, salt=None, info=ICE_KEY_INFO).derive(session_key)


def derive_pwd(ice_key: bytes, token: str) -> str:
    """The ice-pwd that belongs to a ufrag; the alphabet of base64 is that of ice-chars."""
    return base64.b64encode(hmac.digest(ice_key, token.encode("ascii"), hashlib.sha1)).decode()[:PWD_CHARS]


def make_call_id(token: str, secret: bytes) -> str:
    """The name of a call in URLs."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"the secret of a call has {SECRET_BYTES} bytes, not {len(secret)}")
    return token.translate(_TO_URL) + base64.urlsafe_b64encode(secret).decode()[:SECRET_CHARS]


def split_call_id(text: str) -> tuple[str, bytes] | None:
    """(token, secret) of a call id, or None if no call can have that id; whether one has is not looked at here."""
    match = _CALL_ID.fullmatch(text)
    if match is None:
        return None
    secret = base64.urlsafe_b64decode(match[2] + "==")
    # The last character holds four bits more than the secret has: one secret, one spelling.
    if base64.urlsafe_b64encode(secret).decode()[:SECRET_CHARS] != match[2]:
        return None
    return match[1].translate(_FROM_URL), secret
