"""A hash index from a 32-bit hash to small numbers: open addressing, linear probing, backward-shift removal. Private memory, one thread.

What a number stands for, and whether it is the one that was looked for, is the caller's affair: it walks the numbers of a hash with
`index_first` and `index_next`. The hash must be keyed where others choose what is hashed. At most half full: the caller sizes it so.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc

cdef enum:
    NO_NUMBER = 0xffffffff

cdef struct Index:
    uint64_t* words                   # hash in the upper half, number + 1 in the lower; 0: free
    uint32_t mask

cdef inline int index_make(Index* index, uint32_t most) noexcept nogil:
    """Room for `most` numbers; -1 without memory."""
    cdef uint32_t size = 16
    while size < 2 * most:
        size *= 2
    index.mask = size - 1
    index.words = <uint64_t*>calloc(size, sizeof(uint64_t))
    return -1 if index.words == NULL else 0

cdef inline uint32_t index_next(const Index* index, uint32_t hash, uint32_t* at) noexcept nogil:
    """The next number of this hash from place `at` on; NO_NUMBER when there is none."""
    cdef uint64_t word = index.words[at[0]]
    while word:
        at[0] = (at[0] + 1) & index.mask
        if <uint32_t>(word >> 32) == hash:
            return <uint32_t>word - 1
        word = index.words[at[0]]
    return NO_NUMBER

cdef inline uint32_t index_first(const Index* index, uint32_t hash, uint32_t* at) noexcept nogil:
    at[0] = hash & index.mask
    return index_next(index, hash, at)

cdef inline void index_insert(Index* index, uint32_t hash, uint32_t number) noexcept nogil:
    cdef uint32_t at = hash & index.mask
    while index.words[at]:
        at = (at + 1) & index.mask
    index.words[at] = <uint64_t>hash << 32 | (number + 1)

cdef inline void index_remove(Index* index, uint32_t hash, uint32_t number) noexcept nogil:
    """Closes the gap by moving back whatever was pushed over it."""
    cdef uint64_t word = <uint64_t>hash << 32 | (number + 1)
    cdef uint32_t gap = hash & index.mask
    cdef uint32_t at, home
    while index.words[gap] != word:
        if index.words[gap] == 0:
            return
        gap = (gap + 1) & index.mask
    at = gap
    while True:
        at = (at + 1) & index.mask
        if index.words[at] == 0:
            break
        home = <uint32_t>(index.words[at] >> 32) & index.mask
        if (at - home) & index.mask >= (at - gap) & index.mask:
            index.words[gap] = index.words[at]
            gap = at
    index.words[gap] = 0
