"""Answers before aiortc, which takes them as a client does; and hostile offers, mutations of real ones.

Whatever an offer is, there is an SDPError or an answer of known lines alone (tests/fuzz/fuzz_sdp.py).
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import fuzz_sdp
from tests.support.offers import DATA, FINGERPRINT, OPUS, PWD, TRANSPORT, UFRAG, VECTORS, VIDEO
from tests.support.sdp_reader import LOCAL, write
from transceiver.answer import Setup
from transceiver.sdp import parse_offer

CORPUS = sorted((Path(fuzz_sdp.__file__).parent / "corpus" / "sdp").iterdir())
SWEPT = ("ffmpeg_whip", "no_bundle")


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_aiortc_reads_every_answer(name: str) -> None:
    negotiated, answer = write(VECTORS[name])
    read = SessionDescription.parse(answer)
    assert [media.kind for media in read.media] == [media.kind for media in parse_offer(VECTORS[name]).media]
    accepted = [media for media in read.media if media.port]
    assert {media.ice.usernameFragment for media in accepted if media.ice} == {LOCAL.ufrag}
    assert {len(media.ice_candidates) for media in accepted} == {len(LOCAL.candidates)}
    assert {media.dtls.role for media in accepted if media.dtls} == {negotiated.dtls_role}
    assert all(media.ice and media.ice.iceLite for media in accepted)


async def aiortc_takes_our_answer(with_audio: str, with_data: bool, prefer: Setup, legacy: bool) -> None:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer._sctpLegacySdp = legacy
    try:
        if with_audio:
            peer.addTransceiver("audio", direction=with_audio)
        if with_data:
            peer.createDataChannel("events")
        tracks: list[str] = []
        peer.on("track", lambda track: tracks.append(track.id))
        await peer.setLocalDescription(await peer.createOffer())
        negotiated, answer = write(peer.localDescription.sdp, prefer)
        await peer.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
        assert peer.signalingState == "stable"
        assert bool(negotiated.audio) == bool(with_audio)
        assert bool(negotiated.data) == with_data
        assert len(tracks) == (with_audio in ("sendrecv", "recvonly"))
        used = {each.receiver.transport for each in peer.getTransceivers()} | (
            {peer.sctp.transport} if peer.sctp else set()
        )
        assert [each._role for each in used] == [{"client": "server", "server": "client"}[negotiated.dtls_role]]
        assert [each.currentDirection for each in peer.getTransceivers()] == ([with_audio] if with_audio else [])
    finally:
        await peer.close()


@pytest.mark.native
@pytest.mark.parametrize("prefer", ["active", "passive"])
@pytest.mark.parametrize(
    ("with_audio", "with_data", "legacy"),
    [
        ("sendrecv", True, False),
        ("sendrecv", True, True),
        ("sendrecv", False, False),
        ("sendonly", True, False),
        ("recvonly", False, False),
        ("", True, False),
        ("", True, True),
    ],
)
def test_aiortc_takes_our_answer(with_audio: str, with_data: bool, legacy: bool, prefer: Setup) -> None:
    asyncio.run(aiortc_takes_our_answer(with_audio, with_data, prefer, legacy))


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_offers_cut_anywhere(name: str) -> None:
    whole = VECTORS[name].encode()
    ends = [size for size in range(len(whole)) if name in SWEPT or whole[size - 1 : size] in b"\n:"]
    assert len(ends) > 50
    for size in ends:
        fuzz_sdp.one(whole[:size])


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_of_the_fuzz_target(path: Path) -> None:
    fuzz_sdp.one(path.read_bytes())


WORDS = [
    *("a=group:BUNDLE", " 0", " 1", "a=mid:0", "a=mid:1", "a=bundle-only", "a=rtcp-mux", "a=ice-lite", "a=inactive"),
    *(UFRAG, PWD, FINGERPRINT, *(f"a=setup:{each}" for each in ("active", "passive", "actpass")), *OPUS, *DATA, *VIDEO),
    *(
        "m=audio 9 RTP/AVP 0",
        "m=audio 0 RTP/AVP 8 0",
        "m=application 9 DTLS/SCTP 5000",
        "v=0",
        "\r\n",
        "\n",
        "\r",
        "\0",
    ),
    *(
        "a=sctpmap:5000 webrtc-datachannel 9",
        "a=rtpmap:0 opus/48000",
        "a=candidate:x",
        "a=x\r\na=y",
        "\u2028",
        "\ud800",
    ),
]


@given(st.sampled_from(sorted(VECTORS)), st.integers(0, 2**32), st.integers(1, 8))
def test_mutations_of_real_offers(name: str, seed: int, changes: int) -> None:
    chance = random.Random(seed)
    lines = VECTORS[name].split("\r\n")
    for _ in range(changes):
        place = chance.randrange(len(lines))
        match chance.randrange(6):
            case 0:
                del lines[place : place + chance.randrange(1, 9)]
            case 1:
                lines.insert(place, chance.choice(WORDS))
            case 2:
                lines[place] = chance.choice(lines)
            case 3:
                lines[place] += chance.choice(WORDS)
            case 4:
                at = chance.randrange(len(lines[place]) + 1)
                lines[place] = lines[place][:at] + chance.choice("\r\n\0 :/=;0a9é\u0661\u2028") + lines[place][at + 1 :]
            case _:
                other = chance.randrange(len(lines))
                lines[place], lines[other] = lines[other], lines[place]
        lines = lines or [""]
    fuzz_sdp.one("\r\n".join(lines).encode("utf-8", "surrogatepass"))


@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=20)), max_size=40))
def test_offers_of_any_lines(lines: list[str]) -> None:
    fuzz_sdp.one("\r\n".join(["v=0", *TRANSPORT, *lines]).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    fuzz_sdp.one(data)
    fuzz_sdp.one(b"v=0\n" + data)
