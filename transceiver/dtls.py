"""DTLS-SRTP of one session, sans-IO (RFC 6347, 5764, 8122, 8842): datagrams and time in, datagrams out.

    new ----start----> handshaking ----finished----> connected ----close, close_notify----> closed
     |                  |    |                          |
     close -> closed    |    close, close_notify ->     alert -> failed
                        |             closed
                        error, timeout -> failed                   (`TRANSITIONS` is this picture)

OpenSSL makes the handshake and nothing else: it is given whole records, and what it puts out is a *flight*. Records
are numbered, sealed and sent by `transceiver.dtls_records`, because OpenSSL would repeat a flight only after a second,
a time pyOpenSSL cannot change: ours goes out again, in new records, after `ResendTimer`'s time, and sooner when asked
to. Once the handshake is done the connection object is freed, and alerts and data are sealed and opened here.

The peer is who its certificate's fingerprint says, and nobody else: the digest is compared while OpenSSL verifies the
certificate, so a wrong one gets a fatal alert and no key is ever exported. Hostile datagrams never raise: most are
ignored, a handshake gone wrong ends in `failed` with words in `failure`. Only the session calls this.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from transceiver.dtls_records import (
    ALERT,
    APPLICATION_DATA,
    DTLS_1_2,
    HANDSHAKE,
    NUMBER_BITS,
    SUITES,
    Record,
    RecordReader,
    RecordWriter,
    cut,
    pack,
    record_keys,
    unseal,
)
from transceiver.dtls_timer import MAX_RESENDS, ResendTimer
from transceiver.identity import HASHES, PeerCheck
from transceiver.identity import Identity as Identity
from transceiver.srtp import PROFILE_TABLE, PROFILES, SRTPKeys

Role = Literal["client", "server"]
State = Literal["new", "handshaking", "connected", "closed", "failed"]
Event = Literal["start", "finished", "error", "timeout", "alert", "close_notify", "close"]

TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    "new": {"start": "handshaking", "close": "closed"},
    "handshaking": {
        "finished": "connected",
        "error": "failed",
        "timeout": "failed",
        "close_notify": "closed",
        "close": "closed",
    },
    "connected": {"alert": "failed", "close_notify": "closed", "close": "closed"},
    "closed": {},
    "failed": {},
}

HANDSHAKE_TIMEOUT_S = 30.0
# What a handshake may make OpenSSL read: some twenty flights with RSA chains. It bounds time and memory per session.
MAX_READ_BYTES = 128 * 1024
MTU = 1200
READ_BYTES = 16_384  # of what OpenSSL puts out, at a time

EXPORTER_LABEL = b"EXTRACTOR-dtls_srtp"  # RFC 5764, 4.2

# Short lists keep the ClientHello at 130 bytes: to a path that is not validated we send 3 x what came from it.
GROUPS = b"X25519:P-256:P-384"
SIGNATURES = b"ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA384:RSA+SHA384"
OP_NO_ENCRYPT_THEN_MAC = 1 << 19  # an extension for suites that we do not have; pyOpenSSL does not name it

WARNING, FATAL = 1, 2
CLOSE_NOTIFY, NO_RENEGOTIATION = 0, 100
HELLO_REQUEST, CLIENT_HELLO, FINISHED = 0, 1, 20


@functools.lru_cache(maxsize=16)
def _context(identity: Identity, profiles: tuple[str, ...]) -> SSL.Context:
    """One for all sessions of an identity: building it costs more than a handshake."""
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_min_proto_version(DTLS_1_2)
    context.set_max_proto_version(DTLS_1_2)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_QUERY_MTU | OP_NO_ENCRYPT_THEN_MAC)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    context.set_cipher_list(":".join(SUITES).encode())
    # pyOpenSSL binds these two but gives them no method.
    if not lib.SSL_CTX_set1_curves_list(context._context, GROUPS):
        raise SSL.Error("groups")
    if not lib.SSL_CTX_set1_sigalgs_list(context._context, SIGNATURES):
        raise SSL.Error("signature algorithms")
    if profiles:
        context.set_tlsext_use_srtp(":".join(profiles).encode())
    return context


def _connect(context: SSL.Context, role: Role, mtu: int, peer: PeerCheck) -> SSL.Connection:
    connection = SSL.Connection(context, None)
    connection.set_ciphertext_mtu(mtu)
    connection.set_app_data(peer)
    if role == "client":
        connection.set_connect_state()
    else:
        connection.set_accept_state()
    return connection


def _verify(connection: SSL.Connection, certificate: crypto.X509, _error: int, depth: int, _ok: int) -> bool:
    """OpenSSL's opinion of issuers and dates does not count, the fingerprint of the peer's own certificate does."""
    peer: PeerCheck = connection.get_app_data()
    # It asks more than once about the one certificate that a handshake has.
    return depth > 0 or peer.accepted or peer.compare(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))


class DTLSTransport:
    """One association: an object per session, whatever paths its datagrams take."""

    __slots__ = (
        *("_connection", "_deadline", "_flight", "_identity", "_mtu", "_out", "_peer", "_profiles", "_read_bytes"),
        *("_reader", "_received", "_repeats_left", "_role", "_started_at", "_timer", "_writer"),
        *("cipher", "failure", "handshake_s", "keys", "state"),
    )

    def __init__(
        self,
        identity: Identity,
        *,
        role: Role,
        fingerprints: Sequence[tuple[str, bytes]],
        profiles: Sequence[str] = PROFILES,
        mtu: int = MTU,
    ) -> None:
        self.state: State = "new"
        self.failure = ""
        self.cipher = ""
        self.keys: SRTPKeys | None = None  # also None when connected to a peer that has no SRTP profile of ours
        self.handshake_s = 0.0
        self._identity, self._role, self._profiles, self._mtu = identity, role, tuple(profiles), mtu
        self._peer = PeerCheck(fingerprints)
        self._connection: SSL.Connection | None = None
        self._writer = RecordWriter()
        self._reader: RecordReader | None = None
        self._flight: list[Record] = []
        self._timer = ResendTimer()
        self._started_at = self._deadline = 0.0
        self._read_bytes = 0
        self._repeats_left = MAX_RESENDS
        self._out: list[bytes] = []
        self._received: list[bytes] = []

    # Input

    def start(self, now: float) -> None:
        """The client's hello leaves; the server's time to wait for one begins."""
        if self.state != "new":
            return
        self._move("start")
        self._started_at, self._deadline = now, now + HANDSHAKE_TIMEOUT_S
        if not self._peer.possible:
            self._fail("error", f"the peer's description has no fingerprint made with {', '.join(HASHES)}")
        elif self._role == "client":
            self._advance(b"", now)

    def receive(self, datagram: bytes, now: float) -> None:
        records = cut(datagram)
        if records and self.state == "new" and self._role == "server":
            self.start(now)
        if self.state == "handshaking":
            # Data that came with the last flight waits for it; OpenSSL never gets to see any.
            handshake = [each.encode() for each in records if each.content_type != APPLICATION_DATA]
            records = [each for each in records if each.content_type == APPLICATION_DATA]
            if handshake:
                self._advance(b"".join(handshake), now)
        for record in records:
            if self.state == "connected":
                self._receive_sealed(record)

    def resend(self, now: float) -> None:
        """The last flight once more, because the path just proved to work: a check came, or it was validated."""
        if self.state == "handshaking" and self._timer.take(now, early=True):
            self._transmit(self._flight)

    def send(self, data: bytes) -> None:
        """Up to 16 KB of application data, a record of its own; dropped, as the network might, when not connected."""
        if self.state == "connected":
            self._transmit([_sealed(APPLICATION_DATA, data)])

    def close(self, now: float) -> None:
        if self.state == "connected":
            self._alert(WARNING, CLOSE_NOTIFY)
        self._end("close")

    def handle_timer(self, now: float) -> None:
        if self.state != "handshaking":
            return
        if now >= self._deadline:
            self._fail("timeout", "dtls_timeout")
        elif self._timer.take(now):
            self._transmit(self._flight)

    def set_rtt(self, rtt_s: float) -> None:
        self._timer.set_rtt(rtt_s)

    # Output

    def next_timer(self) -> float | None:
        if self.state != "handshaking":
            return None
        return self._deadline if self._timer.at is None else min(self._timer.at, self._deadline)

    def take_datagrams(self) -> list[bytes]:
        out, self._out = self._out, []
        return out

    def take_received(self) -> list[bytes]:
        received, self._received = self._received, []
        return received

    # The handshake: OpenSSL's

    def _advance(self, records: bytes, now: float) -> None:
        """One step: records in, the next flight out, perhaps the end."""
        if self._connection is None:
            context = _context(self._identity, self._profiles)
            self._connection = _connect(context, self._role, self._mtu, self._peer)
        connection, error, event = self._connection, "", None
        self._read_bytes += len(records)
        try:
            if records:
                connection.bio_write(records)
            connection.do_handshake()
            event = "finished"
        except SSL.WantReadError:
            if self._read_bytes > MAX_READ_BYTES:
                event, error = "error", "the peer sends and sends, and the handshake does not end"
        except SSL.ZeroReturnError:
            event = "close_notify"
        except SSL.Error as problem:
            event, error = "error", self._words(problem)
        self._take_flight(connection, now)
        if event == "finished":
            self._finish(connection, now)
        elif event == "close_notify":
            self._end("close_notify")
        elif event == "error":
            self._fail("error", error)

    def _words(self, problem: SSL.Error) -> str:
        if self._peer.refused:
            return "the peer's certificate is not the one of its fingerprint"
        match problem.args:
            case ([*_, (_, _, str(reason))],):
                return reason
        return str(problem) or "OpenSSL gives no reason"

    def _take_flight(self, connection: SSL.Connection, now: float) -> None:
        output = _drain(connection)
        if not output:
            return
        records = [self._plain(connection, each) if each.stamp >> NUMBER_BITS else each for each in cut(output)]
        # OpenSSL has a clock of its own, and may first repeat what we have repeated long ago: that is not heard.
        if self._flight and _begins_with(records, self._flight):
            records = records[len(self._flight) :]
        if HANDSHAKE in [each.content_type for each in records]:
            self._flight = records
            self._timer.flight_sent(now)
        self._transmit(records)

    def _plain(self, connection: SSL.Connection, record: Record) -> Record:
        """One that was sealed, open: as the writer wants it, and as flights compare."""
        if self._reader is None:
            self._take_record_keys(connection)
        assert self._writer.key is not None
        fragment = unseal(record, self._writer.key)
        assert fragment is not None, "OpenSSL sealed a record otherwise than RFC 5288 says"
        return _sealed(record.content_type, fragment)

    def _take_record_keys(self, connection: SSL.Connection) -> None:
        """As soon as OpenSSL sealed something itself: both Finished messages come after that."""
        master, client, server = connection.master_key(), connection.client_random(), connection.server_random()
        assert master
        assert client
        assert server
        self.cipher = connection.get_cipher_name() or ""
        client_key, server_key = record_keys(master, client, server, self.cipher)
        ours, theirs = (client_key, server_key) if self._role == "client" else (server_key, client_key)
        self._writer.key = ours
        self._reader = RecordReader(theirs)

    def _finish(self, connection: SSL.Connection, now: float) -> None:
        if not self._peer.accepted:
            return self._fail("error", "the peer's certificate was not compared")
        self._move("finished")
        self.keys = self._export(connection)
        self.handshake_s = now - self._started_at
        self._connection = None
        if self._role == "client":
            self._flight = []  # the server's last flight is the last of all, and may be asked for again

    def _export(self, connection: SSL.Connection) -> SRTPKeys | None:
        """RFC 5764, 4.2: both keys, then both salts, the client's first."""
        name = connection.get_selected_srtp_profile().decode()
        if not name:
            return None
        key, salt, _ = PROFILE_TABLE[name]
        block = connection.export_keying_material(EXPORTER_LABEL, 2 * (key + salt))
        client = block[:key] + block[2 * key : 2 * key + salt]
        server = block[key : 2 * key] + block[2 * key + salt :]
        return SRTPKeys(name, client, server) if self._role == "client" else SRTPKeys(name, server, client)

    # Connected: ours

    def _receive_sealed(self, record: Record) -> None:
        assert self._reader is not None
        plain = self._reader.open(record)
        if not plain:
            return
        if record.content_type == APPLICATION_DATA:
            self._received.append(plain)
        elif record.content_type == ALERT:
            self._receive_alert(plain)
        elif record.content_type == HANDSHAKE:
            self._receive_late(plain[0])

    def _receive_alert(self, plain: bytes) -> None:
        level, description = plain[0], plain[-1]
        if description == CLOSE_NOTIFY:
            self._alert(WARNING, CLOSE_NOTIFY)  # RFC 5246, 7.2.1
            self._end("close_notify")
        elif level == FATAL:
            self._fail("alert", f"the peer sent alert {description}")

    def _receive_late(self, message: int) -> None:
        """A Finished again: ours was lost (RFC 6347, 4.2.4). A new handshake is refused."""
        again = self._role == "server" and message == FINISHED
        anew = message == (CLIENT_HELLO if self._role == "server" else HELLO_REQUEST)
        if self._repeats_left == 0 or not (again or anew):
            return
        self._repeats_left -= 1
        if again:
            self._transmit(self._flight)
        else:
            self._alert(WARNING, NO_RENEGOTIATION)

    # Common

    def _transmit(self, records: Sequence[Record]) -> None:
        self._out.extend(pack([self._writer.write(each) for each in records], self._mtu))

    def _alert(self, level: int, description: int) -> None:
        self._transmit([_sealed(ALERT, bytes([level, description]))])

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _fail(self, event: Event, words: str) -> None:
        self.failure = words
        self._end(event)

    def _end(self, event: Event) -> None:
        if event in TRANSITIONS[self.state]:
            self._move(event)
            self._connection = None
            self._flight = []


def _sealed(content_type: int, fragment: bytes) -> Record:
    """A record of epoch 1 as the writer takes it: open, without a number."""
    return Record(content_type, DTLS_1_2, 1 << NUMBER_BITS, fragment)


def _begins_with(records: list[Record], flight: list[Record]) -> bool:
    """Whatever their numbers are."""
    same = [
        new.content_type == old.content_type and new.fragment == old.fragment
        for new, old in zip(records, flight, strict=False)
    ]
    return len(records) >= len(flight) and all(same)


def _drain(connection: SSL.Connection) -> bytes:
    output = b""
    with suppress(SSL.WantReadError):
        while len(output) % READ_BYTES == 0:  # less than asked for is all there was
            output += connection.bio_read(READ_BYTES)
    return output
