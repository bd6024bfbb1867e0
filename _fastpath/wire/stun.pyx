"""Python's view of `stun.pxd`, for tools and tests; the hot path uses the inline functions."""

from _fastpath.wire.demux cimport KIND_STUN, classify

RESULTS = ("ok", "malformed", "no_username", "long_username")


def username_of(message: bytes) -> tuple[str, bytes]:
    """(one of RESULTS, the USERNAME when there is one) of a Binding Request; anything else is malformed."""
    cdef Span span
    cdef StunResult result
    cdef const uint8_t* raw = message
    if classify(raw, len(message)) != KIND_STUN or not is_binding_request(raw):
        return RESULTS[<int>STUN_MALFORMED], b""
    result = find_username(raw, len(message), &span)
    return RESULTS[<int>result], span.start[:span.length] if result == STUN_OK else b""
