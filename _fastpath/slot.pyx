"""The slot as Python sees it: making, checking, reading and steering. The layout stands in slot.pxd."""

from libc.string cimport memcmp, memcpy, memset

from _fastpath.atomics cimport load32, load64, store32, store64
from _fastpath.batch cimport BATCH_MAX, PACKET_ROOM, BatchState, Counters, batch_bytes, batch_format
from _fastpath.flows cimport (
    FLOW_ESTABLISHED,
    FLOW_FREE,
    FLOWS_MAX,
    KEY_BYTES,
    Flow,
    FlowsHeader,
    flows_attach,
    flows_bytes,
    flows_format,
    key_hash,
    next_hop_of,
    owner_of,
)
from _fastpath.hold cimport BLOCK_BYTES, BLOCKS, HOLD_FLOWS, HoldHeader, Waiting, hold_bytes, hold_format
from _fastpath.peers cimport PEERS_MAX, Peer, PeersHeader, peers_attach, peers_bytes, peers_format
from _fastpath.siphash cimport siphash24
from _fastpath.siblings cimport FlowCopy, copy_stable, flow_copy
from _fastpath.turns cimport WRITER_DIED, turn_died
from _fastpath.verdicts cimport COUNTERS, VERDICTS
from _fastpath.wire.address cimport ENDPOINT_BYTES

from _fastpath.verdicts import CACHE_STAT_NAMES, COUNTER_NAMES, EVENT_NAMES, TOKEN_OUTCOME_NAMES
from _fastpath.wire.envelope import unmapped, unpack_key

TICKS_PER_SECOND = 16
LAYOUT = SLOT_LAYOUT
SECRET_BYTES = 16
MOST_FLOWS = FLOWS_MAX
EPOCHS_OF_A_LAUNCHER = 1 << 32
cdef const char* MAGIC = b"UFRAGSLT"

cdef enum:
    TICKS_AHEAD = 16                  # how far a worker's clock may be ahead of one that was read before

cdef size_t section(size_t length) noexcept nogil:
    return (length + SECTION - 1) & ~<size_t>(SECTION - 1)


