"""The route token: the server's ICE ufrag, which names the owner of a session. The format is specified in docs/wire.md.

A token is authenticated and opaque (SIV: the tag over the plain payload is also the nonce that hides it), so it is verified here,
in per-packet code, before any state is made. Verifying needs no allocation and no look-up; a token minted a millisecond ago by a
transceiver nobody has heard of is routable. What a route means is not known here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from _fastpath.siphash cimport SipKey
from _fastpath.wire.address cimport Endpoint

cdef enum:
    TOKEN_VERSION = 1
    TOKEN_CHARS_IPV4 = 32
    TOKEN_CHARS_IPV6 = 48
    TOKEN_KEY_IDS = 7                 # 0..6; 7 is kept for a longer first field one day

    TAG_BYTES = 8
    FIELD_BYTES = 3                   # form (2 bits), cluster (10), generation (12), big-endian
    RANDOM_BYTES = 6
    PAYLOAD_IPV4 = 15                 # fields, 4 address bytes, 2 port bytes, random
    PAYLOAD_IPV6 = 27

    FORM_IPV4 = 0
    FORM_IPV6 = 1

cdef enum TokenResult:
    TOKEN_VERIFIED = 0
    TOKEN_MALFORMED = 1               # length, alphabet, pad bits, or a form that does not fit
    TOKEN_OTHER_VERSION = 2
    TOKEN_UNKNOWN_KEY = 3
    TOKEN_FORGED = 4                  # the tag does not match

cdef struct TokenKey:                 # subkeys of one route key
    SipKey tag
    SipKey stream
    bint present

cdef struct TokenKeys:
    TokenKey by_id[8]

cdef struct Route:
    Endpoint owner
    uint16_t cluster
    uint16_t generation
    uint64_t nonce                    # the random bits: tell sessions of one owner apart
    uint8_t key_id

cdef inline size_t token_length(const uint8_t* username, size_t length) noexcept nogil:
    """Characters before the colon of `token:client ufrag` when they can be a token, else 0."""
    if length > TOKEN_CHARS_IPV4 and username[TOKEN_CHARS_IPV4] == c":":
        return TOKEN_CHARS_IPV4
    if length > TOKEN_CHARS_IPV6 and username[TOKEN_CHARS_IPV6] == c":":
        return TOKEN_CHARS_IPV6
    return 0

cdef int token_key_id(const uint8_t* text) noexcept nogil
cdef TokenResult token_verify(const TokenKeys* keys, const uint8_t* text, size_t length, Route* route) noexcept nogil


cdef class Keyring:
    cdef TokenKeys keys
    cdef void add(self, int key_id, bytes subkeys)
