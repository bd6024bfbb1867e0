"""aiortc's SCTP association, RTCSctpTransport, with what it lacks against hostile peers and on lossy links.

aiortc is the protocol machine: hand-shake, acknowledgements, retransmission, streams and their reset. `Inbound` is the
receiving half; here are channels (RFC 8831, 8832), what is sent, timers and the end. `Channel` is aiortc's
RTCDataChannel without its events, `Link` what aiortc takes for a DTLS transport. Overridden names are aiortc's (1.16).

Rules: whoever drives a coroutine of this file runs it to its end (`transceiver.sctp`, rule 1). What waits to be sent is
bounded, as is what is in flight. A closed association holds nothing and starts nothing.
Importing aiortc brings PyAV with it, 0.5 s and 60 MiB, so the launcher imports this before it forks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

from aiortc import rtcsctptransport as sctp
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsTransport

from transceiver import sctp_packets as packets
from transceiver.sctp_budget import PROCESS, Budget
from transceiver.sctp_inbound import MAX_STREAMS, WINDOW_BYTES, Inbound, State
from transceiver.sctp_packets import ChannelError, ChannelFull, ChannelOpen, parse_open

LOCAL_PORT = 5000
MAX_MESSAGE_BYTES = sctp.LOCAL_MAX_MESSAGE_SIZE  # 262,144, what our SDP promises
# Messages that wait to be sent, all channels together. An empty message costs memory as well, hence a number.
MAX_WAITING_BYTES = 4 << 20
MAX_WAITING_MESSAGES = 16_384
# Sent and not acknowledged, up to 594 KB. aiortc bounds it by its congestion window alone, which counts bytes and which
# an attentive peer can drive up; and it looks through all of it for each packet.
MAX_IN_FLIGHT_CHUNKS = 512

# As dcsctp, the SCTP of Chromium: the minimum of RFC 9260 (16), 1 s, is long for a lost event of a conversation. 0.22 s
# is the longest a peer holds back a SACK, with a margin.
RTO_INITIAL_S = 1.0
RTO_MIN_S = 0.4
RTO_MAX_S = 60.0
SACK_DELAY_S = 0.22

Event = tuple[str, "Channel", str | bytes]
Run = Callable[[Coroutine[Any, Any, None]], None]

# Both of its loggers write every packet at DEBUG level.
logging.getLogger("aiortc").setLevel(logging.WARNING)


class Channel(RTCDataChannel):
    """One data channel; `id` is None until the association has given it one, `state` is one of W3C's four words."""

    def __init__(self, association: Association, opening: ChannelOpen, number: int | None = None) -> None:
        self._association = association
        self.wanted = True  # False: refused, or closed by us; its messages are nobody's
        self.announced = number is None  # its opener, or `on_open`, knows it
        parameters = RTCDataChannelParameters(
            label=opening.label,
            protocol=opening.protocol,
            ordered=opening.ordered,
            maxRetransmits=opening.max_retransmits,
            maxPacketLifeTime=opening.max_packet_life_time,
            id=number,
        )
        super().__init__(association, parameters, False)

    @property
    def state(self) -> str:
        return self.readyState

    @property
    def buffered_bytes(self) -> int:
        return self.bufferedAmount

    def send(self, data: str | bytes) -> None:
        if self.state != "open":
            raise ChannelError(f"the channel is {self.state}")
        self._association.submit(self, data)

    def close(self) -> None:
        """Ask the peer to close as well (RFC 8831, 6.7); the state is "closing" until it has."""
        self.wanted = False
        super().close()

    def _setReadyState(self, state: str) -> None:
        before = self.state
        super()._setReadyState(state)
        if state != before and state in ("open", "closed"):
            self._association.report((state, self, ""))

    def _addBufferedAmount(self, amount: int) -> None:
        super()._addBufferedAmount(amount)
        self._association.waiting_bytes += amount
        self._association.waiting_messages += 1 if amount > 0 else -1


