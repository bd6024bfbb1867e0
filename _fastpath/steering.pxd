"""What a launcher tells a process of its own in shared memory, and what it hears from it: part of every slot's header.

Each line of 64 bytes has one writer that matters: the launcher, the hot thread, whoever measures once a second.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    DRAINING = 1                      # nothing new is taken; what is there may stay until it ends
    DRAINING_PUSH = 2                 # and a relay leaves checks unanswered: clients with another way take it

cdef struct Steering:
    uint32_t draining                 # 1: nothing new is taken; 2 (a relay): checks of what there is stay unanswered, too
    uint32_t stopping                 # the process is to end
    uint32_t pid
    uint32_t restarts                 # how often the launcher had to start it again
    uint32_t reloads                  # how often what can change was to be read again
    uint8_t spare_control[44]
    uint32_t heart                    # tick of the hot thread's last round
    uint8_t spare_heart[60]
    uint64_t busy_ppm                 # of the hot thread, in millionths
    uint8_t spare_busy[56]

cdef class Steered:
    cdef Steering* steering
