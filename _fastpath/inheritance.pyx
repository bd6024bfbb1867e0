"""What was on hold when a worker died; see inheritance.pxd."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset

from _fastpath.atomics cimport store16
from _fastpath.batch cimport INTERNAL, PAYLOAD_ROOM, STAGE_OPEN
from _fastpath.exchange cimport exchange_lookup
from _fastpath.hold cimport (
    BLOCKS, CHAIN_MOST, DROP_EXPIRED, HOLD_FLOWS, HOLD_WINDOW, NO_BLOCK, WAIT_ASKED, WAIT_NEGATIVE, WAIT_READY, HeldPacket, Waiting,
    blocks_for, drop_entry, held_at, hold_find, hold_release, source_bit,
)
from _fastpath.wire.envelope cimport ENVELOPE_BYTES

__all__: list[str] = []


cdef bint was_taken(const HeldPacket* held, const BatchState* state) noexcept nogil:
    """The packet is in a batch that was counted, or that the successor finds open. A number alone is not enough: it is written before
    the batch is open."""
    if held.taken_in != state.number:
        return 0 < held.taken_in < state.number
    return held.taken_in != 0 and (state.stage == STAGE_OPEN or state.counters[state.active & 1].batch == state.number)


cdef bint is_whole(const Hold* hold, uint32_t block, uint32_t public_count, const uint8_t* marks) noexcept nogil:
    """Whether a packet's blocks are its own and as many as it needs. No writer leaves another one, but what lies in a file may have been
    cut or mixed, and what is said here is about to be believed."""
    cdef const HeldPacket* held = held_at(hold, block)
    cdef uint32_t left = blocks_for(held.length)
    if held.length > PAYLOAD_ROOM - (ENVELOPE_BYTES if held.source == INTERNAL else 0) \
            or held.source >= public_count and held.source != INTERNAL:
        return False
    while block != NO_BLOCK and block < hold.header.high_water and left and not marks[block]:
        block = held_at(hold, block).next
        left -= 1
    return left == 0 and block == NO_BLOCK


cdef void mark_packet(Hold* hold, uint32_t block, uint8_t* marks) noexcept nogil:
    while block != NO_BLOCK:
        marks[block] = 1
        hold.header.used += 1
        block = held_at(hold, block).next


cdef void keep_waiting(Hold* hold, Waiting* entry, const BatchState* state, uint32_t public_count, uint8_t* marks) noexcept nogil:
    """The flow's queue, without the packets that do not wait any more. Whole at any moment: who repairs may be killed, too."""
    cdef uint32_t block = entry.first
    cdef uint32_t used = hold.header.used
    cdef uint32_t looked_at = 0
    cdef HeldPacket* held
    entry.last = NO_BLOCK
    entry.count = 0
    entry.sources = 0
    while block != NO_BLOCK and block < hold.header.high_water and looked_at < CHAIN_MOST:
        held = held_at(hold, block)
        looked_at += 1
        if not was_taken(held, state) and is_whole(hold, block, public_count, marks):
            mark_packet(hold, block, marks)
            held.taken_in = 0
            store16(&entry.first if entry.last == NO_BLOCK else &held_at(hold, entry.last).follows, <uint16_t>block)
            entry.last = <uint16_t>block
            entry.count += 1
            entry.sources |= source_bit(held.source)
        block = held.follows
    store16(&entry.first if entry.last == NO_BLOCK else &held_at(hold, entry.last).follows, NO_BLOCK)
    hold.header.held += entry.count
    hold.header.noise += (hold.header.used - used) * (entry.noise != 0)


cdef void hold_repair(Hold* hold, const BatchState* state, uint32_t public_count, uint32_t tick) noexcept nogil:
    cdef uint8_t marks[BLOCKS]
    cdef Waiting* entry
    cdef uint32_t at
    memset(marks, 0, sizeof(marks))
    hold.ready_count = 0
    hold.header.high_water = min(max(hold.header.high_water, 1u), <uint32_t>BLOCKS)
    hold.header.asked = hold.header.held = hold.header.used = hold.header.noise = 0
    for at in range(<uint32_t>HOLD_FLOWS):
        entry = &hold.entries[at]
        if hold.tags[at] == 0:
            continue
        if not is_in_place(hold, at):
            drop_entry(hold, entry)
            continue
        if entry.state == WAIT_NEGATIVE:
            continue
        keep_waiting(hold, entry, state, public_count, marks)
        if entry.count == 0:
            drop_entry(hold, entry)
        else:
            wait_again(hold, entry, tick)
    free_unmarked(hold, marks)


cdef bint is_in_place(const Hold* hold, uint32_t at) noexcept nogil:
    """Whether an entry is where, and what, its own words say."""
    cdef const Waiting* entry = &hold.entries[at]
    if not WAIT_ASKED <= entry.state <= WAIT_READY or entry.state == WAIT_NEGATIVE and (entry.count or entry.first != NO_BLOCK):
        return False
    return ((at - entry.hash) & (HOLD_FLOWS - 1)) < HOLD_WINDOW and hold_find(hold, <const uint8_t*>entry.key, entry.hash) == entry


cdef void wait_again(Hold* hold, Waiting* entry, uint32_t tick) noexcept nogil:
    """Asked once more, for another half a second. Without a cache, or without room to ask, its packets leave at once."""
    hold.header.asked += 1
    entry.tick = tick
    entry.remember = False
    entry.state = WAIT_ASKED
    if hold.exchange == NULL or not exchange_lookup(hold.exchange, <const uint8_t*>entry.key, NULL):
        hold_release(hold, entry, DROP_EXPIRED)


cdef void free_unmarked(Hold* hold, const uint8_t* marks) noexcept nogil:
    cdef uint32_t block
    hold.header.free_head = NO_BLOCK
    for block in range(hold.header.high_water - 1, 0, -1):
        if not marks[block]:
            held_at(hold, block).next = <uint16_t>hold.header.free_head
            hold.header.free_head = block
