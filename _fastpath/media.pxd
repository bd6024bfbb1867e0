"""The hot thread of a media process: the loop, and what the other thread, the asyncio loop's, may call.

One thread runs `MediaEngine.run`, without the GIL from start to end. The other one writes commands, reads events, and is woken by an
eventfd; it is also the only writer of commands. How a session's SRTP contexts are kept alive safely: the loop owns them, hands their
addresses over with COMMAND_KEYS, and frees them only after EVENT_CLOSED. The hot thread uses them only while the session is open, and
writes EVENT_CLOSED after it has cleared the session, in the same round and the same thread: it cannot be in the middle of a packet.
"""

from _fastpath.engine cimport Engine
from _fastpath.media_slot cimport MediaSlot
from _fastpath.rounds cimport Hot

cdef class MediaEngine:
    cdef Engine engine
    cdef Hot hot
    cdef MediaSlot slot
    cdef public object defer          # has the loop call something when it is through with what it does at the moment
    cdef bint deferred                # it will call `wake`
    cdef int make_rings(self) except -1
    cdef int set_relays(self, relays) except -1
    cdef void aim_batch(self)
    cdef unsigned char* command(self, int kind, int index, int serial, int path, int flag, int body_bytes) except NULL
    cdef int commit(self) except -1
    cdef int receive(self, datagrams) except -1
    cdef list sent(self)
