"""Holding packets and asking for their flows; the rules stand in hold.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.atomics cimport fence_release, store8, store16, store32, store64
from _fastpath.batch cimport INTERNAL
from _fastpath.exchange cimport exchange_lookup
from _fastpath.flows cimport same_key
from _fastpath.interest cimport continues, interest_free, interest_make, may_ask
from _fastpath.verdicts cimport DOWN_NO_ROUTE, HELD, UP_NO_ROUTE
from _fastpath.wire.envelope cimport KEY_BYTES, envelope_key

__all__: list[str] = []


cdef size_t hold_bytes() noexcept nogil:
    return sizeof(HoldHeader) + HOLD_FLOWS * (sizeof(uint32_t) + sizeof(Waiting)) + <size_t>BLOCKS * BLOCK_BYTES


cdef void hold_format(uint8_t* memory) noexcept nogil:
    """For zeroed memory."""
    cdef HoldHeader* header = <HoldHeader*>memory
    header.flows = HOLD_FLOWS
    header.blocks = BLOCKS
    header.high_water = NO_BLOCK + 1


cdef int hold_attach(Hold* hold, uint8_t* memory, Batch* batch) except -1:
    hold.header = <HoldHeader*>memory
    hold.tags = <uint32_t*>(memory + sizeof(HoldHeader))
    hold.entries = <Waiting*>(hold.tags + HOLD_FLOWS)
    hold.blocks = <uint8_t*>(hold.entries + HOLD_FLOWS)
    hold.batch = batch
    hold.ready = <uint16_t*>calloc(HOLD_FLOWS, sizeof(uint16_t))
    if hold.ready == NULL:
        raise MemoryError("no memory for packets on hold")
    return 0


cdef int hold_open(Hold* hold, Exchange* exchange, double lookups_per_s) except -1:
    """From now on flows are asked for. 0 look-ups a second: no bound."""
    interest_make(&hold.interest, lookups_per_s)
    hold.exchange = exchange
    return 0


cdef void hold_detach(Hold* hold) noexcept nogil:
    interest_free(&hold.interest)
    free(hold.ready)


# --------------------------------------------------------------------------------------------------------------------- entries

cdef inline uint32_t tag_of(uint32_t hash) noexcept nogil:
    return hash if hash else 1


cdef Waiting* hold_find(const Hold* hold, const uint8_t* key, uint32_t hash) noexcept nogil:
    cdef uint32_t i, at
    for i in range(<uint32_t>HOLD_WINDOW):
        at = (hash + i) & (HOLD_FLOWS - 1)
        if hold.tags[at] == tag_of(hash) and same_key(<const uint8_t*>hold.entries[at].key, key):
            return &hold.entries[at]
    return NULL


cdef bint hold_waits(const Hold* hold, const Packet* packet) noexcept nogil:
    cdef Waiting* entry
    if hold.header.asked == 0:
        return False
    entry = hold_find(hold, envelope_key(packet.payload), packet.hash)
    return entry != NULL and entry.state != WAIT_NEGATIVE


cdef uint32_t place_for(const Hold* hold, uint32_t hash, uint32_t tick) noexcept nogil:
    """Where a new entry may stand: free, or what was nobody's for longest; HOLD_FLOWS when all around wait."""
    cdef uint32_t found = HOLD_FLOWS
    cdef uint32_t i, at
    for i in range(<uint32_t>HOLD_WINDOW):
        at = (hash + i) & (HOLD_FLOWS - 1)
        if hold.tags[at] == 0:
            return at
        if hold.entries[at].state == WAIT_NEGATIVE \
                and (found == HOLD_FLOWS or tick - hold.entries[at].tick > tick - hold.entries[found].tick):
            found = at
    return found


cdef void drop_entry(Hold* hold, Waiting* entry) noexcept nogil:
    store32(&hold.tags[entry - hold.entries], 0)
    entry.state = WAIT_FREE


cdef Waiting* make_entry(Hold* hold, uint32_t at, const uint8_t* key, uint32_t hash, WaitState state, uint32_t tick) noexcept nogil:
    cdef Waiting* entry = &hold.entries[at]
    store32(&hold.tags[at], 0)
    fence_release()
    memset(entry, 0, sizeof(Waiting))
    memcpy(entry.key, key, KEY_BYTES)
    entry.state = <uint8_t>state
    entry.tick = tick
    entry.hash = hash
    store32(&hold.tags[at], tag_of(hash))
    return entry


cdef void hold_refuse(Hold* hold, const uint8_t* key, uint32_t hash, uint32_t tick) noexcept nogil:
    cdef Waiting* entry = hold_find(hold, key, hash)
    cdef uint32_t at
    if entry == NULL:
        at = place_for(hold, hash, tick)
        if at < HOLD_FLOWS:
            make_entry(hold, at, key, hash, WAIT_NEGATIVE, tick)
    elif entry.state == WAIT_NEGATIVE:
        entry.tick = tick
    else:
        entry.remember = True
        hold_release(hold, entry, DROP_NO_ROUTE)


