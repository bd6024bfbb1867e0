"""Offers for tests: those of tests/vectors/offers by name, and small ones put together from lines."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent.parent / "vectors" / "offers"
# As sent: CRLF, ended by one. The README beside them says where each comes from.
VECTORS = {path.stem: path.read_bytes().decode("ascii") for path in sorted(DIRECTORY.glob("*.sdp"))}

SESSION = ["v=0", "o=- 7 2 IN IP4 127.0.0.1", "s=-", "t=0 0"]
SHA_256 = ":".join(f"{number:02X}" for number in range(32))
UFRAG, PWD, SETUP = "a=ice-ufrag:Cd2/", "a=ice-pwd:TfTCT7ZrLcSoCsXxrYIShPVp", "a=setup:actpass"
FINGERPRINT = f"a=fingerprint:sha-256 {SHA_256}"
TRANSPORT = [UFRAG, PWD, FINGERPRINT, SETUP]
OPUS = ["m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 opus/48000/2", "a=rtcp-mux"]
DATA = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000"]
VIDEO = ["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000", "a=rtcp-mux"]


def text(*lines: str) -> str:
    """An offer of these lines after the usual beginning."""
    return "".join(f"{line}\r\n" for line in [*SESSION, *lines])


def audio(*lines: str, remove: str = "") -> str:
    """An offer of one audio section with Opus and its own transport, without one line of these and with others."""
    return text(*(line for line in [*OPUS, *TRANSPORT] if line != remove), *lines)


def bundle(*sections: list[str], mids: str = "0 1 2 3 4 5", session: tuple[str, ...] = ()) -> str:
    """An offer of sections with mids 0, 1, 2..., bundled as `mids` says, with one transport for all."""
    lines = [line for number, section in enumerate(sections) for line in [*section, f"a=mid:{number}"]]
    return text(f"a=group:BUNDLE {mids}", *session, *TRANSPORT, *lines)
