"""The media slot as Python sees it: making, reading and steering. The layout stands in media_slot.pxd."""

from bisect import bisect_left
from dataclasses import dataclass

from libc.string cimport memcmp, memcpy, memset

from _fastpath.atomics cimport load32, load64, store32, store64
from _fastpath.batch cimport batch_bytes, batch_format
from _fastpath.outcomes cimport IN_OUTCOMES, OUT_OUTCOMES
from _fastpath.rings cimport ring_format
from _fastpath.verdicts cimport BYTES_UP, PACKETS_UP

from _fastpath.outcomes import IN, OUT
from _fastpath.wire.envelope import unpack_key

TICKS_PER_SECOND = 16
MOST_SESSIONS = SESSIONS_MOST
STATES = ("free", "new", "checking", "handshaking", "live", "closing")
END_REASONS = ("hangup", "bye", "close_notify", "consent_expired", "no_check", "dtls_failed", "dtls_timeout", "drained",
               "admin", "failed", "process_end")
TALLY_NAMES = (
    *(f"ended_{reason}" for reason in END_REASONS),
    "sessions", "restarts", "messages_up", "throttled",
    "http_2xx", "http_3xx", "http_4xx", "http_5xx", "refused_full", "refused_rate", "refused_draining", "refused_offer",
)
SETUP_BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
HISTOGRAM_BOUNDS = {
    "setup_check_s": SETUP_BOUNDS,
    "setup_ice_s": SETUP_BOUNDS,
    "setup_dtls_s": SETUP_BOUNDS,
    "setup_media_s": SETUP_BOUNDS,
    "jitter_s": (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    "loss_ratio": (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    "rtt_s": (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
}
cdef dict TALLY_INDEX = {name: i for i, name in enumerate(TALLY_NAMES)}
cdef dict HISTOGRAM_INDEX = {name: i for i, name in enumerate(HISTOGRAM_BOUNDS)}
cdef dict STATE_INDEX = {name: i for i, name in enumerate(STATES)}
cdef const char* MAGIC = b"UFRAGMED"
assert len(TALLY_NAMES) <= TALLIES_ROOM and len(HISTOGRAM_BOUNDS) <= HISTOGRAMS_ROOM
assert max(map(len, HISTOGRAM_BOUNDS.values())) < BUCKETS_ROOM
assert sizeof(MediaHeader) <= MEDIA_HEADER_ROOM


cdef size_t pages(size_t length) noexcept nogil:
    return (length + 4095) & ~<size_t>4095


def media_slot_bytes(max_sessions: int) -> int:
    """How much memory a slot for `max_sessions` takes."""
    if not 1 <= max_sessions <= SESSIONS_MOST:
        raise ValueError(f"a media slot has 1 to {SESSIONS_MOST} sessions, not {max_sessions}")
    return MEDIA_HEADER_ROOM + pages(batch_bytes()) + pages(max_sessions * sizeof(SessionRow)) \
        + pages(max_sessions * rings_stride())


class MediaSlotError(ValueError):
    """Memory that is no media slot of this build."""


@dataclass(frozen=True)
class SessionView:
    """What may be seen of one session."""

    index: int
    serial: int
    token: str
    state: str
    opened_unix_s: float
    client: str
    relay: str
    cipher: str
    profile: str
    codec: str
    packets_up: int
    packets_down: int
    bytes_up: int
    bytes_down: int
    lost_up: int
    lost_down: int
    jitter_up_ms: float
    jitter_down_ms: float
    rtt_ms: float
    paths: int
    ring_drops: int


cdef void write_word(char* room, size_t size, str word) except *:
    raw = word.encode("utf-8", "replace")[:size - 1]
    memset(room, 0, size)
    memcpy(room, <const char*>raw, len(raw))


cdef str address_text(tuple address):
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


cdef class MediaSlot:
    """A view of a media slot's memory. It keeps the buffer exported, so the mapping cannot be closed under it."""

    def __cinit__(self, buffer) -> None:
        cdef uint8_t[::1] view = buffer
        if view.shape[0] < MEDIA_HEADER_ROOM:
            raise MediaSlotError("too small for a media slot")
        self.buffer = buffer
        self.view = view
        self.memory = &view[0]
        self.header = <MediaHeader*>self.memory
        self.steering = &self.header.steering

    @classmethod
    def create(cls, buffer, max_sessions: int) -> MediaSlot:
        """Formats zeroed memory."""
        cdef MediaSlot slot = cls(buffer)
        if len(buffer) < media_slot_bytes(max_sessions):
            raise MediaSlotError(f"{len(buffer)} bytes are too few for {max_sessions} sessions")
        slot.format(max_sessions)
        return slot

    def format(self, max_sessions: int) -> None:
        cdef MediaHeader* header = self.header
        cdef uint32_t i
        header.layout = 1
        header.max_sessions = max_sessions
        header.batch_at = MEDIA_HEADER_ROOM
        header.views_at = header.batch_at + pages(batch_bytes())
        header.rings_at = header.views_at + pages(max_sessions * sizeof(SessionRow))
        header.total_bytes = media_slot_bytes(max_sessions)
        batch_format(self.memory + header.batch_at)
        for i in range(header.max_sessions):
            ring_format(ring_up(self.memory + header.rings_at, i), AUDIO_RING_BYTES)
            ring_format(ring_down(self.memory + header.rings_at, i), AUDIO_RING_BYTES)
        self.state = <BatchState*>(self.memory + header.batch_at)
        memcpy(header.magic, MAGIC, 8)

    cdef SessionRow* view_at(self, uint32_t index) except NULL:
        if memcmp(self.header.magic, MAGIC, 8) or index >= self.header.max_sessions:
            raise IndexError(index)
        return <SessionRow*>(self.memory + self.header.views_at) + index

    # ------------------------------------------------------------------------------------------------------------- steering

    @property
    def max_sessions(self) -> int:
        return self.header.max_sessions

    @property
    def halted(self) -> bool:
        return load32(&self.header.halted) != 0

    @halted.setter
    def halted(self, value: bool) -> None:
        store32(&self.header.halted, value)

    @property
    def generation(self) -> int:
        return load32(&self.header.generation)

    @generation.setter
    def generation(self, value: int) -> None:
        store32(&self.header.generation, value)

    @property
    def loop_heart(self) -> int:
        """The same of the event loop, once a second."""
        return load32(&self.header.loop_heart)

    @loop_heart.setter
    def loop_heart(self, tick: int) -> None:
        store32(&self.header.loop_heart, tick & 0xffffffff)

    @property
    def shared(self) -> bool:
        """The sockets of HTTP were given to another transceiver, too."""
        return load32(&self.header.shared) != 0

    @shared.setter
    def shared(self, value: bool) -> None:
        store32(&self.header.shared, value)

    @property
    def lingering(self) -> bool:
        """While draining: a connection may still bring a call."""
        return load32(&self.header.lingering) != 0

    @lingering.setter
    def lingering(self, value: bool) -> None:
        store32(&self.header.lingering, value)

    @property
    def drain_until(self) -> int:
        """The tick at which draining ends the calls that are left; 0: never."""
        return load32(&self.header.drain_until)

    @drain_until.setter
    def drain_until(self, tick: int) -> None:
        store32(&self.header.drain_until, tick & 0xffffffff)

    @property
    def loop_busy_ratio(self) -> float:
        return load64(&self.header.loop_busy_ppm) / 1e6

    @loop_busy_ratio.setter
    def loop_busy_ratio(self, value: float) -> None:
        store64(&self.header.loop_busy_ppm, <uint64_t>(value * 1e6))

    @property
    def socket_drops(self) -> int:
        return load64(&self.header.socket_drops)

    @socket_drops.setter
    def socket_drops(self, drops: int) -> None:
        store64(&self.header.socket_drops, drops)

    # ------------------------------------------------------------------------------------------------------------- counting

    def counters(self) -> dict[str, int]:
        """What came and what was sent, by outcome; the first part is consistent in itself."""
        cdef uint32_t active
        cdef uint64_t batch
        while True:
            active = load32(&self.state.active) & 1
            batch = load64(&self.state.counters[active].batch)
            taken = [load64(&self.state.counters[active].value[i]) for i in range(IN_OUTCOMES)]
            packets = load64(&self.state.counters[active].value[PACKETS_UP])
            octets = load64(&self.state.counters[active].value[BYTES_UP])
            if load32(&self.state.active) & 1 == active and load64(&self.state.counters[active].batch) == batch:
                break
        sent = [load64(&self.header.sent[i]) for i in range(OUT_OUTCOMES)]
        return {
            "packets_up": packets,
            "bytes_up": octets,
            "packets_down": sum(n for n, outcome in zip(sent, OUT, strict=True) if not outcome.dropped),
            "bytes_down": load64(&self.header.sent_bytes),
            **{f"up_{outcome.name}": n for outcome, n in zip(IN, taken, strict=True)},
            **{f"down_{outcome.name}": n for outcome, n in zip(OUT, sent, strict=True)},
        }

    def count(self, tally: str, by: int = 1) -> None:
        cdef uint64_t* word = &self.header.tallies[<int>TALLY_INDEX[tally]]
        store64(word, word[0] + <uint64_t>by)

    def totals(self) -> dict[str, int]:
        return {name: load64(&self.header.tallies[i]) for i, name in enumerate(TALLY_NAMES)}

    def observe(self, histogram: str, value: float) -> None:
        cdef Histogram* row = &self.header.histograms[<int>HISTOGRAM_INDEX[histogram]]
        cdef int bucket = bisect_left(HISTOGRAM_BOUNDS[histogram], value)
        store64(&row.counts[bucket], row.counts[bucket] + 1)
        row.total += value

    def histograms(self) -> dict[str, tuple[tuple[float, ...], list[int], float]]:
        """name -> (bounds, how many in each bucket and above the last bound, their sum)."""
        return {
            name: (bounds, [load64(&self.header.histograms[i].counts[j]) for j in range(len(bounds) + 1)],
                   self.header.histograms[i].total)
            for i, (name, bounds) in enumerate(HISTOGRAM_BOUNDS.items())
        }

    # ------------------------------------------------------------------------------------------------------------- sessions

    def begin(self, index: int, token: str, opened_unix_s: float) -> int:
        """Number `index` has a call now; its serial."""
        cdef SessionRow* view = self.view_at(index)
        cdef uint32_t serial = (view.serial + 1) | 1
        memset(view, 0, sizeof(SessionRow))
        write_word(view.token, TOKEN_WORD_ROOM, token)
        view.opened_s = opened_unix_s
        store32(&view.state, STATE_INDEX["new"])
        store32(&view.serial, serial)
        return serial

    def describe(self, index: int, state: str, cipher: str = "", profile: str = "", codec: str = "") -> None:
        cdef SessionRow* view = self.view_at(index)
        if cipher:
            write_word(view.cipher, WORD_ROOM, cipher)
        if profile:
            write_word(view.profile, WORD_ROOM, profile)
        if codec:
            write_word(view.codec, WORD_ROOM, codec)
        store32(&view.state, STATE_INDEX[state])

    def end(self, index: int) -> None:
        cdef SessionRow* view = self.view_at(index)
        store32(&view.state, 0)
        store32(&view.serial, view.serial + (view.serial & 1))

    def session(self, index: int) -> SessionView:
        cdef SessionRow* view = self.view_at(index)
        client, relay = unpack_key(bytes(view.path[:36])) if view.paths else (None, None)
        return SessionView(
            index=index, serial=view.serial, token=view.token.decode("ascii", "replace"),
            state=STATES[min(view.state, len(STATES) - 1)], opened_unix_s=view.opened_s,
            client=address_text(client) if client else "", relay=address_text(relay) if relay else "",
            cipher=view.cipher.decode("utf-8", "replace"), profile=view.profile.decode("utf-8", "replace"),
            codec=view.codec.decode("utf-8", "replace"),
            packets_up=view.packets_up, packets_down=view.packets_down, bytes_up=view.bytes_up, bytes_down=view.bytes_down,
            lost_up=view.lost_up, lost_down=view.lost_down, jitter_up_ms=view.jitter_up_us / 1e3,
            jitter_down_ms=view.jitter_down_us / 1e3, rtt_ms=view.rtt_us / 1e3, paths=view.paths, ring_drops=view.ring_drops,
        )

    def sessions(self) -> list[SessionView]:
        return [self.session(i) for i in range(self.header.max_sessions) if load32(&self.view_at(i).serial) & 1]

    @property
    def open_sessions(self) -> int:
        cdef uint32_t i
        cdef uint32_t count = 0
        for i in range(self.header.max_sessions):
            count += load32(&(<SessionRow*>(self.memory + self.header.views_at) + i).serial) & 1
        return count

    def request_hangup(self, index: int, serial: int) -> bool:
        """For tools; the media process looks when its eventfd is rung. False: that call is over."""
        cdef SessionRow* view = self.view_at(index)
        if not serial & 1 or load32(&view.serial) != serial:
            return False
        store32(&view.hangup, serial)
        return True

    def hangups(self) -> list[tuple[int, int]]:
        """(index, serial) of the calls that tools want ended."""
        return [(i, view.serial) for i in range(self.header.max_sessions)
                if (view := self.view_at(i)).hangup and view.hangup == view.serial]
