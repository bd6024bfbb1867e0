"""Reads an SDP offer: text in, `Offer` out, and only what an answer or a session can use of it.

Tolerant as real clients need it: what is unknown is ignored, as is the malformed value of an attribute that one can
do without; attributes may come in any order (Firefox puts fmtp before rtpmap), at session level or in a section
(RFC 8839, 5.4; RFC 8842, 5.1), in any case where the RFC says so, with LF or CRLF. `SDPError` means that no answer
can be written, and says why; it never quotes the offer, whose ice-pwd is a secret.

The text is hostile. It is bounded before it is read, every pattern takes linear time, and what may be repeated in the
answer (mid, media, protocol, formats) consists of token characters alone, so an offer cannot write lines of its own.
`transceiver.answer` decides what of an offer is taken; ICE candidates are not even read, ICE-lite has no use for them.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

MAX_CHARACTERS = 64 << 10
MAX_LINES = 4096
MAX_SECTIONS = 64
MAX_FINGERPRINTS = 8
MAX_SSRCS = 4  # as many as a session may use, whatever it says here
MAX_PARAMETERS = 32

NO_SDP = "this is no SDP, which begins with v=0"
DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
# name in the answer, clock rate, channels. RFC 7587, 7: Opus is always 48000/2, some write it without the 2.
CODECS = {"opus": ("opus", 48_000, 2), "pcmu": ("PCMU", 8000, 1), "pcma": ("PCMA", 8000, 1)}
STATIC_PAYLOAD_TYPES = {0: "pcmu", 8: "pcma"}  # RFC 3551, 6: these need no rtpmap
DIGEST_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
DEFAULT_SCTP_PORT = 5000
DEFAULT_MAX_MESSAGE_SIZE = 65_536  # RFC 8841, 6

_TOKEN_CHAR = r"[!#-'*+\-.0-9A-Z^-~]"  # RFC 8866, 9
_TOKEN = re.compile(rf"{_TOKEN_CHAR}{{1,64}}")
_PROTOCOL = re.compile(rf"{_TOKEN_CHAR}{{1,16}}(?:/{_TOKEN_CHAR}{{1,16}}){{0,5}}")
_PORT = re.compile(r"([0-9]{1,5})(?:/[0-9]{1,5})?")
_ORIGIN = re.compile(r"\S+ ([0-9]{1,20}) [0-9]{1,20} ")
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")  # RFC 8839, 5.4
_PWD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_SETUP = re.compile(r"active|passive|actpass")
_FINGERPRINT = re.compile(r"(sha-(?:256|384|512)) ([0-9a-f]{2}(?::[0-9a-f]{2})*)", re.ASCII | re.IGNORECASE)
_RTPMAP = re.compile(r"([0-9]{1,3}) ([\w.-]{1,32})/([0-9]{1,6})(?:/([0-9]{1,3}))?", re.ASCII)
_FMTP = re.compile(r"([0-9]{1,3}) (.*)")
_SSRC = re.compile(r"([0-9]{1,10})(?: .*)?")
_SCTPMAP = re.compile(r"([0-9]{1,5}) webrtc-datachannel(?: .*)?")
_NUMBER = re.compile(r"[0-9]{1,19}")

_READ = {
    *("group", "ice-lite", "ice-ufrag", "ice-pwd", "fingerprint", "setup", "mid", "bundle-only", "rtcp-mux"),
    *("rtcp-mux-only", "rtcp-rsize", "rtpmap", "fmtp", "ssrc", "sctp-port", "sctpmap", "max-message-size"),
}


class SDPError(Exception):
    """Why there can be no answer, in words for who wrote the offer; `line` counts from 1, 0 is the whole."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class Fingerprint(NamedTuple):
    hash: str
    digest: bytes


class Transport(NamedTuple):
    """What a section says of its transport, or the session for all; "" and () where nothing is said."""

    ufrag: str
    pwd: str
    fingerprints: tuple[Fingerprint, ...]
    setup: str

    def __repr__(self) -> str:
        return f"Transport(ufrag={self.ufrag!r})"  # the password is a secret


class Codec(NamedTuple):
    name: str
    payload_type: int
    clock_rate: int
    channels: int
    fmtp: Mapping[str, str]


class Media(NamedTuple):
    """One m-line and what follows it; `codecs` are those we have, `first_map` is the a=rtpmap of the first format."""

    line: int
    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    mid: str
    bundle_only: bool
    direction: str
    rtcp_mux: bool
    rtcp_rsize: bool
    transport: Transport
    codecs: tuple[Codec, ...]
    first_map: str
    ssrcs: tuple[int, ...]
    sctp_port: int | None
    max_message_size: int


