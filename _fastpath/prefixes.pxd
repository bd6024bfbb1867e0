"""How many flows the addresses of one network may open: a rate for each IPv4 /24 and each IPv6 /56, with a burst.

A new flow needs an authentic token, which costs a request at a transceiver; this bounds what one place can do with many of them, or
with one that is repeated. Whoever chooses source addresses freely meets the bound of his token instead.

A bucket is one number: the time up to which what was opened is paid for (the "theoretical arrival time" of ATM's cell rate algorithm).
Buckets are found by keyed hash, so nobody can aim at another network's; two that share one have one rate between them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.siphash cimport SipKey

cdef enum:
    BUCKETS = 1 << 14
    BURST_S = 2                       # what may be opened at once, in seconds of the rate ...
    BURST_LEAST = 16                  # ... and in flows, at least
    V4_PREFIX_BYTES = 15              # of a mapped address: /24
    V6_PREFIX_BYTES = 7               # /56
    UNIT = 1 << 16                    # of a tick: time is counted in these

cdef struct PrefixBook:
    uint64_t* paid                    # BUCKETS times; NULL: no bound
    uint64_t price                    # of one flow
    uint64_t burst

cdef int prefixes_make(PrefixBook* book, double most_per_s) except -1
cdef void prefixes_free(PrefixBook* book) noexcept nogil
cdef bint prefix_admits(PrefixBook* book, const SipKey* secret, const uint8_t* client, uint32_t tick) noexcept nogil
