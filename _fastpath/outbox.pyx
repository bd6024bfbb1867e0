"""Opening, pushing and flushing; the contract stands in outbox.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.batch cimport NAME_ROOM
from _fastpath.outcomes cimport OUT_BUFFER, OUT_REFUSED
from _fastpath.sockets cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, EWOULDBLOCK, MSG_DONTWAIT, errno, sendmmsg
from _fastpath.wire.envelope cimport ENVELOPE_BYTES, KEY_BYTES, MAGIC_0, MAGIC_1


cdef int outbox_make(Outbox* outbox, int fd, uint64_t* sent, uint64_t* sent_bytes) noexcept nogil:
    memset(outbox, 0, sizeof(Outbox))
    outbox.arena = <uint8_t*>calloc(OUTBOX_MOST, OUTBOX_ROOM)
    outbox.messages = <mmsghdr*>calloc(OUTBOX_MOST, sizeof(mmsghdr))
    outbox.vectors = <iovec*>calloc(OUTBOX_MOST, sizeof(iovec))
    outbox.names = <uint8_t*>calloc(OUTBOX_MOST, NAME_ROOM)
    outbox.kinds = <uint8_t*>calloc(OUTBOX_MOST, 1)
    outbox.fd = fd
    outbox.sent = sent
    outbox.sent_bytes = sent_bytes
    if outbox.arena == NULL or outbox.messages == NULL or outbox.vectors == NULL or outbox.names == NULL or outbox.kinds == NULL:
        outbox_free(outbox)
        return -1
    return 0


cdef void outbox_free(Outbox* outbox) noexcept nogil:
    free(outbox.arena)
    free(outbox.messages)
    free(outbox.vectors)
    free(outbox.names)
    free(outbox.kinds)
    memset(outbox, 0, sizeof(Outbox))


cdef uint8_t* outbox_open(Outbox* outbox, const uint8_t* key, const uint8_t* name, uint8_t name_bytes) noexcept nogil:
    cdef uint8_t* start
    cdef mmsghdr* message
    if outbox.queued == OUTBOX_MOST:
        outbox_flush(outbox)
    start = outbox.arena + <size_t>outbox.queued * OUTBOX_ROOM + OUTBOX_SHIFT
    start[0] = MAGIC_0
    start[1] = MAGIC_1
    memcpy(start + 2, key, KEY_BYTES)
    message = &outbox.messages[outbox.queued]
    message.msg_hdr.msg_name = outbox.names + <size_t>outbox.queued * NAME_ROOM
    message.msg_hdr.msg_namelen = name_bytes
    memcpy(message.msg_hdr.msg_name, name, name_bytes)
    return start + ENVELOPE_BYTES


cdef void outbox_push(Outbox* outbox, size_t payload_bytes, uint8_t kind) noexcept nogil:
    """The datagram that was opened last is complete."""
    cdef iovec* vector = &outbox.vectors[outbox.queued]
    vector.iov_base = outbox.arena + <size_t>outbox.queued * OUTBOX_ROOM + OUTBOX_SHIFT
    vector.iov_len = ENVELOPE_BYTES + payload_bytes
    outbox.messages[outbox.queued].msg_hdr.msg_iov = vector
    outbox.messages[outbox.queued].msg_hdr.msg_iovlen = 1
    outbox.kinds[outbox.queued] = kind
    outbox.queued += 1


cdef void count_sent(Outbox* outbox, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(first, first + count):
        outbox.sent[outbox.kinds[i]] += 1
        outbox.sent_bytes[0] += outbox.vectors[i].iov_len - ENVELOPE_BYTES


cdef void outbox_flush(Outbox* outbox) noexcept nogil:
    """sendmmsg hides the error that stopped it: the next call shows it for the message it stopped at, and that one is given up."""
    cdef uint32_t done = 0
    cdef int sent
    if outbox.fd < 0:
        outbox.sent[OUT_BUFFER] += outbox.queued
        done = outbox.queued
    while done < outbox.queued:
        sent = sendmmsg(outbox.fd, outbox.messages + done, outbox.queued - done, MSG_DONTWAIT)
        if sent > 0:
            count_sent(outbox, done, <uint32_t>sent)
            done += <uint32_t>sent
        elif errno == EAGAIN or errno == EWOULDBLOCK or errno == ENOBUFS or errno == ENOMEM:
            outbox.sent[OUT_BUFFER] += outbox.queued - done
            done = outbox.queued
        elif errno != EINTR:
            outbox.sent[OUT_REFUSED] += 1
            done += 1
    outbox.queued = 0
