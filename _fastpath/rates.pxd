"""How often something may be done: a rate for each network or token, with a burst.

  networks: new flows of each IPv4 /24 and each IPv6 /56. A new flow needs an authentic token, which costs a request at a transceiver;
            this bounds what one place can do with many of them.
  tokens:   what a verified token asks for beside its own flows: a flow, or another session's, from whatever source addresses. Whoever
            chooses those freely has few tokens.

A bucket is one number: the time up to which what was done is paid for (the "theoretical arrival time" of ATM's cell rate algorithm).
Buckets are found by keyed hash, so nobody can aim at another's; two that share one have one rate between them.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.siphash cimport SipKey

cdef enum:
    BUCKETS = 1 << 14
    V4_PREFIX_BYTES = 15              # of a mapped address: /24
    V6_PREFIX_BYTES = 7               # /56
    UNIT = 1 << 16                    # of a tick: time is counted in these

cdef struct RateBook:
    uint64_t* paid                    # BUCKETS times; NULL: no bound
    uint64_t price                    # of doing it once
    uint64_t burst

# One rate, without anybody to tell apart; price 0: no bound.
cdef struct Allowance:
    uint64_t paid
    uint64_t price
    uint64_t burst

# 0 a second: no bound. At once so many seconds' worth may be done, and so many times at least.
cdef int rates_make(RateBook* book, double most_per_s, double burst_s, int burst_least) except -1
cdef void rates_free(RateBook* book) noexcept nogil
cdef uint64_t network_hash(const SipKey* secret, const uint8_t* client) noexcept nogil
cdef bint rate_admits(RateBook* book, uint64_t hash, uint32_t tick) noexcept nogil

cdef Allowance allowance_of(double most_per_s, double burst_s)
cdef bint allowance_admits(Allowance* allowance, uint32_t tick) noexcept nogil
