"""A batch's way from the decision to the counters; see passage.pxd."""

from _fastpath.batch cimport INTERNAL, RELEASED, RESUMES_MOST, batch_abandon, batch_commit, batch_resume, batch_send
from _fastpath.down cimport decide_down
from _fastpath.recovery cimport recovery_fill, recovery_label, recovery_left, recovery_resume
from _fastpath.up cimport decide_up
from _fastpath.verdicts cimport (
    BATCHES_RESUMED, BYTES_DOWN, BYTES_UP, DOWN_ABANDONED, PACKETS_DOWN, PACKETS_UP, UP_ABANDONED, UP_SEND_BUFFER, UP_SEND_REFUSED, UP_SEND_TOO_BIG,
)

__all__: list[str] = []


cdef void pass_released(Router* router, Batch* batch, int internal, const int* publics, uint32_t source) noexcept nogil:
    cdef uint32_t sockets
    if source == INTERNAL:
        sockets = decide_down(router, batch)
        recovery_label(batch)
        send_down(router, batch, publics, sockets)
        batch_commit(batch, PACKETS_DOWN, BYTES_DOWN)
        return
    decide_up(router, batch, source)
    recovery_label(batch)
    batch_send(batch, internal, UP_SEND_BUFFER, UP_SEND_TOO_BIG, UP_SEND_REFUSED)
    batch_commit(batch, PACKETS_UP, BYTES_UP)


cdef void pass_ready(Router* router, Batch* batch, int internal, const int* publics) noexcept nogil:
    """Up first: a check among it may open the flow."""
    cdef uint32_t source
    for source in range(router.public_count):
        while recovery_fill(router, batch, source):
            pass_released(router, batch, internal, publics, source)
    while recovery_fill(router, batch, INTERNAL):
        pass_released(router, batch, internal, publics, INTERNAL)
    recovery_left(router)


cdef void pass_resumed(Router* router, Batch* batch, int internal, const int* publics) noexcept nogil:
    cdef uint32_t source = batch.state.source & ~<uint32_t>RELEASED
    if batch_resume(batch) == 0:
        return
    router.events[BATCHES_RESUMED] += 1
    if batch.state.resumes >= RESUMES_MOST:
        batch_abandon(batch, DOWN_ABANDONED if source == INTERNAL else UP_ABANDONED)
    if batch.state.source & RELEASED:
        recovery_resume(batch)
        pass_released(router, batch, internal, publics, source)
    elif source == INTERNAL:
        pass_down(router, batch, publics)
    else:
        pass_up(router, batch, internal, publics, source)