# ---------------------------------------------------------------------------------------------------------------------- blocks

cdef inline bint has_room(const Hold* hold, uint32_t length, bint noise) noexcept nogil:
    """What looks like noise leaves three quarters of the blocks to what does not."""
    cdef uint32_t needed = blocks_for(length)
    if noise and hold.header.noise + needed > NOISE_BLOCKS:
        return False
    return hold.header.used + needed < BLOCKS


cdef uint16_t take_block(Hold* hold) noexcept nogil:
    cdef uint32_t block = hold.header.free_head
    if block != NO_BLOCK:
        hold.header.free_head = held_at(hold, block).next
    else:
        block = hold.header.high_water
        hold.header.high_water += 1
    hold.header.used += 1
    held_at(hold, block).next = NO_BLOCK
    return <uint16_t>block


cdef void free_packet(Hold* hold, uint32_t block, bint noise) noexcept nogil:
    """All blocks of a packet."""
    cdef uint32_t following
    while block != NO_BLOCK:
        following = held_at(hold, block).next
        held_at(hold, block).next = <uint16_t>hold.header.free_head
        hold.header.free_head = block
        hold.header.used -= 1
        hold.header.noise -= noise
        block = following


cdef uint16_t copy_in(Hold* hold, const Packet* packet, uint32_t source, const Endpoint* sender, bint noise) noexcept nogil:
    """A packet into blocks of its own; there is room."""
    cdef uint16_t first = take_block(hold)
    cdef HeldPacket* held = held_at(hold, first)
    cdef uint32_t done = min(packet.length, <uint32_t>FIRST_ROOM)
    cdef uint32_t block = first
    cdef uint32_t more
    hold.header.noise += noise * blocks_for(packet.length)
    memset(held, 0, sizeof(HeldPacket))
    held.length = <uint16_t>packet.length
    held.source = <uint8_t>source
    held.place = place_of(hold, packet)
    held.batch = <uint32_t>hold.batch.state.number
    if sender != NULL:
        held.sender = sender[0]
    memcpy(<uint8_t*>held + sizeof(HeldPacket), packet.payload, done)
    while done < packet.length:
        held_at(hold, block).next = take_block(hold)
        block = held_at(hold, block).next
        more = min(packet.length - done, <uint32_t>MORE_ROOM)
        memcpy(<uint8_t*>held_at(hold, block) + 2, packet.payload + done, more)
        done += more
    return first


cdef void hold_read(const Hold* hold, uint32_t block, uint8_t* room) noexcept nogil:
    cdef const HeldPacket* held = held_at(hold, block)
    cdef uint32_t length = held.length
    cdef uint32_t done = min(length, <uint32_t>FIRST_ROOM)
    cdef uint32_t more
    memcpy(room, <const uint8_t*>held + sizeof(HeldPacket), done)
    block = held.next
    while done < length and block != NO_BLOCK:
        more = min(length - done, <uint32_t>MORE_ROOM)
        memcpy(room + done, <const uint8_t*>held_at(hold, block) + 2, more)
        done += more
        block = held_at(hold, block).next


cdef uint8_t put_in(Hold* hold, Waiting* entry, const Packet* packet, uint32_t source, const Endpoint* sender, bint first) noexcept nogil:
    """Into the flow's queue. There is room."""
    cdef uint16_t block = copy_in(hold, packet, source, sender, entry.noise)
    if entry.first == NO_BLOCK:
        store16(&entry.first, block)
        entry.last = block
    elif first:
        held_at(hold, block).follows = entry.first
        store16(&entry.first, block)
    else:
        store16(&held_at(hold, entry.last).follows, block)
        entry.last = block
    entry.count += 1
    entry.sources |= source_bit(source)
    store32(&hold.header.held, hold.header.held + 1)
    return taken_out(hold, packet)


cdef inline uint8_t taken_out(Hold* hold, const Packet* packet) noexcept nogil:
    """Out of the batch's sums."""
    hold.batch.held += 1
    hold.batch.held_bytes += packet.length
    return HELD


cdef inline uint16_t place_of(const Hold* hold, const Packet* packet) noexcept nogil:
    return <uint16_t>(packet - hold.batch.packets)


cdef inline bint is_here(const Hold* hold, uint32_t block, const Packet* packet) noexcept nogil:
    """Whether it was put there by a predecessor, who died before its verdict was written."""
    cdef const HeldPacket* held = held_at(hold, block)
    return held.batch == <uint32_t>hold.batch.state.number and held.place == place_of(hold, packet)


