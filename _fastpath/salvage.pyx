"""Slots whose processes are all gone: are they whole, and ready for others?

Nothing here runs while a worker does. A writer that was killed leaves its tables whole (`flows`), but what lies in a file may have been
cut, mixed or written by somebody else, and every number in it is about to be followed.
"""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.atomics cimport store32, store64
from _fastpath.batch cimport (
    BATCH_MAX, CONTROL_ROOM, NAME_ROOM, NOT_TAKEN, PAYLOAD_ROOM, RELEASED, STAGE_IDLE, STAGE_OPEN, Batch, BatchState, batch_attach, batch_detach,
)
from _fastpath.flows cimport (
    FLOW_FREE, Flow, FlowsHeader, FlowTable, flows_attach, flows_bytes, flows_repair, key_hash, next_hop_of, owner_of,
)
from _fastpath.peers cimport PEERS_MAX, Peer, PeersHeader, PeerTable, peers_attach, peers_bytes
from _fastpath.router cimport INTERNAL, PUBLICS_MAX
from _fastpath.slot cimport Slot, SlotHeader
from _fastpath.turns cimport WRITER_DIED
from _fastpath.verdicts cimport VERDICTS


def unsound(Slot slot) -> str:
    """What is wrong with it; nothing if it can be used."""
    cdef SlotHeader* header = slot.header
    cdef FlowTable flows
    cdef PeerTable peers
    if not flows_fit(<FlowsHeader*>(slot.memory + header.flows_at), header.max_flows):
        return "its flow table has another size"
    if not peers_fit(<PeersHeader*>(slot.memory + header.peers_at), header.batch_at - header.peers_at):
        return "its table of owners has another size"
    peers_attach(&peers, slot.memory + header.peers_at, &header.secret, 0)
    flows_attach(&flows, slot.memory + header.flows_at, &peers, NULL)
    if not all_flows_right(&flows, &peers, header):
        return "a flow in it is no flow of this relay"
    if not batch_fits(slot.memory + header.batch_at):
        return "the batch in it is none"
    return ""


def renew(Slot slot) -> None:
    """No process is there, and none was told to drain or to stop. The first one repairs the tables, even after a clean end: only the
    flows themselves were looked at here."""
    store64(&slot.header.turn.writer, WRITER_DIED)
    store32(&slot.header.steering.draining, 0)
    store32(&slot.header.steering.stopping, 0)
    store32(&slot.header.steering.pid, 0)


def repair(Slot slot) -> None:
    """What a worker does first, for a slot that will have none: its writer may have died while it rebuilt the indexes."""
    cdef FlowTable flows
    cdef PeerTable peers
    peers_attach(&peers, slot.memory + slot.header.peers_at, &slot.header.secret, 0)
    flows_attach(&flows, slot.memory + slot.header.flows_at, &peers, slot.header.events)
    flows_repair(&flows)


cdef bint flows_fit(const FlowsHeader* header, uint32_t max_flows) noexcept nogil:
    cdef size_t words = (flows_bytes(max_flows) - sizeof(FlowsHeader) - sizeof(Flow) * <size_t>max_flows) // (2 * sizeof(uint32_t))
    return header.max_flows == max_flows and header.index_mask == words - 1 and header.high_water <= max_flows


cdef bint peers_fit(const PeersHeader* header, size_t room) noexcept nogil:
    cdef size_t length
    if not 0 < header.max_peers <= <uint32_t>PEERS_MAX or header.used > header.max_peers:
        return False
    length = sizeof(PeersHeader) + sizeof(Peer) * (<size_t>header.max_peers + 1) + 2 * (<size_t>header.index_mask + 1)
    return length == peers_bytes(header.max_peers) and length <= room


cdef bint all_flows_right(const FlowTable* flows, const PeerTable* peers, const SlotHeader* header) noexcept nogil:
    """A flow's hash is keyed, so that only this relay's own have the right one."""
    cdef uint32_t used = peers.header.used
    cdef uint32_t number
    cdef const Flow* flow
    for number in range(flows.header.high_water):
        flow = &flows.flows[number]
        if flow.state == FLOW_FREE or flow.generation & 1:
            continue
        if flow.hash != key_hash(&header.secret, <const uint8_t*>flow.key) or flow.socket >= PUBLICS_MAX:
            return False
        if not (0 < next_hop_of(flow) <= used and 0 < owner_of(flow) <= used and flow.pending_owner <= used):
            return False
    return True


cdef bint batch_fits(uint8_t* memory) noexcept nogil:
    cdef const BatchState* state = <const BatchState*>memory
    cdef Batch batch
    cdef bint fits
    cdef int i
    cdef uint32_t source = state.source & ~<uint32_t>RELEASED
    if state.stage == STAGE_IDLE:
        return True
    if state.stage != STAGE_OPEN or (source >= PUBLICS_MAX and source != INTERNAL) or batch_attach(&batch, memory) < 0:
        return False
    fits = True
    for i in range(BATCH_MAX):
        if batch.received[i].msg_len != <uint32_t>NOT_TAKEN:
            fits &= batch.received[i].msg_len <= <uint32_t>PAYLOAD_ROOM and batch.state.verdict[i] < VERDICTS \
                and batch.received[i].msg_hdr.msg_namelen <= NAME_ROOM and batch.received[i].msg_hdr.msg_controllen <= CONTROL_ROOM
    batch_detach(&batch)
    return fits
