"""Names, kinds and meanings of the transceiver's outcomes. The enums are in outcomes.pxd, in the same order."""

from typing import NamedTuple

from _fastpath.verdicts cimport VERDICTS

UP = "up"
DOWN = "down"


class Outcome(NamedTuple):
    """One way a datagram can end."""

    name: str
    direction: str
    kind: str
    dropped: bool
    meaning: str


def _taken(direction: str, name: str, kind: str, meaning: str) -> Outcome:
    return Outcome(name, direction, kind, False, meaning)


def _dropped(direction: str, name: str, kind: str, meaning: str) -> Outcome:
    return Outcome(name, direction, kind, True, meaning)


IN = (
    Outcome("pending", UP, "other", False, "never counted"),
    _taken(UP, "check", "stun", "an authenticated check of a session"),
    _taken(UP, "probe_answer", "stun", "the client's answer to our own request: its address is proven"),
    _taken(UP, "gone", "stun", "an authenticated check of a session that is gone, answered with 403"),
    _taken(UP, "conflict", "stun", "an authenticated check in the wrong role, answered with 487"),
    _taken(UP, "dtls", "dtls", "handshake or data channel"),
    _taken(UP, "rtp", "srtp", "media, authenticated"),
    _taken(UP, "rtcp", "srtcp", "reports, authenticated"),
    _taken(UP, "held", "srtp", "media that came before the handshake was done, held until it is"),
    _dropped(UP, "truncated", "other", "longer than any WebRTC datagram"),
    _dropped(UP, "not_relay", "other", "from an address outside --relays"),
    _dropped(UP, "bad_envelope", "other", "without the relay's header"),
    _dropped(UP, "unknown_kind", "other", "neither STUN, DTLS, RTP nor RTCP"),
    _dropped(UP, "stun_malformed", "stun", "not a STUN message, or one without USERNAME or MESSAGE-INTEGRITY"),
    _dropped(UP, "stun_unknown", "stun", "its token names no session of this process"),
    _dropped(UP, "stun_forged", "stun", "its MESSAGE-INTEGRITY or FINGERPRINT is wrong"),
    _dropped(UP, "stun_unexpected", "stun", "an answer to nothing that was asked, an indication"),
    _dropped(UP, "paths_full", "stun", "from one address more than a session may have"),
    _dropped(UP, "no_path", "other", "from an address without an authenticated check"),
    _dropped(UP, "dtls_flood", "dtls", "more of it waits than may"),
    _dropped(UP, "no_keys", "srtp", "more media before the handshake is done than is held"),
    _dropped(UP, "ssrc_full", "srtp", "from one source more than a session may have"),
    _dropped(UP, "srtp_forged", "srtp", "its authentication tag is wrong"),
    _dropped(UP, "srtp_replayed", "srtp", "it came before, or is older than the replay window"),
    _dropped(UP, "rtp_malformed", "srtp", "authentic, but no RTP"),
    _dropped(UP, "rtcp_malformed", "srtcp", "authentic, but no RTCP"),
    _dropped(UP, "rtp_unwanted", "srtp", "of a payload type that was not agreed on"),
    _dropped(UP, "ring_full", "srtp", "the application does not keep up"),
)
OUT = (
    _taken(DOWN, "sent_stun", "stun", "answers and requests"),
    _taken(DOWN, "sent_dtls", "dtls", "handshake or data channel"),
    _taken(DOWN, "sent_rtp", "srtp", "media"),
    _taken(DOWN, "sent_rtcp", "srtcp", "reports"),
    _dropped(DOWN, "no_path", "other", "there is no address yet it could go to"),
    _dropped(DOWN, "amplified", "other", "an unproven address has had three times the bytes that came from it"),
    _dropped(DOWN, "protect", "srtp", "SRTP refused to encrypt it"),
    _dropped(DOWN, "send_buffer", "other", "the kernel had no room"),
    _dropped(DOWN, "send_refused", "other", "the kernel refused to send it"),
)
OUTCOMES = (*IN[1:], *OUT)

assert len(IN) == IN_OUTCOMES and len(OUT) == OUT_OUTCOMES
assert IN[<int>FIRST_IN_DROP].name == "truncated" and OUT[<int>FIRST_OUT_DROP].name == "no_path"
assert <int>IN_OUTCOMES <= <int>VERDICTS, "the receive counters are the relay's and have no more room"
