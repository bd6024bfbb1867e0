"""Making, changing, expiring and repairing flows; the layout and its rules stand in flows.pxd."""

from libc.string cimport memcpy, memset

from _fastpath.atomics cimport fence_release
from _fastpath.exchange cimport exchange_news
from _fastpath.peers cimport peer_hold, peer_release, peers_collect, peers_recount_begin
from _fastpath.verdicts cimport FLOWS_CREATED, FLOWS_EVICTED, INDEX_REBUILDS


cdef uint32_t index_words(uint32_t max_flows) noexcept nogil:
    """A power of two, filled to three quarters at most: 5 to 11 bytes a flow and index."""
    cdef uint32_t words = 16
    while <uint64_t>words * 3 < <uint64_t>max_flows * 4:
        words *= 2
    return words


cdef size_t flows_bytes(uint32_t max_flows) noexcept nogil:
    return sizeof(FlowsHeader) + sizeof(Flow) * <size_t>max_flows + 2 * sizeof(uint32_t) * <size_t>index_words(max_flows)


cdef void flows_format(uint8_t* memory, uint32_t max_flows) noexcept nogil:
    """For zeroed memory."""
    cdef FlowsHeader* header = <FlowsHeader*>memory
    header.max_flows = max_flows
    header.index_mask = index_words(max_flows) - 1
    header.free_head = NO_FLOW


cdef void flows_attach(FlowTable* table, uint8_t* memory, PeerTable* peers, uint64_t* events) noexcept nogil:
    table.header = <FlowsHeader*>memory
    table.mask = table.header.index_mask
    table.flows = <Flow*>(memory + sizeof(FlowsHeader))
    table.by_key = <uint32_t*>(<uint8_t*>table.flows + sizeof(Flow) * <size_t>table.header.max_flows)
    table.by_token = table.by_key + table.mask + 1
    table.peers = peers
    table.events = events
    table.exchange = NULL


# ------------------------------------------------------------------------------------------------------------------- the indexes

cdef inline uint32_t number_of(const FlowTable* table, const Flow* flow) noexcept nogil:
    return <uint32_t>(flow - table.flows)


cdef bint index_add(uint32_t* words, uint32_t mask, uint32_t hash, uint32_t number) noexcept nogil:
    """True when an empty word was used, False when a tombstone was."""
    cdef uint32_t at = hash & mask
    cdef uint32_t word = words[at]
    while word != WORD_EMPTY and word != WORD_TOMBSTONE:
        at = (at + 1) & mask
        word = words[at]
    store32(&words[at], (hash & WORD_TAG) | (number + 1))
    return word == WORD_EMPTY


cdef uint32_t index_remove(uint32_t* words, uint32_t mask, uint32_t hash, uint32_t number) noexcept nogil:
    """How many words became empty: with an empty word behind it a removed one needs no tombstone, nor do tombstones before it."""
    cdef uint32_t at = hash & mask
    cdef uint32_t emptied = 0
    while (words[at] & WORD_NUMBER) != number + 1:
        if words[at] == WORD_EMPTY:
            return 0
        at = (at + 1) & mask
    store32(&words[at], WORD_TOMBSTONE)
    if words[(at + 1) & mask] == WORD_EMPTY:
        while words[at] == WORD_TOMBSTONE:
            store32(&words[at], WORD_EMPTY)
            emptied += 1
            at = (at - 1) & mask
    return emptied


cdef void index_replace(uint32_t* words, uint32_t mask, uint32_t hash, uint32_t number, uint32_t by) noexcept nogil:
    """Another flow of the same hash in its place, by one store: siblings that count find the one or the other."""
    cdef uint32_t at = hash & mask
    while (words[at] & WORD_NUMBER) != number + 1:
        if words[at] == WORD_EMPTY:
            return
        at = (at + 1) & mask
    store32(&words[at], (hash & WORD_TAG) | (by + 1))


