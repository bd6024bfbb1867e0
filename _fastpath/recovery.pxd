"""Flows that the route cache knows: its answers become flows, and packets on hold go on their way or end.

Answers are taken at the beginning of a round, before anything is received, and packets that waited go back into the arena as a batch of
their own, in order and behind the same decisions as any other: so they are forwarded before any later packet of their flow, and a
worker that dies among them leaves a batch that its successor finishes.
"""

from libc.stdint cimport uint32_t

from _fastpath.batch cimport Batch
from _fastpath.router cimport Router

# Takes answers and looks for what has waited too long; packets that are to leave now are ready then.
cdef void recovery_hear(Router* router) noexcept nogil

# The next packets from that socket that are ready, as an open batch; how many. Call it until there are none, for each socket.
cdef uint32_t recovery_fill(Router* router, Batch* batch, uint32_t source) noexcept nogil

# Between deciding and sending: what waited is not counted as what did not. And a batch that a successor finds.
cdef void recovery_label(Batch* batch) noexcept nogil
cdef void recovery_resume(Batch* batch) noexcept nogil

# When nothing is ready any more.
cdef void recovery_left(Router* router) noexcept nogil
