"""The steps; why there are any stands in foresight.pxd."""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.atomics cimport prefetch
from _fastpath.batch cimport BATCH_MAX, payload_of
from _fastpath.engine cimport ALIGN_SHIFT, Engine
from _fastpath.index cimport NO_NUMBER, index_first
from _fastpath.rings cimport Ring, ring_data
from _fastpath.sessions cimport KEY_ROOM, PATHS_MOST, Path, Session, sessions_hash
from _fastpath.wire.envelope cimport ENVELOPE_BYTES

cdef enum:
    FEW = 3                           # packets for which it costs more than it brings
    LINE = 64


cdef inline void bring(const void* start, int lines) noexcept nogil:
    cdef int i
    for i in range(lines):
        prefetch(<const uint8_t*>start + i * LINE)


cdef inline void bring_ring(const Ring* ring) noexcept nogil:
    prefetch(&ring.head)
    prefetch(&ring.tail)


cdef void foresee(Engine* engine) noexcept nogil:
    cdef uint32_t hashes[BATCH_MAX]
    cdef Session* sessions[BATCH_MAX]
    cdef uint32_t count = 0
    cdef uint32_t known = 0
    cdef uint32_t i, at, number
    cdef const uint8_t* key
    cdef Session* session
    if engine.batch.count < FEW:
        return
    for i in range(engine.batch.count):
        if engine.batch.received[i].msg_len > ENVELOPE_BYTES:
            key = payload_of(&engine.batch, i) + ALIGN_SHIFT + ENVELOPE_BYTES - KEY_ROOM
            hashes[count] = sessions_hash(&engine.sessions, key, KEY_ROOM)
            prefetch(&engine.sessions.flows.words[hashes[count] & engine.sessions.flows.mask])
            count += 1
    for i in range(count):
        number = index_first(&engine.sessions.flows, hashes[i], &at)
        if number != <uint32_t>NO_NUMBER:
            session = &engine.sessions.all[number // PATHS_MOST]
            bring(session, 5)
            bring(&session.paths[number % PATHS_MOST], 3)
            sessions[known] = session
            known += 1
    for i in range(known):
        session = sessions[i]
        prefetch(session.rx)
        prefetch(session.tx)
        bring(session.view, 2)
        bring_ring(session.up)
        bring_ring(session.down)
    for i in range(known):
        session = sessions[i]
        if session.rx != NULL and session.tx != NULL:
            # Where the first word of libsrtp's context leads: its list of streams. A prefetch cannot fail, wherever that is.
            prefetch((<void**>session.rx)[0])
            prefetch((<void**>session.tx)[0])
            prefetch(ring_data(session.up) + (session.up.head & (session.up.size - 1)))
