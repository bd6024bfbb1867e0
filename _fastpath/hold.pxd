"""Packets of flows that nobody here knows, held while the route cache is asked.

In the slot's shared memory, so that a worker's successor finds what waits and asks again:

    header | tags | entries, one a flow: asked and waiting, or known to be nobody's | blocks of 256 bytes with held packets

An entry is found by the keyed hash of its flow: a window of 16 tags, one cache line or two, then the one entry that fits. A packet is a
chain of blocks, a flow's packets are a chain of packets; so what is freed out of order leaves no gaps.

Rules
1. Bounded: 4,096 flows, 16 packets each, 2 MiB in all, half a second; nothing waits for any of it. Noise gets a quarter of the bytes.
2. A packet is written before anything leads to it, an entry before its tag. It bears its batch and place, by which a successor that finds
   it without a verdict knows that it is here. Where a packet goes back into a batch, it bears that batch's
   number: a successor tells from it whether the packet still waits here or is the batch's affair. So it is forwarded once, and counted
   once, when it leaves.
3. No clock, no sockets; what a packet contains is `interest`'s affair, which says whether it is worth asking.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.batch cimport Batch, Packet
from _fastpath.exchange cimport Exchange
from _fastpath.flows cimport TICKS_PER_SECOND
from _fastpath.interest cimport Interest
from _fastpath.wire.address cimport Endpoint

cdef enum:
    HOLD_FLOWS = 4096
    HOLD_WINDOW = 16                  # entries a flow may have its place among
    HOLD_PACKETS = 16                 # of a flow
    HOLD_TICKS = TICKS_PER_SECOND >> 1 # shifts, as checked builds make calls of divisions, which no enum can have
    NEGATIVE_TICKS = 2 * TICKS_PER_SECOND
    BLOCKS = 8192
    BLOCK_BYTES = 256
    NO_BLOCK = 0                      # block 0 is never used
    NOISE_BLOCKS = BLOCKS >> 2
    FIRST_ROOM = BLOCK_BYTES - 40     # payload in a packet's first block, behind its HeldPacket
    MORE_ROOM = BLOCK_BYTES - 2       # ... in each further one, behind the number of the next
    CHAIN_MOST = 2 * HOLD_PACKETS     # checks come on top of a flow's packets

cdef enum WaitState:
    WAIT_FREE = 0
    WAIT_ASKED = 1
    WAIT_NEGATIVE = 2                 # nobody knew, a short while ago
    WAIT_READY = 3                    # its packets leave after the batch under way

# What becomes of a packet without a flow, as distances from the direction's `no_route` verdict.
cdef enum HoldDrop:
    DROP_NO_ROUTE = 0
    DROP_EXPIRED = 1
    DROP_FULL = 2
    DROP_LIMITED = 3

cdef struct HoldHeader:               # 64 bytes
    uint32_t flows                    # HOLD_FLOWS, BLOCKS: constants, for readers
    uint32_t blocks
    uint32_t asked                    # entries that wait or are ready
    uint32_t held                     # packets on hold now
    uint32_t free_head                # blocks given back
    uint32_t high_water               # blocks 1..high_water-1 have been used
    uint32_t used                     # blocks in use
    uint32_t noise                    # of these, by flows that do not look real
    uint8_t spare[32]

cdef struct Waiting:                  # 64 bytes
    uint8_t key[36]
    uint8_t state                     # WaitState
    uint8_t noise                     # asked for as such
    uint8_t count                     # packets
    uint8_t drop                      # HoldDrop for packets that have no flow when they leave
    uint32_t tick                     # asked, or known to be nobody's
    uint32_t hash
    uint32_t sources                  # a bit for each public socket, one more for the internal one
    uint16_t first                    # first block of its oldest packet
    uint16_t last                     # ... of its newest
    uint8_t remember                  # becomes NEGATIVE once its packets have left
    uint8_t spare[7]

cdef struct HeldPacket:               # 40 bytes at the beginning of a packet's first block; its payload behind it
    uint16_t next                     # block with the rest of it
    uint16_t follows                  # first block of the flow's next packet
    uint16_t length
    uint8_t source                    # public socket, INTERNAL
    uint8_t spare
    uint64_t taken_in                 # number of the batch it went back into, 0: it waits
    Endpoint sender                   # of a packet from the internal leg
    uint16_t place                    # where it was in the batch it came with ...
    uint32_t batch                    # ... the low bits of that batch's number

cdef struct Hold:
    HoldHeader* header
    uint32_t* tags                    # 0: free; else the flow's hash, or 1 where that is 0
    Waiting* entries
    uint8_t* blocks
    Exchange* exchange                # NULL: no cache, nothing is ever held
    Batch* batch                      # the one whose packets are decided about
    uint16_t* ready                   # entries that are ready, in order
    uint32_t ready_count
    uint32_t swept                    # tick of the last look for what has waited too long
    Interest interest

cdef size_t hold_bytes() noexcept nogil
cdef void hold_format(uint8_t* memory) noexcept nogil
cdef int hold_attach(Hold* hold, uint8_t* memory, Batch* batch) except -1
cdef int hold_open(Hold* hold, Exchange* exchange, double lookups_per_s) except -1
cdef void hold_detach(Hold* hold) noexcept nogil

# The entry of a flow, whatever its state; NULL.
cdef Waiting* hold_find(const Hold* hold, const uint8_t* key, uint32_t hash) noexcept nogil

# Whether packets of the flow wait. Later ones then wait behind them, even if a sibling has the flow by now.
cdef bint hold_waits(const Hold* hold, const Packet* packet) noexcept nogil

# A packet nobody has a flow for: HELD, or why it is dropped. `sender` is NULL for one from a client.
cdef uint8_t hold_packet(Hold* hold, const Packet* packet, uint32_t source, const Endpoint* sender, uint32_t tick) noexcept nogil

# A check that would open a flow whose packets wait: it leaves the hold with them, first of all. False: it cannot, and is dealt with now.
cdef bint hold_check(Hold* hold, const Packet* packet, uint32_t source) noexcept nogil

# Nobody knows the flow.
cdef void hold_refuse(Hold* hold, const uint8_t* key, uint32_t hash, uint32_t tick) noexcept nogil

# The flow's packets leave; those that have no flow then are dropped for this reason.
cdef void hold_release(Hold* hold, Waiting* entry, HoldDrop drop) noexcept nogil

# Entries that have waited too long become ready.
cdef void hold_expire(Hold* hold, uint32_t tick) noexcept nogil

cdef void drop_entry(Hold* hold, Waiting* entry) noexcept nogil

# All ready entries' packets have left.
cdef void hold_left(Hold* hold, uint32_t tick) noexcept nogil

# The payload of a held packet into `room`, which has as much as any payload takes.
cdef void hold_read(const Hold* hold, uint32_t block, uint8_t* room) noexcept nogil

cdef inline HeldPacket* held_at(const Hold* hold, uint32_t block) noexcept nogil:
    return <HeldPacket*>(hold.blocks + <size_t>block * BLOCK_BYTES)

cdef inline uint32_t blocks_for(uint32_t length) noexcept nogil:
    return 1 if length <= FIRST_ROOM else 1 + (length - FIRST_ROOM + MORE_ROOM - 1) // MORE_ROOM

cdef inline uint32_t source_bit(uint32_t source) noexcept nogil:
    """Public sockets are 0 to 15."""
    return <uint32_t>1 << min(source, <uint32_t>16)
