"""ICE's Binding messages (RFC 8489, 8445): read, verified and written. Called for every check by the transceiver's hot thread.

    binding_parse    the structure, and FINGERPRINT where there is one; nothing it says is authentic yet
    binding_verify   MESSAGE-INTEGRITY under one key
    binding_success, binding_error, binding_request
                     whole messages with MESSAGE-INTEGRITY and FINGERPRINT

Rules: nothing is read beyond `length`, and `length` must be what the header says; what a message of ours repeats of a foreign one is
its transaction id, never an attribute. Attributes are taken up to MESSAGE-INTEGRITY only, for what follows is not covered by it (RFC 8489
14.5); FINGERPRINT alone may follow, as the very last. Of attributes that come twice the first counts (14). MESSAGE-INTEGRITY-SHA256 is
known and ignored: browsers have one password and SHA-1. Who may say what to whom is decided by the caller.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.sha1 cimport HmacKey
from _fastpath.wire.stun cimport Span

cdef enum:
    BINDING_INDICATION = 0x0011       # BINDING_REQUEST and BINDING_SUCCESS are in wire.stun
    BINDING_ERROR = 0x0111

    BINDING_ATTRIBUTES = 32           # more make a message malformed; clients send up to ten
    # The longest is a request: header 20, USERNAME 4 + 512, PRIORITY 8, ICE-CONTROLLED or -ING 12, USE-CANDIDATE 4,
    # MESSAGE-INTEGRITY 24, FINGERPRINT 8.
    BINDING_MAX_BYTES = 592

cdef enum BindingResult:              # of several the first in this order, but for OK
    BINDING_OK = 0                    # MESSAGE-INTEGRITY is there, and USERNAME in a request
    BINDING_MALFORMED = 1             # no Binding message of the given length; nothing of Binding may be used
    BINDING_BAD_FINGERPRINT = 2
    BINDING_NO_USERNAME = 3           # of a request
    BINDING_NO_INTEGRITY = 4          # of any kind: indications come without (RFC 8445 11)
    BINDING_UNKNOWN_REQUIRED = 5      # to be verified like BINDING_OK before anybody is told so

cdef struct Binding:                  # pointers are into the message
    const uint8_t* transaction        # 12 bytes
    Span username                     # start NULL: none
    size_t integrity_at               # of the attribute MESSAGE-INTEGRITY; 0: none
    uint32_t priority
    uint16_t kind
    uint16_t error_code               # 300..699; 0: none
    bint has_priority
    bint use_candidate
    bint controlling
    bint controlled

cdef int binding_parse(const uint8_t* message, size_t length, Binding* out) noexcept nogil

# `binding` of the same message, from a result that is not BINDING_MALFORMED. False without MESSAGE-INTEGRITY. The time depends on the
# length of the message only.
cdef bint binding_verify(const uint8_t* message, const Binding* binding, const HmacKey* key) noexcept nogil

# Each returns how many bytes it wrote, BINDING_MAX_BYTES at most. `address16` and `port2` are those of wire.address (IPv4 mapped).
cdef size_t binding_success(uint8_t* out, const uint8_t* transaction, const uint8_t* address16, const uint8_t* port2,
                            const HmacKey* key) noexcept nogil
cdef size_t binding_error(uint8_t* out, const uint8_t* transaction, int code, const HmacKey* key) noexcept nogil
# 0 for a username longer than USERNAME_MAX_BYTES. Controlled, as an ICE-lite agent is.
cdef size_t binding_request(uint8_t* out, const uint8_t* transaction, const uint8_t* username, size_t username_bytes, uint32_t priority,
                            uint64_t tie_breaker, const HmacKey* key) noexcept nogil
