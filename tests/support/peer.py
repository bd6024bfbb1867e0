"""A small WebRTC client, sans-IO: offer and answer, datagrams and time in, datagrams out.

It is a full ICE agent, as simple as one may be: it checks every route (own address, relay's address) with USE-CANDIDATE
every 50 ms until that is answered, then every 2.5 s, and answers the server's requests. DTLS takes whichever role the
answer leaves. As browsers do, it drops DTLS on a route whose check has not been answered yet, which `early` counts;
what else should not have come stands in `wrong`. What happens behind the handshake is `peer_media`'s.

Everything it makes waits in `out`, in order. `tests.support.world` carries it over a bad network; tests set the
switches (`answers`, `checks`) to make it a client that lacks something.
"""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass, field

from _fastpath.wire import binding
from _fastpath.wire.demux import kind_of
from tests.support.dtls_peers import identity
from tests.support.peer_media import PeerMedia
from transceiver.dtls import DTLSTransport, Role
from transceiver.identity import Identity
from transceiver.srtp import PROFILES

Address = tuple[str, int]

FAST_S, SLOW_S = 0.05, 2.5
PRFLX = 110 << 24
PAYLOAD_TYPE = 111
ICE_CHARS = string.ascii_letters + string.digits + "+/"


@dataclass
class Route:
    """A candidate pair, and what is known of it."""

    own: Address
    relay: Address
    priority: int
    use_candidate: bool = True
    next_check: float | None = 0.0
    pending: set[bytes] = field(default_factory=set)  # transactions that wait for an answer
    answered_at: float | None = None
    checks: int = 0
    answers: int = 0
    requests: int = 0  # of the server's
    errors: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What a client takes from the SDP answer."""

    ufrag: str
    pwd: str
    setup: str
    digest: bytes
    relays: tuple[Address, ...]
    ssrc: int


def read_answer(text: str) -> Answer:
    def value(name: str) -> str:
        found = re.search(rf"^a={name}:(\S+(?: \S+)*)\r$", text, re.M)
        assert found, name
        return found[1]

    candidates = re.findall(r"^a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host\r$", text, re.M)
    ssrc = re.search(r"^a=ssrc:(\d+) ", text, re.M)
    return Answer(
        ufrag=value("ice-ufrag"),
        pwd=value("ice-pwd"),
        setup=value("setup"),
        digest=bytes.fromhex(value("fingerprint").removeprefix("sha-256 ").replace(":", "")),
        relays=tuple((host, int(port)) for host, port in candidates),
        ssrc=int(ssrc[1]) if ssrc else 0,
    )


class Peer:
    def __init__(
        self,
        own: Address,
        *,
        seed: int = 1,
        certificate: Identity | None = None,
        profiles: tuple[str, ...] = PROFILES,
        setup: str = "actpass",
        audio: bool = True,
        data: bool = False,
    ) -> None:
        self.own = own
        self.random = random.Random(seed)
        self.identity = certificate or identity("ecdsa", 1)
        self.profiles, self.setup, self.audio, self.data = profiles, setup, audio, data
        self.checks = self.answers = True  # whether it sends checks, and answers those of the server
        self.credentials: dict[str, str] = {}
        self.ufrag = self.pwd = ""
        self.remote: Answer | None = None
        self.call_id = ""
        self.routes: list[Route] = []
        self.selected: Route | None = None
        self.dtls: DTLSTransport | None = None
        self.media = PeerMedia(self)
        self.out: list[tuple[Address, Address, bytes]] = []
        self.connected_at: float | None = None
        self.early = 0
        self.wrong: list[str] = []
        self.renew()

    # Signaling

    def renew(self) -> None:
        """New ICE credentials; the server's requests under the old ones are answered all the same."""
        self.ufrag = self._random(8)
        self.pwd = self.credentials[self.ufrag] = self._random(24)

    def _random(self, length: int) -> str:
        return "".join(self.random.choices(ICE_CHARS, k=length))

    def offer(self) -> str:
        kinds = [name for name, on in (("audio", self.audio), ("data", self.data)) if on]
        lines = ["v=0", "o=- 7 2 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE {' '.join(kinds)}"]
        lines += [f"a=ice-ufrag:{self.ufrag}", f"a=ice-pwd:{self.pwd}", f"a=setup:{self.setup}"]
        lines += [f"a=fingerprint:sha-256 {self.identity.fingerprint_sha256}"]
        if self.audio:
            lines += [f"m=audio 9 UDP/TLS/RTP/SAVPF {PAYLOAD_TYPE}", "a=mid:audio", "a=sendrecv", "a=rtcp-mux"]
            lines += [f"a=rtpmap:{PAYLOAD_TYPE} opus/48000/2", f"a=ssrc:{self.media.ssrc} cname:peer"]
        if self.data:
            lines += ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:data", "a=sctp-port:5000"]
        return "".join(f"{line}\r\n" for line in lines)

    def accept(self, answer: str, now: float) -> None:
        """The answer to the newest offer, a restart's too: checks begin."""
        self.remote = read_answer(answer)
        self.routes = [self._route(self.own, relay, place, now) for place, relay in enumerate(self.remote.relays)]
        self.selected = self.selected and next(each for each in self.routes if each.relay == self.selected.relay)
        if self.dtls is None:
            role: Role = "server" if self.remote.setup == "active" else "client"
            expected = [("sha-256", self.remote.digest)]
            self.dtls = DTLSTransport(self.identity, role=role, fingerprints=expected, profiles=self.profiles)

    def _route(self, own: Address, relay: Address, place: int, now: float) -> Route:
        # Pairs are paced, RFC 8445 14.2.
        return Route(own, relay, PRFLX + ((65_535 - place) << 8) + 255, next_check=now + place * FAST_S)

    def move(self, own: Address, now: float) -> None:
        """Another address, from one moment to the next: the old one is gone."""
        self.own = own
        self.routes = [self._route(own, route.relay, 0, now) for route in self.routes]
        self.selected = self.selected and next(each for each in self.routes if each.relay == self.selected.relay)

    # Time

    def next_timer(self) -> float | None:
        times = [route.next_check for route in self.routes] if self.checks else []
        times += [self.dtls.next_timer() if self.dtls else None, self.media.next_timer()]
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        for route in self.routes if self.checks else ():
            if route.next_check is not None and route.next_check <= now:
                self.check(route, now)
        if self.dtls is not None:
            self.dtls.handle_timer(now)
            self._flush(now)
        self.media.handle_timer(now)

    # ICE

    def check(self, route: Route, now: float) -> bytes:
        """Sends one, and returns what an eavesdropper sees."""
        route.next_check = now + (FAST_S if route.answered_at is None else SLOW_S)
        route.checks += 1
        transaction = self.random.randbytes(12)
        route.pending.add(transaction)
        request = self.binding_request(transaction, route.priority, use_candidate=route.use_candidate)
        self.out.append((route.own, route.relay, request))
        return request

    def binding_request(
        self, transaction: bytes, priority: int, *, use_candidate: bool = True, controlling: bool = True
    ) -> bytes:
        assert self.remote is not None
        username = f"{self.remote.ufrag}:{self.ufrag}".encode()
        return binding.request(
            transaction, username, self.remote.pwd.encode(), priority=priority, tie_breaker=7,
            controlling=controlling, use_candidate=use_candidate,
        )  # fmt: skip

    def receive(self, own: Address, relay: Address, datagram: bytes, now: float) -> None:
        route = next((each for each in self.routes if (each.own, each.relay) == (own, relay)), None)
        kind = kind_of(datagram)
        if route is None:
            return  # of an address it had before
        if kind == "stun":
            self._receive_stun(route, datagram, now)
        elif kind == "dtls":
            self._receive_dtls(route, datagram, now)
        elif kind == "rtp":
            self.media.receive(route, datagram, now)
        else:
            self.wrong.append(f"{kind}: {datagram.hex()}")

    def _receive_stun(self, route: Route, message: bytes, now: float) -> None:
        result, fields = binding.parse(message)
        if result not in ("ok", "no_username") or fields is None:
            self.wrong.append(f"stun {result}")
        elif fields.kind == binding.REQUEST:
            self._receive_request(route, message, fields)
        else:
            self._receive_answer(route, message, fields, now)

    def _receive_request(self, route: Route, message: bytes, fields: binding.Fields) -> None:
        """Short-term credentials (RFC 8445, 7.2.2): ours and then theirs in the name, our password."""
        ufrag = (fields.username or b"").decode().partition(":")[0]
        password = self.credentials.get(ufrag, "")
        if not (password and binding.verify(message, password.encode()) and fields.controlled):
            self.wrong.append("a request that is not for us")
            return
        route.requests += 1
        if self.answers:
            answer = binding.success(fields.transaction, route.relay, password.encode())
            self.out.append((route.own, route.relay, answer))

    def _receive_answer(self, route: Route, message: bytes, fields: binding.Fields, now: float) -> None:
        assert self.remote is not None
        if fields.transaction not in route.pending:
            return  # doubled by the network, or of credentials of before
        if not binding.verify(message, self.remote.pwd.encode()):
            self.wrong.append("an answer that is not authentic")
            return
        route.pending.clear()
        if fields.kind == binding.ERROR:
            route.errors.append(fields.error_code)
            return
        route.answers += 1
        if route.answered_at is None:
            route.answered_at, route.next_check = now, now + SLOW_S
            self.selected = self.selected or route
            if self.dtls is not None and self.dtls.state == "new":
                self.dtls.start(now)
                self._flush(now)

    # DTLS

    def _receive_dtls(self, route: Route, datagram: bytes, now: float) -> None:
        if route.answered_at is None:
            self.early += 1
            return
        assert self.dtls is not None
        self.selected = self.selected or route
        self.dtls.receive(datagram, now)
        self._flush(now)
        for packet in self.dtls.take_received():
            self.media.receive_data(packet)

    def _flush(self, now: float) -> None:
        assert self.dtls is not None
        if self.dtls.state == "connected" and self.connected_at is None:
            self.connected_at = now
            self.media.keys = self.dtls.keys
        for datagram in self.dtls.take_datagrams():
            self.send(datagram)

    def send(self, datagram: bytes) -> None:
        if self.selected is not None:
            self.out.append((self.selected.own, self.selected.relay, datagram))

    def send_data(self, packet: bytes) -> None:
        """An SCTP packet."""
        assert self.dtls is not None
        self.dtls.send(packet)
        for datagram in self.dtls.take_datagrams():
            self.send(datagram)

    def close(self, now: float) -> None:
        """As a browser does: close_notify, and no more checks."""
        assert self.dtls is not None
        self.dtls.close(now)
        self._flush(now)
        self.checks = False
        self.media.speaking = self.media.reporting = False
