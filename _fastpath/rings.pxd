"""A bounded queue of records between one writer and one reader, in memory that threads or processes may share. No lock, no system call.

    | head, reserved (the writer's line) | tail (the reader's line) | data: records, each 8 bytes of header and its bytes, 8-aligned |

A record never wraps: where the end of the data is too near, a skip record fills it. The writer reserves, fills and commits; the reader
peeks and pops; a full ring refuses, it never overwrites. Positions only grow (modulo 2^32), so full and empty differ.
Used for a session's audio (one ring each way), for commands to the hot thread and for its events.
"""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.atomics cimport load32, store32

cdef enum:
    RING_HEADER_BYTES = 128
    RECORD_HEADER_BYTES = 8
    SKIP = 0xffffffff                 # length of a record that only fills the end

cdef struct Ring:
    uint32_t head                     # written by the writer
    uint32_t reserved                 # where the record under way begins, and how long it is: the writer's alone
    uint32_t reserved_bytes
    uint32_t size                     # of the data, a power of two; constant
    uint8_t spare_writer[48]
    uint32_t tail                     # written by the reader
    uint8_t spare_reader[60]

cdef inline uint8_t* ring_data(Ring* ring) noexcept nogil:
    return <uint8_t*>ring + RING_HEADER_BYTES

cdef inline uint32_t record_bytes(uint32_t length) noexcept nogil:
    return RECORD_HEADER_BYTES + ((length + 7) & ~<uint32_t>7)

cdef inline void ring_format(Ring* ring, uint32_t size) noexcept nogil:
    ring.head = ring.reserved = ring.reserved_bytes = ring.tail = 0
    ring.size = size

cdef inline uint8_t* ring_reserve(Ring* ring, uint32_t length) noexcept nogil:
    """Room for a record; NULL when there is none. Reserving again without committing replaces it."""
    cdef uint32_t needed = record_bytes(length)
    cdef uint32_t head = ring.head
    cdef uint32_t at = head & (ring.size - 1)
    cdef uint32_t to_end = ring.size - at
    cdef uint32_t free_bytes = ring.size - (head - load32(&ring.tail))
    if needed > to_end:
        if needed > free_bytes or to_end > free_bytes - needed:
            return NULL
        (<uint32_t*>(ring_data(ring) + at))[0] = SKIP
        head += to_end
        at = 0
    elif needed > free_bytes:
        return NULL
    ring.reserved = head
    ring.reserved_bytes = needed
    (<uint32_t*>(ring_data(ring) + at))[0] = length
    return ring_data(ring) + at + RECORD_HEADER_BYTES

cdef inline void ring_commit(Ring* ring) noexcept nogil:
    store32(&ring.head, ring.reserved + ring.reserved_bytes)

cdef inline uint32_t ring_room(const Ring* ring) noexcept nogil:
    """Bytes that are free, for a writer that keeps some for what matters more."""
    return ring.size - (ring.head - load32(&ring.tail))

cdef inline uint8_t* ring_peek(Ring* ring, uint32_t* length) noexcept nogil:
    """The oldest record; NULL when there is none. It stays valid until it is popped."""
    cdef uint32_t tail = ring.tail
    cdef uint32_t head = load32(&ring.head)
    cdef uint8_t* record
    if tail == head:
        return NULL
    record = ring_data(ring) + (tail & (ring.size - 1))
    if (<uint32_t*>record)[0] == <uint32_t>SKIP:
        tail += ring.size - (tail & (ring.size - 1))
        store32(&ring.tail, tail)
        if tail == head:
            return NULL
        record = ring_data(ring)
    length[0] = (<uint32_t*>record)[0]
    return record + RECORD_HEADER_BYTES

cdef inline void ring_pop(Ring* ring) noexcept nogil:
    """Frees the record that was peeked at."""
    store32(&ring.tail, ring.tail + record_bytes((<uint32_t*>(ring_data(ring) + (ring.tail & (ring.size - 1))))[0]))
