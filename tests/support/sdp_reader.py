"""A strict reader of our own answers, written apart from their writer: every line has to be one that is listed here.

So it finds whatever an offer could smuggle into an answer. `read_answer` checks the form of one answer,
`check_answer` that it is an answer to that offer: as many sections, of the same media, protocol and mid, one transport.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field

from transceiver.answer import SETUP, LocalDescription, Negotiated, Setup, choose, negotiate, write_answer
from transceiver.ice import candidates
from transceiver.sdp import Offer, parse_offer

LOCAL = LocalDescription(
    ufrag="0AbCdEfGhIjKlMnOpQrStUvWxYz0123/",
    pwd="abcdefghijklmnopqrstuvwxyz+",
    fingerprint=":".join(["5A"] * 32),
    candidates=candidates([("127.0.0.1", 3478), ("::1", 3479), ("127.0.0.2", 3478)]),
    setup="active",
    session_id=4_611_686_018_427_387_904,
    session_version=1,
    ssrc=3_735_928_559,
    cname="q3Jd81",
)

HEAD = [
    r"v=0",
    r"o=- \d{1,19} \d{1,19} IN IP4 127\.0\.0\.1",
    r"s=-",
    r"t=0 0",
    r"(a=group:BUNDLE(?: [!#-'*+\-.0-9A-Z^-~]{1,64})+)?",
    r"a=ice-lite",
    r"a=ice-options:ice2",
    r"a=msid-semantic:WMS \*",
]
MEDIA = re.compile(r"m=(\S{1,64}) (\d{1,5}) (\S{1,101}) (\S{1,64})")
CONNECTION = re.compile(r"c=IN (IP4 [\d.]{7,15}|IP6 [0-9a-f:]{2,39})")
ATTRIBUTES = [
    re.compile(pattern)
    for pattern in (
        r"a=(mid):([!#-'*+\-.0-9A-Z^-~]{1,64})",
        r"a=(ice-ufrag):([A-Za-z0-9+/]{4,256})",
        r"a=(ice-pwd):([A-Za-z0-9+/]{22,256})",
        r"a=(fingerprint):(sha-256 [0-9A-F]{2}(?::[0-9A-F]{2}){31})",
        r"a=(setup):(active|passive)",
        r"a=(sendrecv|sendonly|recvonly|inactive)()",
        r"a=(rtcp-mux|rtcp-rsize)()",
        r"a=(rtpmap):(\d{1,3} [A-Za-z0-9_.-]{1,32}/\d{1,6}(?:/\d{1,3})?)",
        r"a=(fmtp):(\d{1,3} minptime=10;useinbandfec=1)",
        r"a=(msid):([!-~]{1,64} audio)",
        r"a=(ssrc):(\d{1,10} (?:cname:[!-~]{1,64}|msid:[!-~]{1,64} audio))",
        r"a=(sctp-port):(5000)",
        r"a=(sctpmap):(5000 webrtc-datachannel 1024)",
        r"a=(max-message-size):(262144)",
        r"a=(candidate):(\d{1,32} 1 udp \d{1,10} [0-9a-f.:]{2,39} \d{1,5} typ host)",
        r"a=(end-of-candidates)()",
    )
]
ONCE = {
    *("mid", "ice-ufrag", "ice-pwd", "fingerprint", "setup", "rtcp-mux", "rtcp-rsize", "rtpmap", "fmtp"),
    *("msid", "sctp-port", "sctpmap", "max-message-size", "end-of-candidates"),
}


@dataclass
class Section:
    kind: str
    port: int
    protocol: str
    subject: str
    connection: str
    attributes: dict[str, list[str]] = field(default_factory=dict)

    def one(self, name: str) -> str:
        values = self.attributes.get(name, [""])
        assert len(values) == 1, f"a={name} stands {len(values)} times"
        return values[0]

    @property
    def direction(self) -> str:
        found = [each for each in ("sendrecv", "sendonly", "recvonly", "inactive") if each in self.attributes]
        assert len(found) <= 1, found
        return found[0] if found else ""


@dataclass
class Answer:
    session_version: int
    bundle: list[str]
    sections: list[Section]


def read_answer(text: str) -> Answer:
    assert text.isascii()
    assert text.endswith("\r\n")
    lines = text[:-2].split("\r\n")
    assert all(line.isprintable() for line in lines), "a control character, or a lone CR or LF"
    first = next((place for place, line in enumerate(lines) if line.startswith("m=")), len(lines))
    head = re.fullmatch("\n".join(HEAD).replace(")?\n", "\n)?"), "\n".join(lines[:first]))
    assert head is not None, lines[:first]
    sections: list[Section] = []
    for line in lines[first:]:
        if match := MEDIA.fullmatch(line):
            sections.append(Section(match[1], int(match[2]), match[3], match[4], ""))
        elif match := CONNECTION.fullmatch(line):
            assert not sections[-1].connection
            assert not sections[-1].attributes
            sections[-1].connection = match[1].split()[1]
        else:
            matches = [found for found in (pattern.fullmatch(line) for pattern in ATTRIBUTES) if found]
            assert len(matches) == 1, f"no line of an answer: {line!r}"
            sections[-1].attributes.setdefault(matches[0][1], []).append(matches[0][2])
    for section in sections:
        for name in ONCE & section.attributes.keys():
            section.one(name)
        assert section.direction or section.kind == "application"
    bundle = head[1].split()[1:] if head[1] else []
    return Answer(int(lines[1].split()[2]), bundle, sections)


def check_answer(offer: Offer, text: str, local: LocalDescription = LOCAL) -> Answer:
    answer = read_answer(text)
    theirs = [(media.kind, media.protocol, media.mid) for media in offer.media]
    assert [(each.kind, each.protocol, each.one("mid")) for each in answer.sections] == theirs
    accepted = [each for each in answer.sections if each.port]
    for section in answer.sections:
        (_check_accepted if section.port else _check_rejected)(section, local)
    _check_group(answer, accepted, offer)
    assert answer.session_version == local.session_version
    return answer


def _check_rejected(section: Section, local: LocalDescription) -> None:
    assert section.attributes.keys() <= {"mid", "inactive"}
    assert section.connection == "0.0.0.0"


def _check_accepted(section: Section, local: LocalDescription) -> None:
    assert [each.split()[3:5] for each in section.attributes["candidate"]] == [
        [str(candidate.priority), candidate.host] for candidate in local.candidates
    ]
    assert "end-of-candidates" in section.attributes
    said = [section.one(name) for name in ("ice-ufrag", "ice-pwd", "fingerprint", "setup")]
    assert said == [local.ufrag, local.pwd, f"sha-256 {local.fingerprint}", local.setup]
    assert (section.connection, section.port) == (local.candidates[0].host, local.candidates[0].port)
    if section.kind == "application" and "rtpmap" not in section.attributes:
        assert section.one("max-message-size") == "262144"
        subject = "webrtc-datachannel" if "sctp-port" in section.attributes else "5000"
        assert section.subject == subject
        assert ("sctpmap" in section.attributes) == (subject == "5000")
    else:
        assert "rtcp-mux" in section.attributes
        assert section.one("rtpmap").split()[0] == section.subject
        assert int(section.subject) <= 127
        assert section.one("fmtp").split()[:1] in ([], [section.subject])
        assert ("ssrc" in section.attributes) == (section.direction in ("sendrecv", "sendonly"))


def _check_group(answer: Answer, accepted: list[Section], offer: Offer) -> None:
    assert accepted
    assert len([each for each in accepted if each.kind == "audio" and each.direction != "inactive"]) <= 1
    assert len([each for each in accepted if "max-message-size" in each.attributes]) <= 1
    if answer.bundle:
        assert set(answer.bundle) == {each.one("mid") for each in accepted}
        group = offer.bundle_of(answer.bundle[0])
        assert answer.bundle == [mid for mid in group if mid in answer.bundle]
    else:
        assert len(accepted) == 1


def write(offer_text: str, prefer: Setup = "active") -> tuple[Negotiated, str]:
    """What is negotiated, and the answer, checked."""
    offer = parse_offer(offer_text)
    choice = choose(offer)
    negotiated = negotiate(choice, prefer=prefer)
    local = dataclasses.replace(LOCAL, setup=SETUP[negotiated.dtls_role])
    text = write_answer(choice, local)
    check_answer(offer, text, local)
    return negotiated, text
