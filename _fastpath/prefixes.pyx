"""The rate of new flows from one network; see prefixes.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.flows cimport TICKS_PER_SECOND
from _fastpath.siphash cimport siphash13
from _fastpath.wire.address cimport is_mapped

__all__: list[str] = []


cdef int prefixes_make(PrefixBook* book, double most_per_s) except -1:
    """0 a second: no bound."""
    book.paid = NULL
    book.price = 0
    if most_per_s <= 0:
        return 0
    book.price = max(<uint64_t>1, <uint64_t>(TICKS_PER_SECOND * UNIT / most_per_s))
    book.burst = max(<uint64_t>(BURST_S * TICKS_PER_SECOND) * UNIT, BURST_LEAST * book.price)
    book.paid = <uint64_t*>calloc(BUCKETS, sizeof(uint64_t))
    if book.paid == NULL:
        raise MemoryError("no memory for the rates of networks")
    return 0


cdef void prefixes_free(PrefixBook* book) noexcept nogil:
    free(book.paid)
    book.paid = NULL


cdef bint prefix_admits(PrefixBook* book, const SipKey* secret, const uint8_t* client, uint32_t tick) noexcept nogil:
    """Whether the network of `client`, a mapped address, may open another flow now; if so it has."""
    cdef uint8_t prefix[16]
    cdef uint64_t now = <uint64_t>tick * UNIT
    cdef uint64_t* paid
    if book.paid == NULL:
        return True
    memset(prefix, 0, sizeof(prefix))
    memcpy(prefix, client, V4_PREFIX_BYTES if is_mapped(client) else V6_PREFIX_BYTES)
    paid = &book.paid[siphash13(secret, prefix, sizeof(prefix)) & (BUCKETS - 1)]
    # In the past: all is paid for. Further ahead than it can be: ticks have wrapped since.
    if paid[0] < now or paid[0] > now + book.burst + book.price:
        paid[0] = now
    if paid[0] + book.price > now + book.burst:
        return False
    paid[0] += book.price
    return True
