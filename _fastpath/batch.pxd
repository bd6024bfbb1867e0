"""A batch of datagrams: the arena they are received into and the messages that send them on.

The contract
- `batch_receive` fills packets 0..count-1 of the arena from one socket. Each has HEADROOM bytes before its payload, so an envelope is
  written in place. The arena and what is known of the batch lie in the slot's shared memory: if the worker dies anywhere, its
  successor finds which packets were taken (`msg_len`, which the kernel writes packet by packet) and which were dealt with (a
  verdict), and deals with the rest. A packet may then be sent twice; it is never lost.
- The caller gives each packet a verdict, or plans one and adds a message; `batch_send` sends messages in order and turns plans into
  verdicts. A send that fails costs one packet its verdict, never its neighbours.
- `batch_commit` adds the batch to the counters in one step and makes the arena ready again.
Nothing here knows what a packet contains.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.sockets cimport iovec, mmsghdr
from _fastpath.verdicts cimport COUNTERS

cdef enum:
    BATCH_MAX = 512
    BATCH_MIN = 32                    # where growth starts: more would only delay the first packet of a burst
    HEADROOM = 64
    PACKET_ROOM = 2048                # headroom included; 1,984 bytes are more than any WebRTC datagram over the internet
    PAYLOAD_ROOM = PACKET_ROOM - HEADROOM
    NAME_ROOM = 32                    # sockaddr_in6 is 28
    CONTROL_ROOM = 64                 # one PKTINFO: 28 (IPv4) or 36 (IPv6), aligned

    NOT_TAKEN = 0xffffffff            # msg_len of a packet the kernel has not filled
    STAGE_IDLE = 0
    STAGE_OPEN = 1                    # received, or about to be

    # A packet that kills whoever handles it must not do so for ever: from this resumption on, what is undecided is given up.
    RESUMES_MOST = 3

    INTERNAL = 255                    # the internal socket's index where public ones are 0..15
    RELEASED = 256                    # added to a batch's source: its packets were on hold (`hold`)

    NO_MORE = 0                       # results of batch_receive below zero are errors
    SOCKET_DEAD = -1

cdef struct Counters:
    uint64_t batch                    # number of the last batch in them
    uint64_t value[COUNTERS]

cdef struct BatchState:               # shared memory
    uint64_t number                   # of the batch under way
    uint32_t stage
    uint32_t source                   # index of the socket it came from, RELEASED added where they waited in between
    uint32_t active                   # which of the two counter blocks is valid
    uint32_t resumes                  # how many workers have tried to finish the batch under way
    uint32_t spare[10]
    uint8_t verdict[BATCH_MAX]
    Counters counters[2]

cdef struct Packet:                   # what the deciding room works out for a packet; private memory
    uint8_t* payload
    uint32_t length                   # of the payload
    uint32_t hash
    uint16_t target                   # peer number (up) or public socket (down)
    uint8_t plan                      # the verdict if sending succeeds; PENDING: nothing planned
    uint8_t kind
    uint8_t fallback                  # verdict without a flow for a packet that was on hold; PENDING for all others

cdef struct Batch:
    BatchState* state
    mmsghdr* received                 # shared: msg_len outlives the process
    uint8_t* names
    uint8_t* controls
    uint8_t* arena
    iovec* receive_vectors            # private from here on
    Packet* packets
    mmsghdr* messages
    iovec* send_vectors
    uint8_t* send_names
    uint8_t* send_controls
    uint16_t* packet_of               # message -> packet
    uint32_t count                    # packets in the batch
    uint32_t queued                   # messages waiting to be sent
    uint64_t bytes                    # payload bytes that were in it
    uint64_t held_bytes               # of these, of packets that were put on hold: counted when they leave it
    uint32_t held                     # such packets

cdef inline uint8_t* payload_of(const Batch* batch, uint32_t i) noexcept nogil:
    return batch.arena + <size_t>i * PACKET_ROOM + HEADROOM

cdef inline uint8_t* name_of(const Batch* batch, uint32_t i) noexcept nogil:
    return batch.names + <size_t>i * NAME_ROOM

cdef inline uint8_t* control_of(const Batch* batch, uint32_t i) noexcept nogil:
    return batch.controls + <size_t>i * CONTROL_ROOM

cdef size_t batch_bytes() noexcept nogil
cdef void batch_format(uint8_t* memory) noexcept nogil
cdef int batch_attach(Batch* batch, uint8_t* memory) noexcept nogil
cdef void batch_detach(Batch* batch) noexcept nogil
cdef uint32_t batch_resume(Batch* batch) noexcept nogil
cdef void batch_abandon(Batch* batch, uint8_t verdict) noexcept nogil
cdef int batch_receive(Batch* batch, int fd, uint32_t source, uint32_t most) noexcept nogil
cdef void batch_send(Batch* batch, int fd, uint8_t no_room, uint8_t too_big, uint8_t refused) noexcept nogil
cdef void batch_commit(Batch* batch, uint32_t packets_counter, uint32_t bytes_counter) noexcept nogil
