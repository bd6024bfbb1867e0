"""What becomes of a batch once it is received: decided, sent, counted; and of packets that leave the hold, which are batches, too.

`internal` is the internal socket, `publics` are the public ones, `source` is the number of one or INTERNAL.
"""

from libc.stdint cimport uint32_t

from _fastpath.batch cimport Batch, batch_commit, batch_send
from _fastpath.down cimport decide_down, queue_down
from _fastpath.router cimport Router
from _fastpath.up cimport decide_up
from _fastpath.verdicts cimport (
    BYTES_DOWN, BYTES_UP, DOWN_SEND_BUFFER, DOWN_SEND_REFUSED, DOWN_SEND_TOO_BIG, PACKETS_DOWN, PACKETS_UP, UP_SEND_BUFFER,
    UP_SEND_REFUSED, UP_SEND_TOO_BIG,
)

cdef inline void pass_up(Router* router, Batch* batch, int internal, const int* publics, uint32_t source) noexcept nogil:
    decide_up(router, batch, source)
    batch_send(batch, internal, UP_SEND_BUFFER, UP_SEND_TOO_BIG, UP_SEND_REFUSED)
    batch_commit(batch, PACKETS_UP, BYTES_UP)
    if router.hold.ready_count:
        pass_ready(router, batch, internal, publics)

cdef inline void pass_down(Router* router, Batch* batch, const int* publics) noexcept nogil:
    send_down(router, batch, publics, decide_down(router, batch))
    batch_commit(batch, PACKETS_DOWN, BYTES_DOWN)

cdef inline void send_down(Router* router, Batch* batch, const int* publics, uint32_t sockets) noexcept nogil:
    """A bit in `sockets` for each that has something to send."""
    cdef uint32_t socket = 0
    while sockets:
        if sockets & 1:
            queue_down(router, batch, socket)
            batch_send(batch, publics[socket], DOWN_SEND_BUFFER, DOWN_SEND_TOO_BIG, DOWN_SEND_REFUSED)
        sockets >>= 1
        socket += 1

# A batch that left the hold: as any other, but for the name of what is forwarded.
cdef void pass_released(Router* router, Batch* batch, int internal, const int* publics, uint32_t source) noexcept nogil

# All that is ready leaves the hold.
cdef void pass_ready(Router* router, Batch* batch, int internal, const int* publics) noexcept nogil

# The rest of the batch that a predecessor was killed in, if it was.
cdef void pass_resumed(Router* router, Batch* batch, int internal, const int* publics) noexcept nogil
