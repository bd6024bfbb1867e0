"""What the hot thread sends: answers and requests of ICE, media, reports, and what the loop wants sent; and which path it takes.

Called by `inbound` for what a datagram causes, and by `media` for commands, rings and timers. The structures stand in engine.pxd.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.engine cimport Engine, Head
from _fastpath.sessions cimport Path, Session

cdef enum:
    PROBE_US = 100_000                # first wait for an answer to our request; doubles twice

cdef bint path_affords(const Path* path, size_t payload_bytes) noexcept nogil
cdef bint publish(Engine* engine, Session* session, uint8_t kind, uint8_t path, uint8_t flag, uint32_t value) noexcept nogil
cdef uint64_t draw(Engine* engine) noexcept nogil
cdef void send_probe(Engine* engine, Session* session, uint8_t number) noexcept nogil
cdef void send_datagram(Engine* engine, Session* session, uint8_t number, const uint8_t* datagram, uint32_t length) noexcept nogil
cdef void send_report(Engine* engine, Session* session, bint bye) noexcept nogil
cdef void choose_path(Engine* engine, Session* session) noexcept nogil
cdef void court(Engine* engine, Session* session, const Path* path) noexcept nogil
cdef void use_path(Engine* engine, Session* session, uint8_t number) noexcept nogil
cdef void pump(Engine* engine, Session* session) noexcept nogil
cdef void schedule(Engine* engine, Session* session) noexcept nogil
cdef void serve_timer(Engine* engine, Session* session) noexcept nogil
