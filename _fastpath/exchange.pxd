"""What a worker's hot thread and its route cache say to each other: two rings of records, one each way, and two eventfds.

Asks, from the hot thread: a look-up (nobody here has a flow for this key), and news: a flow is established, one has ended. Answers, from
the thread that talks to the cache: found, nobody knows, cannot be asked now.

Rules
1. The hot thread never waits. A full ring loses the record, which is counted: a look-up is tried again with the next packet, and whoever
   keeps the cache walks the flow table in any case. News leave half of the ring to look-ups.
2. One thread writes answers and takes asks; the hot thread does the opposite.
3. The rings are private to the process: what was asked by a worker that died is asked again by its successor, which finds in the slot
   what is on hold (`hold`).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.rings cimport Ring
from _fastpath.wire.address cimport Endpoint

cdef enum:
    ASK_LOOKUP = 1
    ASK_ESTABLISHED = 2
    ASK_ENDED = 3
    ANSWER_FOUND = 1
    ANSWER_NONE = 2                   # nobody knows: remembered for a while
    ANSWER_UNAVAILABLE = 3            # the cache cannot be asked: nothing is remembered
    EXCHANGE_BYTES = 1 << 20          # of each ring: some 10,000 records

cdef struct AskRecord:                # 88 bytes
    uint8_t kind
    uint8_t down                      # a look-up for a packet from the internal leg
    uint8_t spare[2]
    uint8_t key[36]
    Endpoint owner
    Endpoint next_hop                 # of a look-up down: who sent the packet
    uint8_t spare_end[4]
    uint64_t nonce

cdef struct AnswerRecord:             # 88 bytes
    uint8_t kind
    uint8_t spare[3]
    uint8_t key[36]
    Endpoint owner
    Endpoint next_hop
    uint8_t spare_end[4]
    uint64_t nonce

cdef struct Exchange:
    Ring* asks
    Ring* answers
    uint64_t* lost                    # counts asks that found no room
    int fd                            # tells the other thread that there are asks
    bint unsaid                       # some were written since it was last told

cdef class Exchanger:
    cdef Exchange exchange
    cdef int wake_fd                  # tells the hot thread that there are answers
    cdef int open_exchange(self, uint64_t* lost, int wake_fd) except -1
    cdef int put_answer(self, bytes key, int kind, object route) except -1

# False when there is no room.
cdef bint exchange_lookup(Exchange* exchange, const uint8_t* key, const Endpoint* sender) noexcept nogil

# `owner` is NULL for a flow that has ended.
cdef void exchange_news(Exchange* exchange, const uint8_t* key, const Endpoint* owner, const Endpoint* next_hop,
                        uint64_t nonce) noexcept nogil

# Tells the other thread, if there is something it was not told of.
cdef void exchange_say(Exchange* exchange) noexcept nogil