class Link:
    """What aiortc takes for an RTCDtlsTransport: its state, its role, and a way to send."""

    def __init__(self, role: str, send: Callable[[bytes], None]) -> None:
        self.state = "connected"
        self._role = role
        self.send: Callable[[bytes], None] | None = send
        self.sending = False

    def _register_data_receiver(self, receiver: object) -> None:
        """`DataChannels.receive` is the way in."""

    _unregister_data_receiver = _register_data_receiver

    async def _send_data(self, packet: bytes) -> None:
        # Longer than any packet of ours can only be an echo of what the peer chose: a cookie, a heartbeat.
        if self.send is not None and len(packet) <= sctp.SCTP_MAX_PACKET_LENGTH:
            self.sending = True
            try:
                self.send(packet)
            finally:
                self.sending = False


class Association(Inbound):
    """aiortc's association with the checks and bounds it lacks."""

    def __init__(self, link: Link, report: Callable[[Event], None], run: Run, budget: Budget = PROCESS) -> None:
        super().__init__(cast(RTCDtlsTransport, link), port=LOCAL_PORT)
        self._budget = budget
        self._settled_bytes = 0
        self.report = report
        self.run = run
        self.link = link
        self.failure = ""
        self.waiting_bytes = 0
        self.waiting_messages = 0
        self._rto = RTO_INITIAL_S

    def connect(self, remote_port: int, remote_max_message: int) -> Coroutine[Any, Any, None]:
        return self.start(sctp.RTCSctpCapabilities(maxMessageSize=remote_max_message), remote_port)

    # Channels

    async def _receive(self, stream_id: int, pp_id: int, data: bytes) -> None:
        channel = cast("Channel | None", self._data_channels.get(stream_id))
        if pp_id == packets.DCEP:
            await self._receive_dcep(stream_id, channel, data)
        elif channel is None or pp_id not in packets.DECODERS:
            self.malformed += 1
        elif len(data) > MAX_MESSAGE_BYTES:
            self.malformed += 1
            channel.close()
        elif channel.wanted:
            if channel.state == "connecting":  # whoever sends has seen our OPEN: the ACK is late
                channel._setReadyState("open")
            self.report(("message", channel, packets.DECODERS[pp_id](data)))

    async def _receive_dcep(self, stream_id: int, channel: Channel | None, message: bytes) -> None:
        if message == packets.ACK and channel is not None:
            if channel.state == "connecting":
                channel._setReadyState("open")
        elif (
            message[0] == packets.OPEN_MESSAGE
            and channel is None
            and (opening := parse_open(message))
            and len(self._data_channels) < MAX_STREAMS
        ):
            await self._accept(stream_id, opening)
        else:
            self.malformed += 1

    def channels(self) -> list[Channel]:
        unnumbered = [channel for channel, _, _ in self._data_channel_queue if channel.id is None]
        return cast("list[Channel]", [*self._data_channels.values(), *unnumbered])

    def open(self, opening: ChannelOpen) -> Channel:
        if self.state == "closed":
            raise ChannelError("the association is closed")
        if len(self.channels()) >= MAX_STREAMS:
            raise ChannelError(f"{MAX_STREAMS} channels are open")
        try:
            message = opening.encode()
        except ValueError as error:
            raise ChannelError(str(error)) from error
        channel = Channel(self, opening)
        self._data_channel_queue.append((channel, packets.DCEP, message))
        return channel

    async def _accept(self, stream_id: int, opening: ChannelOpen) -> None:
        channel = Channel(self, opening, stream_id)
        self._data_channels[stream_id] = channel
        # RFC 8832, 6: even numbers are the DTLS client's; a stream of the wrong kind is closed and not acknowledged.
        if stream_id % 2 == self._data_channel_id:
            self.malformed += 1
            channel.close()
            return
        channel._setReadyState("open")
        self._data_channel_queue.append((channel, packets.DCEP, packets.ACK))
        await self._data_channel_flush()

    def submit(self, channel: Channel, data: str | bytes) -> None:
        pp_id, payload = packets.encode_message(data)
        limit = min(self._remote_max_message_size or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)
        if len(payload) > limit:
            raise ChannelError(f"a message of {len(payload)} bytes; the most is {limit}")
        if self.waiting_bytes + len(payload) > MAX_WAITING_BYTES or self.waiting_messages >= MAX_WAITING_MESSAGES:
            raise ChannelFull(f"{self.waiting_bytes} bytes in {self.waiting_messages} messages wait already")
        channel._addBufferedAmount(len(payload))
        self._data_channel_queue.append((channel, pp_id, payload))
        self.run(self._data_channel_flush())

    # Outwards, timers, the end

    async def _send_chunk(self, chunk: sctp.Chunk) -> None:
        # RFC 9260, 8.5.1 A: an INIT has no tag. aiortc gives it the peer's, if that is known when it is sent again.
        tag = self._remote_verification_tag
        if isinstance(chunk, sctp.InitChunk):
            self._remote_verification_tag = 0
        await super()._send_chunk(chunk)
        self._remote_verification_tag = tag

    async def _receive_sack_chunk(self, chunk: sctp.SackChunk) -> None:
        # RFC 9260, 6.1 A: no more in flight than the peer has room for, but one packet to ask whether it has.
        self._cwnd = min(self._cwnd, max(chunk.advertised_rwnd, sctp.USERDATA_MAX_LENGTH))
        await super()._receive_sack_chunk(chunk)

    async def _transmit(self) -> None:
        window = self._cwnd
        if len(self._sent_queue) >= MAX_IN_FLIGHT_CHUNKS:
            self._cwnd = min(window, max(self._flight_size, sctp.USERDATA_MAX_LENGTH))
        await super()._transmit()
        self._cwnd = window

    def _update_rto(self, R: float) -> None:
        if 0 <= R < RTO_MAX_S:  # aiortc measures with the wall clock, which may be set
            super()._update_rto(R)
            spread = max(4 * cast(float, self._rttvar), SACK_DELAY_S)
            self._rto = min(max(cast(float, self._srtt) + spread, RTO_MIN_S), RTO_MAX_S)

    def _t1_expired(self) -> None:
        # RFC 9260, 6.3.3 E2. aiortc does not double, so it would give a silent peer up after 9 s, not after 4 minutes.
        self._rto = min(2 * self._rto, RTO_MAX_S)
        super()._t1_expired()

    def _set_state(self, state: State) -> None:
        if state == self._association_state == State.ESTABLISHED:
            return  # the peer says its COOKIE ECHO again: no news
        super()._set_state(state)
        if state == State.ESTABLISHED:
            self._rto = RTO_INITIAL_S
        elif state == State.CLOSED:
            self._forget()

    def _forget(self) -> None:
        """A task that aiortc has made already would otherwise send again, and start a timer that nobody stops."""
        self.link.send = None
        self._forward_tsn_chunk = self._reconfig_deferred = None
        unnumbered = [channel for channel, _, _ in self._data_channel_queue]
        for queue in (self._sent_queue, self._outbound_queue, self._data_channel_queue, self._reconfig_queue):
            queue.clear()
        self._inbound_streams.clear()
        self.settle()
        for channel in unnumbered:
            channel._setReadyState("closed")

    def settle(self) -> bool:
        """Tells the process's budget what is held for this peer: received and not complete, waiting, in flight. False:
        it is too much."""
        received = WINDOW_BYTES - self._advertised_rwnd
        is_closed = self._association_state == State.CLOSED
        held_bytes = 0 if is_closed else received + self.waiting_bytes + self._flight_size
        before, self._settled_bytes = self._settled_bytes, held_bytes
        return self._budget.admits(before, held_bytes)

    def release(self) -> None:
        """Nothing will happen any more: no reference goes back to our maker."""
        self.report = lambda event: None
        self.run = lambda coroutine: coroutine.close()

    async def fail(self, reason: str) -> None:
        self.failure = reason
        await self.stop()

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            self._set_state(State.CLOSED)  # also if `send` raised
