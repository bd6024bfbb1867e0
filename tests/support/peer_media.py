"""What a client of the tests does behind the handshake: audio, reports, data channels.

`PeerMedia` belongs to a `Peer` (tests/support/peer.py), which hands it what is neither STUN nor handshake. It speaks a
packet of 20 ms after the other when told to, keeps what it hears, and reports on it as RFC 3550 has it, with the
statistics of `_fastpath.reception`; what the network does to a stream is known to the test, so both can be compared.
SRTP is pylibsrtp's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pylibsrtp

from _fastpath.reception import ReceptionView, ntp, ntp_middle, round_trip
from _fastpath.wire import rtcp, rtp
from transceiver.sctp import Channel, DataChannels
from transceiver.srtp import SRTPKeys, SRTPPair

if TYPE_CHECKING:
    from tests.support.peer import Peer, Route

FRAME_S = 0.02
FRAME_UNITS = 960
CLOCK_RATE = 48_000
REPORT_S = 1.0
UNIX_US = 1_700_000_000_000_000  # what the peer's clock says more than the virtual one: not what the server's does
CNAME = b"peer"


class Heard(NamedTuple):
    at: float
    route: Route
    header: rtp.Header


class PeerMedia:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.ssrc = peer.random.randrange(1, 1 << 32)
        self.keys: SRTPKeys | None = None
        self.speaking = False
        self.reporting = False
        self.heard: list[Heard] = []
        self.refused: list[str] = []  # what libsrtp did not take
        self.reports: list[rtcp.Report] = []  # of the server's
        self.round_trips_us: list[int] = []
        self.byes = self.too_soon = 0
        self.sent = 0
        self.sequence, self.timestamp = 0, peer.random.randrange(1 << 32)
        self.reception: ReceptionView | None = None
        self.last_sr = (0, 0.0)  # the middle of its NTP time, when it came
        self.channels: DataChannels | None = None
        self.opened: list[Channel] = []
        self.messages: list[str | bytes] = []
        self._pair: SRTPPair | None = None
        self._next_frame: float | None = None
        self._next_report: float | None = None

    @property
    def pair(self) -> SRTPPair | None:
        if self._pair is None and self.keys is not None:
            self._pair = SRTPPair(self.keys)
        return self._pair

    # Time

    def next_timer(self) -> float | None:
        if self.pair is None:
            return None
        times = [self._next_frame or 0.0] if self.speaking else []
        times += [self._next_report or 0.0] if self.reporting else []
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        if self.pair is None:
            return
        if self.speaking and now >= (self._next_frame or 0.0):
            self._next_frame = (self._next_frame or now) + FRAME_S
            self.speak(now)
        if self.reporting and now >= (self._next_report or 0.0):
            self._next_report = now + REPORT_S
            self.report(now)

    # RTP

    def packet(self, payload: bytes = b"", *, payload_type: int = 111, ssrc: int = 0, sequence: int = -1) -> bytes:
        """The next one, protected."""
        assert self.pair is not None
        if sequence < 0:
            self.sequence = (self.sequence + 1) & 0xFFFF
            self.timestamp = (self.timestamp + FRAME_UNITS) & 0xFFFFFFFF
            sequence = self.sequence
        header = rtp.pack(payload_type, False, sequence, self.timestamp, ssrc or self.ssrc)
        return self.pair.protect(header + (payload or b"frame %06d" % self.sent))

    def speak(self, now: float) -> None:
        self.peer.send(self.packet())
        self.sent += 1

    def receive(self, route: Route, datagram: bytes, now: float) -> None:
        if self.pair is None:
            self.too_soon += 1  # its own end of the handshake was lost
            return
        try:
            if 192 <= datagram[1] < 224:
                self._receive_report(self.pair.unprotect_rtcp(datagram), now)
            else:
                self._receive_frame(route, self.pair.unprotect(datagram), now)
        except pylibsrtp.Error as error:
            self.refused.append(str(error))

    def _receive_frame(self, route: Route, packet: bytes, now: float) -> None:
        header = rtp.parse(packet)
        assert header is not None
        self.heard.append(Heard(now, route, header))
        if self.reception is None:
            self.reception = ReceptionView(header.ssrc, header.sequence, CLOCK_RATE)
        self.reception.packet(header.sequence, header.timestamp, round(now * 1e6))

    # RTCP

    def report(self, now: float, *, bye: bool = False) -> None:
        """SR if it has spoken, else RR, with a block about the server if that was heard."""
        assert self.pair is not None
        assert self.peer.remote is not None
        sender = None
        if self.sent:
            octets = self.sent * len(b"frame 000000")
            sender = rtcp.Sender(self.ssrc, self._ntp(now), self.timestamp, self.sent, octets)
        block = None
        if self.reception is not None:
            block = self.reception.block(round(now * 1e6))
            assert block.ssrc == self.peer.remote.ssrc
        self.peer.send(self.pair.protect_rtcp(rtcp.pack(self.ssrc, CNAME, sender, block, bye)))

    def _ntp(self, now: float) -> int:
        return ntp(UNIX_US + round(now * 1e6))

    def _receive_report(self, packet: bytes, now: float) -> None:
        report = rtcp.parse(packet, self.ssrc)
        assert report is not None
        self.reports.append(report)
        self.byes += report.bye
        if report.sender is not None and self.reception is not None:
            self.reception.sender(report.sender.ntp, round(now * 1e6))
        if report.block is not None and report.block.last_sr:
            arrival = ntp_middle(self._ntp(now))
            self.round_trips_us.append(round_trip(arrival, report.block.last_sr, report.block.delay_since_sr))

    # Data channels: in a running event loop

    def open_channels(self) -> DataChannels:
        assert self.peer.remote is not None
        self.channels = DataChannels(
            dtls_role="server" if self.peer.remote.setup == "active" else "client",
            remote_port=5000,
            remote_max_message=262_144,
            send=self.peer.send_data,
            on_open=self.opened.append,
            on_message=lambda _channel, message: self.messages.append(message),
            on_close=lambda _channel: None,
        )
        self.channels.start()
        return self.channels

    def receive_data(self, packet: bytes) -> None:
        if self.channels is not None:
            self.channels.receive(packet)
