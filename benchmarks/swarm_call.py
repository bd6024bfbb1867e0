"""One call as its client sees it: offer, answer, ICE, DTLS. No socket and no clock; media is the native part's.

A call is told what arrived and what time it is, and puts what is to be sent into `outbox`. It behaves as a browser
does towards an ICE-lite server: it checks first, answers the server's own check (which is how the server knows that
this address receives), takes the DTLS role that the answer leaves, and has keys only after the fingerprint agreed.
"""

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from _fastpath.wire import binding
from transceiver.dtls import DTLSTransport, Identity
from transceiver.srtp import SRTPPair

PAYLOAD_TYPE = 111
CHECK_VARIANTS = 4  # as many as the native part holds
CHECK_AGAIN_S = 0.25
PRIORITY = 1853824767  # of a peer-reflexive candidate, as RFC 8445, 7.1.1 has it in a check
CANDIDATE_PRIORITY = 2130706431

AddressPort = tuple[str, int]
Step = Callable[[DTLSTransport], None]

# What each end's a=setup leaves to the client.
SETUPS = {"passive": "actpass", "active": "active"}
ROLES: dict[str, Literal["client", "server"]] = {"active": "server", "passive": "client"}


class CallFailed(RuntimeError):
    """A call did not come about; the text says at which step."""


@dataclass(frozen=True)
class Answer:
    """What of the answer is needed to send media."""

    ufrag: str
    password: str
    setup: str
    fingerprints: tuple[tuple[str, bytes], ...]
    candidates: tuple[AddressPort, ...]


