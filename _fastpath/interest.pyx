"""Which packets look real, and how often may be asked for them; see interest.pxd."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from _fastpath.rates cimport allowance_admits, allowance_of
from _fastpath.wire.address cimport load_be16, load_be32
from _fastpath.wire.demux cimport DTLS_HEADER_BYTES, KIND_DTLS, KIND_RTP

__all__: list[str] = []

cdef enum:
    RTP_HEADER_BYTES = 12
    KIND_RTCP = 100                   # of a trace, beside the kinds of wire.demux


cdef int interest_make(Interest* interest, double lookups_per_s) except -1:
    """0 a second: no bound."""
    interest.traces = <Trace*>calloc(TRACES, sizeof(Trace))
    if interest.traces == NULL:
        raise MemoryError("no memory for what sources sent last")
    interest.lookups = allowance_of(lookups_per_s, BURST_S)
    interest.noise_lookups = allowance_of(lookups_per_s * NOISE_SHARE, BURST_S)
    return 0


cdef void interest_free(Interest* interest) noexcept nogil:
    free(interest.traces)


cdef inline bint is_ahead(uint32_t number, uint32_t last, uint32_t mask) noexcept nogil:
    return 0 < ((number - last) & mask) <= AHEAD_MOST


cdef bint continues(Interest* interest, const Packet* packet) noexcept nogil:
    """Whether it follows the last packet of its source as media or DTLS records do; it is that last packet from now on. An attacker
    who makes up sources needs two packets for each, and the second in time: others overwrite what is remembered of the first."""
    cdef Trace* trace = &interest.traces[packet.hash & (TRACES - 1)]
    cdef const uint8_t* payload = packet.payload
    cdef Trace now
    cdef bint known = trace.tag == packet.hash
    cdef bint real = False
    now.tag = packet.hash
    if packet.kind == KIND_RTP and 192 <= payload[1] <= 223:
        now.kind, now.stream, now.number = KIND_RTCP, load_be32(payload + 4), 0
        real = known and (trace.kind == KIND_RTP or trace.kind == KIND_RTCP) and trace.stream == now.stream
        if real and trace.kind == KIND_RTP:
            return True                           # the media's own number stays
    elif packet.kind == KIND_RTP and packet.length >= RTP_HEADER_BYTES:
        now.kind, now.stream, now.number = KIND_RTP, load_be32(payload + 8), load_be16(payload + 2)
        real = known and trace.kind == KIND_RTP and trace.stream == now.stream and is_ahead(now.number, trace.number, 0xffff) \
            or known and trace.kind == KIND_RTCP and trace.stream == now.stream
    elif packet.kind == KIND_DTLS and packet.length >= DTLS_HEADER_BYTES:
        now.kind, now.stream, now.number = KIND_DTLS, load_be16(payload + 3), load_be32(payload + 7)
        real = known and trace.kind == KIND_DTLS and trace.stream == now.stream and is_ahead(now.number, trace.number, 0xffffffff)
    else:
        return False
    trace[0] = now
    return real


cdef bint may_ask(Interest* interest, bint noise, uint32_t tick) noexcept nogil:
    """Noise first pays from its own quarter, so that what exceeds that costs the others nothing."""
    if noise and not allowance_admits(&interest.noise_lookups, tick):
        return False
    return allowance_admits(&interest.lookups, tick)
