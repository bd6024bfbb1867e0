"""Brings what the next packets are going to touch into the cache, step by step, each step for all of them.

A session's state is spread over some seventy lines of memory in a dozen pages, each found through another, and between two packets of
a session those of all the others have passed. One by one each miss would be waited for; this way those of several packets overlap. It
changes nothing. Few packets at a time, so that what was brought is still in the first cache when it is used.
"""

from libc.stdint cimport uint32_t

from _fastpath.engine cimport Engine

cdef enum:
    FORESEEN_MOST = 8

# Packets `first` to `last` - 1 of the batch, FORESEEN_MOST at most.
cdef void foresee(Engine* engine, uint32_t first, uint32_t last) noexcept nogil