def parse_answer(text: str) -> Answer:
    """Parsed here, not by the transceiver's own code, which would share its mistakes. First occurrence counts."""
    lines = [line.partition("=")[2].partition(":") for line in text.split("\r\n") if line.startswith("a=")]
    values: dict[str, list[str]] = {}
    for name, _, value in lines:
        values.setdefault(name, []).append(value)
    try:
        prints = dict.fromkeys(values["fingerprint"])
        words = [value.split() for value in dict.fromkeys(values.get("candidate", []))]
        return Answer(
            ufrag=values["ice-ufrag"][0],
            password=values["ice-pwd"][0],
            setup=values["setup"][0],
            fingerprints=tuple((name.lower(), _digest(digest)) for name, digest in (each.split() for each in prints)),
            candidates=tuple((each[4], int(each[5])) for each in words if each[2].lower() == "udp"),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise CallFailed(f"answer without what a client needs ({error!r}):\n{text}") from None


def _digest(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _ice_chars(count: int) -> str:
    return base64.b64encode(os.urandom(count)).decode()[:count]


@dataclass
class Times:
    """Nanoseconds of the real-time clock."""

    asked: int = 0
    answered: int = 0
    checked: int = 0
    connected: int = 0
    heard: int = 0  # the first packet that came back and could be decrypted


@dataclass
class Call:
    """`role` is the client's in DTLS: passive offers actpass, active leaves the server no choice."""

    identity: Identity
    role: str = "passive"
    data: bool = False
    ufrag: str = field(default_factory=lambda: _ice_chars(4))
    password: str = field(default_factory=lambda: _ice_chars(24))
    ssrc: int = field(default_factory=lambda: int.from_bytes(os.urandom(4), "big") | 1)
    tie_breaker: int = field(default_factory=lambda: int.from_bytes(os.urandom(8), "big"))
    outbox: list[bytes] = field(default_factory=list)
    times: Times = field(default_factory=Times)
    call_id: str = ""
    answer: Answer | None = None
    pair: SRTPPair | None = None
    profile: str = ""
    server_checks: int = 0
    _dtls: DTLSTransport | None = None
    _transaction: bytes = b""
    _check_at: float = 0.0
    _mapped: AddressPort = ("", 0)

    # --- signaling ---

    def offer(self, address: AddressPort) -> str:
        """`address` is where the client says it can be reached; an ICE-lite server makes nothing of it."""
        host, port = address
        common = [
            f"a=ice-ufrag:{self.ufrag}",
            f"a=ice-pwd:{self.password}",
            f"a=fingerprint:sha-256 {self.identity.fingerprint_sha256}",
            f"a=setup:{SETUPS[self.role]}",
        ]
        lines = [
            "v=0", f"o=- {self.tie_breaker >> 1} 2 IN IP4 127.0.0.1", "s=-", "t=0 0",
            f"a=group:BUNDLE 0{' 1' if self.data else ''}",
            f"m=audio {port} UDP/TLS/RTP/SAVPF {PAYLOAD_TYPE}", f"c=IN IP4 {host}", "a=rtcp:9 IN IP4 0.0.0.0",
            f"a=candidate:1 1 udp {CANDIDATE_PRIORITY} {host} {port} typ host", "a=end-of-candidates",
            *common, "a=mid:0", "a=sendrecv", "a=rtcp-mux", "a=rtcp-rsize",
            f"a=rtpmap:{PAYLOAD_TYPE} opus/48000/2", f"a=fmtp:{PAYLOAD_TYPE} minptime=10;useinbandfec=1",
            f"a=ssrc:{self.ssrc} cname:swarm",
        ]  # fmt: skip
        if self.data:
            lines += ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", *common]
            lines += ["a=mid:1", "a=sctp-port:5000", "a=max-message-size:262144"]
        return "\r\n".join(lines) + "\r\n"

    def accept(self, text: str) -> Answer:
        answer = self.answer = parse_answer(text)
        role = ROLES.get(answer.setup)
        if role is None or (self.role == "active" and role == "server"):
            raise CallFailed(f"offered setup:{SETUPS[self.role]}, answered {answer.setup}")
        self._dtls = DTLSTransport(self.identity, role=role, fingerprints=answer.fingerprints)
        return answer

    # --- ICE ---

    def start(self, now: float, mapped: AddressPort) -> None:
        """`mapped` is the server as this client sees it, which is what its own checks are answered with."""
        self._mapped = mapped
        self._transaction = os.urandom(12)
        self._send_check(now)

    def checks(self) -> list[bytes]:
        """Consent checks for the native part to send in turn: their integrity does not depend on the time."""
        return [self._check(os.urandom(12)) for _ in range(CHECK_VARIANTS)]

    def _check(self, transaction: bytes) -> bytes:
        answer = self._answer()
        return binding.request(
            transaction, f"{answer.ufrag}:{self.ufrag}".encode(), answer.password.encode(),
            priority=PRIORITY, tie_breaker=self.tie_breaker, controlling=True, use_candidate=True,
        )  # fmt: skip

    def _send_check(self, now: float) -> None:
        self._check_at = now + CHECK_AGAIN_S
        self.outbox.append(self._check(self._transaction))

    def _answer(self) -> Answer:
        if self.answer is None:
            raise CallFailed("no answer yet")
        return self.answer

    # --- what arrives ---

    def receive(self, data: bytes, now: float, wall_ns: int) -> None:
        if data[0] >= 20:
            self._receive_dtls(data, now, wall_ns)
        elif data[:2] == b"\x00\x01":
            self._receive_check(data)
        elif data[:2] == b"\x01\x01" and data[8:20] == self._transaction:
            self._receive_success(data, now, wall_ns)
        elif data[:2] == b"\x01\x11":
            _, fields = binding.parse(data)
            raise CallFailed(f"the server answers a check with error {fields and fields.error_code}")

    def _receive_check(self, data: bytes) -> None:
        result, fields = binding.parse(data)
        user = f"{self.ufrag}:{self._answer().ufrag}".encode()
        if fields is None or fields.username != user or not binding.verify(data, self.password.encode()):
            raise CallFailed(f"a check of the server that no browser would answer ({result}): {data.hex()}")
        self.server_checks += 1
        self.outbox.append(binding.success(fields.transaction, self._mapped, self.password.encode()))

    def _receive_success(self, data: bytes, now: float, wall_ns: int) -> None:
        if not binding.verify(data, self._answer().password.encode()):
            raise CallFailed("a success response whose integrity is wrong")
        if not self.times.checked:
            self.times.checked = wall_ns
            self._drive(lambda dtls: dtls.start(now), wall_ns)

    def _receive_dtls(self, data: bytes, now: float, wall_ns: int) -> None:
        self._drive(lambda dtls: dtls.receive(data, now), wall_ns)

    def _drive(self, step: Step, wall_ns: int) -> None:
        dtls = self._dtls
        if dtls is None:
            return
        step(dtls)
        self.outbox += dtls.take_datagrams()
        dtls.take_received()
        if dtls.state == "failed":
            raise CallFailed(f"DTLS: {dtls.failure}")
        if dtls.keys is not None and self.pair is None:
            self.pair, self.profile = SRTPPair(dtls.keys), dtls.keys.profile
            self.times.connected = wall_ns

    def tick(self, now: float, wall_ns: int) -> None:
        """Repeats what was not answered. To be called every few hundredths of a second until media flows."""
        if not self.times.checked:
            if now >= self._check_at:
                self._send_check(now)
            return
        timer = self._dtls.next_timer() if self._dtls else None
        if timer is not None and now >= timer:
            self._drive(lambda dtls: dtls.handle_timer(now), wall_ns)

    def stage(self) -> str:
        """Where it is, for the one who gives up waiting."""
        names = (("answered", "no answer"), ("checked", "no binding success"), ("connected", "no handshake"))
        return next((what for name, what in names if not getattr(self.times, name)), "no packet came back")