cdef Flow* chain_head(const FlowTable* table, uint64_t token) noexcept nogil:
    """The first flow of a token."""
    cdef uint32_t hash = <uint32_t>token
    cdef uint32_t at = hash & table.mask
    cdef uint32_t word = table.by_token[at]
    cdef Flow* flow
    while word != WORD_EMPTY:
        if word != WORD_TOMBSTONE and ((word ^ hash) & WORD_TAG) == 0:
            flow = &table.flows[(word & WORD_NUMBER) - 1]
            if flow.token == token:
                return flow
        at = (at + 1) & table.mask
        word = table.by_token[at]
    return NULL


cdef void chain_link(FlowTable* table, Flow* flow) noexcept nogil:
    """Behind the head, so the token's index word need not change."""
    cdef Flow* head = chain_head(table, flow.token)
    if head == NULL:
        flow.link = NO_FLOW
        table.header.token_words += index_add(table.by_token, table.mask, <uint32_t>flow.token, number_of(table, flow))
    elif head != flow:
        flow.link = head.link
        head.link = number_of(table, flow)


cdef void chain_unlink(FlowTable* table, Flow* flow) noexcept nogil:
    cdef Flow* before = chain_head(table, flow.token)
    cdef uint32_t number = number_of(table, flow)
    if before == flow:
        if flow.link != NO_FLOW:
            index_replace(table.by_token, table.mask, <uint32_t>flow.token, number, flow.link)
        else:
            table.header.token_words -= index_remove(table.by_token, table.mask, <uint32_t>flow.token, number)
        return
    while before != NULL and before.link != NO_FLOW:
        if before.link == number:
            before.link = flow.link
            return
        before = &table.flows[before.link]


cdef void rebuild_indexes(FlowTable* table) noexcept nogil:
    """Both indexes anew of the flows, without tombstones. Siblings that look meanwhile may miss: they then have no route, once."""
    cdef uint32_t number
    cdef Flow* flow
    memset(table.by_key, 0, 2 * sizeof(uint32_t) * (<size_t>table.mask + 1))
    table.header.key_words = 0
    table.header.token_words = 0
    for number in range(table.header.high_water):
        flow = &table.flows[number]
        if flow.state != FLOW_FREE:
            table.header.key_words += index_add(table.by_key, table.mask, flow.hash, number)
            chain_link(table, flow)


cdef void keep_indexes_short(FlowTable* table) noexcept nogil:
    """Tombstones that pile up would make misses long. A rebuild takes 3 ms for 131,072 flows, 60 ns each where they do not fit the
    caches any more, and comes after an eighth as many removals as the index has words, at the earliest."""
    cdef uint32_t most = table.mask - table.mask // 8
    if table.header.key_words > most or table.header.token_words > most:
        table.events[INDEX_REBUILDS] += 1
        rebuild_indexes(table)


# ---------------------------------------------------------------------------------------------------------- one flow's life

cdef uint32_t* gauge_of(FlowTable* table, uint8_t state) noexcept nogil:
    return &table.header.established if state == FLOW_ESTABLISHED else &table.header.half_open


cdef Flow* take_free(FlowTable* table) noexcept nogil:
    cdef Flow* flow = NULL
    if table.header.free_head != NO_FLOW:
        flow = &table.flows[table.header.free_head]
        table.header.free_head = flow.link
    elif table.header.high_water < table.header.max_flows:
        flow = &table.flows[table.header.high_water]
        table.header.high_water += 1
    return flow


cdef bint goes_before(const Flow* a, const Flow* b, uint32_t tick) noexcept nogil:
    """Which of a token's flows is pushed out first: half-open ones, then the one unheard of for longest, then the newer."""
    if a.state != b.state:
        return a.state < b.state
    if a.seen != b.seen:
        return tick - a.seen > tick - b.seen
    return tick - a.opened < tick - b.opened


cdef Flow* eviction_victim(const FlowTable* table, uint64_t token, uint32_t tick, uint32_t* count) noexcept nogil:
    """The flow of a token that would be pushed out, NULL if none may be, and how many flows it has."""
    cdef Flow* flow = chain_head(table, token)
    cdef Flow* victim = flow
    count[0] = 0
    while flow != NULL:
        count[0] += 1
        if goes_before(flow, victim, tick):
            victim = flow
        flow = &table.flows[flow.link] if flow.link != NO_FLOW else NULL
    if victim != NULL and victim.state == FLOW_ESTABLISHED and tick - victim.seen <= LIVE_TICKS:
        return NULL
    return victim


