"""ICE's checks, as an ice-lite agent answers them, and our own requests' answers. Called by `inbound`; the structures stand in engine.pxd."""

from libc.stdint cimport uint8_t

from _fastpath.engine cimport Arrival, Engine

cdef uint8_t take_stun(Engine* engine, const Arrival* arrival) noexcept nogil
