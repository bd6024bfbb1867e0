"""Brings what a batch is going to touch into the cache, step by step, each step for all of its packets.

A session's state is spread over a dozen lines of memory, each found through another, and between two packets of a session those of all
the others have passed. One by one each miss would be waited for; this way those of a batch overlap. Only a guess: it changes nothing,
and may be wrong.
"""

from _fastpath.engine cimport Engine

cdef void foresee(Engine* engine) noexcept nogil
