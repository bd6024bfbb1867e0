"""The walk, a step for all contexts before the next step; see srtp_contexts.pxd.

Loads, not prefetches: a prefetch whose page is not in the TLB may be dropped (AMD's are), and after a nap none is. Nothing is
written, and each block of a live context stays where it is as long as the hot thread has the context.
"""

from _fastpath.atomics cimport touch, touch_lines

# For the one who looks whether the places are right.
OFFSETS = {
    "LIST_STREAM": LIST_STREAM, "STREAM_KEYS": STREAM_KEYS, "STREAM_WINDOW": STREAM_WINDOW, "KEYS_AUTH": KEYS_AUTH,
    "KEYS_LIMIT": KEYS_LIMIT, "CIPHER_STATE": CIPHER_STATE, "CIPHER_ALGORITHM": CIPHER_ALGORITHM, "GCM_EVP": GCM_EVP,
    "ICM_EVP": ICM_EVP, "EVP_CIPHER": EVP_CIPHER, "AUTH_STATE": AUTH_STATE, "HMAC_MAC": HMAC_MAC, "MAC_PROVIDER": MAC_PROVIDER,
    "PROVIDER_HMAC": PROVIDER_HMAC, "HMAC_DIGEST": HMAC_DIGEST, "HMAC_INNER": HMAC_INNER, "HMAC_OUTER": HMAC_OUTER,
    "DIGEST_SHA1": DIGEST_SHA1,
}
BYTES = {
    "STREAM": STREAM_BYTES, "KEYS": KEYS_BYTES, "EVP": EVP_BYTES, "GCM": GCM_BYTES, "ICM": ICM_BYTES, "PROVIDER": PROVIDER_BYTES,
    "DIGEST": DIGEST_BYTES, "SHA1": SHA1_BYTES,
}


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
    touch_ciphers(contexts, keys, known)


cdef void touch_ciphers(uint8_t** ciphers, uint8_t** keys, uint32_t count) noexcept nogil:
    cdef uint8_t* icms[CONTEXTS_MOST]
    cdef uint8_t* auths[CONTEXTS_MOST]
    cdef uint32_t gcm_count = 0
    cdef uint32_t icm_count = 0
    cdef uint32_t i, algorithm
    for i in range(count):
        algorithm = (<const uint32_t*>(ciphers[i] + CIPHER_ALGORITHM))[0]
        if algorithm == AES_ICM_128:
            icms[icm_count] = at(ciphers[i], CIPHER_STATE)
            auths[icm_count] = at(keys[i], KEYS_AUTH)
            icm_count += 1
        elif algorithm == AES_GCM_128 or algorithm == AES_GCM_256:
            ciphers[gcm_count] = at(ciphers[i], CIPHER_STATE)
            gcm_count += 1
    touch_gcm(ciphers, gcm_count)
    touch_icm(icms, auths, icm_count)


cdef void touch_gcm(uint8_t** states, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        states[i] = at(states[i], GCM_EVP)
    for i in range(count):
        touch_lines(states[i], EVP_BYTES)
    for i in range(count):
        touch_lines(at(states[i], EVP_CIPHER), GCM_BYTES)


cdef void touch_icm(uint8_t** states, uint8_t** auths, uint32_t count) noexcept nogil:
    """Cipher and HMAC side by side; what `auths` leads to is replaced by the next on the way."""
    cdef uint32_t i
    for i in range(count):
        states[i] = at(states[i], ICM_EVP)
        auths[i] = at(auths[i], AUTH_STATE)
    for i in range(count):
        touch_lines(states[i], EVP_BYTES)
        auths[i] = at(auths[i], HMAC_MAC)
    for i in range(count):
        touch_lines(at(states[i], EVP_CIPHER), ICM_BYTES)
        auths[i] = at(auths[i], MAC_PROVIDER)
    for i in range(count):
        touch_lines(auths[i], PROVIDER_BYTES)
        auths[i] = at(auths[i], PROVIDER_HMAC)
    for i in range(count):
        touch_lines(at(auths[i], HMAC_DIGEST), DIGEST_BYTES)
        touch_lines(at(auths[i], HMAC_INNER), DIGEST_BYTES)
        touch_lines(at(auths[i], HMAC_OUTER), DIGEST_BYTES)
    for i in range(count):
        touch_lines(at(at(auths[i], HMAC_DIGEST), DIGEST_SHA1), SHA1_BYTES)
        touch_lines(at(at(auths[i], HMAC_INNER), DIGEST_SHA1), SHA1_BYTES)
        touch_lines(at(at(auths[i], HMAC_OUTER), DIGEST_SHA1), SHA1_BYTES)
