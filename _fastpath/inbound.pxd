"""What a datagram from the internal leg means: `take` gives it its outcome, answers what is answered at once, and tells the loop.

The structures stand in engine.pxd. Called by `media` for each datagram of a batch, and by its `step` in tests and fuzzing.
"""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.engine cimport Engine
from _fastpath.sessions cimport Session

cdef uint8_t take(Engine* engine, const uint8_t* name, uint8_t name_bytes, uint8_t* datagram, uint32_t length, bint truncated) noexcept nogil
cdef void take_held(Engine* engine, Session* session) noexcept nogil
