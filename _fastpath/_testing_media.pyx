"""The rings, the wheel and the index of the transceiver's hot path as Python objects, for tests against plain models.

Thin: each method calls the inline function of its name, on memory of its own. Part of the package so that what is tested is what is
shipped; nothing in production imports it. What the C functions take on trust is checked here: a number out of range raises.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.index cimport NO_NUMBER, Index, index_first, index_insert, index_make, index_next, index_remove
from _fastpath.rings cimport (
    RING_HEADER_BYTES, Ring, ring_commit, ring_data, ring_format, ring_peek, ring_pop, ring_reserve, ring_room,
)
from _fastpath.wheel cimport (
    NO_ITEM, WHEEL_SLOTS, Wheel, wheel_ahead, wheel_cancel, wheel_make, wheel_set, wheel_take, wheel_wait_ms,
)

cdef enum:
    GUARD_BYTES = 64
    GUARD = 0xa5


cdef class RingView:
    """A ring of `size` bytes, a power of two, whose positions begin at `start`, a multiple of 8; behind it stand guard bytes."""

    cdef Ring* ring

    def __init__(self, size: int, start: int = 0) -> None:
        if size < 8 or size & (size - 1) or start % 8:
            raise ValueError("a ring's size is a power of two, its start a multiple of 8")
        free(self.ring)
        self.ring = <Ring*>calloc(1, RING_HEADER_BYTES + <size_t>size + GUARD_BYTES)
        if self.ring == NULL:
            raise MemoryError
        ring_format(self.ring, size)
        self.ring.head = self.ring.tail = <uint32_t>start
        memset(ring_data(self.ring) + self.ring.size, GUARD, GUARD_BYTES)

    def __dealloc__(self) -> None:
        free(self.ring)

    def write(self, record: bytes) -> bool:
        """False: full."""
        cdef uint8_t* room = ring_reserve(self.ring, <uint32_t>len(record))
        if room == NULL:
            return False
        memcpy(room, <const uint8_t*>record, len(record))
        ring_commit(self.ring)
        return True

    def reserve(self, length: int) -> bool:
        """Takes room, writes all of it, and does not commit."""
        cdef uint8_t* room = ring_reserve(self.ring, length)
        if room != NULL:
            memset(room, 0xee, length)
        return room != NULL

    def peek(self) -> bytes | None:
        cdef uint32_t length = 0
        cdef uint8_t* record = ring_peek(self.ring, &length)
        return None if record == NULL else bytes(record[:length])

    def pop(self) -> None:
        cdef uint32_t length = 0
        if ring_peek(self.ring, &length) == NULL:
            raise IndexError("nothing to pop")
        ring_pop(self.ring)

    def room(self) -> int:
        return ring_room(self.ring)

    def untouched(self) -> bool:
        """Whether the guard bytes behind the ring are as they were."""
        cdef uint8_t* guard = ring_data(self.ring) + self.ring.size
        return all(guard[i] == GUARD for i in range(GUARD_BYTES))


cdef class WheelView:
    cdef Wheel wheel
    cdef uint32_t items

    def __init__(self, items: int, now_us: int) -> None:
        free(self.wheel.entries)
        self.items = items
        if wheel_make(&self.wheel, self.items, now_us) < 0:
            raise MemoryError

    def __dealloc__(self) -> None:
        free(self.wheel.entries)

    def set(self, item: int, due_us: int) -> None:
        if not 0 <= item < self.items:
            raise IndexError(item)
        wheel_set(&self.wheel, item, due_us)

    def cancel(self, item: int) -> None:
        if not 0 <= item < self.items:
            raise IndexError(item)
        wheel_cancel(&self.wheel, item)

    def take(self, now_us: int) -> int | None:
        cdef uint32_t item = wheel_take(&self.wheel, now_us)
        return None if item == <uint32_t>NO_ITEM else item

    def wait_ms(self, now_us: int, most_ms: int) -> int:
        return wheel_wait_ms(&self.wheel, now_us, most_ms)

    def empty(self) -> bool:
        """Whether no timer is set, by every word that would tell of one."""
        return wheel_ahead(&self.wheel) == <uint32_t>WHEEL_SLOTS \
            and all(self.wheel.first[i] == <uint32_t>NO_ITEM for i in range(WHEEL_SLOTS))


cdef class IndexView:
    cdef Index index

    def __init__(self, most: int) -> None:
        free(self.index.words)
        if index_make(&self.index, most) < 0:
            raise MemoryError

    def __dealloc__(self) -> None:
        free(self.index.words)

    def insert(self, hash: int, number: int) -> None:
        if 2 * self.used() > self.index.mask:
            raise ValueError("the index is half full")
        index_insert(&self.index, hash, number)

    def remove(self, hash: int, number: int) -> None:
        index_remove(&self.index, hash, number)

    def find(self, hash: int) -> list[int]:
        """All numbers of this hash, in the order of the walk."""
        cdef uint32_t at
        cdef uint32_t number = index_first(&self.index, hash, &at)
        found = []
        while number != <uint32_t>NO_NUMBER:
            found.append(number)
            number = index_next(&self.index, hash, &at)
        return found

    def places(self) -> int:
        return self.index.mask + 1

    def used(self) -> int:
        cdef uint32_t i
        return sum(self.index.words[i] != 0 for i in range(self.index.mask + 1))
