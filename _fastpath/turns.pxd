"""Whose turn it is to use a slot: three words of its header, by which one worker hands it to the next without a packet lost.

    epoch    who is to write: the number of one worker. Launchers store it; a worker that is superseded and that nobody relieves, too.
    writer   who does: its number, WRITER_NOBODY, or with WRITER_DIED that of one that ended in the middle of its work.
    warm     who stands ready to be the next.

Numbers only grow. Every worker has its own; a newcomer beside a worker that runs has one ahead of `epoch`, and waits.

Rules
1. Only the writer reads the sockets and writes the tables. It becomes that by exchanging `writer` for its own number, which succeeds for
   one, and only where nobody or a dead one stands; so there are never two.
2. It looks at `epoch` before every batch. Is it another's, it stores WRITER_NOBODY and lingers: should nobody have taken the slot within
   LINGER_MS, it exchanges it back and stores its own epoch. The newcomer then goes on waiting.
3. Whoever comes after WRITER_NOBODY finds all derived words right and need not repair; a dead one may have stopped anywhere. It is a
   launcher that says of a process that it is dead, as it has waited for its end.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    WRITER_NOBODY = 0
    LINGER_MS = 250                   # a socket's buffer holds what comes meanwhile

    # What becomes of a worker that asks for its turn, or whose turn is over.
    TURN_CLEAN = 0                    # it is the writer; its predecessor, if there was one, had let go
    TURN_REPAIR = 1                   # the writer, after a death
    TURN_OVER = 2                     # another is or will be

cdef uint64_t WRITER_DIED             # the top bit

cdef struct Turn:                     # a line of its own
    uint64_t epoch
    uint64_t writer
    uint64_t warm
    uint8_t spare[40]

# Waits until it is the turn of `own`. If that may take a while, it maps every page of the slot before: later each would cost a fault.
cdef int turn_take(Turn* turn, uint64_t own, const uint8_t* slot, uint64_t slot_bytes) noexcept nogil

# Lets go of the slot and lingers: TURN_CLEAN if it is the writer again, else TURN_OVER.
cdef int turn_yield(Turn* turn, uint64_t own) noexcept nogil

# Lets go for good.
cdef void turn_end(Turn* turn, uint64_t own) noexcept nogil

# Of a launcher: the process of that number (0: whoever is the writer) is dead.
cdef void turn_died(Turn* turn, uint64_t number) noexcept nogil