# ---------------------------------------------------------------------------------------------------------------------- asking

cdef uint32_t ask(Hold* hold, const Packet* packet, uint32_t source, const Endpoint* sender, uint32_t tick, Waiting* entry) noexcept nogil:
    """A look-up, and the packet waits for its answer; HELD or a HoldDrop. `entry` is what was known of the flow, NULL for nothing."""
    cdef const uint8_t* key = envelope_key(packet.payload)
    cdef bint noise = sender == NULL and not continues(&hold.interest, packet)
    cdef uint32_t at = <uint32_t>(entry - hold.entries) if entry != NULL else place_for(hold, packet.hash, tick)
    if at >= HOLD_FLOWS or not has_room(hold, packet.length, noise):
        return DROP_FULL
    if not may_ask(&hold.interest, noise, tick) or not exchange_lookup(hold.exchange, key, sender):
        return DROP_LIMITED
    entry = make_entry(hold, at, key, packet.hash, WAIT_ASKED, tick)
    entry.noise = noise
    hold.header.asked += 1
    return put_in(hold, entry, packet, source, sender, False)


cdef uint8_t hold_packet(Hold* hold, const Packet* packet, uint32_t source, const Endpoint* sender, uint32_t tick) noexcept nogil:
    cdef uint8_t no_route = DOWN_NO_ROUTE if source == INTERNAL else UP_NO_ROUTE
    cdef Waiting* entry = hold_find(hold, envelope_key(packet.payload), packet.hash)
    cdef uint32_t result
    if entry == NULL or entry.state == WAIT_NEGATIVE and tick - entry.tick > NEGATIVE_TICKS:
        result = ask(hold, packet, source, sender, tick, entry)
    elif entry.state == WAIT_NEGATIVE:
        result = DROP_NO_ROUTE
    elif is_here(hold, entry.last, packet):
        result = taken_out(hold, packet)
    elif entry.count >= HOLD_PACKETS or not has_room(hold, packet.length, entry.noise):
        result = DROP_FULL
    else:
        result = put_in(hold, entry, packet, source, sender, False)
    return <uint8_t>result if result == HELD else <uint8_t>(no_route + result)


cdef bint hold_check(Hold* hold, const Packet* packet, uint32_t source) noexcept nogil:
    cdef Waiting* entry
    cdef bint ready
    if not hold_waits(hold, packet):
        return False
    entry = hold_find(hold, envelope_key(packet.payload), packet.hash)
    ready = entry.state == WAIT_READY
    hold_release(hold, entry, DROP_EXPIRED)
    if is_here(hold, entry.first, packet) or is_here(hold, entry.last, packet):
        taken_out(hold, packet)
        return True
    if entry.count >= CHAIN_MOST or not has_room(hold, packet.length, False):
        return False
    put_in(hold, entry, packet, source, NULL, not ready)
    return True


# --------------------------------------------------------------------------------------------------------------------- leaving

cdef void hold_release(Hold* hold, Waiting* entry, HoldDrop drop) noexcept nogil:
    if entry.state == WAIT_READY:
        return
    entry.drop = <uint8_t>drop
    store8(&entry.state, WAIT_READY)
    hold.ready[hold.ready_count] = <uint16_t>(entry - hold.entries)
    hold.ready_count += 1


cdef void hold_expire(Hold* hold, uint32_t tick) noexcept nogil:
    """At most once a tick, and only while something waits: a look at 4,096 tags."""
    cdef uint32_t at
    if hold.header.asked == 0 or hold.swept == tick:
        return
    hold.swept = tick
    for at in range(<uint32_t>HOLD_FLOWS):
        if hold.tags[at] and hold.entries[at].state == WAIT_ASKED and tick - hold.entries[at].tick > HOLD_TICKS:
            hold_release(hold, &hold.entries[at], DROP_EXPIRED)


cdef void empty(Hold* hold, Waiting* entry) noexcept nogil:
    """Frees a flow's packets, which have left."""
    cdef uint32_t block = entry.first
    cdef uint32_t following
    store16(&entry.first, NO_BLOCK)
    while block != NO_BLOCK:
        following = held_at(hold, block).follows
        free_packet(hold, block, entry.noise)
        block = following
    store32(&hold.header.held, hold.header.held - entry.count)
    entry.count = 0


cdef void hold_left(Hold* hold, uint32_t tick) noexcept nogil:
    cdef Waiting* entry
    cdef uint32_t i
    for i in range(hold.ready_count):
        entry = &hold.entries[hold.ready[i]]
        empty(hold, entry)
        hold.header.asked -= 1
        if entry.remember:
            entry.tick = tick
            store8(&entry.state, WAIT_NEGATIVE)
        else:
            drop_entry(hold, entry)
    hold.ready_count = 0