@dataclass(frozen=True)
class Offer:
    session_id: str
    ice_lite: bool
    bundles: tuple[tuple[str, ...], ...]
    media: tuple[Media, ...]

    def bundle_of(self, mid: str) -> tuple[str, ...]:
        """The mids of the BUNDLE group with that mid, () if it is in none."""
        return next((group for group in self.bundles if mid in group), ())


class _Section:
    """The lines from one m= to the next, or those before the first."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.text = text
        self.attributes: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)  # name -> lines and values

    def values(self, name: str) -> list[str]:
        return [value for _, value in self.attributes.get(name, ())]

    def value(self, name: str) -> str:
        """The first one's."""
        return self.attributes[name][0][1] if name in self.attributes else ""


def parse_offer(text: str) -> Offer:
    session, *sections = _sections(text)
    of_all, direction = _transport(session), session.value("direction")
    media = tuple(_media(section, _inherit(_transport(section), of_all), direction) for section in sections)
    mids = [each.mid for each in media if each.mid]
    if len(set(mids)) != len(mids):
        raise SDPError("two sections have the same a=mid")
    origin = _ORIGIN.match(session.text)
    return Offer(
        session_id=origin[1] if origin else "",
        ice_lite="ice-lite" in session.attributes,
        bundles=tuple(_bundles(session, set(mids))),
        media=media,
    )


def _bundles(session: _Section, free: set[str]) -> Iterator[tuple[str, ...]]:
    """The groups, of mids that there are; the first group to name a mid has it."""
    for semantics, *mids in filter(None, (value.split() for value in session.values("group"))):
        if semantics == "BUNDLE" and (group := tuple(dict.fromkeys(mid for mid in mids if mid in free))):
            free -= set(group)
            yield group


def _sections(text: str) -> list[_Section]:
    """Only LF ends a line: str.splitlines() knows eight others. Blank lines count, but say nothing."""
    if len(text) > MAX_CHARACTERS:
        raise SDPError(f"the offer is longer than {MAX_CHARACTERS} characters")
    if text.count("\n") > MAX_LINES:
        raise SDPError(f"the offer has more than {MAX_LINES} lines")
    found: list[_Section] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        kind, value = line[:2], line[2:]
        if not found and line:
            if line != "v=0":
                raise SDPError(NO_SDP, number)
            found.append(_Section(0, ""))
        elif kind == "a=":
            name, _, value = value.partition(":")
            if name in _READ:
                found[-1].attributes[name].append((number, value.strip()))
            elif name in DIRECTIONS:  # the last one counts, so it alone is kept
                found[-1].attributes["direction"] = [(number, name)]
        elif kind == "m=":
            found.append(_Section(number, value))
            if len(found) > 1 + MAX_SECTIONS:
                raise SDPError(f"the offer has more than {MAX_SECTIONS} m-lines", number)
        elif kind == "o=" and len(found) == 1:
            found[0].text = value
    if not found:
        raise SDPError(NO_SDP, 1)
    if len(found) == 1:
        raise SDPError("the offer has no m-line")
    return found


def _media(section: _Section, transport: Transport, direction: str) -> Media:
    kind, port, protocol, formats = _media_line(section)
    maps = _maps(formats, tuple(section.values("rtpmap")), tuple(section.values("fmtp")))
    return Media(
        line=section.line,
        kind=kind,
        port=port,
        protocol=protocol,
        formats=formats,
        mid=_checked(section, "mid", _TOKEN),
        bundle_only="bundle-only" in section.attributes,
        direction=section.value("direction") or direction or "sendrecv",
        rtcp_mux=not section.attributes.keys().isdisjoint(("rtcp-mux", "rtcp-mux-only")),
        rtcp_rsize="rtcp-rsize" in section.attributes,
        transport=transport,
        codecs=maps.codecs if kind == "audio" else (),
        first_map=maps.first,
        ssrcs=_ssrcs(section),
        sctp_port=_sctp_port(section, formats[0]) if kind == "application" else None,
        max_message_size=_max_message_size(section),
    )


def _media_line(section: _Section) -> tuple[str, int, str, tuple[str, ...]]:
    """RFC 8866, 5.14. An answer has a line for each, in the same words, so here nothing can be let pass."""
    kind, port_text, protocol, *formats = [*section.text.split(), "", "", ""]
    formats = [each for each in formats if each]
    port = _PORT.fullmatch(port_text)
    if port is None or int(port[1]) > 65_535 or not formats:
        raise SDPError("this is no m-line, m=<media> <port> <protocol> <format> ...", section.line)
    if not (_TOKEN.fullmatch(kind) and _PROTOCOL.fullmatch(protocol) and all(map(_TOKEN.fullmatch, formats))):
        raise SDPError("the m-line has characters, or a length, that no token has", section.line)
    return kind, int(port[1]), protocol, tuple(formats)


