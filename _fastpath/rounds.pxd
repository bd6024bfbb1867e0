"""The rounds of the hot thread of a media process.

A round: wait for the socket, a command or a timer; take a batch; then the commands (so that a session is known before the first check
that its answer causes, which can only be in this batch or a later one); decide each datagram; pump what has something to send; serve
timers. Then flush, count, and tell the loop of its events, after everything that had to leave first has left.

Under load a wake-up for each packet would cost as much as the packet (measured: half of the time is spent in epoll_wait). So from
2,000 packets a second on the thread does not wait but naps and takes what has come: a millisecond, or less if some twenty packets come
sooner, but never below half of one. A voice packet is 20 ms long.
"""

from libc.stdint cimport uint64_t

from _fastpath.engine cimport Engine

cdef enum:
    HOT_STOPPED = 0
    HOT_FAILED = 2

cdef struct Hot:
    int socket
    int wake                          # rung by the loop: commands, or the slot's words
    int ring                          # rung for the loop: events
    int epoll
    int error
    uint64_t window_us                # when the present window of counting began
    uint64_t windowed                 # packets in it
    uint64_t nap_ns                   # how long the next rounds nap; 0: they wait

cdef uint64_t clock_us() noexcept nogil
cdef void work(Engine* engine) noexcept nogil
cdef void finish(Engine* engine, int ring) noexcept nogil
cdef int run_rounds(Hot* hot, Engine* engine) noexcept nogil
