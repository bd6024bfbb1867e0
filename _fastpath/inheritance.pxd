"""A new writer's first look at what is on hold: packets that still wait are asked for again, everything derived is built anew.

It believes nothing that it can check: a slot may come from a file. It may be killed itself at any point.
"""

from libc.stdint cimport uint32_t

from _fastpath.batch cimport BatchState
from _fastpath.hold cimport Hold

# Before `batch_resume`, which changes what `state` says. Packets can only have come from so many public sockets.
cdef void hold_repair(Hold* hold, const BatchState* state, uint32_t public_count, uint32_t tick) noexcept nogil
