"""What the hot thread sends: datagrams written in place behind their envelope, in order, flushed by one call for many.

`outbox_open` gives the place of the next payload for a flow key and a relay's address, `outbox_push` says how long it became. Order is
kept over everything that is sent, so that an answer queued before a handshake packet leaves before it. A full outbox flushes itself.
What the kernel does not take is dropped and counted: waiting would starve the receive side.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.sockets cimport iovec, mmsghdr

cdef enum:
    OUTBOX_MOST = 256
    OUTBOX_ROOM = 2048
    OUTBOX_SHIFT = 2                  # so that RTP, 38 bytes of envelope later, is 32-bit aligned as libsrtp wants it
    OUTBOX_PAYLOAD_MOST = OUTBOX_ROOM - 64 - 160   # envelope before, SRTP's trailer behind

cdef struct Outbox:
    uint8_t* arena
    mmsghdr* messages
    iovec* vectors
    uint8_t* names
    uint8_t* kinds                    # OUT_STUN ... of each
    uint32_t queued
    int fd                            # -1: nothing is sent, whoever steps the engine takes it
    uint64_t* sent                    # counters by outcome
    uint64_t* sent_bytes

cdef int outbox_make(Outbox* outbox, int fd, uint64_t* sent, uint64_t* sent_bytes) noexcept nogil
cdef void outbox_free(Outbox* outbox) noexcept nogil
cdef uint8_t* outbox_open(Outbox* outbox, const uint8_t* key, const uint8_t* name, uint8_t name_bytes) noexcept nogil
cdef void outbox_push(Outbox* outbox, size_t payload_bytes, uint8_t kind) noexcept nogil
cdef void outbox_flush(Outbox* outbox) noexcept nogil
