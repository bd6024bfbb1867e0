"""The flow table: (client address, local address) -> next hop and owner, of fixed capacity, in the slot's shared memory.

Layout: a dense array of 96-byte flows, and two open-addressing indexes of 4-byte words, by key and by token. A word holds 8 bits of
hash and the flow's number + 1, so a look-up touches one line of the index and the two lines of the right flow, and all three can be
fetched ahead for a whole batch. 96 + about 16 bytes a flow, all told below 128.

Rules
1. One writer, the slot's worker. Siblings may read (`_fastpath.siblings`), bounded, and take what they read only if the generation did
   not move.
2. Flows never move. A flow's fields are complete before its state is stored, and its state before its index word. What routes a live
   flow changes by one store, so a writer killed anywhere leaves a flow that is whole, or one whose generation is odd.
3. The next writer starts with `flows_repair`: both indexes, the free list, counts and peer references are built anew of the flows.
4. No clock: time is a tick (1/16 s) that the caller passes. No sockets, no STUN.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.atomics cimport prefetch, store8, store16, store32
from _fastpath.exchange cimport Exchange
from _fastpath.peers cimport PeerTable
from _fastpath.siphash cimport SipKey, load_le64, siphash13
from _fastpath.wire.envelope cimport KEY_BYTES

cdef enum FlowState:
    FLOW_FREE = 0
    FLOW_HALF_OPEN = 1                # made by a check, not yet answered by its owner
    FLOW_ESTABLISHED = 2

cdef enum:
    TICKS_PER_SECOND = 16
    NO_FLOW = 0xffffffff
    FLOWS_MAX = 1 << 22               # numbers are 24 bits of an index word; this is as far as rebuilding was measured
    FLOWS_PER_TOKEN = 8
    LIVE_TICKS = 3 * TICKS_PER_SECOND # an established flow heard of this lately is never pushed out

    WORD_EMPTY = 0
    WORD_TOMBSTONE = 0x00ffffff
    WORD_NUMBER = 0x00ffffff          # flow number + 1
    WORD_TAG = 0xff000000

cdef struct Flow:                     # 96 bytes; little-endian but for the key
    uint8_t key[36]                   # as in the envelope, network order
    uint8_t state                     # FlowState, stored last
    uint8_t socket                    # index of the public socket its packets leave from
    uint16_t checked                  # low bits of the tick of the last check with its own token
    uint32_t route                    # next hop (low 16 bits) and owner (high 16), one store
    uint16_t pending_owner            # the owner that a check with another valid token named, maybe the same
    uint16_t generation               # odd while the flow is being made or freed
    uint64_t token                    # keyed fingerprint of its token
    uint64_t pending_token
    uint32_t seen                     # tick of its last packet
    uint32_t answered                 # tick of its owner's last answer to a check
    uint32_t opened                   # tick it was made
    uint32_t bucket                   # rate bucket; not used yet
    uint64_t nonce                    # random bits of the token it was made by, 0 once it has another: names the session
    uint32_t hash                     # of the key; places it in the index
    uint32_t link                     # next flow of the same token, or next free flow

cdef struct FlowsHeader:              # 64 bytes
    uint32_t max_flows
    uint32_t index_mask
    uint32_t high_water               # flows 0..high_water-1 have been used
    uint32_t free_head
    uint32_t established
    uint32_t half_open
    uint32_t sweep_at
    uint32_t key_words                # index words that are not empty, tombstones included
    uint32_t token_words
    uint32_t spare[7]

cdef struct FlowTable:
    FlowsHeader* header
    Flow* flows
    uint32_t* by_key
    uint32_t* by_token
    uint32_t mask
    PeerTable* peers
    uint64_t* events                  # Event counters
    Exchange* exchange                # who is told of flows that are established and that end; NULL: nobody

# What a new flow is made of; `key` is copied.
cdef struct FlowSeed:
    const uint8_t* key
    uint32_t hash
    uint8_t state
    uint8_t socket
    uint16_t next_hop
    uint16_t owner
    uint64_t token
    uint64_t nonce
    uint32_t tick

cdef inline uint16_t next_hop_of(const Flow* flow) noexcept nogil:
    return <uint16_t>flow.route

cdef inline uint16_t owner_of(const Flow* flow) noexcept nogil:
    return <uint16_t>(flow.route >> 16)

cdef inline uint32_t route_word(uint16_t next_hop, uint16_t owner) noexcept nogil:
    return <uint32_t>next_hop | <uint32_t>owner << 16

cdef inline uint32_t key_hash(const SipKey* secret, const uint8_t* key) noexcept nogil:
    return <uint32_t>siphash13(secret, key, KEY_BYTES)

cdef inline bint same_key(const uint8_t* a, const uint8_t* b) noexcept nogil:
    """36 bytes, overlapping words at the end: no branch but the last."""
    return ((load_le64(a) ^ load_le64(b)) | (load_le64(a + 8) ^ load_le64(b + 8)) | (load_le64(a + 16) ^ load_le64(b + 16))
            | (load_le64(a + 24) ^ load_le64(b + 24)) | (load_le64(a + 28) ^ load_le64(b + 28))) == 0

cdef inline void prefetch_word(const FlowTable* table, uint32_t hash) noexcept nogil:
    prefetch(&table.by_key[hash & table.mask])

cdef inline void prefetch_flow(const FlowTable* table, uint32_t hash) noexcept nogil:
    """Second step of fetching ahead: the flow that the first index word names (mostly the right one)."""
    cdef uint32_t number = (table.by_key[hash & table.mask] & WORD_NUMBER) - 1
    if number < table.header.max_flows:
        prefetch(&table.flows[number])
        prefetch(<uint8_t*>&table.flows[number] + 64)

cdef inline Flow* flow_find(const FlowTable* table, const uint8_t* key, uint32_t hash) noexcept nogil:
    """The writer's look-up."""
    cdef uint32_t at = hash & table.mask
    cdef uint32_t word, probe
    cdef Flow* flow
    for probe in range(table.mask + 1):
        word = table.by_key[at]
        if word == WORD_EMPTY:
            return NULL
        if ((word ^ hash) & WORD_TAG) == 0 and (word & WORD_NUMBER) != WORD_TOMBSTONE:
            flow = &table.flows[(word & WORD_NUMBER) - 1]
            if flow.hash == hash and flow.state != FLOW_FREE and same_key(flow.key, key):
                return flow
        at = (at + 1) & table.mask
    return NULL

