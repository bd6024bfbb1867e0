"""Interning of owners and next hops; the layout and its rules stand in peers.pxd."""

from libc.string cimport memcmp, memset

from _fastpath.atomics cimport fence_release
from _fastpath.siphash cimport siphash13
from _fastpath.wire.address cimport ENDPOINT_BYTES, to_sockaddr


cdef uint32_t index_words(uint32_t max_peers) noexcept nogil:
    """A power of two, at most half full: probes stay short."""
    cdef uint32_t words = 16
    while words < 2 * max_peers:
        words *= 2
    return words


cdef size_t peers_bytes(uint32_t max_peers) noexcept nogil:
    return sizeof(PeersHeader) + sizeof(Peer) * (<size_t>max_peers + 1) + sizeof(uint16_t) * index_words(max_peers)


cdef void peers_format(uint8_t* memory, uint32_t max_peers) noexcept nogil:
    cdef PeersHeader* header = <PeersHeader*>memory
    memset(memory, 0, peers_bytes(max_peers))
    header.max_peers = max_peers
    header.index_mask = index_words(max_peers) - 1


cdef void peers_attach(PeerTable* table, uint8_t* memory, const SipKey* secret, int family) noexcept nogil:
    table.header = <PeersHeader*>memory
    table.peers = <Peer*>(memory + sizeof(PeersHeader))
    table.index = <uint16_t*>(<uint8_t*>table.peers + sizeof(Peer) * (<size_t>table.header.max_peers + 1))
    table.secret = secret[0]
    table.family = family


cdef void peers_recount_begin(PeerTable* table) noexcept nogil:
    """First half of a recount: the caller then holds every peer its flows refer to and calls `peers_collect`."""
    cdef uint32_t number
    for number in range(table.header.used + 1):
        table.peers[number].references = 0


cdef void place(PeerTable* table, uint16_t number) noexcept nogil:
    cdef uint32_t at = start_of(table, &table.peers[number].endpoint)
    while table.index[at]:
        at = (at + 1) & table.header.index_mask
    table.index[at] = number


cdef void peers_collect(PeerTable* table) noexcept nogil:
    """Frees the numbers that no flow refers to, and builds the index anew of the others. Not while a batch is under way."""
    cdef uint32_t number
    table.header.free_head = NO_PEER
    table.header.wanted = False
    memset(table.index, 0, sizeof(uint16_t) * (<size_t>table.header.index_mask + 1))
    for number in range(table.header.used, 0, -1):
        if table.peers[number].references:
            place(table, <uint16_t>number)
        else:
            table.peers[number].next_free = table.header.free_head
            table.header.free_head = number


cdef uint32_t start_of(PeerTable* table, const Endpoint* endpoint) noexcept nogil:
    return <uint32_t>siphash13(&table.secret, <const uint8_t*>endpoint, ENDPOINT_BYTES) & table.header.index_mask


cdef uint16_t free_number(PeerTable* table) noexcept nogil:
    """A collected number, else a fresh one; NO_PEER when there is none, until the next collection."""
    cdef uint32_t number = table.header.free_head
    if number != NO_PEER:
        table.header.free_head = table.peers[number].next_free
    elif table.header.used < table.header.max_peers:
        table.header.used += 1
        number = table.header.used
    else:
        table.header.wanted = True
    return <uint16_t>number


cdef uint16_t peer_intern(PeerTable* table, const Endpoint* endpoint) noexcept nogil:
    """The number of an endpoint, made on first sight; NO_PEER when there is no room or the family cannot be sent to."""
    cdef uint32_t at = start_of(table, endpoint)
    cdef uint16_t number = table.index[at]
    cdef Peer* peer
    while number:
        if memcmp(&table.peers[number].endpoint, endpoint, ENDPOINT_BYTES) == 0:
            return number
        at = (at + 1) & table.header.index_mask
        number = table.index[at]
    number = free_number(table)
    if number == NO_PEER:
        return NO_PEER
    peer = &table.peers[number]
    fence_release()                   # a sibling that sees the new endpoint also sees that its flow has gone elsewhere
    memset(peer, 0, sizeof(Peer))
    peer.endpoint = endpoint[0]
    peer.name_bytes = to_sockaddr(endpoint.address, endpoint.port, table.family, peer.name)
    place(table, number)
    return number
