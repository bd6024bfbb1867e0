"""A media slot: the shared memory of one media process, as the launcher allocates it and every process of the transceiver maps it.

    header | batch state, arena | session views | rings of all sessions

The media process writes it; the admin process and operators' tools read it through `MediaSlot`. A view is what may be seen of a session:
counts and measurements by the hot thread, words (token, cipher, state) by the loop. No key and no password ever stands here. The
rings lie here so that an application's process can map them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.batch cimport BatchState
from _fastpath.outcomes cimport OUT_OUTCOMES
from _fastpath.rings cimport Ring
from _fastpath.steering cimport Steered, Steering

cdef enum:
    MEDIA_HEADER_ROOM = 16384
    AUDIO_RING_BYTES = 4096           # some 700 ms of Opus each way
    SESSIONS_MOST = 65535
    TALLIES_ROOM = 64
    HISTOGRAMS_ROOM = 8
    BUCKETS_ROOM = 32
    TOKEN_WORD_ROOM = 56
    WORD_ROOM = 40

cdef struct Histogram:                # written by the loop
    uint64_t counts[BUCKETS_ROOM]
    double total

cdef struct MediaHeader:
    char magic[8]                     # "UFRAGMED"
    uint32_t layout
    uint32_t max_sessions
    uint64_t batch_at
    uint64_t views_at
    uint64_t rings_at
    uint64_t total_bytes
    uint8_t spare[16]                 # to 64: what launcher and tools write stands on lines of its own
    Steering steering
    uint32_t generation               # of the tokens this process mints
    uint32_t halted                   # the loop has said goodbye for all calls: the hot thread ends
    uint32_t loop_heart               # as the hot thread's `heart`
    uint32_t shared                   # the sockets of HTTP were given to another transceiver, too
    uint32_t lingering                # while draining: a connection may still bring a call
    uint32_t drain_until              # the tick at which draining ends the calls that are left; 0: never
    uint64_t sent[OUT_OUTCOMES]       # by the hot thread
    uint64_t sent_bytes
    uint64_t batches
    uint64_t loop_busy_ppm
    uint64_t socket_drops
    uint64_t tallies[TALLIES_ROOM]
    Histogram histograms[HISTOGRAMS_ROOM]

# What may be seen of a session. The first part is the hot thread's, the second the loop's.
cdef struct SessionRow:
    uint64_t packets_up
    uint64_t bytes_up
    uint64_t packets_down
    uint64_t bytes_down
    uint8_t path[36]                  # the flow key of the path in use: client and relay addresses
    uint32_t lost_up
    uint32_t lost_down
    uint32_t jitter_up_us
    uint32_t jitter_down_us
    uint32_t rtt_us
    uint32_t paths
    uint32_t ring_drops
    uint64_t media_us                 # when the last authenticated media came

    uint32_t serial                   # counts the calls that had this number; odd while one has
    uint32_t state
    uint32_t hangup                   # written by tools: the serial of the call to be ended
    double opened_s                   # since the epoch
    char token[TOKEN_WORD_ROOM]
    char cipher[WORD_ROOM]
    char profile[WORD_ROOM]
    char codec[WORD_ROOM]

cdef class MediaSlot(Steered):
    cdef uint8_t* memory
    cdef MediaHeader* header
    cdef BatchState* state
    cdef object view
    cdef object buffer
    cdef SessionRow* view_at(self, uint32_t index) except NULL

cdef inline size_t rings_stride() noexcept nogil:
    return 2 * (sizeof(Ring) + AUDIO_RING_BYTES)

cdef inline Ring* ring_up(uint8_t* rings, uint32_t index) noexcept nogil:
    return <Ring*>(rings + index * rings_stride())

cdef inline Ring* ring_down(uint8_t* rings, uint32_t index) noexcept nogil:
    return <Ring*>(rings + index * rings_stride() + sizeof(Ring) + AUDIO_RING_BYTES)
