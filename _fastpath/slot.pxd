"""A slot: the shared memory of one worker, as the launcher allocates it and every process of the relay maps it.

    header (8 KiB) | flow table | peers | batch state, arena | hold

It outlives the worker that writes it. The header says what it is (magic, layout number, a checksum over the sizes of everything in
it), who may write (`turns`) and how its worker is (heart). Launcher and operator's tools read the rest through `Slot`; the worker
through `Forwarder`. Specified for others in docs/wire.md.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.batch cimport Batch, BatchState
from _fastpath.flows cimport FlowTable
from _fastpath.peers cimport PeerTable
from _fastpath.siblings cimport Asks
from _fastpath.siphash cimport SipKey
from _fastpath.steering cimport Steered, Steering
from _fastpath.turns cimport Turn
from _fastpath.verdicts cimport CACHE_STATS, EVENTS, TOKEN_OUTCOMES

cdef enum:
    SLOT_LAYOUT = 4
    SLOT_HEADER_ROOM = 8192
    SOCKETS_MAX = 17                  # 16 public and the internal one
    SECTION = 4096                    # sections begin on pages

cdef struct SlotHeader:
    char magic[8]                     # "UFRAGSLT"
    uint32_t layout
    uint32_t max_flows
    uint64_t checksum                 # of the layout: sizes of all structures
    uint64_t total_bytes
    uint64_t flows_at
    uint64_t peers_at
    uint64_t batch_at
    SipKey secret                     # places flows and names tokens; one for all slots of a relay
    uint64_t hold_at
    uint8_t spare[48]                 # to 128: what launcher and tools write stands on lines of its own
    Turn turn                         # at 128: who may read the sockets and write here
    Steering steering
    uint64_t socket_drops[SOCKETS_MAX]
    uint64_t events[EVENTS]
    uint64_t tokens[8 * TOKEN_OUTCOMES]
    uint8_t spare_tokens[40]
    Asks asks                         # at 1088: siblings read it once a tick
    uint32_t key_ids                  # a bit for each route key that the worker verifies with
    uint32_t spare_key_ids
    uint64_t socket_queues[SOCKETS_MAX]
    uint8_t spare_queues[48]
    uint64_t cache_stats[CACHE_STATS] # at 1408: written by whoever asks the route cache

cdef class Slot(Steered):
    cdef uint8_t* memory
    cdef SlotHeader* header
    cdef BatchState* state
    cdef object view
    cdef object buffer
    cdef void attach(self, FlowTable* flows, PeerTable* peers)
    cdef bint sections_fit(self, uint64_t buffer_bytes)
