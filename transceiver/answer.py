"""Decides what of an offer is taken, and writes the answer that says so.

Taken are the first audio section with a codec we have and the first data channel, both in one BUNDLE group or alone:
a session is one transport. Any other section is rejected in its place, for an answer has one for each of the offer's
(RFC 3264, 6); the exception is `_carrier`. `choose` decides that, `negotiate` says what it means to a session, and
`write_answer` tells the client; an ICE restart is the same three calls and a higher `session_version`.

Written for ICE-lite: all candidates at once. They stand in each accepted section, as do ufrag, password, fingerprint
and setup: RFC 8843, 7.1.3 wants them once, in the section that gives the bundle its transport; but under the policy
max-bundle aiortc reads those of the last one, and refuses an answer without the others. Of the offer nothing is
repeated but token characters that `transceiver.sdp` let pass. Called by the session; of ICE and DTLS it knows their
SDP lines only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transceiver.ice import Candidate
from transceiver.sdp import Codec, Fingerprint, Media, Offer, SDPError, Transport

Role = Literal["client", "server"]
Setup = Literal["active", "passive"]
SETUP: dict[Role, Setup] = {"client": "active", "server": "passive"}

SCTP_PORT = 5000
MAX_MESSAGE_SIZE = 262_144
OPUS_FMTP = "minptime=10;useinbandfec=1"
LEGACY_STREAMS = 1024  # what a=sctpmap always said
TRACK = "audio"

# RFC 8829, 5.1.2: old names for the same thing are taken, given a fingerprint, and repeated in the answer.
RTP_PROTOCOLS = {
    *("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "TCP/DTLS/RTP/SAVPF", "TCP/DTLS/RTP/SAVP"),
    *("RTP/SAVPF", "RTP/SAVP", "RTP/AVPF", "RTP/AVP"),
}
SCTP_PROTOCOLS = {"UDP/DTLS/SCTP", "TCP/DTLS/SCTP", "DTLS/SCTP"}
OUR_DIRECTION = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}


@dataclass(frozen=True)
class AudioMedia:
    """`direction` is ours: with recvonly nothing is sent. `fmtp` is what the peer wants to receive."""

    mid: str
    codec: str
    payload_type: int
    clock_rate: int
    channels: int
    fmtp: Mapping[str, str]
    direction: str
    remote_ssrcs: tuple[int, ...]


@dataclass(frozen=True)
class DataMedia:
    """`max_message_size` is what may be sent, at most our own limit."""

    mid: str
    sctp_port: int
    max_message_size: int


@dataclass(frozen=True)
class Negotiated:
    """All that a session has to know of an offer."""

    remote_ufrag: str
    remote_pwd: str = field(repr=False)
    fingerprints: tuple[Fingerprint, ...]
    dtls_role: Role
    audio: AudioMedia | None
    data: DataMedia | None
    session_id: str


@dataclass(frozen=True)
class LocalDescription:
    """Our side. `setup` is SETUP[negotiated.dtls_role]; `session_version` grows with each answer of a session."""

    ufrag: str
    pwd: str = field(repr=False)
    fingerprint: str
    candidates: tuple[Candidate, ...]
    setup: str
    session_id: int
    session_version: int
    ssrc: int
    cname: str


class Choice(NamedTuple):
    """What is taken of an offer, and the offer."""

    offer: Offer
    audio: Media | None
    data: Media | None
    carrier: Media | None
    tagged: Media
    transport: Transport
    bundle: tuple[str, ...]


def negotiate(choice: Choice, *, prefer: Setup = "active") -> Negotiated:
    """`prefer` is our a=setup where the offer leaves it open; a running DTLS association must keep the one it has."""
    return Negotiated(
        remote_ufrag=choice.transport.ufrag,
        remote_pwd=choice.transport.pwd,
        fingerprints=choice.transport.fingerprints,
        dtls_role=_role(choice.transport.setup, prefer),
        audio=_audio(choice.audio) if choice.audio else None,
        data=_data(choice.data) if choice.data else None,
        session_id=choice.offer.session_id,
    )


def _role(setup: str, prefer: Setup) -> Role:
    if setup == "actpass":
        return "client" if prefer == "active" else "server"
    # RFC 4145, 4: who says nothing in an offer is active.
    return "client" if setup == "passive" else "server"


def _audio(media: Media) -> AudioMedia:
    codec = _codec(media)
    return AudioMedia(
        mid=media.mid,
        codec=codec.name,
        payload_type=codec.payload_type,
        clock_rate=codec.clock_rate,
        channels=codec.channels,
        fmtp=codec.fmtp,
        direction=OUR_DIRECTION[media.direction],
        remote_ssrcs=media.ssrcs,
    )


def _data(media: Media) -> DataMedia:
    assert media.sctp_port is not None
    # RFC 8841, 6: 0 stands for any size.
    return DataMedia(media.mid, media.sctp_port, min(media.max_message_size or MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE))


def _codec(media: Media) -> Codec:
    """Opus wherever it stands, else what the peer likes best."""
    return next((each for each in media.codecs if each.name == "opus"), media.codecs[0])


def choose(offer: Offer) -> Choice:
    """SDPError where there is nothing to take."""
    if offer.ice_lite:
        raise SDPError("the offer says a=ice-lite, as the answer would: neither side would send checks")
    refusals = {media.line: _refusal(media, offer) for media in offer.media}
    usable = [media for media in offer.media if not refusals[media.line]]
    if not usable:
        reasons = (f"line {line}: {reason}" for line, reason in list(refusals.items())[:8])
        raise SDPError(f"nothing in the offer can be accepted ({'; '.join(reasons)})")
    bundle = offer.bundle_of(usable[0].mid)
    taken = [media for media in usable if media.mid in bundle] if bundle else usable[:1]
    audio = next((media for media in taken if media.kind == "audio"), None)
    data = next((media for media in taken if media.kind == "application"), None)
    carrier = _carrier(offer, bundle)
    kept = {media.mid: media for media in (carrier, audio, data) if media}
    # RFC 8843, 7.3.1: the first one of the group that is not rejected gives the bundle its transport.
    mids = tuple(mid for mid in bundle if mid in kept)
    tagged = kept[mids[0]] if mids else usable[0]
    return Choice(offer, audio, data, carrier, tagged, _transport(offer, tagged, bundle), mids)


def _carrier(offer: Offer, bundle: tuple[str, ...]) -> Media | None:
    """The first section of the group, if it is RTP: it is kept even if we have no use for it, but inactive.

    Under the policy max-bundle the client's transport hangs on it, and libwebrtc refuses the whole answer if it is
    rejected ("Failed to setup RTCP mux", seen with Chromium 156), though RFC 8843, 7.3.1 has a rule for that.
    """
    first = next(iter(_members(offer, bundle)), None)
    if first is None or not (first.port and first.rtcp_mux and first.first_map and first.protocol in RTP_PROTOCOLS):
        return None
    return first


def _refusal(media: Media, offer: Offer) -> str:
    """Why a section cannot be taken, "" if it can."""
    bundle = offer.bundle_of(media.mid)
    if media.port == 0 and not (media.bundle_only and bundle):
        return "it is switched off, port 0 without a=bundle-only"
    if media.kind == "audio":
        return _audio_refusal(media, [media, *_members(offer, bundle)])
    if media.kind == "application":
        fits = media.protocol in SCTP_PROTOCOLS and media.sctp_port is not None
        return "" if fits else "it is no data channel over DTLS and SCTP"
    return f"{media.kind} is not supported"


def _audio_refusal(media: Media, bundled: list[Media]) -> str:
    if media.protocol not in RTP_PROTOCOLS:
        return "its protocol is not RTP over DTLS-SRTP"
    if not media.codecs:
        return "it has none of the codecs Opus, PCMU, PCMA"
    # RFC 8843, 9.3: later offers may say it once for the whole group.
    return "" if any(each.rtcp_mux for each in bundled) else "it lacks a=rtcp-mux"


def _members(offer: Offer, bundle: tuple[str, ...]) -> list[Media]:
    by_mid = {media.mid: media for media in offer.media if media.mid}
    return [by_mid[mid] for mid in bundle]


def _transport(offer: Offer, tagged: Media, bundle: tuple[str, ...]) -> Transport:
    """What one section leaves out (a bundle-only one may, RFC 8843, 7.1.3) is said by another of its group."""
    said = [each.transport for each in (tagged, *_members(offer, bundle))]
    with_pwd = next((each for each in said if each.ufrag and each.pwd), None)
    if with_pwd is None:
        raise SDPError("the offer has no a=ice-ufrag and a=ice-pwd", tagged.line)
    fingerprints = next((each.fingerprints for each in said if each.fingerprints), ())
    if not fingerprints:
        raise SDPError("the offer has no a=fingerprint of sha-256, sha-384 or sha-512", tagged.line)
    setup = next((each.setup for each in said if each.setup), "")
    return Transport(with_pwd.ufrag, with_pwd.pwd, fingerprints, setup)


def write_answer(choice: Choice, local: LocalDescription) -> str:
    lines = list(_session_lines(choice, local))
    for media in choice.offer.media:
        if any(media is each for each in (choice.audio, choice.data, choice.carrier)):
            lines += _accepted_lines(media, choice, local)
        else:
            lines += _rejected_lines(media)
    # Clients on iOS refuse an answer whose last line does not end.
    return "".join(f"{line}\r\n" for line in lines)


def _session_lines(choice: Choice, local: LocalDescription) -> Iterator[str]:
    yield from ("v=0", f"o=- {local.session_id} {local.session_version} IN IP4 127.0.0.1", "s=-", "t=0 0")
    if choice.bundle:
        yield f"a=group:BUNDLE {' '.join(choice.bundle)}"
    yield from ("a=ice-lite", "a=ice-options:ice2", "a=msid-semantic:WMS *")


def _rejected_lines(media: Media) -> Iterator[str]:
    yield f"m={media.kind} 0 {media.protocol} {media.formats[0]}"
    yield "c=IN IP4 0.0.0.0"
    if media.mid:
        yield f"a=mid:{media.mid}"
    if media.kind != "application":
        yield "a=inactive"


def _accepted_lines(media: Media, choice: Choice, local: LocalDescription) -> Iterator[str]:
    if media is choice.audio:
        subject, body = str(_codec(media).payload_type), _audio_lines(media, local)
    elif media is choice.data:
        subject, body = _data_subject(media), _data_lines(media)
    else:
        subject, body = media.formats[0], _carrier_lines(media)
    default = local.candidates[0]
    yield f"m={media.kind} {default.port} {media.protocol} {subject}"
    yield f"c=IN {'IP6' if ':' in default.host else 'IP4'} {default.host}"
    if media.mid:
        yield f"a=mid:{media.mid}"
    yield from (f"a=ice-ufrag:{local.ufrag}", f"a=ice-pwd:{local.pwd}")
    yield from (f"a=fingerprint:sha-256 {local.fingerprint}", f"a=setup:{local.setup}")
    yield from body
    for host, port, priority, foundation in local.candidates:
        yield f"a=candidate:{foundation} 1 udp {priority} {host} {port} typ host"
    yield "a=end-of-candidates"


def _audio_lines(media: Media, local: LocalDescription) -> Iterator[str]:
    codec = _codec(media)
    direction = OUR_DIRECTION[media.direction]
    yield from (f"a={direction}", "a=rtcp-mux")
    if media.rtcp_rsize:
        yield "a=rtcp-rsize"
    channels = f"/{codec.channels}" if codec.channels > 1 else ""
    yield f"a=rtpmap:{codec.payload_type} {codec.name}/{codec.clock_rate}{channels}"
    if codec.name == "opus":
        yield f"a=fmtp:{codec.payload_type} {OPUS_FMTP}"
    if direction in ("sendrecv", "sendonly"):
        # The stream that browsers hand to ontrack; once for them (RFC 8830), once for who reads ssrc lines only.
        yield f"a=msid:{local.cname} {TRACK}"
        yield f"a=ssrc:{local.ssrc} cname:{local.cname}"
        yield f"a=ssrc:{local.ssrc} msid:{local.cname} {TRACK}"


def _carrier_lines(media: Media) -> Iterator[str]:
    yield from ("a=inactive", "a=rtcp-mux", f"a=rtpmap:{media.first_map}")


def _data_subject(media: Media) -> str:
    """RFC 8841, 4; before it the port stood there, and a=sctpmap said what for."""
    return "webrtc-datachannel" if media.formats[0] == "webrtc-datachannel" else str(SCTP_PORT)


def _data_lines(media: Media) -> Iterator[str]:
    if media.formats[0] == "webrtc-datachannel":
        yield f"a=sctp-port:{SCTP_PORT}"
    else:
        yield f"a=sctpmap:{SCTP_PORT} webrtc-datachannel {LEGACY_STREAMS}"
    yield f"a=max-message-size:{MAX_MESSAGE_SIZE}"
