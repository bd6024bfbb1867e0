"""For whom it is worth asking the route cache: look-ups have a rate, and most of it is kept for packets that look real.

Real is the second packet of something continuous: media of the same SSRC with a sequence number a little further, RTCP of that SSRC, DTLS
records of the same epoch. So is what an owner sends, which the caller knows. Everything else is noise until it goes on: it may use a
quarter of the rate, and what exceeds that costs the others nothing.

What a source sent last is remembered in 65,536 places found by the keyed hash of its flow. Under a flood of others some are overwritten;
then the third packet is the second. Whoever imitates media needs two packets for each source, the second in time.
"""

from libc.stdint cimport uint32_t

from _fastpath.batch cimport Packet
from _fastpath.rates cimport Allowance

cdef extern from *:
    """
    #define UFRAG_LOOKUP_BURST_S 0.25
    #define UFRAG_NOISE_SHARE 0.25
    """
    const double BURST_S "UFRAG_LOOKUP_BURST_S"      # so many seconds' look-ups at once
    const double NOISE_SHARE "UFRAG_NOISE_SHARE"

cdef enum:
    TRACES = 1 << 16
    AHEAD_MOST = 256                  # how much further the next sequence number may be

cdef struct Trace:
    uint32_t tag
    uint32_t kind
    uint32_t stream                   # SSRC, or DTLS epoch
    uint32_t number                   # sequence number

cdef struct Interest:
    Trace* traces
    Allowance lookups
    Allowance noise_lookups

cdef int interest_make(Interest* interest, double lookups_per_s) except -1
cdef void interest_free(Interest* interest) noexcept nogil
cdef bint continues(Interest* interest, const Packet* packet) noexcept nogil
cdef bint may_ask(Interest* interest, bint noise, uint32_t tick) noexcept nogil
