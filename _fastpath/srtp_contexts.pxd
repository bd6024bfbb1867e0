"""Where libsrtp keeps what it needs for a packet, so that the contexts of a batch can be brought into the cache together.

A context is ten blocks of memory, with AES-CM and its HMAC twenty-one, each found through another. Alone it is waited for block by
block; side by side the waits of a batch overlap. The places are those of libsrtp 2.7 over OpenSSL 3.5, as pylibsrtp 1.0 brings them,
and they are no interface: who sets `Engine.srtp_known` has looked first (`transceiver.srtp_memory`).
"""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    # Offsets of pointers; the first word of a context leads to its list, the first of the keys to the cipher.
    LIST_STREAM = 0x70                # the stream that came last; none before the first packet
    STREAM_KEYS = 0x08
    STREAM_WINDOW = 0x28              # the replay database's bits
    KEYS_AUTH = 0x10
    KEYS_LIMIT = 0x50                 # how many packets the key is still good for
    CIPHER_STATE = 0x08
    CIPHER_ALGORITHM = 0x14           # a number:
    AES_ICM_128 = 1                   # with HMAC-SHA1; AES-GCM authenticates itself
    AES_GCM_128 = 6
    AES_GCM_256 = 7
    GCM_EVP = 0x08                    # from the cipher's state
    ICM_EVP = 0x28
    EVP_CIPHER = 0xb0                 # the provider's part
    AUTH_STATE = 0x08                 # of HMAC-SHA1 only, as all that follows
    HMAC_MAC = 0x08
    MAC_PROVIDER = 0x08               # the provider's part
    PROVIDER_HMAC = 0x08
    HMAC_DIGEST = 0x08                # the packet's, which starts as a copy of the inner and goes on as one of the outer
    HMAC_INNER = 0x10
    HMAC_OUTER = 0x18
    DIGEST_SHA1 = 0x38                # the provider's part
    # Bytes of what is read whole.
    STREAM_BYTES = 0x80
    KEYS_BYTES = 0x58
    EVP_BYTES = 0xc0
    GCM_BYTES = 0x3c0
    ICM_BYTES = 0x1c0
    PROVIDER_BYTES = 0x80             # the rest is for TLS
    DIGEST_BYTES = 0x48
    SHA1_BYTES = 0x60

    CONTEXTS_MOST = 32

# The pointers in `contexts`, CONTEXTS_MOST at most, are used up.
cdef void contexts_touch(uint8_t** contexts, uint32_t count) noexcept nogil
