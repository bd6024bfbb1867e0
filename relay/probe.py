"""`relay probe`: checks from outside, through a relay to the owner that a token names, and back.

It is a client that knows a session's ufrag and password, from a call of its own or from an SDP answer. What comes back
was made by the owner, and is believed only with its MESSAGE-INTEGRITY: so an answer proves the whole way.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from _fastpath.wire import binding
from relay.runtime.config import Address, endpoint
from relay.runtime.errors import RuntimeFault

CLIENT_UFRAG = "prob"
PRIORITY = 1853824767  # of a peer-reflexive candidate, as in any check
XOR_MAPPED_ADDRESS = 0x0020
COOKIE = 0x2112A442
GONE = 403
CALLS = "/v1/realtime/calls"
HTTP_TIMEOUT_S = 10.0
ANSWER_MOST = 1 << 18

OFFER = "\r\n".join(
    [
        *("v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "m=audio 9 UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0"),
        *(f"a=ice-ufrag:{CLIENT_UFRAG}", f"a=ice-pwd:{'0' * 24}", f"a=fingerprint:sha-256 {':'.join(['00'] * 32)}"),
        *("a=setup:actpass", "a=mid:0", "a=rtcp-mux", "a=sendrecv", "a=rtpmap:111 opus/48000/2", ""),
    ]
)


@dataclass(frozen=True)
class Session:
    """What a check needs to be answered; `url` names the call that was made for it."""

    token: str
    password: str
    url: str = ""


@dataclass(frozen=True)
class Reply:
    """`mapped`: where the owner sees us. `code` is 0 for a success; `late_s` is the round trip."""

    late_s: float
    source: str
    mapped: str
    code: int


def call(base: str, auth_key: str | None) -> Session:
    """A session of our own at the transceiver with this HTTP address."""
    answer, headers = _ask(base.rstrip("/") + CALLS, OFFER.encode(), auth_key)
    values = dict(
        line[2:].split(":", 1) for line in answer.splitlines() if line.startswith(("a=ice-ufrag", "a=ice-pwd"))
    )
    try:
        return Session(values["ice-ufrag"], values["ice-pwd"], base.rstrip("/") + headers["Location"])
    except KeyError:
        raise RuntimeFault("its answer has no ufrag and password", where=base, mend="is it a transceiver?") from None


def hang_up(session: Session, auth_key: str | None) -> None:
    _ask(f"{session.url}/hangup", b"", auth_key)


def _ask(url: str, body: bytes, auth_key: str | None) -> tuple[str, dict[str, str]]:
    request = urllib.request.Request(url, body, {"Content-Type": "application/sdp"})
    if auth_key:
        request.add_header("Authorization", f"Bearer {auth_key}")
    try:
        with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as response:
            return response.read(ANSWER_MOST).decode("utf-8", "replace"), dict(response.headers)
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeFault(_reason(error), where=url, mend="--auth-key-file names the key it wants") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RuntimeFault(f"no answer: {reason}", where=url, mend="is the transceiver there?") from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return f"status {error.code}: {json.loads(error.read(ANSWER_MOST))['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}"


def probe(relay: Address, session: Session, count: int, wait_s: float) -> Iterator[Reply | None]:
    """A reply, or None, for each of `count` checks, from one port as a client's are."""
    username = f"{session.token}:{CLIENT_UFRAG}".encode()
    with socket.socket(relay.family, socket.SOCK_DGRAM) as sock:
        for _ in range(count):
            transaction = os.urandom(12)
            request = binding.request(
                transaction, username, session.password.encode(), priority=PRIORITY,
                tie_breaker=int.from_bytes(os.urandom(8)), controlling=True,
            )  # fmt: skip
            began = time.monotonic()
            sock.sendto(request, relay.sockaddr)
            yield _reply(sock, transaction, session.password.encode(), began, wait_s)


def _reply(sock: socket.socket, transaction: bytes, password: bytes, began: float, wait_s: float) -> Reply | None:
    """The authentic one to this very check; whatever else comes, the owner's own checks for one, is passed over."""
    while (left := began + wait_s - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            message, source = sock.recvfrom(2048)
        except TimeoutError:
            break
        _, fields = binding.parse(message)
        answers = fields is not None and fields.kind in (binding.SUCCESS, binding.ERROR)
        if fields is not None and answers and fields.transaction == transaction and binding.verify(message, password):
            shown = str(Address(source[0], source[1], sock.family))
            return Reply(time.monotonic() - began, shown, _mapped(message), fields.error_code)
    return None


def _mapped(message: bytes) -> str:
    """RFC 8489, 14.2; the message is well-formed by now."""
    at = 20
    while at + 4 <= len(message):
        kind, length = int.from_bytes(message[at : at + 2]), int.from_bytes(message[at + 2 : at + 4])
        if kind == XOR_MAPPED_ADDRESS and length in (8, 20):
            port = int.from_bytes(message[at + 6 : at + 8]) ^ COOKIE >> 16
            mask = message[4 : 4 + length - 4]
            raw = bytes(a ^ b for a, b in zip(message[at + 8 : at + 4 + length], mask, strict=True))
            host = ipaddress.ip_address(raw)
            return endpoint(str(host), port)
        at += 4 + (length + 3) // 4 * 4
    return ""
