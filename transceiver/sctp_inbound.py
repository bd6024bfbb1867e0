"""The receiving half of an SCTP association: what may come when, what is kept of it, and for how long.

aiortc believes its peer. This half decides, for each chunk of a well-formed packet, whether it may come in the state
the association is in; it keeps fragments by TSN, so that none costs more than the message it completes (aiortc looks
through all it holds, for each); and it bounds what a peer can make us keep. Overridden names are aiortc's (1.16).

Rules: what no honest peer sends is counted in `malformed` and leaves no trace; what comes too late leaves none either.
Behind a gap, what exceeds the window is turned away and comes again; what comes in order must be taken, since it may
complete the rest, so a peer that never completes anything is cut off. `transceiver.sctp_association` is this with
channels and a sending half.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from aiortc import rtcsctptransport as sctp
from aiortc.utils import uint16_add, uint16_gt, uint32_gte

from transceiver import sctp_packets as packets

MAX_STREAMS = 256
WINDOW_BYTES = 1 << 20
MAX_MISORDERED = 1024
MAX_AHEAD = 0xFFFF  # a gap block counts TSNs in 16 bits
MAX_HELD_BYTES = 2 << 20
MAX_HELD_CHUNKS = 1536
MAX_SACK_ENTRIES = (sctp.SCTP_MAX_PACKET_LENGTH - 28) // 4

TSN_MASK = 0xFFFF_FFFF
TSN_HALF = 1 << 31

State = sctp.RTCSctpTransport.State


class Stream(sctp.InboundStream):
    """Fragments of one stream until their message is whole and, if it is an ordered one, its turn has come."""

    def __init__(self) -> None:
        super().__init__()  # of aiortc's, `sequence_number` is in use
        self.held: dict[int, sctp.DataChunk] = {}
        self.starts: dict[int, int] = {}  # sequence number of an ordered message -> TSN of its first fragment
        self.newest: sctp.DataChunk | None = None

    def add_chunk(self, chunk: sctp.DataChunk) -> None:
        self.held[chunk.tsn] = self.newest = chunk
        if chunk.flags & sctp.SCTP_DATA_FIRST_FRAG and not chunk.flags & sctp.SCTP_DATA_UNORDERED:
            self.starts[chunk.stream_seq] = chunk.tsn

    def pop_messages(self) -> Iterator[tuple[int, int, bytes]]:
        newest, self.newest = self.newest, None
        message = self.around(newest) if newest else self.next_in_order()
        while message:
            first = message[0]
            if not first.flags & sctp.SCTP_DATA_UNORDERED:
                if uint16_gt(first.stream_seq, self.sequence_number):
                    return
                if first.stream_seq == self.sequence_number:
                    self.sequence_number = uint16_add(self.sequence_number, 1)
            self.remove(message)
            yield first.stream_id, first.protocol, b"".join(chunk.user_data for chunk in message)
            message = self.next_in_order()

    def around(self, chunk: sctp.DataChunk) -> list[sctp.DataChunk]:
        """The message that the chunk belongs to, if all of it is here (RFC 9260, 6.9: its TSNs are consecutive)."""
        if not chunk.flags & sctp.SCTP_DATA_LAST_FRAG and (chunk.tsn + 1) & TSN_MASK not in self.held:
            return []
        first = self.first_of(chunk)
        return self.from_start(first.tsn) if first else []

    def first_of(self, chunk: sctp.DataChunk) -> sctp.DataChunk | None:
        while not chunk.flags & sctp.SCTP_DATA_FIRST_FRAG:
            before = self.held.get((chunk.tsn - 1) & TSN_MASK)
            if before is None or before.flags & sctp.SCTP_DATA_LAST_FRAG:
                return None
            chunk = before
        return chunk

    def from_start(self, tsn: int) -> list[sctp.DataChunk]:
        message = [self.held[tsn]]
        while not message[-1].flags & sctp.SCTP_DATA_LAST_FRAG:
            tsn = (tsn + 1) & TSN_MASK
            following = self.held.get(tsn)
            if following is None or following.flags & sctp.SCTP_DATA_FIRST_FRAG:
                return []
            message.append(following)
        return message

    def next_in_order(self) -> list[sctp.DataChunk]:
        tsn = self.starts.get(self.sequence_number)
        return [] if tsn is None else self.from_start(tsn)

    def remove(self, chunks: list[sctp.DataChunk]) -> None:
        for chunk in chunks:
            del self.held[chunk.tsn]
            if self.starts.get(chunk.stream_seq) == chunk.tsn:
                del self.starts[chunk.stream_seq]

    def prune_chunks(self, tsn: int) -> int:
        """Forget what a FORWARD TSN has skipped, but for a message that goes on after it (RFC 3758, 3.6)."""
        last = self.held.get(tsn)
        goes_on = last is not None and not last.flags & sctp.SCTP_DATA_LAST_FRAG
        first = self.first_of(last) if last is not None and goes_on else None
        end = first.tsn if first else tsn + 1
        skipped = [chunk for chunk in self.held.values() if (end - 1 - chunk.tsn) & TSN_MASK < TSN_HALF]
        self.remove(skipped)
        return sum(len(chunk.user_data) for chunk in skipped)


class Inbound(sctp.RTCSctpTransport):
    """aiortc's association, receiving with care."""

    malformed = 0
    turned_away = 0

    if TYPE_CHECKING:  # the subclass's: it ends the association

        async def fail(self, reason: str) -> None: ...

    async def _handle_data(self, data: bytes) -> None:
        """`data` is well-formed."""
        try:
            _, _, tag, chunks = sctp.parse_packet(data)
        except ValueError:  # the checksum
            self.malformed += 1
            return
        if tag != (0 if isinstance(chunks[0], sctp.InitChunk) else self._local_verification_tag):
            self.malformed += 1
            return
        for chunk in chunks:
            if self._timely(chunk):
                await self._receive_chunk(chunk)
        if self._sack_needed and self._association_state != State.CLOSED:
            await self._send_sack()

    def _timely(self, chunk: sctp.Chunk) -> bool:
        """Whether this chunk may come now. On a link that delays and repeats packets, one that may not is normal."""
        if self._association_state == State.CLOSED:
            return False
        if isinstance(chunk, sctp.InitChunk):
            # aiortc would start counting TSNs anew. An established peer has no more use for our answer: it is a late
            # copy (RFC 9260, 5.2.2). A peer that restarts comes with a new DTLS connection.
            return self._association_state in (State.COOKIE_WAIT, State.COOKIE_ECHOED)
        if isinstance(chunk, sctp.InitAckChunk | sctp.AbortChunk):
            return True
        if self._last_received_tsn is None:
            return False
        if isinstance(chunk, sctp.CookieEchoChunk):
            return self._association_state in (State.COOKIE_WAIT, State.COOKIE_ECHOED, State.ESTABLISHED)
        if isinstance(chunk, sctp.ReconfigChunk):
            return all(self._expected_request(kind, value) for kind, value in chunk.params)
        return True

    def _expected_request(self, kind: int, value: bytes) -> bool:
        """A request is the last one again or the next (RFC 6525, 5.2.1); a late copy would reset streams in use."""
        if kind not in (packets.RESET_OUTGOING, packets.ADD_OUTGOING):
            return True
        return (int.from_bytes(value[:4], "big") - self._reconfig_response_seq) & TSN_MASK <= 1

    async def _receive_sack_chunk(self, chunk: sctp.SackChunk) -> None:
        newest = self._local_tsn - 1 - len(self._outbound_queue)
        outstanding = (newest - chunk.cumulative_tsn) & TSN_MASK
        if outstanding >= TSN_HALF or (chunk.gaps and chunk.gaps[-1][1] > outstanding):
            self.malformed += 1  # it acknowledges what was never sent
        else:
            await super()._receive_sack_chunk(chunk)

    # Data

    async def _receive_data_chunk(self, chunk: sctp.DataChunk) -> None:
        if self._beyond_window(chunk.tsn):
            self._sack_needed = True
            self.turned_away += 1
        elif chunk.stream_id not in self._inbound_streams and len(self._inbound_streams) >= MAX_STREAMS:
            # RFC 9260, 6.5: data of an invalid stream is acknowledged and thrown away.
            self._sack_needed = True
            self.malformed += 1
            self._mark_received(chunk.tsn)
            await self._reset_deferred_streams()
        else:
            await super()._receive_data_chunk(chunk)
            if self._holds_too_much():
                await self.fail("the peer never completes its messages")

    def _beyond_window(self, tsn: int) -> bool:
        ahead = (tsn - cast(int, self._last_received_tsn)) & TSN_MASK
        if ahead <= 1 or ahead > TSN_HALF:  # the next one, or an old one; at TSN_HALF it is neither to aiortc
            return False
        return ahead > MAX_AHEAD or self._advertised_rwnd <= 0 or len(self._sack_misordered) >= MAX_MISORDERED

    def _holds_too_much(self) -> bool:
        held_bytes = WINDOW_BYTES - self._advertised_rwnd
        if held_bytes <= MAX_HELD_CHUNKS:  # no chunk is empty
            return False
        return held_bytes > MAX_HELD_BYTES or sum(len(each.held) for each in self._streams()) > MAX_HELD_CHUNKS

    def _mark_received(self, tsn: int) -> bool:
        if uint32_gte(cast(int, self._last_received_tsn), tsn) or tsn in self._sack_misordered:
            self._sack_duplicates.append(tsn)
            return True
        self._sack_misordered.add(tsn)
        self._close_gap()
        return False

    def _close_gap(self) -> None:
        while (following := sctp.tsn_plus_one(cast(int, self._last_received_tsn))) in self._sack_misordered:
            self._sack_misordered.remove(following)
            self._last_received_tsn = following

    async def _receive_forward_tsn_chunk(self, chunk: sctp.ForwardTsnChunk) -> None:
        self._sack_needed = True
        if uint32_gte(cast(int, self._last_received_tsn), chunk.cumulative_tsn):
            return
        self._last_received_tsn = last = chunk.cumulative_tsn
        self._sack_misordered = {tsn for tsn in self._sack_misordered if 0 < ((tsn - last) & TSN_MASK) < TSN_HALF}
        self._close_gap()
        for stream_id, sequence in chunk.streams:
            if stream_id in self._inbound_streams or len(self._inbound_streams) < MAX_STREAMS:
                await self._skip_to(self._get_inbound_stream(stream_id), uint16_add(sequence, 1))
        for stream in self._streams():
            self._advertised_rwnd += stream.prune_chunks(self._last_received_tsn)
        await self._reset_deferred_streams()

    async def _skip_to(self, stream: sctp.InboundStream, sequence: int) -> None:
        if uint16_gt(sequence, stream.sequence_number):
            stream.sequence_number = sequence
        for message in stream.pop_messages():
            self._advertised_rwnd += len(message[2])
            await self._receive(*message)

    async def _reset_deferred_streams(self) -> None:
        if self._reconfig_deferred is not None:
            await super()._reset_deferred_streams()
            # aiortc does not give back the window that a reset stream took.
            held = (chunk for stream in self._streams() for chunk in stream.held.values())
            self._advertised_rwnd = WINDOW_BYTES - sum(len(chunk.user_data) for chunk in held)

    def _get_inbound_stream(self, stream_id: int) -> sctp.InboundStream:
        if stream_id not in self._inbound_streams:
            self._inbound_streams[stream_id] = Stream()
        return self._inbound_streams[stream_id]

    def _streams(self) -> list[Stream]:
        return cast(list[Stream], list(self._inbound_streams.values()))

    async def _send_sack(self) -> None:
        """As much as fits a packet, gaps first (RFC 9260, 3.3.4)."""
        gaps: list[tuple[int, int]] = []
        last = cast(int, self._last_received_tsn)
        for ahead in sorted((tsn - last) & TSN_MASK for tsn in self._sack_misordered):
            if gaps and gaps[-1][1] == ahead - 1:
                gaps[-1] = gaps[-1][0], ahead
            elif len(gaps) < MAX_SACK_ENTRIES:
                gaps.append((ahead, ahead))
            else:
                break
        sack = sctp.SackChunk()
        sack.cumulative_tsn = last
        sack.advertised_rwnd = max(0, self._advertised_rwnd)
        sack.gaps = gaps
        sack.duplicates = self._sack_duplicates[: MAX_SACK_ENTRIES - len(gaps)]
        await self._send_chunk(sack)
        self._sack_duplicates.clear()
        self._sack_needed = False