cdef bint token_has_flow(const FlowTable* table, uint64_t token) noexcept nogil:
    return chain_head(table, token) != NULL


cdef bint token_takes(const FlowTable* table, const Flow* flow, uint64_t token, uint32_t room) noexcept nogil:
    """The flow is the token's already, or the token has fewer than `room` flows here: nothing need be pushed out for it."""
    cdef uint32_t count
    eviction_victim(table, token, flow.seen, &count)
    return flow.token == token or count < room


cdef bint token_yield(FlowTable* table, uint64_t token, uint32_t tick) noexcept nogil:
    """Pushes out a flow of the token, unless all that it has are alive."""
    cdef uint32_t count
    cdef Flow* victim = eviction_victim(table, token, tick, &count)
    if victim == NULL:
        return False
    table.events[FLOWS_EVICTED] += 1
    flow_free(table, victim)
    return True


cdef bint token_make_room(FlowTable* table, uint64_t token, uint32_t tick, uint32_t room) noexcept nogil:
    """Before a flow is made: the token's own go, as many as needed to have fewer than `room`; False when too many are alive."""
    cdef uint32_t count
    eviction_victim(table, token, tick, &count)
    while count >= room:
        if not token_yield(table, token, tick):
            return False
        count -= 1
    return True


cdef Flow* flow_open(FlowTable* table, const FlowSeed* seed) noexcept nogil:
    """A new flow for a key that has none, of a token that has room for it; NULL when the table is full."""
    cdef Flow* flow
    keep_indexes_short(table)
    flow = take_free(table)
    if flow == NULL:
        return NULL
    store16(&flow.generation, flow.generation | 1)
    fence_release()
    fill(flow, seed)
    peer_hold(table.peers, seed.next_hop)
    peer_hold(table.peers, seed.owner)
    chain_link(table, flow)
    store8(&flow.state, seed.state)
    store16(&flow.generation, flow.generation + 1)
    table.header.key_words += index_add(table.by_key, table.mask, seed.hash, number_of(table, flow))
    gauge_of(table, seed.state)[0] += 1
    table.events[FLOWS_CREATED] += 1
    return flow


cdef void fill(Flow* flow, const FlowSeed* seed) noexcept nogil:
    memcpy(flow.key, seed.key, KEY_BYTES)
    flow.socket = seed.socket
    flow.checked = <uint16_t>seed.tick
    flow.route = route_word(seed.next_hop, seed.owner)
    flow.pending_owner = 0
    flow.token = seed.token
    flow.pending_token = 0
    flow.seen = seed.tick
    flow.answered = seed.tick
    flow.opened = seed.tick
    flow.bucket = 0
    flow.nonce = seed.nonce
    flow.hash = seed.hash


cdef void flow_free(FlowTable* table, Flow* flow) noexcept nogil:
    """Unknown at once to siblings (odd generation, free state), then out of the indexes."""
    cdef uint32_t number = number_of(table, flow)
    gauge_of(table, flow.state)[0] -= 1
    if table.exchange != NULL and flow.state == FLOW_ESTABLISHED:
        exchange_news(table.exchange, <const uint8_t*>flow.key, NULL, NULL, 0)
    store16(&flow.generation, flow.generation | 1)
    store8(&flow.state, FLOW_FREE)
    table.header.key_words -= index_remove(table.by_key, table.mask, flow.hash, number)
    chain_unlink(table, flow)
    peer_release(table.peers, next_hop_of(flow))
    peer_release(table.peers, owner_of(flow))
    peer_release(table.peers, flow.pending_owner)
    flow.link = table.header.free_head
    table.header.free_head = number
    store16(&flow.generation, flow.generation + 1)


cdef void flow_establish(FlowTable* table, Flow* flow) noexcept nogil:
    if flow.state == FLOW_HALF_OPEN:
        table.header.half_open -= 1
        table.header.established += 1
        store8(&flow.state, FLOW_ESTABLISHED)


