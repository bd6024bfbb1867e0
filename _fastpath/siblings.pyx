"""Reading the tables of other workers; the rules stand in siblings.pxd."""

from libc.stdint cimport uint16_t

from _fastpath.atomics cimport fence_acquire, load16, load32, load64, store32, store64
from _fastpath.flows cimport (
    FLOW_ESTABLISHED, FLOW_FREE, FLOWS_PER_TOKEN, WORD_EMPTY, WORD_NUMBER, WORD_TAG, WORD_TOMBSTONE, next_hop_of, owner_of,
    same_key, token_yield,
)

__all__: list[str] = []


cdef inline bint names(const FlowTable* sibling, uint32_t word, uint32_t hash) noexcept nogil:
    """The index word may be of a flow with that hash, and its number is one."""
    return word != WORD_TOMBSTONE and ((word ^ hash) & WORD_TAG) == 0 and 0 < (word & WORD_NUMBER) <= sibling.header.max_flows


cdef bint flow_copy(const FlowTable* sibling, const uint8_t* key, uint32_t hash, FlowCopy* copy) noexcept nogil:
    """A consistent copy of a sibling's established flow, or False. Bounded, and safe against its writer at any point."""
    cdef uint32_t at = hash & sibling.mask
    cdef uint32_t word
    cdef int probe
    for probe in range(SIBLING_PROBES):
        word = load32(&sibling.by_key[at])
        if word == WORD_EMPTY:
            return False
        if names(sibling, word, hash) and copy_stable(sibling, &sibling.flows[(word & WORD_NUMBER) - 1], key, copy):
            return True
        at = (at + 1) & sibling.mask
    return False


cdef bint copy_stable(const FlowTable* sibling, const Flow* flow, const uint8_t* key, FlowCopy* copy) noexcept nogil:
    """Takes flow and endpoints, then looks whether generation and route still stand: a number may have been given anew meanwhile."""
    cdef uint16_t generation = load16(&flow.generation)
    cdef uint32_t peers_most = sibling.peers.header.max_peers
    if generation & 1:
        return False
    copy.flow = flow[0]
    if copy.flow.state != FLOW_ESTABLISHED or not same_key(copy.flow.key, key):
        return False
    if next_hop_of(&copy.flow) > peers_most or owner_of(&copy.flow) > peers_most:
        return False
    copy.next_hop = sibling.peers.peers[next_hop_of(&copy.flow)].endpoint
    copy.owner = sibling.peers.peers[owner_of(&copy.flow)].endpoint
    fence_acquire()
    return load16(&flow.generation) == generation and load32(&flow.route) == copy.flow.route


cdef uint32_t token_flows(const FlowTable* sibling, uint64_t token) noexcept nogil:
    """How many flows of the token a sibling has, `FLOWS_PER_TOKEN` at most. Right but for one that it opens or frees at this moment."""
    cdef uint32_t hash = <uint32_t>token
    cdef uint32_t at = hash & sibling.mask
    cdef uint32_t word, number
    cdef int probe
    for probe in range(SIBLING_PROBES):
        word = load32(&sibling.by_token[at])
        if word == WORD_EMPTY:
            return 0
        if names(sibling, word, hash):
            number = (word & WORD_NUMBER) - 1
            if load64(&sibling.flows[number].token) == token:
                return chain_length(sibling, number, token)
        at = (at + 1) & sibling.mask
    return 0


cdef uint32_t chain_length(const FlowTable* sibling, uint32_t number, uint64_t token) noexcept nogil:
    """From its head on, over flows that are being made or freed; a link that leads elsewhere by now ends it."""
    cdef uint32_t count = 0
    cdef const Flow* flow
    cdef int step
    for step in range(2 * FLOWS_PER_TOKEN):
        if number >= sibling.header.max_flows:
            break
        flow = &sibling.flows[number]
        if load64(&flow.token) != token:
            break
        count += flow.state != FLOW_FREE
        number = load32(&flow.link)
    return min(count, <uint32_t>FLOWS_PER_TOKEN)


cdef void asks_post(Asks* asks, uint64_t token, uint32_t since) noexcept nogil:
    """Once for each token: `since` is what was posted before this tick. A full tick leaves no room for more."""
    cdef uint32_t n
    if asks.posted - since >= <uint32_t>ASKS_KEPT:
        return
    for n in range(asks.posted - since):
        if asks.token[(since + n) % ASKS_KEPT] == token:
            return
    store64(&asks.token[asks.posted % ASKS_KEPT], token)
    store32(&asks.posted, asks.posted + 1)


cdef void asks_serve(const Asks* asks, uint32_t* heard, FlowTable* own, uint32_t tick) noexcept nogil:
    """Lets go of a flow for each token asked for since `heard`, where there is one that is not alive."""
    cdef uint32_t posted = load32(&asks.posted)
    if posted - heard[0] > <uint32_t>ASKS_KEPT:
        heard[0] = posted - ASKS_KEPT
    while heard[0] != posted:
        token_yield(own, load64(&asks.token[heard[0] % ASKS_KEPT]), tick)
        heard[0] += 1
