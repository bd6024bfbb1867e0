"""What a worker reads of the other workers of its relay: flows to take over, and how many flows a token has there.

Rules
1. Reading only: each table has one writer, and that is its own worker. What is to change there is asked for (`Asks`).
2. Every look is bounded and safe at any moment of the writer's: numbers are checked before they are followed, and a copy counts only
   if its generation did not move.

A token has at most 8 flows in the relay, wherever the kernel puts their packets. Who has to refuse a flow because others hold the
token's, asks in its own slot; each of the others, at its next tick, lets go of one flow of that token that is not alive. The client
checks again within half a second, and finds room.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.flows cimport Flow, FlowTable
from _fastpath.wire.address cimport Endpoint

cdef enum:
    SIBLING_PROBES = 64               # bounds what a torn or full index can cost
    ASKS_KEPT = 15                    # of one worker in one tick; more are not heard

# A sibling's flow with its endpoints spelt out, since peer numbers mean something only inside one slot.
cdef struct FlowCopy:
    Flow flow
    Endpoint next_hop
    Endpoint owner

# In each slot, written by its worker: tokens that others are to make room for.
cdef struct Asks:                     # 128 bytes
    uint32_t posted                   # how many ever; the last is token[(posted - 1) % ASKS_KEPT]
    uint32_t spare
    uint64_t token[ASKS_KEPT]

cdef bint flow_copy(const FlowTable* sibling, const uint8_t* key, uint32_t hash, FlowCopy* copy) noexcept nogil
cdef bint copy_stable(const FlowTable* sibling, const Flow* flow, const uint8_t* key, FlowCopy* copy) noexcept nogil
cdef uint32_t token_flows(const FlowTable* sibling, uint64_t token) noexcept nogil
cdef void asks_post(Asks* asks, uint64_t token, uint32_t since) noexcept nogil
cdef void asks_serve(const Asks* asks, uint32_t* heard, FlowTable* own, uint32_t tick) noexcept nogil
