"""What must be true of a relay's slots between any two batches, looked at without the code that keeps it true.

`Audit` walks all flows of all workers after a step: cheap enough for a fuzz target that makes millions of them. It is part of the
package so that it reads the layouts that are shipped; nothing in production imports it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from _fastpath.batch cimport Counters
from _fastpath.flows cimport (
    FLOW_ESTABLISHED,
    FLOW_FREE,
    FLOW_HALF_OPEN,
    FLOWS_PER_TOKEN,
    NO_FLOW,
    WORD_EMPTY,
    WORD_NUMBER,
    WORD_TOMBSTONE,
    Flow,
    FlowTable,
    flow_find,
    flows_attach,
    next_hop_of,
    owner_of,
)
from _fastpath.hold cimport (
    BLOCKS, CHAIN_MOST, HOLD_FLOWS, NO_BLOCK, WAIT_ASKED, WAIT_NEGATIVE, WAIT_READY, Hold, HoldHeader, Waiting, held_at, hold_find,
    source_bit,
)
from _fastpath.peers cimport NO_PEER, PeerTable, peers_attach
from _fastpath.slot cimport Slot
from _fastpath.verdicts cimport BATCH_BUCKETS, BATCHES, COUNTERS, FIRST_DOWN, HELD, PACKETS_DOWN, PACKETS_UP, PENDING, VERDICTS
from _fastpath.wire.address cimport ENDPOINT_BYTES

from _fastpath.wire.envelope import mapped

cdef enum:
    KEY_BYTES = 36
    OWNERS_MAX = 16
    MOST = 1024                       # flows of all workers together

cdef struct Tables:
    FlowTable flows
    PeerTable peers


cdef class Audit:
    """Of the workers of one relay; `owners` are all that its flows may ever lead to."""

    cdef list slots
    cdef uint32_t flows_of_a_session
    cdef uint8_t owners[OWNERS_MAX][ENDPOINT_BYTES]
    cdef uint32_t owner_count
    cdef const Flow* flows[MOST]      # of all workers, during a check
    cdef uint32_t count

    def __init__(self, slots, owners, cached: bool = False) -> None:
        self.slots = list(slots)
        # Some by its token, and as many from the route cache before a check names them.
        self.flows_of_a_session = 2 * FLOWS_PER_TOKEN if cached else FLOWS_PER_TOKEN
        if len(owners) > OWNERS_MAX or sum(slot.max_flows for slot in slots) > MOST:
            raise ValueError("more owners or flows than an audit looks at")
        for address, port in owners:
            endpoint = mapped(address) + port.to_bytes(2, "big")
            memcpy(self.owners[self.owner_count], <const uint8_t*>endpoint, ENDPOINT_BYTES)
            self.owner_count += 1

    def check(self, leaving=()) -> None:
        """AssertionError says what is not true. `leaving` are workers that died while packets left the hold."""
        cdef Tables tables
        cdef Slot slot
        self.count = 0
        for number, slot in enumerate(self.slots):
            attach(&tables, slot)
            check_books(&slot.state.counters[slot.state.active & 1])
            self.check_flows(&tables)
            check_keys(&tables.flows)
            check_chains(&tables.flows)
            check_references(&tables)
            if number not in leaving:
                check_hold(slot.memory + slot.header.hold_at)
        self.check_tokens(by_nonce=False)
        self.check_tokens(by_nonce=True)

    def hops(self, worker: int, key: bytes) -> tuple[bytes, bytes] | None:
        """(next hop, contending owner) of a flow of that worker, 18 bytes each; no contender is 18 zeros."""
        cdef Tables tables
        cdef const Flow* flow
        cdef uint32_t number
        attach(&tables, self.slots[worker])
        for number in range(tables.flows.header.high_water):
            flow = &tables.flows.flows[number]
            if flow.state != FLOW_FREE and memcmp(flow.key, <const uint8_t*>key, KEY_BYTES) == 0:
                return endpoint_of(&tables.peers, next_hop_of(flow)), endpoint_of(&tables.peers, flow.pending_owner)
        return None

    cdef int check_flows(self, Tables* tables) except -1:
        """Counts are those of the flows, and each leads to an owner there may be."""
        cdef uint32_t half_open = 0
        cdef uint32_t established = 0
        cdef uint32_t number
        cdef const Flow* flow
        for number in range(tables.flows.header.high_water):
            flow = &tables.flows.flows[number]
            if flow.state == FLOW_FREE:
                continue
            half_open += flow.state == FLOW_HALF_OPEN
            established += flow.state == FLOW_ESTABLISHED
            self.check_owner(tables, next_hop_of(flow))
            self.check_owner(tables, owner_of(flow))
            if flow.pending_owner != NO_PEER:
                self.check_owner(tables, flow.pending_owner)
            self.flows[self.count] = flow
            self.count += 1
        assert half_open == tables.flows.header.half_open, "half-open flows"
        assert established == tables.flows.header.established, "established flows"
        assert half_open + established + free_flows(&tables.flows) == tables.flows.header.high_water, "free flows"
        return 0

    cdef int check_owner(self, Tables* tables, uint32_t number) except -1:
        cdef uint32_t i
        assert 0 < number <= tables.peers.header.used, "a flow leads to a number that nobody has"
        for i in range(self.owner_count):
            if memcmp(&tables.peers.peers[number].endpoint, self.owners[i], ENDPOINT_BYTES) == 0:
                return 0
        raise AssertionError("a flow leads to somebody who is no owner")

    cdef int check_tokens(self, bint by_nonce) except -1:
        """At most 8 flows of a token in all workers: a flow that a worker took over from a sibling is the same flow."""
        cdef bint copy[MOST]
        cdef uint64_t token
        cdef uint32_t most = self.flows_of_a_session if by_nonce else FLOWS_PER_TOKEN
        cdef uint32_t i, k, with_it
        for i in range(self.count):
            token = name_of(self.flows[i], by_nonce)
            copy[i] = False
            with_it = 0
            for k in range(i):
                if name_of(self.flows[k], by_nonce) == token:
                    with_it += not copy[k]
                    copy[i] |= memcmp(self.flows[k].key, self.flows[i].key, KEY_BYTES) == 0
            assert copy[i] or by_nonce and token == 0 or with_it < most, "more flows of a token than there may be"
        return 0


cdef inline uint64_t name_of(const Flow* flow, bint by_nonce):
    return flow.nonce if by_nonce else flow.token


cdef int attach(Tables* tables, Slot slot) except -1:
    peers_attach(&tables.peers, slot.memory + slot.header.peers_at, &slot.header.secret, 0)
    flows_attach(&tables.flows, slot.memory + slot.header.flows_at, &tables.peers, NULL)
    return 0


cdef bytes endpoint_of(const PeerTable* peers, uint32_t number):
    return (<const uint8_t*>&peers.peers[number].endpoint)[:ENDPOINT_BYTES] if number != NO_PEER else bytes(ENDPOINT_BYTES)


cdef int check_books(const Counters* counters) except -1:
    """Packets in = sum of verdicts, in each direction; batches = sum of the batches of each size."""
    cdef uint64_t up = 0
    cdef uint64_t down = 0
    cdef uint64_t batches = 0
    cdef uint32_t i
    for i in range(PENDING + 1, <uint32_t>VERDICTS):
        if i == HELD:
            continue                  # they are counted when they leave
        if i < FIRST_DOWN:
            up += counters.value[i]
        else:
            down += counters.value[i]
    for i in range(BATCH_BUCKETS, <uint32_t>COUNTERS):
        batches += counters.value[i]
    assert counters.value[PENDING] == 0, "a packet was counted without a verdict"
    assert up == counters.value[PACKETS_UP], "packets up are not the sum of their verdicts"
    assert down == counters.value[PACKETS_DOWN], "packets down are not the sum of their verdicts"
    assert batches == counters.value[BATCHES], "batches are not the sum of those of each size"
    return 0


cdef uint32_t free_flows(const FlowTable* table) except? 0xffffffff:
    cdef uint32_t count = 0
    cdef uint32_t number = table.header.free_head
    while number != NO_FLOW:
        assert number < table.header.high_water and count < table.header.high_water, "the list of free flows leads astray"
        assert table.flows[number].state == FLOW_FREE, "a flow in use is in the list of free ones"
        number = table.flows[number].link
        count += 1
    return count


cdef int check_keys(const FlowTable* table) except -1:
    """Each flow is found by its key, and nothing else is in the index."""
    cdef uint32_t words = 0
    cdef uint32_t used = 0
    cdef uint32_t i
    cdef const Flow* flow
    for i in range(table.mask + 1):
        used += table.by_key[i] != WORD_EMPTY
        words += table.by_key[i] != WORD_EMPTY and table.by_key[i] != WORD_TOMBSTONE
    assert used == table.header.key_words, "words of the index by key"
    assert words == table.header.half_open + table.header.established, "the index by key names more or fewer flows than there are"
    for i in range(table.header.high_water):
        flow = &table.flows[i]
        assert flow.state == FLOW_FREE or flow_find(table, flow.key, flow.hash) == flow, "a flow is not found by its key"
    return 0


cdef int check_chains(const FlowTable* table) except -1:
    """Each flow is in exactly one chain, that of its token, and each chain in the index once."""
    cdef uint32_t linked = 0
    cdef uint32_t used = 0
    cdef uint32_t i, number
    cdef uint64_t token
    for i in range(table.mask + 1):
        used += table.by_token[i] != WORD_EMPTY
        if table.by_token[i] == WORD_EMPTY or table.by_token[i] == WORD_TOMBSTONE:
            continue
        number = (table.by_token[i] & WORD_NUMBER) - 1
        token = table.flows[number].token
        while number != NO_FLOW:
            assert number < table.header.high_water and linked < table.header.high_water, "a chain leads astray"
            assert table.flows[number].state != FLOW_FREE and table.flows[number].token == token, "a chain leads to another token"
            number = table.flows[number].link
            linked += 1
    assert used == table.header.token_words, "words of the index by token"
    assert linked == table.header.half_open + table.header.established, "chains have more or fewer flows than there are"
    return 0


cdef int check_references(const Tables* tables) except -1:
    """A peer is held as often as flows name it."""
    cdef uint32_t peer, i, names
    cdef const Flow* flow
    for peer in range(1, tables.peers.header.used + 1):
        names = 0
        for i in range(tables.flows.header.high_water):
            flow = &tables.flows.flows[i]
            if flow.state != FLOW_FREE:
                names += (next_hop_of(flow) == peer) + (owner_of(flow) == peer) + (flow.pending_owner == peer)
        assert names == tables.peers.peers[peer].references, "a peer is held more or less often than it is named"
    return 0


cdef int check_hold(uint8_t* memory) except -1:
    """Each block is in one packet of one waiting flow, or in the list of free ones; numbers are those of what is there."""
    cdef uint8_t seen[BLOCKS]
    cdef Hold hold
    cdef const Waiting* entry
    cdef uint32_t asked = 0
    cdef uint32_t held = 0
    cdef uint32_t noise = 0
    cdef uint32_t i, used, block
    memset(seen, 0, sizeof(seen))
    memset(&hold, 0, sizeof(hold))
    hold.header = <HoldHeader*>memory
    hold.tags = <uint32_t*>(memory + sizeof(HoldHeader))
    hold.entries = <Waiting*>(hold.tags + HOLD_FLOWS)
    hold.blocks = <uint8_t*>(hold.entries + HOLD_FLOWS)
    for i in range(<uint32_t>HOLD_FLOWS):
        if hold.tags[i] == 0:
            continue
        entry = &hold.entries[i]
        assert WAIT_ASKED <= entry.state <= WAIT_READY, "a tag has no entry"
        assert hold_find(&hold, <const uint8_t*>entry.key, entry.hash) == entry, "a flow that waits is not found"
        assert (entry.state == WAIT_NEGATIVE) == (entry.count == 0) and entry.count <= CHAIN_MOST, "packets of a flow that waits"
        used = packets_blocks(&hold, entry, seen)
        noise += used if entry.noise else 0
        asked += entry.state != WAIT_NEGATIVE
        held += entry.count
    assert (hold.header.asked, hold.header.held, hold.header.noise) == (asked, held, noise), "numbers of what is on hold"
    used = 0
    for i in range(hold.header.high_water):
        used += seen[i]
    assert used == hold.header.used, "blocks in use"
    block = hold.header.free_head
    while block != NO_BLOCK:
        assert block < hold.header.high_water and not seen[block], "a free block is in use, or free twice"
        seen[block] = 1
        used += 1
        block = held_at(&hold, block).next
    assert used + 1 == hold.header.high_water, "blocks that are neither in use nor free"
    return 0


cdef uint32_t packets_blocks(const Hold* hold, const Waiting* entry, uint8_t* seen) except? 0xffffffff:
    """How many blocks the packets of a flow have; each is marked."""
    cdef uint32_t first = entry.first
    cdef uint32_t packets = 0
    cdef uint32_t blocks = 0
    cdef uint32_t block
    while first != NO_BLOCK:
        packets += 1
        assert packets <= entry.count and held_at(hold, first).taken_in == 0, "more packets than were counted, or one that has left"
        assert entry.sources & source_bit(held_at(hold, first).source), "a packet from where none came"
        block = first
        while block != NO_BLOCK:
            assert block < hold.header.high_water and not seen[block], "a block of two packets"
            seen[block] = 1
            blocks += 1
            block = held_at(hold, block).next
        assert held_at(hold, first).follows != NO_BLOCK or first == entry.last, "the newest packet is another"
        first = held_at(hold, first).follows
    assert packets == entry.count, "fewer packets than were counted"
    return blocks
