"""Decisions about packets from the internal leg. The rules stand in router.pxd."""

from libc.stdint cimport uint32_t

from _fastpath.batch cimport Batch
from _fastpath.router cimport Router

# Gives every packet of the batch a verdict or a plan; which public sockets have something to send, a bit each.
cdef uint32_t decide_down(Router* router, Batch* batch) noexcept nogil

# Queues the packets planned for one public socket: a send call serves one socket.
cdef void queue_down(Router* router, Batch* batch, uint32_t socket) noexcept nogil
