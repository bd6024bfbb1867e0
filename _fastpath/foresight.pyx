"""The steps; why there are any stands in foresight.pxd."""

from libc.stdint cimport uint8_t, uint32_t

from _fastpath.atomics cimport touch, touch_lines
from _fastpath.batch cimport payload_of
from _fastpath.engine cimport ALIGN_SHIFT, Engine
from _fastpath.index cimport NO_NUMBER, index_first
from _fastpath.media_slot cimport AUDIO_RING_BYTES
from _fastpath.rings cimport Ring, ring_data
from _fastpath.sessions cimport KEY_ROOM, PATHS_MOST, Path, Session, sessions_hash
from _fastpath.srtp_contexts cimport CONTEXTS_MOST, contexts_touch
from _fastpath.wire.envelope cimport ENVELOPE_BYTES

cdef enum:
    FEW = 3                           # packets for which it costs more than it brings
    SESSION_BYTES = 384               # what media needs of a session
    VIEW_BYTES = 128


cdef inline void touch_ring(Ring* ring) noexcept nogil:
    """Where the next record stands or will stand. The size is the constant: what an application could write leads nowhere."""
    touch(&ring.tail)
    touch(ring_data(ring) + (ring.head & (AUDIO_RING_BYTES - 1)))


cdef uint32_t find_sessions(Engine* engine, uint32_t first, uint32_t last, Session** found) noexcept nogil:
    cdef uint32_t hashes[FORESEEN_MOST]
    cdef uint32_t count = 0
    cdef uint32_t known = 0
    cdef uint32_t i, where, number
    for i in range(first, last):
        if engine.batch.received[i].msg_len > ENVELOPE_BYTES:
            hashes[count] = sessions_hash(
                &engine.sessions, payload_of(&engine.batch, i) + ALIGN_SHIFT + ENVELOPE_BYTES - KEY_ROOM, KEY_ROOM)
            touch(&engine.sessions.flows.words[hashes[count] & engine.sessions.flows.mask])
            count += 1
    for i in range(count):
        number = index_first(&engine.sessions.flows, hashes[i], &where)
        if number != <uint32_t>NO_NUMBER:
            found[known] = &engine.sessions.all[number // PATHS_MOST]
            touch_lines(&found[known].paths[number % PATHS_MOST], sizeof(Path))
            known += 1
    return known


cdef void foresee(Engine* engine, uint32_t first, uint32_t last) noexcept nogil:
    cdef Session* sessions[FORESEEN_MOST]
    cdef uint8_t* contexts[CONTEXTS_MOST]
    cdef uint32_t count = 0
    cdef uint32_t known, i
    if last - first < FEW:
        return
    known = find_sessions(engine, first, last, sessions)
    for i in range(known):
        touch_lines(sessions[i], SESSION_BYTES)
    for i in range(known):
        if sessions[i].serial:
            touch_lines(sessions[i].view, VIEW_BYTES)
            touch_ring(sessions[i].up)
            touch_ring(sessions[i].down)
        if sessions[i].rx != NULL and sessions[i].tx != NULL:
            contexts[count] = <uint8_t*>sessions[i].rx
            contexts[count + 1] = <uint8_t*>sessions[i].tx
            count += 2
    if engine.srtp_known:
        contexts_touch(contexts, count)
