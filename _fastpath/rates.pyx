"""Rates of networks and tokens; see rates.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.flows cimport TICKS_PER_SECOND
from _fastpath.siphash cimport siphash13
from _fastpath.wire.address cimport is_mapped

__all__: list[str] = []


cdef int rates_make(RateBook* book, double most_per_s, double burst_s, int burst_least) except -1:
    book.paid = NULL
    book.price = 0
    if most_per_s <= 0:
        return 0
    book.price = max(<uint64_t>1, <uint64_t>(TICKS_PER_SECOND * UNIT / most_per_s))
    book.burst = max(<uint64_t>(burst_s * TICKS_PER_SECOND * UNIT), burst_least * book.price)
    book.paid = <uint64_t*>calloc(BUCKETS, sizeof(uint64_t))
    if book.paid == NULL:
        raise MemoryError("no memory for rates")
    return 0


cdef void rates_free(RateBook* book) noexcept nogil:
    free(book.paid)
    book.paid = NULL


cdef uint64_t network_hash(const SipKey* secret, const uint8_t* client) noexcept nogil:
    """Of the network of `client`, a mapped address."""
    cdef uint8_t prefix[16]
    memset(prefix, 0, sizeof(prefix))
    memcpy(prefix, client, V4_PREFIX_BYTES if is_mapped(client) else V6_PREFIX_BYTES)
    return siphash13(secret, prefix, sizeof(prefix))


cdef bint rate_admits(RateBook* book, uint64_t hash, uint32_t tick) noexcept nogil:
    """Whether it may be done once more now; if so it has been."""
    if book.paid == NULL:
        return True
    return pays(&book.paid[hash & (BUCKETS - 1)], book.price, book.burst, tick)


cdef inline bint pays(uint64_t* paid, uint64_t price, uint64_t burst, uint32_t tick) noexcept nogil:
    cdef uint64_t now = <uint64_t>tick * UNIT
    # In the past: all is paid for. Further ahead than it can be: ticks have wrapped since.
    if paid[0] < now or paid[0] > now + burst + price:
        paid[0] = now
    if paid[0] + price > now + burst:
        return False
    paid[0] += price
    return True


cdef Allowance allowance_of(double most_per_s, double burst_s):
    """Rounded so that it is never more, however high the rate."""
    cdef Allowance allowance
    memset(&allowance, 0, sizeof(Allowance))
    if most_per_s > 0:
        allowance.price = <uint64_t>(TICKS_PER_SECOND * UNIT / most_per_s) + 1
        allowance.burst = max(<uint64_t>(burst_s * TICKS_PER_SECOND * UNIT), allowance.price)
    return allowance


cdef bint allowance_admits(Allowance* allowance, uint32_t tick) noexcept nogil:
    return allowance.price == 0 or pays(&allowance.paid, allowance.price, allowance.burst, tick)