cdef void flow_tell(FlowTable* table, const Flow* flow) noexcept nogil:
    """The route of an established flow, which is new, to the route cache."""
    if table.exchange != NULL:
        exchange_news(table.exchange, <const uint8_t*>flow.key, &table.peers.peers[owner_of(flow)].endpoint,
                      &table.peers.peers[next_hop_of(flow)].endpoint, flow.nonce)


cdef void flow_retoken(FlowTable* table, Flow* flow, uint64_t token, uint32_t room) noexcept nogil:
    """The flow's session has another token now (ICE restart, or another owner). A token that has its flows already gets no other
    this way: nobody's flow is pushed out by somebody's restart. Its checks are then verified each time, which is all it loses."""
    if flow.token == token or not token_takes(table, flow, token, room):
        return
    keep_indexes_short(table)
    chain_unlink(table, flow)
    flow.token = token
    flow.nonce = 0
    flow.checked = <uint16_t>flow.seen
    chain_link(table, flow)


cdef void flow_route(FlowTable* table, Flow* flow, uint16_t next_hop, uint16_t owner) noexcept nogil:
    cdef uint32_t before = flow.route
    peer_hold(table.peers, next_hop)
    peer_hold(table.peers, owner)
    store32(&flow.route, route_word(next_hop, owner))
    peer_release(table.peers, <uint16_t>before)
    peer_release(table.peers, <uint16_t>(before >> 16))


cdef void flow_remember(FlowTable* table, Flow* flow, uint16_t owner, uint64_t token) noexcept nogil:
    """What a check with another valid token named: an owner and its token, until an answer decides. 0, 0 forgets."""
    if flow.pending_owner != owner:
        peer_hold(table.peers, owner)
        peer_release(table.peers, flow.pending_owner)
        flow.pending_owner = owner
    flow.pending_token = token


# ------------------------------------------------------------------------------------------------------------- the whole table

cdef uint32_t flows_sweep(FlowTable* table, uint32_t tick, uint32_t budget, uint32_t flow_ticks, uint32_t half_open_ticks) noexcept nogil:
    """Looks at the next `budget` flows and frees those not heard of, or not answered, for too long; how many were freed."""
    cdef uint32_t freed = 0
    cdef uint32_t step
    cdef uint32_t at = table.header.sweep_at
    cdef Flow* flow
    for step in range(budget):
        if at >= table.header.high_water:
            at = 0
        flow = &table.flows[at]
        at += 1
        if flow.state == FLOW_ESTABLISHED and tick - flow.seen > flow_ticks or \
                flow.state == FLOW_HALF_OPEN and tick - flow.opened > half_open_ticks:
            flow_free(table, flow)
            freed += 1
    table.header.sweep_at = at
    return freed


cdef uint32_t flows_repair(FlowTable* table) noexcept nogil:
    """What a new writer does first: everything derived is built anew of the flows. How many torn flows were given up."""
    cdef uint32_t number
    cdef uint32_t torn = 0
    cdef Flow* flow
    table.header.free_head = NO_FLOW
    table.header.established = 0
    table.header.half_open = 0
    peers_recount_begin(table.peers)
    for number in range(table.header.high_water):
        flow = &table.flows[table.header.high_water - 1 - number]
        if flow.generation & 1 or not FLOW_FREE < flow.state <= FLOW_ESTABLISHED:
            torn += flow.generation & 1
            forget(table, flow)
            continue
        gauge_of(table, flow.state)[0] += 1
        peer_hold(table.peers, next_hop_of(flow))
        peer_hold(table.peers, owner_of(flow))
        peer_hold(table.peers, flow.pending_owner)
    peers_collect(table.peers)
    rebuild_indexes(table)
    return torn


cdef void forget(FlowTable* table, Flow* flow) noexcept nogil:
    """To the free list, whatever it holds."""
    store8(&flow.state, FLOW_FREE)
    flow.link = table.header.free_head
    table.header.free_head = number_of(table, flow)
    if flow.generation & 1:
        store16(&flow.generation, flow.generation + 1)
