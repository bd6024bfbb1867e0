"""The relay's loop: receive, decide, send, commit, for one worker's sockets. See forward.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from _fastpath.batch cimport Batch
from _fastpath.exchange cimport Exchanger
from _fastpath.router cimport PUBLICS_MAX, Router
from _fastpath.slot cimport Slot, SlotHeader
from _fastpath.wire.token cimport TokenKeys

cdef struct Loop:
    Router router
    Batch batch
    SlotHeader* slot
    uint64_t epoch                    # our number; another one in the slot: its turn
    int epoll
    int wake                          # eventfd: look at the slot's words now
    int internal
    int publics[PUBLICS_MAX]
    uint32_t limits[PUBLICS_MAX + 1]  # batch size per socket, the internal one last
    uint32_t swept                    # tick of the last sweep
    uint32_t sweep_due                # flows still to be looked at
    uint32_t handled                  # packets since epoll was last asked
    int error                         # errno of what ended the loop
    TokenKeys new_keys                # put here by another thread ...
    uint32_t keys_version             # ... which makes this odd while it writes
    uint32_t keys_taken               # the version that `router.keys` is

cdef class Forwarder(Exchanger):
    cdef Loop loop
    cdef Slot slot
    cdef tuple siblings
    cdef void set_backends(self, object backends)
    cdef void set_publics(self, object publics)
    cdef int set_siblings(self, uint32_t workers) except -1

cdef void take_keys(Loop* loop) noexcept nogil
cdef void hear_siblings(Router* router) noexcept nogil
