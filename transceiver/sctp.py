"""Data channels of one session: SCTP over the session's DTLS (RFC 8261), channels upon it (RFC 8831, 8832).

aiortc's RTCSctpTransport is the protocol machine; `Association` stands between it and a hostile peer, `DataChannels`
between it and the session. Packets go in by `receive` and out by `send`, one SCTP packet each.

Rules:
1. aiortc's coroutines wait for nothing but our own `_send_data`, which never waits. So they are driven by hand, to
   their end, inside the caller's call: no task, no queue, order is kept; one that did wait would be a fault of ours.
   Tasks that aiortc makes by itself (after a timer, when a channel is closed) end at the loop's next round.
2. Callbacks run when the coroutine has ended, in the order of events, so they may send, open and close. Only `send` is
   called in the midst of things: it must not call back.
3. What a peer sends never raises; it is counted in `malformed`. What it makes us keep is bounded (`Association`).
4. `close` leaves nothing: no timer, no task beyond the loop's next round, no reference to a callback.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from transceiver.sctp_association import LOCAL_PORT, MAX_MESSAGE_BYTES, Association, Channel, Event, Link
from transceiver.sctp_budget import PROCESS, Budget
from transceiver.sctp_packets import ChannelError, ChannelFull, ChannelOpen, well_formed

__all__ = ["LOCAL_PORT", "MAX_MESSAGE_BYTES", "Channel", "ChannelError", "ChannelFull", "DataChannels"]

Callbacks = tuple[Callable[[Channel], None], Callable[[Channel, str | bytes], None], Callable[[Channel], None]]


class DataChannels:
    """The session's side: to be made and used in a running event loop, started when DTLS is connected."""

    def __init__(
        self,
        *,
        dtls_role: Literal["client", "server"],
        remote_port: int,
        remote_max_message: int,
        send: Callable[[bytes], None],
        on_open: Callable[[Channel], None],
        on_message: Callable[[Channel, str | bytes], None],
        on_close: Callable[[Channel], None],
        budget: Budget = PROCESS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = Link(dtls_role, send)
        self._association = Association(self._link, self._report, self._run, budget)
        self._remote = remote_port, remote_max_message
        self._callbacks: Callbacks | None = (on_open, on_message, on_close)
        self._events: deque[Event] = deque()
        self._running = self._delivering = self._ending = False
        self._malformed = 0

    @property
    def state(self) -> str:
        """ "new", "connecting", "connected" or "closed"; what is closed stays so."""
        return self._association.state

    @property
    def failure(self) -> str:
        """Why we cut the association off; empty if we did not."""
        return self._association.failure

    @property
    def malformed(self) -> int:
        """Packets and chunks thrown away because of what is in them."""
        return self._malformed + self._association.malformed

    def start(self) -> None:
        """Send our INIT: both sides do (RFC 8841, 9.3)."""
        if self.state == "new":
            self._run(self._association.connect(*self._remote))

    def receive(self, packet: bytes) -> None:
        """Take one SCTP packet, the content of a DTLS record; callbacks and answers happen in this call."""
        if not well_formed(packet):
            self._malformed += 1
        elif self.state in ("connecting", "connected"):
            self._run(self._association._handle_data(packet))

    def open(
        self,
        label: str,
        *,
        ordered: bool = True,
        max_retransmits: int | None = None,
        max_packet_life_time: int | None = None,
        protocol: str = "",
    ) -> Channel:
        """A new channel, "connecting" until the peer has acknowledged it; may be called before `start`."""
        opening = ChannelOpen(label, protocol, ordered, max_retransmits, max_packet_life_time)
        channel = self._association.open(opening)
        self._run(self._association._data_channel_flush())
        return channel

    def close(self) -> None:
        """End everything; `on_close` is called for each channel that is not closed yet, then nothing any more."""
        if self._link.sending:  # the coroutine that sends is not done
            self._loop.call_soon(self.close)
        elif not self._ending:
            self._ending = True
            for channel in self._association.channels():
                channel.wanted = False
            self._run(self._association.stop())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Rule 1. If aiortc fails, by a fault of ours or its own, nobody knows the association's state: give it up."""
        if self._running or self._link.sending:
            coroutine.close()
            raise RuntimeError("a call from within `send`")
        self._running = True
        try:
            drive(coroutine)
            if not self._association.settle():
                drive(self._association.fail("this server holds too much for its peers"))
        except Exception as error:
            drive(self._association.fail(repr(error)))
        finally:
            self._running = False
        self._deliver()

    def _report(self, event: Event) -> None:
        self._events.append(event)
        if not self._running:  # a timer or task of aiortc's
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._events and self._callbacks:
                self._call(self._callbacks, *self._events.popleft())
        finally:
            self._delivering = False
            if self._events:  # a callback raised: that is its caller's affair, the others' events are not lost
                self._loop.call_soon(self._deliver)
            elif self._ending:
                self._callbacks = None
                self._association.release()

    def _call(self, callbacks: Callbacks, event: str, channel: Channel, message: str | bytes) -> None:
        on_open, on_message, on_close = callbacks
        if event == "closed":
            if channel.announced:
                on_close(channel)
        elif channel.wanted and event == "open":
            channel.announced = True
            on_open(channel)
        elif channel.wanted:
            on_message(channel, message)


def drive(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("aiortc waits for something that is not ours")
