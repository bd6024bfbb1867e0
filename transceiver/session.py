"""One call: what its client and the hot thread report goes in, commands to the hot thread and words to people come out.

    new --first check--> checking --DTLS begins--> handshaking --fingerprint verified--> live
    any of these --hang-up, goodbye, failure, no check, consent gone--> closing --the hot thread has let go--> gone

Rules:
1. Sans-IO: time is an argument, datagrams are bytes, the hot thread is a `MediaEngine` that only takes commands.
2. The hello leaves after the first authenticated check, on its path, behind the answer to it (both go through the hot
   thread, in order). The other way round browsers drop the hello and lose a second.
3. No key reaches the hot thread before the peer's fingerprint was verified; SRTP contexts live until it has let go.
4. `end` may be called any number of times; the first reason counts, and one log line explains the call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from _fastpath.media import ANY_PATH, CommandsFull, MediaEngine
from _fastpath.media_slot import MediaSlot
from relay.runtime.log import event
from transceiver.answer import Negotiated
from transceiver.apps import Application
from transceiver.dtls import DTLSTransport
from transceiver.sctp import Channel, DataChannels
from transceiver.srtp import SRTPPair

log = logging.getLogger("ufrag.transceiver.call")

State = Literal["new", "checking", "handshaking", "live", "closing", "gone"]

BYE_GRACE_S = 15.0  # after RTCP's BYE, or SCTP's end: a client that only stops its microphone checks again within 6 s
LEAST_RESEND_GAP_S = 0.05


@dataclass
class Stages:
    """When what happened; None: not yet."""

    opened: float
    check: float | None = None
    proven: float | None = None
    connected: float | None = None
    media: float | None = None


@dataclass(frozen=True)
class Place:
    """Where a session lives: its number in a hot thread."""

    engine: MediaEngine
    slot: MediaSlot
    index: int
    serial: int


@dataclass
class Session:
    place: Place
    token: str
    secret: bytes = field(repr=False)
    negotiated: Negotiated
    dtls: DTLSTransport
    application: Application
    opened_unix_s: float
    stages: Stages
    ssrc: int
    state: State = "new"
    reason: str = ""
    tokens: list[str] = field(default_factory=list)  # of this call, the present one last
    restarts: int = 0
    session_version: int = 1
    path: int = ANY_PATH  # of the last check or handshake packet
    bye_at: float | None = None
    spent_s: float = 0.0  # of the loop's time, less what it has been allowed since; kept by `calls`
    spent_at: float = 0.0
    last_flight: float = 0.0
    flight: list[bytes] = field(default_factory=list)  # the last one, as long as a path may be too new to afford it
    channels: DataChannels | None = None
    pair: SRTPPair | None = None
    open_channels: set[Channel] = field(default_factory=set)

    # ---------------------------------------------------------------------------------------- what the hot thread says

    def handle(self, name: str, path: int, value: int, datagram: bytes, now: float) -> None:
        """An event of this call's."""
        handler = HANDLERS.get(name)
        if handler is not None and self.state not in ("closing", "gone"):
            handler(self, path, value, datagram, now)

    def _check(self, path: int, starved: int, _datagram: bytes, now: float) -> None:
        """The path's check pays for what could not be afforded there before."""
        if self.bye_at is not None:
            self.bye_at = None
            self.place.engine.set_reporting(self.place.index, self.place.serial, False)
        if self.stages.check is None:
            self.stages.check = now
            self._observe("setup_check_s", now - self.stages.opened)
            self.path = path
            self._describe("checking")
            self.dtls.start(now)
            self._flush(now)
        elif starved and self.stages.proven is None:
            self.path = path
            self._send(self.flight)
        elif self.state == "handshaking" and now - self.last_flight > LEAST_RESEND_GAP_S:
            self.path = path
            self.dtls.resend(now)
            self._flush(now)

    def _proven(self, path: int, value: int, _datagram: bytes, now: float) -> None:
        """`value` holds the round trip, and in its lowest bit whether something could not be afforded before."""
        rtt_us, starved = value >> 1, value & 1
        if rtt_us:
            self.dtls.set_rtt(rtt_us / 1e6)
        first = self.stages.proven is None
        if first and self.stages.check is not None:
            self.stages.proven = now
            self._observe("setup_ice_s", now - self.stages.check)
        # What left before may have been too much for its path, or gone to where somebody sent a copy of a check from.
        if starved or (first and path != self.path):
            self._send(self.flight)

    def _datagram(self, path: int, _value: int, datagram: bytes, now: float) -> None:
        if self.dtls.state in ("new", "handshaking"):
            self.path = path
        self.dtls.receive(datagram, now)
        self._flush(now)

    def _media(self, _path: int, _value: int, _datagram: bytes, now: float) -> None:
        self.stages.media = now
        self._observe("setup_media_s", now - self.stages.opened)

    def _rtcp_bye(self, _path: int, _value: int, _datagram: bytes, now: float) -> None:
        self._bye(now)

    def _bye(self, now: float) -> None:
        """Part of it has ended. Whether the call has, the checks tell: the hot thread is asked to report them."""
        self.bye_at = now + BYE_GRACE_S
        self.place.engine.set_reporting(self.place.index, self.place.serial, True)

    def _expired(self, _path: int, never: int, _datagram: bytes, now: float) -> None:
        self.end("no_check" if never else "consent_expired", now)

    # ----------------------------------------------------------------------------------------------------------- DTLS

    def _flush(self, now: float) -> None:
        """Sends what DTLS made, and follows where it is."""
        datagrams = self.dtls.take_datagrams()
        if datagrams:
            self.last_flight, self.flight = now, datagrams
            self._send(datagrams)
        if self.dtls.state == "handshaking" and self.state == "checking":
            self._describe("handshaking")
        elif self.dtls.state == "connected":
            if self.state != "live":
                self._connected(now)
            self._receive_data(now)
            self._send(self.dtls.take_datagrams())
        elif self.dtls.state == "closed":
            self.end("close_notify", now)
        elif self.dtls.state == "failed":
            self.end("dtls_timeout" if self.dtls.failure == "dtls_timeout" else "dtls_failed", now)

    def _send(self, datagrams: list[bytes]) -> None:
        path = self.path if self.stages.proven is None and self.state != "live" else ANY_PATH
        for datagram in datagrams:
            with suppress(CommandsFull):  # dropped, as the network might
                self.place.engine.send(self.place.index, self.place.serial, path, datagram)

    def _connected(self, now: float) -> None:
        engine, index, serial = self.place.engine, self.place.index, self.place.serial
        self.stages.connected = now
        if self.stages.check is not None:
            self._observe("setup_dtls_s", now - self.stages.check)
        if self.dtls.keys is not None and self.pair is None:  # a second pair would begin its packet numbers anew
            self.pair = SRTPPair(self.dtls.keys)
            engine.set_keys(index, serial, self.pair.tx, self.pair.rx)
        elif self.dtls.keys is None and self.negotiated.audio is not None:
            self.dtls.failure = "the client offers no SRTP profile of ours"
            self.end("dtls_failed", now)
            return
        engine.set_reporting(index, serial, False)
        self.flight = []
        self._describe("live")
        if self.negotiated.data is not None:
            self._start_channels()

    def _start_channels(self) -> None:
        data = self.negotiated.data
        assert data is not None
        self.channels = DataChannels(
            dtls_role=self.negotiated.dtls_role,
            remote_port=data.sctp_port,
            remote_max_message=data.max_message_size,
            send=self._send_data,
            on_open=self._channel_open,
            on_message=self._message,
            on_close=self._channel_closed,
        )
        self.channels.start()

    def _send_data(self, packet: bytes) -> None:
        self.dtls.send(packet)
        self._send(self.dtls.take_datagrams())

    def _receive_data(self, now: float) -> None:
        packets = self.dtls.take_received()
        if self.channels is None or self.channels.state == "closed":
            return
        for packet in packets:
            self.channels.receive(packet)
        if self.channels.state == "closed" and not self.channels.failure:
            self._bye(now)  # some clients end the association as they leave, and nothing else

    # -------------------------------------------------------------------------------------------------- data channels

    def _channel_open(self, channel: Channel) -> None:
        self.open_channels.add(channel)
        self.application.opened(channel)

    def _message(self, channel: Channel, message: str | bytes) -> None:
        self.place.slot.count("messages_up")
        self.application.message(channel, message)

    def _channel_closed(self, channel: Channel) -> None:
        self.open_channels.discard(channel)
        self.application.closed(channel)

    # --------------------------------------------------------------------------------------------------- time and end

    def next_timer(self) -> float | None:
        if self.state in ("closing", "gone"):
            return None
        due = self.dtls.next_timer()
        return due if self.bye_at is None else min(self.bye_at, due or self.bye_at)

    def handle_timer(self, now: float) -> None:
        if self.state in ("closing", "gone"):
            return
        if self.bye_at is not None and now >= self.bye_at:
            self.end("bye", now)
            return
        self.dtls.handle_timer(now)
        self._flush(now)

    def end(self, reason: str, now: float) -> None:
        """Says goodbye; the call is over for everybody but the hot thread, which confirms with `closed`."""
        if self.state in ("closing", "gone"):
            return
        self.reason = reason
        if self.channels is not None:
            self.channels.close()
        self.dtls.close(now)
        self._send(self.dtls.take_datagrams())
        self.place.engine.close(self.place.index, self.place.serial)
        self._explain(now)
        self._describe("closing")

    def closed(self) -> None:
        """The hot thread has let go: nothing of this call is used any more."""
        self.pair = None
        self.channels = None
        self.state = "gone"
        self.place.slot.end(self.place.index)

    def _explain(self, now: float) -> None:
        """The one line about this call, and what the histograms keep of it."""
        view = self.place.slot.session(self.place.index)
        self.place.slot.count(f"ended_{self.reason}")
        if view.packets_up:
            self._observe("jitter_s", view.jitter_up_ms / 1e3)
            self._observe("rtt_s", view.rtt_ms / 1e3)
            self._observe("loss_ratio", view.lost_up / (view.packets_up + view.lost_up))
        counts = {name: getattr(view, name) for name in ("packets_up", "packets_down", "lost_up", "lost_down")}
        words = {"client": view.client, "relay": view.relay, "dtls": self.dtls.cipher, "srtp": view.profile}
        words |= {"codec": view.codec, "why": self.dtls.failure}
        fields: dict[str, object] = {name: word for name, word in words.items() if word}
        fields |= {**self._stages_ms(), **counts, "restarts": self.restarts}
        fields |= {"jitter_up_ms": round(view.jitter_up_ms, 1), "rtt_ms": round(view.rtt_ms, 1)}
        seconds = round(now - self.stages.opened, 3)
        event(log, logging.INFO, "call ended", call=self.token, reason=self.reason, seconds=seconds, **fields)

    def _stages_ms(self) -> dict[str, float]:
        """Those that were reached, each from the opening of the call."""
        stages = {"check": self.stages.check, "ice": self.stages.proven, "dtls": self.stages.connected}
        stages["media"] = self.stages.media
        return {
            f"{name}_ms": round(1e3 * (at - self.stages.opened), 1) for name, at in stages.items() if at is not None
        }

    def _describe(self, state: State) -> None:
        self.state = state
        profile = self.dtls.keys.profile if self.dtls.keys else ""
        codec = self.negotiated.audio.codec if self.negotiated.audio else ""
        self.place.slot.describe(self.place.index, state, self.dtls.cipher, profile, codec)

    def _observe(self, histogram: str, seconds: float) -> None:
        self.place.slot.observe(histogram, max(0.0, seconds))


HANDLERS: dict[str, Callable[[Session, int, int, bytes, float], None]] = {
    "check": Session._check,
    "proven": Session._proven,
    "datagram": Session._datagram,
    "media": Session._media,
    "bye": Session._rtcp_bye,
    "expired": Session._expired,
}
