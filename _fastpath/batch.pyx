"""Receiving, sending and committing batches; the contract stands in batch.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.atomics cimport fence_release, store32, store64
from _fastpath.sockets cimport (
    EAGAIN,
    EINTR,
    EMSGSIZE,
    ENOBUFS,
    ENOMEM,
    EWOULDBLOCK,
    MSG_DONTWAIT,
    errno,
    recvmmsg,
    sendmmsg,
)
from _fastpath.verdicts cimport BATCH_BUCKETS, BATCHES, HELD, PENDING
from _fastpath.wire.envelope cimport ENVELOPE_BYTES

cdef enum:
    PAGE = 4096
    STATE_ROOM = PAGE                 # BatchState is smaller; checked in a test
    RECEIVED_ROOM = BATCH_MAX * 64    # sizeof(mmsghdr) is 64


cdef size_t batch_bytes() noexcept nogil:
    return STATE_ROOM + RECEIVED_ROOM + BATCH_MAX * (NAME_ROOM + CONTROL_ROOM + <size_t>PACKET_ROOM)


cdef void batch_format(uint8_t* memory) noexcept nogil:
    """For zeroed memory."""
    cdef mmsghdr* received = <mmsghdr*>(memory + STATE_ROOM)
    cdef int i
    for i in range(BATCH_MAX):
        received[i].msg_len = NOT_TAKEN


cdef int batch_attach(Batch* batch, uint8_t* memory) noexcept nogil:
    """Finds the shared part and allocates the private one; -1 without memory."""
    memset(batch, 0, sizeof(Batch))
    batch.state = <BatchState*>memory
    batch.received = <mmsghdr*>(memory + STATE_ROOM)
    batch.names = memory + STATE_ROOM + RECEIVED_ROOM
    batch.controls = batch.names + BATCH_MAX * NAME_ROOM
    batch.arena = batch.controls + BATCH_MAX * CONTROL_ROOM
    batch.receive_vectors = <iovec*>calloc(BATCH_MAX, sizeof(iovec))
    batch.packets = <Packet*>calloc(BATCH_MAX, sizeof(Packet))
    batch.messages = <mmsghdr*>calloc(BATCH_MAX, sizeof(mmsghdr))
    batch.send_vectors = <iovec*>calloc(BATCH_MAX, sizeof(iovec))
    batch.send_names = <uint8_t*>calloc(BATCH_MAX, NAME_ROOM)
    batch.send_controls = <uint8_t*>calloc(BATCH_MAX, CONTROL_ROOM)
    batch.packet_of = <uint16_t*>calloc(BATCH_MAX, sizeof(uint16_t))
    if batch.receive_vectors == NULL or batch.packets == NULL or batch.messages == NULL or batch.send_vectors == NULL \
            or batch.send_names == NULL or batch.send_controls == NULL or batch.packet_of == NULL:
        batch_detach(batch)
        return -1
    return 0


cdef void batch_detach(Batch* batch) noexcept nogil:
    free(batch.receive_vectors)
    free(batch.packets)
    free(batch.messages)
    free(batch.send_vectors)
    free(batch.send_names)
    free(batch.send_controls)
    free(batch.packet_of)
    memset(batch, 0, sizeof(Batch))


cdef void aim(Batch* batch, uint32_t i) noexcept nogil:
    """Says where packet i is received to. Each process writes these pointers anew: it may have the slot mapped elsewhere."""
    cdef mmsghdr* message = &batch.received[i]
    batch.receive_vectors[i].iov_base = payload_of(batch, i)
    batch.receive_vectors[i].iov_len = PAYLOAD_ROOM
    message.msg_hdr.msg_iov = &batch.receive_vectors[i]
    message.msg_hdr.msg_iovlen = 1
    message.msg_hdr.msg_name = name_of(batch, i)
    message.msg_hdr.msg_control = control_of(batch, i)


cdef inline void rearm(Batch* batch, uint32_t i) noexcept nogil:
    """What the kernel wrote over."""
    cdef mmsghdr* message = &batch.received[i]
    message.msg_hdr.msg_namelen = NAME_ROOM
    message.msg_hdr.msg_controllen = CONTROL_ROOM
    message.msg_len = NOT_TAKEN
    batch.state.verdict[i] = PENDING


cdef uint32_t taken(const Batch* batch) noexcept nogil:
    cdef uint32_t count = 0
    while count < BATCH_MAX and batch.received[count].msg_len != <uint32_t>NOT_TAKEN:
        count += 1
    return count


cdef uint32_t batch_resume(Batch* batch) noexcept nogil:
    """For a new worker: how many packets a predecessor took and did not finish (0: none). Call once, before anything else."""
    cdef uint32_t i
    cdef bint open_batch = batch.state.stage == STAGE_OPEN
    cdef bint counted = batch.state.counters[batch.state.active & 1].batch == batch.state.number
    batch.count = taken(batch) if open_batch and not counted else 0
    batch.queued = 0
    batch.held = 0
    batch.held_bytes = 0
    for i in range(<uint32_t>BATCH_MAX):
        aim(batch, i)
        if i >= batch.count:
            rearm(batch, i)
        elif batch.state.verdict[i] == HELD:
            batch.held += 1
            batch.held_bytes += batch.received[i].msg_len - (ENVELOPE_BYTES if batch.state.source == INTERNAL else 0)
    if batch.count == 0:
        store32(&batch.state.stage, STAGE_IDLE)
    batch.state.resumes += 1
    return batch.count


cdef void batch_abandon(Batch* batch, uint8_t verdict) noexcept nogil:
    """Gives all packets that have no verdict this one."""
    cdef uint32_t i
    batch.bytes = 0
    for i in range(batch.count):
        batch.bytes += batch.received[i].msg_len
        if batch.state.verdict[i] == PENDING:
            batch.state.verdict[i] = verdict


cdef int batch_receive(Batch* batch, int fd, uint32_t source, uint32_t most) noexcept nogil:
    """Up to `most` datagrams that are waiting: their number, NO_MORE, or SOCKET_DEAD."""
    cdef int count
    batch.state.number += 1
    batch.state.source = source
    batch.state.resumes = 0
    store32(&batch.state.stage, STAGE_OPEN)
    count = recvmmsg(fd, batch.received, most, MSG_DONTWAIT, NULL)
    batch.queued = 0
    if count > 0:
        batch.count = <uint32_t>count
        return count
    batch.count = 0
    store32(&batch.state.stage, STAGE_IDLE)
    if count == 0 or errno == EAGAIN or errno == EWOULDBLOCK or errno == EINTR or errno == ENOMEM:
        return NO_MORE
    return SOCKET_DEAD


cdef void batch_send(Batch* batch, int fd, uint8_t no_room, uint8_t too_big, uint8_t refused) noexcept nogil:
    """Sends all queued messages in order. sendmmsg hides the error that stopped it: the next call shows it for the message it
    stopped at, and exactly that one is given up."""
    cdef uint32_t done = 0
    cdef uint32_t i
    cdef int sent
    while done < batch.queued:
        sent = sendmmsg(fd, batch.messages + done, batch.queued - done, MSG_DONTWAIT)
        if sent > 0:
            for i in range(done, done + <uint32_t>sent):
                batch.state.verdict[batch.packet_of[i]] = batch.packets[batch.packet_of[i]].plan
            done += <uint32_t>sent
        elif errno == EAGAIN or errno == EWOULDBLOCK or errno == ENOBUFS or errno == ENOMEM:
            # No room for this one is no room for the next: waiting here would starve the receive side instead.
            for i in range(done, batch.queued):
                batch.state.verdict[batch.packet_of[i]] = no_room
            done = batch.queued
        elif errno != EINTR:
            batch.state.verdict[batch.packet_of[done]] = too_big if errno == EMSGSIZE else refused
            done += 1
    batch.queued = 0


cdef uint32_t size_bucket(uint32_t count) noexcept nogil:
    """0 for 1, 1 for 2, 2 for 3-4, ... 9 for 257-512."""
    cdef uint32_t bucket = 0
    while (1u << bucket) < count:
        bucket += 1
    return bucket


cdef void batch_commit(Batch* batch, uint32_t packets_counter, uint32_t bytes_counter) noexcept nogil:
    """Counts the batch and frees the arena. The counters are written beside the valid ones, which are then switched by one store:
    a successor sees this batch counted (its number) or not counted, never half."""
    cdef BatchState* state = batch.state
    cdef uint32_t other = 1 - (state.active & 1)
    cdef Counters* counters = &state.counters[other]
    cdef uint32_t i
    fence_release()                   # the switch that made this block invalid is seen before anything written to it now
    memcpy(counters, &state.counters[1 - other], sizeof(Counters))
    for i in range(batch.count):
        counters.value[state.verdict[i]] += 1
    counters.value[packets_counter] += batch.count - batch.held
    counters.value[bytes_counter] += batch.bytes - batch.held_bytes
    counters.value[BATCHES] += 1
    counters.value[BATCH_BUCKETS + size_bucket(batch.count)] += 1
    store64(&counters.batch, state.number)
    store32(&state.active, other)
    for i in range(batch.count):
        rearm(batch, i)
    batch.count = 0
    batch.held = 0
    batch.held_bytes = 0
    store32(&state.stage, STAGE_IDLE)