cdef uint32_t peers_for(uint32_t max_flows) noexcept nogil:
    """Owners and next hops a slot can name: one for 32 flows is far more than any fleet needs, and costs 2 bytes a flow."""
    return min(max(max_flows // 32, 64), PEERS_MAX)


cdef uint64_t layout_checksum() noexcept nogil:
    """Two builds that lay a slot out differently must not take over from each other."""
    cdef uint64_t sizes[14]
    cdef SipKey key
    key.k0 = key.k1 = 0
    sizes[0] = sizeof(SlotHeader)
    sizes[1] = sizeof(FlowsHeader)
    sizes[2] = sizeof(Flow)
    sizes[3] = sizeof(PeersHeader)
    sizes[4] = sizeof(Peer)
    sizes[5] = sizeof(BatchState)
    sizes[6] = BATCH_MAX
    sizes[7] = PACKET_ROOM
    sizes[8] = COUNTERS
    sizes[9] = VERDICTS
    sizes[10] = sizeof(HoldHeader)
    sizes[11] = sizeof(Waiting)
    sizes[12] = HOLD_FLOWS
    sizes[13] = BLOCKS * BLOCK_BYTES
    return siphash24(&key, <uint8_t*>sizes, sizeof(sizes))


CHECKSUM = layout_checksum()


def slot_bytes(max_flows: int) -> int:
    """How much memory a slot for `max_flows` takes."""
    if not 1 <= max_flows <= FLOWS_MAX:
        raise ValueError(f"a slot has 1 to {FLOWS_MAX} flows, not {max_flows}")
    return (SLOT_HEADER_ROOM + section(flows_bytes(max_flows)) + section(peers_bytes(peers_for(max_flows)))
            + section(batch_bytes()) + section(hold_bytes()))


def flow_bytes(max_flows: int) -> float:
    """Memory per flow: the table, its indexes and its peers, without the arena."""
    return (section(flows_bytes(max_flows)) + section(peers_bytes(peers_for(max_flows)))) / max_flows


class SlotError(ValueError):
    """Memory that is no slot of this build."""


cdef class Slot:
    """A view of a slot's memory. It keeps the buffer exported, so the mapping cannot be closed under it."""

    def __cinit__(self, buffer) -> None:
        cdef uint8_t[::1] view = buffer
        if view.shape[0] < SLOT_HEADER_ROOM:
            raise SlotError("too small for a slot")
        self.buffer = buffer
        self.view = view
        self.memory = &view[0]
        self.header = <SlotHeader*>self.memory
        self.steering = &self.header.steering

    @classmethod
    def create(cls, buffer, max_flows: int, secret: bytes) -> Slot:
        """Formats zeroed memory."""
        cdef Slot slot = cls(buffer)
        if len(buffer) < slot_bytes(max_flows):
            raise SlotError(f"{len(buffer)} bytes are too few for {max_flows} flows")
        slot.format(max_flows, secret)
        return slot

    @classmethod
    def open(cls, buffer) -> Slot:
        """Takes memory that was formatted before, by this layout."""
        cdef Slot slot = cls(buffer)
        cdef SlotHeader* header = slot.header
        if memcmp(header.magic, MAGIC, 8) or header.layout != SLOT_LAYOUT or header.checksum != layout_checksum():
            raise SlotError("not a slot of this version")
        if not 1 <= header.max_flows <= FLOWS_MAX or not slot.sections_fit(len(buffer)):
            raise SlotError("a slot of another size")
        slot.state = <BatchState*>(slot.memory + header.batch_at)
        return slot

    cdef bint sections_fit(self, uint64_t buffer_bytes):
        """Every section lies where this build puts it for so many flows, and the buffer ends with the last one."""
        cdef SlotHeader* header = self.header
        cdef uint64_t peers_at = SLOT_HEADER_ROOM + section(flows_bytes(header.max_flows))
        cdef uint64_t batch_at = peers_at + section(peers_bytes(peers_for(header.max_flows)))
        cdef uint64_t hold_at = batch_at + section(batch_bytes())
        return header.flows_at == SLOT_HEADER_ROOM and header.peers_at == peers_at and header.batch_at == batch_at \
            and header.hold_at == hold_at and header.total_bytes == hold_at + section(hold_bytes()) and header.total_bytes == buffer_bytes

    def format(self, max_flows: int, secret: bytes) -> None:
        cdef SlotHeader* header = self.header
        cdef const uint8_t* raw = secret
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the secret has {SECRET_BYTES} bytes")
        memset(header, 0, SLOT_HEADER_ROOM)
        header.layout = SLOT_LAYOUT
        header.max_flows = max_flows
        header.checksum = layout_checksum()
        header.total_bytes = slot_bytes(max_flows)
        header.flows_at = SLOT_HEADER_ROOM
        header.peers_at = header.flows_at + section(flows_bytes(max_flows))
        header.batch_at = header.peers_at + section(peers_bytes(peers_for(max_flows)))
        header.turn.epoch = 1                     # numbers begin here: 0 is nobody
        header.hold_at = header.batch_at + section(batch_bytes())
        memcpy(&header.secret, raw, SECRET_BYTES)
        flows_format(self.memory + header.flows_at, max_flows)
        peers_format(self.memory + header.peers_at, peers_for(max_flows))
        batch_format(self.memory + header.batch_at)
        hold_format(self.memory + header.hold_at)
        self.state = <BatchState*>(self.memory + header.batch_at)
        memcpy(header.magic, MAGIC, 8)            # last: a slot half formatted is none

    # ------------------------------------------------------------------------------------------------------------- steering

    @property
    def epoch(self) -> int:
        """The number of the worker whose turn it is."""
        return load64(&self.header.turn.epoch)

    @epoch.setter
    def epoch(self, number: int) -> None:
        """Any other worker lets go at its next round."""
        store64(&self.header.turn.epoch, number)

    def next_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def epoch_ahead(self) -> int:
        """For a newcomer: further ahead than a predecessor's launcher could come meanwhile by starting workers."""
        return (self.epoch // EPOCHS_OF_A_LAUNCHER + 1) * EPOCHS_OF_A_LAUNCHER

    @property
    def writer(self) -> int:
        """The number of the worker that has the sockets and the tables now; 0: nobody's, or a dead one's."""
        cdef uint64_t number = load64(&self.header.turn.writer)
        return 0 if number & WRITER_DIED else number

    def writer_died(self, number: int = 0) -> None:
        """The process of that number is no more (0: of whatever number)."""
        turn_died(&self.header.turn, number)

    @property
    def warm(self) -> int:
        """The number of the last worker that stood ready."""
        return load64(&self.header.turn.warm)

    # -------------------------------------------------------------------------------------------------------------- reading

    @property
    def max_flows(self) -> int:
        return self.header.max_flows

    @property
    def secret(self) -> bytes:
        return (<const uint8_t*>&self.header.secret)[:SECRET_BYTES]

    def flows(self) -> dict[str, int]:
        """How many flows in each state."""
        cdef FlowsHeader* flows = <FlowsHeader*>(self.memory + self.header.flows_at)
        return {"established": load32(&flows.established), "half_open": load32(&flows.half_open)}

    def counters(self) -> dict[str, int]:
        """All counters of finished batches, consistent with each other."""
        cdef uint32_t active
        cdef uint64_t batch
        if self.state == NULL:
            raise SlotError("neither created nor opened")
        while True:
            active = load32(&self.state.active) & 1
            batch = load64(&self.state.counters[active].batch)
            values = [load64(&self.state.counters[active].value[i]) for i in range(COUNTERS)]
            # A block is written only while the other is valid: valid still, and of the same batch, it was not written meanwhile.
            if load32(&self.state.active) & 1 == active and load64(&self.state.counters[active].batch) == batch:
                return dict(zip(COUNTER_NAMES, values, strict=True))

    def events(self) -> dict[str, int]:
        return {name: load64(&self.header.events[i]) for i, name in enumerate(EVENT_NAMES)}

    def tokens(self) -> dict[tuple[int, str], int]:
        """(key id, outcome) -> how many; key id 7: none could be told."""
        return {(key_id, name): load64(&self.header.tokens[key_id * TOKEN_OUTCOMES + i])
                for key_id in range(8) for i, name in enumerate(TOKEN_OUTCOME_NAMES)}

    @property
    def key_ids(self) -> frozenset[int]:
        """The route keys that the worker verifies with."""
        cdef uint32_t bits = load32(&self.header.key_ids)
        return frozenset(key_id for key_id in range(8) if bits >> key_id & 1)

    @key_ids.setter
    def key_ids(self, ids) -> None:
        store32(&self.header.key_ids, sum(1 << key_id for key_id in ids))

    def socket_drops(self, index: int) -> int:
        if not 0 <= index < SOCKETS_MAX:
            raise IndexError(index)
        return load64(&self.header.socket_drops[index])

    def socket_queue(self, index: int) -> int:
        """Bytes that waited in the socket when last looked at."""
        if not 0 <= index < SOCKETS_MAX:
            raise IndexError(index)
        return load64(&self.header.socket_queues[index])

    def set_socket(self, index: int, drops: int, waiting: int = 0) -> None:
        """What the kernel says of a socket."""
        if not 0 <= index < SOCKETS_MAX:
            raise IndexError(index)
        store64(&self.header.socket_drops[index], drops)
        store64(&self.header.socket_queues[index], waiting)

    @property
    def flows_used(self) -> int:
        """Flows have numbers below this."""
        return load32(&(<FlowsHeader*>(self.memory + self.header.flows_at)).high_water)

    def held(self) -> dict[str, int]:
        """Packets that wait for the route cache's answer, and their flows."""
        cdef HoldHeader* hold = <HoldHeader*>(self.memory + self.header.hold_at)
        return {"packets": load32(&hold.held), "flows": load32(&hold.asked)}

    def set_cache_stat(self, name: str, value: int) -> None:
        """One of CACHE_STAT_NAMES. For one writer, whoever asks the route cache."""
        store64(&self.header.cache_stats[CACHE_STAT_NAMES.index(name)], value)

    def cache_stats(self) -> dict[str, int]:
        return {name: load64(&self.header.cache_stats[i]) for i, name in enumerate(CACHE_STAT_NAMES)}

    cdef void attach(self, FlowTable* flows, PeerTable* peers):
        peers_attach(peers, self.memory + self.header.peers_at, &self.header.secret, 0)
        flows_attach(flows, self.memory + self.header.flows_at, peers, NULL)

    def live_flows(self, first: int, most: int, tick: int, flow_ticks: int) -> list[tuple[bytes, bytes, bytes, int]]:
        """(key, owner, next hop, nonce) of established flows among `most` numbers from `first` on that were heard of within so many
        ticks. Cheap, and safe while its worker writes: a flow that changes just then is left out."""
        cdef FlowTable flows
        cdef PeerTable peers
        cdef FlowCopy copy
        cdef uint32_t number
        cdef uint32_t now = tick & 0xffffffff
        cdef uint32_t ticks = flow_ticks
        self.attach(&flows, &peers)
        found = []
        for number in range(min(first, self.flows_used), min(first + most, self.flows_used)):
            # A flow heard of in a round that began after `tick` was read is as alive as can be.
            if flows.flows[number].state == FLOW_ESTABLISHED and now - flows.flows[number].seen + TICKS_AHEAD <= ticks + TICKS_AHEAD \
                    and copy_stable(&flows, &flows.flows[number], <const uint8_t*>flows.flows[number].key, &copy):
                found.append((copy.flow.key[:KEY_BYTES], (<uint8_t*>&copy.owner)[:ENDPOINT_BYTES],
                              (<uint8_t*>&copy.next_hop)[:ENDPOINT_BYTES], copy.flow.nonce))
        return found

    def has_flow(self, key: bytes) -> bool:
        """Whether there is an established flow with this key of 36 bytes, whoever writes meanwhile."""
        cdef FlowTable flows
        cdef PeerTable peers
        cdef FlowCopy copy
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self.attach(&flows, &peers)
        return flow_copy(&flows, key, key_hash(&self.header.secret, key), &copy)

    def flow_list(self, first: int = 0, most: int = FLOWS_MAX) -> list[dict[str, object]]:
        """The flows among `most` numbers from `first` on. A table that is being written may show one twice or not at all."""
        cdef FlowTable flows
        cdef PeerTable peers
        cdef uint32_t number
        self.attach(&flows, &peers)
        found = []
        for number in range(min(first, self.flows_used), min(first + most, self.flows_used)):
            if flows.flows[number].state != FLOW_FREE:
                found.append(describe(&flows.flows[number], &peers))
        return found


cdef tuple endpoint_of(const PeerTable* peers, uint16_t number):
    cdef const Peer* peer = &peers.peers[number]
    return unmapped(bytes(peer.endpoint.address[:16])), peer.endpoint.port[0] << 8 | peer.endpoint.port[1]


cdef dict describe(const Flow* flow, const PeerTable* peers):
    client, local = unpack_key(bytes(flow.key[:36]))
    return {
        "client": client,
        "local": local,
        "state": ("free", "half_open", "established")[min(flow.state, 2)],
        "socket": flow.socket,
        "next_hop": endpoint_of(peers, next_hop_of(flow)),
        "owner": endpoint_of(peers, owner_of(flow)),
        "pending_owner": endpoint_of(peers, flow.pending_owner) if flow.pending_owner else None,
        "seen": flow.seen,
        "answered": flow.answered,
        "opened": flow.opened,
        "nonce": flow.nonce,
    }
