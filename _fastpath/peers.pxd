"""The other ends of the internal leg, interned: owners and next hops, each with a small number and a ready-made sockaddr.

A flow names its owner and next hop by number (2 bytes instead of 18), a send takes its `msg_name` from here without copying, and
packets can be grouped by number. Number 0 means none.

Rules: one writer, in the slot's memory, no pointers inside. A number never changes its meaning while a flow refers to it, nor in the
middle of a batch, whose messages point here: peers without flows stay until the room is wanted, and are then collected between two
batches. Reference counts are recounted from the flows when a new worker attaches, so a writer killed between two stores leaves nothing
wrong.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from _fastpath.siphash cimport SipKey
from _fastpath.wire.address cimport Endpoint

cdef enum:
    NO_PEER = 0
    PEER_NAME_BYTES = 28              # sockaddr_in6
    PEERS_MAX = 65535                 # numbers are 16 bits

cdef struct Peer:                     # 64 bytes, one cache line
    uint8_t name[28]
    uint32_t name_bytes
    uint32_t references
    uint32_t next_free
    Endpoint endpoint
    uint8_t spare[6]

cdef struct PeersHeader:              # 64 bytes
    uint32_t max_peers                # numbers 1..max_peers
    uint32_t index_mask
    uint32_t used                     # numbers 1..used have been given out
    uint32_t free_head                # chain of collected numbers, NO_PEER at its end
    uint32_t wanted                   # nobody could be given a number: collect
    uint32_t spare[11]

cdef struct PeerTable:
    PeersHeader* header
    Peer* peers                       # [0] is never used
    uint16_t* index                   # open addressing by endpoint: a peer's number, 0 empty
    SipKey secret
    int family                        # of the internal socket the names are made for

cdef size_t peers_bytes(uint32_t max_peers) noexcept nogil
cdef void peers_attach(PeerTable* table, uint8_t* memory, const SipKey* secret, int family) noexcept nogil
cdef void peers_format(uint8_t* memory, uint32_t max_peers) noexcept nogil
cdef void peers_recount_begin(PeerTable* table) noexcept nogil
cdef void peers_collect(PeerTable* table) noexcept nogil
cdef uint16_t peer_intern(PeerTable* table, const Endpoint* endpoint) noexcept nogil

cdef inline void peer_hold(PeerTable* table, uint16_t number) noexcept nogil:
    table.peers[number].references += 1      # [0] may count too; nobody reads it

cdef inline void peer_release(PeerTable* table, uint16_t number) noexcept nogil:
    if number <= table.header.max_peers and table.peers[number].references:
        table.peers[number].references -= 1
