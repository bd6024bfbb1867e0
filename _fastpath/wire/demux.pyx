"""Python's view of `demux.pxd`, for tools and tests; the hot path uses the inline function."""

KINDS = ("unknown", "stun", "dtls", "rtp", "too_short", "bad_cookie")


def kind_of(datagram: bytes) -> str:
    """The name of what `classify` makes of a datagram."""
    return KINDS[<int>classify(datagram, len(datagram))]
