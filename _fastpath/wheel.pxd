"""A timing wheel: one timer for each of a fixed number of items, in slots of a millisecond. Private memory, one thread.

Setting, cancelling and taking a timer cost a few stores each, however many there are. A timer beyond the wheel's four seconds comes
at its end, early: whoever takes an item looks again what is due and sets it anew.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc

cdef enum:
    WHEEL_SLOTS = 4096
    WHEEL_WORDS = 64                  # WHEEL_SLOTS bits
    WHEEL_TICK_US = 1000
    NO_ITEM = 0xffffffff
    NOT_SET = 0xffffffff

cdef struct WheelEntry:
    uint32_t next
    uint32_t previous
    uint32_t slot                     # NOT_SET: no timer

cdef struct Wheel:
    uint64_t tick                     # everything before it has been taken
    uint32_t first[WHEEL_SLOTS]
    uint64_t used[WHEEL_WORDS]        # a bit for each slot that holds something
    WheelEntry* entries

cdef inline int wheel_make(Wheel* wheel, uint32_t items, uint64_t now_us) noexcept nogil:
    cdef uint32_t i
    wheel.entries = <WheelEntry*>calloc(items, sizeof(WheelEntry))
    if wheel.entries == NULL:
        return -1
    wheel.tick = now_us // WHEEL_TICK_US
    for i in range(<uint32_t>WHEEL_SLOTS):
        wheel.first[i] = NO_ITEM
    for i in range(items):
        wheel.entries[i].slot = NOT_SET
    return 0

cdef inline void wheel_cancel(Wheel* wheel, uint32_t item) noexcept nogil:
    cdef WheelEntry* entry = &wheel.entries[item]
    if entry.slot == <uint32_t>NOT_SET:
        return
    if entry.previous == <uint32_t>NO_ITEM:
        wheel.first[entry.slot] = entry.next
        if entry.next == <uint32_t>NO_ITEM:
            wheel.used[entry.slot // 64] &= ~(<uint64_t>1 << (entry.slot % 64))
    else:
        wheel.entries[entry.previous].next = entry.next
    if entry.next != <uint32_t>NO_ITEM:
        wheel.entries[entry.next].previous = entry.previous
    entry.slot = NOT_SET

cdef inline void wheel_set(Wheel* wheel, uint32_t item, uint64_t due_us) noexcept nogil:
    """The item's only timer; one that is due already comes at the next `wheel_take`."""
    cdef WheelEntry* entry = &wheel.entries[item]
    cdef uint64_t tick = (due_us + WHEEL_TICK_US - 1) // WHEEL_TICK_US
    cdef uint32_t slot
    if tick < wheel.tick:
        tick = wheel.tick
    if tick > wheel.tick + WHEEL_SLOTS - 1:
        tick = wheel.tick + WHEEL_SLOTS - 1
    slot = <uint32_t>(tick % WHEEL_SLOTS)
    if entry.slot == slot:
        return
    wheel_cancel(wheel, item)
    entry.slot = slot
    entry.previous = NO_ITEM
    entry.next = wheel.first[slot]
    if entry.next != <uint32_t>NO_ITEM:
        wheel.entries[entry.next].previous = item
    wheel.first[slot] = item
    wheel.used[slot // 64] |= <uint64_t>1 << (slot % 64)

cdef inline uint32_t wheel_ahead(const Wheel* wheel) noexcept nogil:
    """Ticks from here to the first slot that holds something; WHEEL_SLOTS when none does."""
    cdef uint32_t start = <uint32_t>(wheel.tick % WHEEL_SLOTS)
    cdef uint32_t ahead = 0
    cdef uint32_t slot
    cdef uint64_t word
    while ahead < <uint32_t>WHEEL_SLOTS:
        slot = (start + ahead) % WHEEL_SLOTS
        word = wheel.used[slot // 64] >> (slot % 64)
        if word & 1:
            return ahead
        if word == 0:
            ahead += 64 - slot % 64
        else:
            ahead += 1
    return WHEEL_SLOTS

cdef inline uint32_t wheel_take(Wheel* wheel, uint64_t now_us) noexcept nogil:
    """An item that is due, its timer gone; NO_ITEM when there is none."""
    cdef uint64_t now = now_us // WHEEL_TICK_US
    cdef uint32_t ahead, item
    if now < wheel.tick:
        return NO_ITEM
    ahead = wheel_ahead(wheel)
    if ahead == <uint32_t>WHEEL_SLOTS or wheel.tick + ahead > now:
        wheel.tick = now
        return NO_ITEM
    wheel.tick += ahead
    item = wheel.first[wheel.tick % WHEEL_SLOTS]
    wheel_cancel(wheel, item)
    return item

cdef inline int wheel_wait_ms(const Wheel* wheel, uint64_t now_us, int most_ms) noexcept nogil:
    """How long nothing is due, at most `most_ms`."""
    cdef uint32_t ahead = wheel_ahead(wheel)
    cdef uint64_t due_us
    if ahead == <uint32_t>WHEEL_SLOTS:
        return most_ms
    due_us = (wheel.tick + ahead) * WHEEL_TICK_US
    if due_us <= now_us:
        return 0
    return <int>min(<uint64_t>most_ms, (due_us - now_us + 999) // 1000)