def _checked(section: _Section, name: str, pattern: re.Pattern[str]) -> str:
    """The value of an attribute without which nothing works, "" if it is missing."""
    if name not in section.attributes:
        return ""
    line, value = section.attributes[name][0]
    if not pattern.fullmatch(value):
        raise SDPError(f"a={name} has characters, or a length, that it must not have", line)
    return value


def _transport(section: _Section) -> Transport:
    setup = section.value("setup")
    return Transport(
        ufrag=_checked(section, "ice-ufrag", _UFRAG),
        pwd=_checked(section, "ice-pwd", _PWD),
        fingerprints=_fingerprints(section),
        setup=setup if _SETUP.fullmatch(setup) else "",
    )


def _inherit(own: Transport, of_all: Transport) -> Transport:
    """A section's word goes before the session's (RFC 8839, 5.4; RFC 8122, 5)."""
    return Transport(
        ufrag=own.ufrag or of_all.ufrag,
        pwd=own.pwd or of_all.pwd,
        fingerprints=own.fingerprints or of_all.fingerprints,
        setup=own.setup or of_all.setup,
    )


def _fingerprints(section: _Section) -> tuple[Fingerprint, ...]:
    """Those of hashes that are safe, whose length fits; SHA-1 and what nobody knows is passed over."""
    found: dict[Fingerprint, None] = {}
    for value in section.values("fingerprint"):
        match = _FINGERPRINT.fullmatch(value)
        if match is not None and len(match[2]) == 3 * DIGEST_BYTES[match[1].lower()] - 1:
            found[Fingerprint(match[1].lower(), bytes.fromhex(match[2].replace(":", "")))] = None
    return tuple(found)[:MAX_FINGERPRINTS]


class _Maps(NamedTuple):
    codecs: tuple[Codec, ...]
    first: str


@functools.lru_cache(maxsize=64)  # of one kind of client all offers say the same here
def _maps(formats: tuple[str, ...], rtpmaps: tuple[str, ...], fmtps: tuple[str, ...]) -> _Maps:
    """The codecs we have, in the order of the m-line; and the map of its first format."""
    matches = [match for match in map(_RTPMAP.fullmatch, rtpmaps) if match]
    parameters = {int(match[1]): match[2] for match in filter(None, map(_FMTP.fullmatch, fmtps))}
    first = (match[0] for match in matches if match[1] == formats[0] and int(match[1]) <= 127)
    return _Maps(tuple(_codecs(formats, matches, parameters)), next(first, ""))


def _codecs(formats: tuple[str, ...], maps: list[re.Match[str]], parameters: dict[int, str]) -> Iterator[Codec]:
    names = dict(STATIC_PAYLOAD_TYPES)
    for match in maps:
        name = match[2].lower()
        _, clock_rate, channels = CODECS.get(name, ("", 0, 0))
        fits = int(match[3]) == clock_rate and int(match[4] or channels) == channels
        names[int(match[1])] = name if fits else ""
    for payload_type in filter(_usable_payload_type, dict.fromkeys(int(each) for each in formats if _is_byte(each))):
        if codec := CODECS.get(names.get(payload_type, "")):
            name, clock_rate, channels = codec
            yield Codec(name, payload_type, clock_rate, channels, _fmtp(parameters.get(payload_type, "")))


def _is_byte(text: str) -> bool:
    return len(text) <= 3 and text.isascii() and text.isdigit()


def _usable_payload_type(number: int) -> bool:
    """With the marker bit set, 64 to 95 could not be told from RTCP (RFC 5761, 4)."""
    return 0 <= number <= 127 and not 64 <= number <= 95


def _fmtp(text: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in text.split(";")[:MAX_PARAMETERS])
    return {name.strip().lower(): value.strip() for name, _, value in pairs if name.strip()}


def _ssrcs(section: _Section) -> tuple[int, ...]:
    numbers = (int(match[1]) for match in filter(None, map(_SSRC.fullmatch, section.values("ssrc"))))
    return tuple(dict.fromkeys(number for number in numbers if number < 1 << 32))[:MAX_SSRCS]


def _sctp_port(section: _Section, subject: str) -> int | None:
    """The peer's SCTP port, or None where the section is no data channel or port 0 closes it (RFC 8841, 5).

    Before RFC 8841 the port stood in the m-line, and a=sctpmap said what it was for.
    """
    if subject == "webrtc-datachannel":
        value = section.value("sctp-port")
        port = int(value) if _NUMBER.fullmatch(value) else DEFAULT_SCTP_PORT
    else:
        maps = filter(None, map(_SCTPMAP.fullmatch, section.values("sctpmap")))
        port = next((int(match[1]) for match in maps if match[1] == subject), 0)
    return port if 0 < port < 65_536 else None


def _max_message_size(section: _Section) -> int:
    value = section.value("max-message-size")
    return int(value) if _NUMBER.fullmatch(value) else DEFAULT_MAX_MESSAGE_SIZE
