"""SipHash (Aumasson, Bernstein 2012): a keyed pseudo-random function for short inputs.

Two uses. SipHash-2-4 authenticates and hides the route token (`wire/token`). SipHash-1-3 places flows in the table (`flows`): its
key is secret, so nobody who chooses addresses can choose collisions. Tested against the authors' vectors.
All functions are leaves that the C compiler folds into their caller; `rounds` and `final_rounds` are constants there.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cdef struct SipKey:
    uint64_t k0
    uint64_t k1

cdef struct SipState:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "ufrag runs on little-endian machines (x86-64, Arm) only"
    #endif
    """

cdef inline uint64_t load_le64(const uint8_t* p) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word

cdef inline uint64_t rotate_left(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))

cdef inline void sip_round(SipState* s) noexcept nogil:
    s.v0 += s.v1
    s.v2 += s.v3
    s.v1 = rotate_left(s.v1, 13) ^ s.v0
    s.v3 = rotate_left(s.v3, 16) ^ s.v2
    s.v0 = rotate_left(s.v0, 32)
    s.v2 += s.v1
    s.v0 += s.v3
    s.v1 = rotate_left(s.v1, 17) ^ s.v2
    s.v3 = rotate_left(s.v3, 21) ^ s.v0
    s.v2 = rotate_left(s.v2, 32)

cdef inline uint64_t siphash(const SipKey* key, const uint8_t* data, size_t length, int rounds, int final_rounds) noexcept nogil:
    cdef SipState s
    cdef uint64_t word
    cdef size_t i = 0
    cdef int r
    s.v0 = key.k0 ^ <uint64_t>0x736f6d6570736575
    s.v1 = key.k1 ^ <uint64_t>0x646f72616e646f6d
    s.v2 = key.k0 ^ <uint64_t>0x6c7967656e657261
    s.v3 = key.k1 ^ <uint64_t>0x7465646279746573
    while i + 8 <= length:
        word = load_le64(data + i)
        s.v3 ^= word
        for r in range(rounds):
            sip_round(&s)
        s.v0 ^= word
        i += 8
    word = 0
    if length > i:
        memcpy(&word, data + i, length - i)
    word |= <uint64_t>length << 56
    s.v3 ^= word
    for r in range(rounds):
        sip_round(&s)
    s.v0 ^= word
    s.v2 ^= 0xff
    for r in range(final_rounds):
        sip_round(&s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3

cdef inline uint64_t siphash24(const SipKey* key, const uint8_t* data, size_t length) noexcept nogil:
    return siphash(key, data, length, 2, 4)

cdef inline uint64_t siphash13(const SipKey* key, const uint8_t* data, size_t length) noexcept nogil:
    return siphash(key, data, length, 1, 3)