cdef size_t flows_bytes(uint32_t max_flows) noexcept nogil
cdef void flows_format(uint8_t* memory, uint32_t max_flows) noexcept nogil
cdef void flows_attach(FlowTable* table, uint8_t* memory, PeerTable* peers, uint64_t* events) noexcept nogil
cdef uint32_t flows_repair(FlowTable* table) noexcept nogil
cdef uint32_t flows_sweep(FlowTable* table, uint32_t tick, uint32_t budget, uint32_t flow_ticks, uint32_t half_open_ticks) noexcept nogil
cdef Flow* flow_open(FlowTable* table, const FlowSeed* seed) noexcept nogil
cdef void flow_free(FlowTable* table, Flow* flow) noexcept nogil
cdef void flow_retoken(FlowTable* table, Flow* flow, uint64_t token, uint32_t room) noexcept nogil
cdef void flow_establish(FlowTable* table, Flow* flow) noexcept nogil
cdef void flow_tell(FlowTable* table, const Flow* flow) noexcept nogil
cdef void flow_route(FlowTable* table, Flow* flow, uint16_t next_hop, uint16_t owner) noexcept nogil
cdef void flow_remember(FlowTable* table, Flow* flow, uint16_t owner, uint64_t token) noexcept nogil
cdef bint token_takes(const FlowTable* table, const Flow* flow, uint64_t token, uint32_t room) noexcept nogil
cdef bint token_has_flow(const FlowTable* table, uint64_t token) noexcept nogil
cdef bint token_make_room(FlowTable* table, uint64_t token, uint32_t tick, uint32_t room) noexcept nogil
cdef bint token_yield(FlowTable* table, uint64_t token, uint32_t tick) noexcept nogil
