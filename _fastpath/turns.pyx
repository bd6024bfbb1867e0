"""Taking turns with a slot; the rules stand in turns.pxd."""

from _fastpath.atomics cimport load64, store64, swap64, touch
from _fastpath.sockets cimport CLOCK_MONOTONIC, clock_gettime, clock_time, nanosleep

__all__: list[str] = []

cdef enum:
    NAP_NS = 20_000                   # between two looks while the turn is about to change ...
    LONG_NAP_NS = 200_000             # ... and while a predecessor still works on the same CPU
    NS_PER_MS = 1_000_000
    PAGE = 4096

WRITER_DIED = 1 << 63


cdef void nap(long length_ns) noexcept nogil:
    cdef clock_time length
    length.tv_sec, length.tv_nsec = 0, length_ns
    nanosleep(&length, NULL)


cdef uint64_t now_ns() noexcept nogil:
    cdef clock_time now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef int turn_take(Turn* turn, uint64_t own, const uint8_t* slot, uint64_t slot_bytes) noexcept nogil:
    cdef uint64_t epoch, writer
    cdef uint64_t at = 0
    while at < slot_bytes and load64(&turn.epoch) < own:
        touch(slot + at)
        at += PAGE
    store64(&turn.warm, own)
    while True:
        epoch = load64(&turn.epoch)
        if epoch > own:
            return TURN_OVER
        if epoch < own:
            nap(LONG_NAP_NS)
            continue
        writer = load64(&turn.writer)
        if writer == WRITER_NOBODY or writer & WRITER_DIED:
            if swap64(&turn.writer, writer, own):
                return TURN_CLEAN if writer == WRITER_NOBODY else TURN_REPAIR
        nap(NAP_NS)


cdef int turn_yield(Turn* turn, uint64_t own) noexcept nogil:
    cdef uint64_t until_ns = now_ns() + <uint64_t>LINGER_MS * NS_PER_MS
    swap64(&turn.writer, own, WRITER_NOBODY)
    while load64(&turn.writer) == WRITER_NOBODY:
        if load64(&turn.epoch) != own and now_ns() < until_ns:
            nap(NAP_NS)
        elif swap64(&turn.writer, WRITER_NOBODY, own):
            store64(&turn.epoch, own)
            return TURN_CLEAN
    return TURN_OVER


cdef void turn_end(Turn* turn, uint64_t own) noexcept nogil:
    swap64(&turn.writer, own, WRITER_NOBODY)


cdef void turn_died(Turn* turn, uint64_t number) noexcept nogil:
    cdef uint64_t writer = load64(&turn.writer)
    if writer != WRITER_NOBODY and (number == 0 or writer == number):
        swap64(&turn.writer, writer, writer | WRITER_DIED)
