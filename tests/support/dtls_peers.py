"""Peers for DTLS tests: pyOpenSSL used directly, and two sides on a bad network.

`RawPeer` shares nothing with ours but OpenSSL; it has the methods that `exchange` needs. It keeps OpenSSL's own timers,
so it never repeats anything within a test's milliseconds: on a network that loses, both sides are ours.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from tests.support.netem import Netem
from transceiver.dtls import DTLSTransport, Role
from transceiver.dtls_records import cut
from transceiver.identity import Identity
from transceiver.srtp import PROFILES

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES"


@functools.cache
def identity(kind: str, number: int = 0) -> Identity:
    """One of each kind for the whole run: RSA keys take a while to find."""
    return Identity.generate(rsa=kind == "rsa")


def fingerprint(who: Identity, name: str = "sha-256") -> tuple[str, bytes]:
    certificate = who.certificate.public_bytes(Encoding.DER)
    return name, hashlib.new(name.replace("-", ""), certificate).digest()


def transport(
    role: Role,
    *,
    own: Identity | None = None,
    peer: Identity | None = None,
    profiles: Sequence[str] = PROFILES,
    mtu: int = 1200,
) -> DTLSTransport:
    expected = [fingerprint(peer or identity("ecdsa"))]
    return DTLSTransport(own or identity("ecdsa"), role=role, fingerprints=expected, profiles=profiles, mtu=mtu)


def pair() -> tuple[DTLSTransport, DTLSTransport]:
    return transport("client"), transport("server")


def connected_pair() -> tuple[DTLSTransport, DTLSTransport]:
    client, server = pair()
    exchange(client, server)
    return client, server


class RawPeer:
    """pyOpenSSL as a peer: any suite with forward secrecy, DTLS 1.2 at most, no own packing of records."""

    def __init__(
        self,
        role: Role,
        own: Identity | None,
        profiles: Sequence[str] = PROFILES,
        ciphers: bytes = CIPHERS,
        mtu: int = 1200,
        cookie: bytes = b"",
        max_version: int = 0,
    ) -> None:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_max_proto_version(max_version)
        context.set_options(SSL.OP_NO_QUERY_MTU)
        if cookie and SSL.OP_COOKIE_EXCHANGE is not None:
            context.set_options(SSL.OP_COOKIE_EXCHANGE)
        context.set_cookie_generate_callback(lambda _: cookie)
        context.set_cookie_verify_callback(lambda _, got: got == cookie)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        if own is not None:
            context.use_certificate(own.certificate)
            context.use_privatekey(own.key)
        context.set_cipher_list(ciphers)
        if profiles:
            context.set_tlsext_use_srtp(":".join(profiles).encode())
        self.connection = SSL.Connection(context, None)
        self.connection.set_ciphertext_mtu(mtu)
        (self.connection.set_connect_state if role == "client" else self.connection.set_accept_state)()
        self._received: list[bytes] = []
        self.state = "new"
        self.failure = ""

    def start(self, now: float) -> None:
        self._step()

    def receive(self, datagram: bytes, now: float) -> None:
        self.connection.bio_write(datagram)
        self._step()

    def send(self, data: bytes) -> None:
        self.connection.send(data)

    def take_datagrams(self) -> list[bytes]:
        output = b""
        with suppress(SSL.WantReadError):
            while True:
                output += self.connection.bio_read(65_536)
        return [each.encode() for each in cut(output)]

    def take_received(self) -> list[bytes]:
        received, self._received = self._received, []
        return received

    def _step(self) -> None:
        try:
            self.connection.do_handshake()
            self.state = "connected"
            while True:
                self._received.append(self.connection.recv(65_536))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.state = "closed"
        except SSL.Error as error:
            self.state, self.failure = "failed", str(error)


Side = DTLSTransport | RawPeer


def deliver(source: Side, target: Side, now: float = 0.0) -> None:
    for datagram in source.take_datagrams():
        target.receive(datagram, now)


def exchange(client: Side, server: Side, now: float = 0.0, rounds: int = 10) -> None:
    """Everything arrives at once and in order; the client starts if it is new."""
    if client.state == "new":
        client.start(now)
    for _ in range(rounds):
        for datagram in client.take_datagrams():
            server.receive(datagram, now)
        for datagram in server.take_datagrams():
            client.receive(datagram, now)


def exchange_as(role: Role, ours: Side, theirs: Side) -> None:
    """The same, with ours in `role`."""
    client, server = (ours, theirs) if role == "client" else (theirs, ours)
    exchange(client, server)


def until_connected(sides: tuple[DTLSTransport, DTLSTransport], network: Netem[int], end: float) -> float | None:
    """Runs both in virtual time; the time at which the second of them was connected, None if that never was."""
    for side in sides:
        side.start(0.0)
    for now in _times(sides, network, end):
        for target, datagram in network.deliver(now):
            sides[target].receive(datagram, now)
        for number, side in enumerate(sides):
            due = side.next_timer()
            if due is not None and due <= now:
                side.handle_timer(now)
            for datagram in side.take_datagrams():
                network.send(now, 1 - number, datagram)
        if all(side.state == "connected" for side in sides):
            return now
    return None


def _times(sides: tuple[DTLSTransport, DTLSTransport], network: Netem[int], end: float) -> Iterator[float]:
    now = 0.0
    while now <= end:
        yield now
        moments = [network.due(), *(side.next_timer() for side in sides)]
        pending = [each for each in moments if each is not None]
        if not pending:
            return
        now = max(now, min(pending))


def first_piece(hello: bytes, size: int) -> bytes:
    """A record with the beginning of the message in `hello` (RFC 6347, 4.2.3)."""
    [record] = cut(hello)
    head = record.fragment[:9] + size.to_bytes(3, "big")
    return record._replace(fragment=head + record.fragment[12 : 12 + size]).encode()
