"""SHA-1 (RFC 3174) and HMAC-SHA1 (RFC 2104), for MESSAGE-INTEGRITY of STUN.

A password is used for every check of a call, so its two padded blocks are hashed once: an HmacKey is the two states after them, and
an HMAC costs one block for each 64 bytes begun of the message and one for the outer hash. No allocation, nothing but the arguments is
touched, and what is done depends on lengths only, never on content. The message comes in two parts because STUN's MESSAGE-INTEGRITY
covers a header whose length field is not the one that was sent: the caller copies 20 bytes, not the message.

SHA-1's collisions are no weakness of HMAC-SHA1, and RFC 8445 knows nothing else. Called by `wire.binding`.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    SHA1_BYTES = 20

cdef struct Sha1State:
    uint32_t h[5]

cdef struct HmacKey:
    Sha1State inner                   # after the block key ^ 0x36...
    Sha1State outer                   # after the block key ^ 0x5c...

cdef void hmac_key(HmacKey* key, const uint8_t* secret, size_t length) noexcept nogil
cdef void hmac_sha1(const HmacKey* key, const uint8_t* head, size_t head_bytes, const uint8_t* rest, size_t rest_bytes,
                    uint8_t* out20) noexcept nogil
