"""The walk, a step for all contexts before the next step; see srtp_contexts.pxd.

Loads, not prefetches: a prefetch whose page is not in the TLB may be dropped (AMD's are), and after a nap none is. Nothing is
written, and each block of a live context stays where it is as long as the hot thread has the context.
"""

from _fastpath.atomics cimport touch, touch_lines

# For the one who looks whether the places are right.
OFFSETS = {
    "LIST_STREAM": LIST_STREAM, "STREAM_KEYS": STREAM_KEYS, "STREAM_WINDOW": STREAM_WINDOW, "KEYS_AUTH": KEYS_AUTH,
    "KEYS_LIMIT": KEYS_LIMIT, "CIPHER_STATE": CIPHER_STATE, "CIPHER_ALGORITHM": CIPHER_ALGORITHM, "STATE_EVP": STATE_EVP,
    "EVP_CIPHER": EVP_CIPHER,
}
BYTES = {"STREAM": STREAM_BYTES, "KEYS": KEYS_BYTES, "EVP": EVP_BYTES, "CIPHER": CIPHER_BYTES}


cdef inline uint8_t* at(const uint8_t* block, size_t offset) noexcept nogil:
    return (<uint8_t**>(block + offset))[0]


cdef void contexts_touch(uint8_t** contexts, uint32_t count) noexcept nogil:
    cdef uint8_t* keys[CONTEXTS_MOST]
    cdef uint8_t* streams[CONTEXTS_MOST]
    cdef uint32_t known = 0
    cdef uint32_t i
    for i in range(count):
        contexts[i] = at(contexts[i], 0)
    for i in range(count):
        streams[known] = at(contexts[i], LIST_STREAM)
        if streams[known] != NULL:
            known += 1
    for i in range(known):
        keys[i] = at(streams[i], STREAM_KEYS)
        touch_lines(streams[i], STREAM_BYTES)
    for i in range(known):
        contexts[i] = at(keys[i], 0)
        touch_lines(keys[i], KEYS_BYTES)
    for i in range(known):
        touch(at(keys[i], KEYS_AUTH))
        touch(at(keys[i], KEYS_LIMIT))
        touch(at(streams[i], STREAM_WINDOW))
    touch_ciphers(contexts, known)


cdef inline bint is_gcm(const uint8_t* cipher) noexcept nogil:
    cdef uint32_t algorithm = (<const uint32_t*>(cipher + CIPHER_ALGORITHM))[0]
    return algorithm == AES_GCM_128 or algorithm == AES_GCM_256


cdef void touch_ciphers(uint8_t** ciphers, uint32_t count) noexcept nogil:
    cdef uint32_t known = 0
    cdef uint32_t i
    for i in range(count):
        if is_gcm(ciphers[i]):
            ciphers[known] = at(ciphers[i], CIPHER_STATE)
            known += 1
    for i in range(known):
        ciphers[i] = at(ciphers[i], STATE_EVP)
    for i in range(known):
        touch_lines(ciphers[i], EVP_BYTES)
    for i in range(known):
        touch_lines(at(ciphers[i], EVP_CIPHER), CIPHER_BYTES)
