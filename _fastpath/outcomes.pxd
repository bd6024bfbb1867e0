"""What became of a datagram in the transceiver: the counterpart of `verdicts`, which is the relay's.

Every datagram taken from the internal socket ends in exactly one of the first list (so *packets in = sum of outcomes*), every one
that was to be sent in exactly one of the second. Names, kinds and meanings for operators stand in outcomes.pyx, in the same order.
The first list shares the counters of `batch` with the relay's verdicts, hence the bound that outcomes.pyx checks.
"""

cdef enum:
    IN_PENDING = 0                    # not decided yet; never counted

    # Taken.
    IN_CHECK                          # an authenticated check of a session
    IN_PROBE_ANSWER                   # the client's answer to a request of ours
    IN_GONE                           # an authenticated check for a session that is gone: answered with 403
    IN_CONFLICT                       # an authenticated check of a client that takes itself for controlled: answered with 487
    IN_DTLS
    IN_RTP
    IN_RTCP
    IN_HELD                           # SRTP that waits for the end of the handshake

    # Dropped.
    IN_TRUNCATED
    IN_NOT_RELAY                      # the sender is outside --relays
    IN_BAD_ENVELOPE
    IN_UNKNOWN_KIND
    IN_STUN_MALFORMED
    IN_STUN_UNKNOWN                   # names no session of this process
    IN_STUN_FORGED                    # wrong MESSAGE-INTEGRITY
    IN_STUN_UNEXPECTED                # an answer nobody asked for, an indication, an error
    IN_PATHS_FULL                     # a session's paths are all in use
    IN_NO_PATH                        # not STUN, from an address without an authenticated check
    IN_DTLS_FLOOD                     # more handshake or data channel packets wait than may
    IN_NO_KEYS                        # more SRTP before the handshake is done than is held
    IN_SSRC_FULL                      # a session has as many sources as it may
    IN_SRTP_FORGED
    IN_SRTP_REPLAYED
    IN_RTP_MALFORMED                  # behind its authentication
    IN_RTCP_MALFORMED
    IN_RTP_UNWANTED                   # a payload type that was not agreed on
    IN_RING_FULL                      # the application does not keep up
    IN_OUTCOMES

cdef enum:
    FIRST_IN_DROP = IN_TRUNCATED

cdef enum:
    OUT_STUN
    OUT_DTLS
    OUT_RTP
    OUT_RTCP

    OUT_NO_PATH                       # no path to send it to (yet)
    OUT_AMPLIFIED                     # an unproven address has had its three bytes for one
    OUT_PROTECT                       # SRTP refused
    OUT_BUFFER                        # the kernel had no room
    OUT_REFUSED                       # any other error on send
    OUT_OUTCOMES

cdef enum:
    FIRST_OUT_DROP = OUT_NO_PATH
