"""What is taken of an offer, and how the answer says it; every answer is read by the strict reader of tests/support."""

from __future__ import annotations

import dataclasses

import pytest

from tests.support.offers import (
    DATA,
    FINGERPRINT,
    OPUS,
    PWD,
    SETUP,
    TRANSPORT,
    UFRAG,
    VECTORS,
    VIDEO,
    audio,
    bundle,
    text,
)
from tests.support.sdp_reader import LOCAL, Answer, check_answer, write
from transceiver.answer import AudioMedia, DataMedia, Negotiated, Setup, choose, negotiate, write_answer
from transceiver.sdp import Fingerprint, SDPError, parse_offer

PCMU = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=rtcp-mux"]
G722 = ["m=audio 9 UDP/TLS/RTP/SAVPF 9", "a=rtpmap:9 G722/8000", "a=rtcp-mux"]


def bundle_only(lines: list[str]) -> list[str]:
    return [lines[0].replace(" 9 ", " 0 "), *lines[1:], "a=bundle-only"]


def read(offer_text: str) -> Answer:
    offer = parse_offer(offer_text)
    return check_answer(offer, write_answer(choose(offer), LOCAL))


def taken(answer: Answer) -> str:
    """A letter a section: A(udio), D(ata), c(arrier), - rejected."""
    letters = {"audio": "A", "application": "D", "video": "V"}
    return "".join(
        "-" if not each.port else "c" if each.direction == "inactive" else letters[each.kind]
        for each in answer.sections
    )


# The answer, whole.


def test_the_whole_answer_to_chromium() -> None:
    negotiated, answer = write(VECTORS["chromium"])
    assert negotiated == Negotiated(
        remote_ufrag="Cd2/",
        remote_pwd="TfTCT7ZrLcSoCsXxrYIShPVp",
        fingerprints=(
            Fingerprint("sha-256", bytes.fromhex("218f7c40e157a34f8e9e42957a23f058a2ca319d2a7c8047be3246dd6b8e725b")),
        ),
        dtls_role="client",
        audio=AudioMedia(
            mid="0",
            codec="opus",
            payload_type=111,
            clock_rate=48000,
            channels=2,
            fmtp={"minptime": "10", "useinbandfec": "1"},
            direction="sendrecv",
            remote_ssrcs=(749531201,),
        ),
        data=DataMedia(mid="1", sctp_port=5000, max_message_size=262144),
        session_id="8284335408788532208",
    )
    transport = [
        "a=ice-ufrag:0AbCdEfGhIjKlMnOpQrStUvWxYz0123/",
        "a=ice-pwd:abcdefghijklmnopqrstuvwxyz+",
        "a=fingerprint:sha-256 " + ":".join(["5A"] * 32),
        "a=setup:active",
    ]
    candidates = [
        "a=candidate:1 1 udp 2130706431 127.0.0.1 3478 typ host",
        "a=candidate:2 1 udp 2130706175 ::1 3479 typ host",
        "a=candidate:3 1 udp 2130705919 127.0.0.2 3478 typ host",
        "a=end-of-candidates",
    ]
    assert answer.split("\r\n") == [
        "v=0",
        "o=- 4611686018427387904 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0 1",
        "a=ice-lite",
        "a=ice-options:ice2",
        "a=msid-semantic:WMS *",
        "m=audio 3478 UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 127.0.0.1",
        "a=mid:0",
        *transport,
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtcp-rsize",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=msid:q3Jd81 audio",
        "a=ssrc:3735928559 cname:q3Jd81",
        "a=ssrc:3735928559 msid:q3Jd81 audio",
        *candidates,
        "m=application 3478 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 127.0.0.1",
        "a=mid:1",
        *transport,
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        *candidates,
        "",
    ]


def test_the_default_address_may_be_of_the_other_family() -> None:
    local = dataclasses.replace(LOCAL, candidates=LOCAL.candidates[1:])
    offer = parse_offer(audio())
    answer = check_answer(offer, write_answer(choose(offer), local), local)
    assert (answer.sections[0].connection, answer.sections[0].port) == ("::1", 3479)


@pytest.mark.parametrize(
    ("name", "sections", "mids"),
    [
        ("aiortc", "AD", "0 1"),
        ("chromium", "AD", "0 1"),
        ("ffmpeg_whip", "A-", "0"),
        ("firefox", "AD", "0 1"),
        ("gstreamer", "cAD", "video0 audio1 application2"),
        ("legacy_chrome", "AD", "audio data"),
        ("libdatachannel", "AD", "voice data"),
        ("no_bundle", "A-", ""),
        ("pion", "AD", "0 1"),
        ("safari", "AD", "0 1"),
        ("werift", "AD", "0 1"),
    ],
)
def test_answers_to_clients(name: str, sections: str, mids: str) -> None:
    answer = read(VECTORS[name])
    assert (taken(answer), " ".join(answer.bundle)) == (sections, mids)


# What is taken.


@pytest.mark.parametrize(
    ("sections", "result"),
    [
        ([OPUS, DATA], "AD"),
        ([DATA, OPUS], "DA"),
        ([DATA], "D"),
        ([OPUS, VIDEO, DATA], "A-D"),
        ([OPUS, OPUS, DATA, DATA], "A-D-"),
        ([OPUS, G722, PCMU], "A--"),
        ([OPUS, bundle_only(DATA)], "AD"),
        ([DATA, bundle_only(OPUS)], "DA"),
        ([OPUS, [DATA[0].replace(" 9 ", " 0 "), "a=sctp-port:5000"]], "A-"),
        ([OPUS, [DATA[0], "a=sctp-port:0"]], "A-"),
        ([OPUS, ["m=application 9 UDP/BFCP *"]], "A-"),
        ([OPUS, ["m=text 9 RTP/AVP 98", "a=rtpmap:98 t140/1000"]], "A-"),
        ([[*OPUS, "a=inactive"], DATA], "cD"),
        # The first of the group is kept, inactive: max-bundle, and after it any later offer.
        ([VIDEO, bundle_only(OPUS), bundle_only(DATA)], "cAD"),
        ([VIDEO, OPUS, DATA], "cAD"),
        ([G722, OPUS, DATA], "cAD"),
        # It is not, where it gives no transport to depend on.
        ([[VIDEO[0].replace(" 9 ", " 0 "), *VIDEO[1:]], OPUS, DATA], "-AD"),
        ([VIDEO[:2], OPUS, DATA], "-AD"),
        ([[VIDEO[0], VIDEO[2]], OPUS, DATA], "-AD"),
        ([["m=video 9 RTP/SAVPF 128", "a=rtpmap:128 VP8/90000", "a=rtcp-mux"], OPUS, DATA], "-AD"),
        ([[VIDEO[0].replace("UDP", "SCTP"), *VIDEO[1:]], OPUS, DATA], "-AD"),
        ([[DATA[0], "a=sctp-port:0"], OPUS], "-A"),
    ],
)
def test_the_first_audio_and_the_first_data_channel_of_a_group(sections: list[list[str]], result: str) -> None:
    answer = read(bundle(*sections))
    assert taken(answer) == result
    assert answer.bundle == [str(place) for place, letter in enumerate(result) if letter != "-"]


@pytest.mark.parametrize(
    ("groups", "result", "mids"),
    [
        ([], "A---", ""),
        (["0 1 2 3"], "A-D-", "0 2"),
        (["2 0"], "A-D-", "2 0"),
        (["0"], "A---", "0"),
        (["1 2 3"], "A---", ""),
        (["0 1", "2 3"], "A---", "0"),
        (["2 3", "0 3"], "A---", "0"),
        (["3 0"], "A--D", "3 0"),
    ],
)
def test_all_that_is_taken_is_in_one_group(groups: list[str], result: str, mids: str) -> None:
    lines = [line for mid, section in enumerate([OPUS, OPUS, DATA, DATA]) for line in [*section, f"a=mid:{mid}"]]
    answer = read(text(*(f"a=group:BUNDLE {group}" for group in groups), *TRANSPORT, *lines))
    assert (taken(answer), " ".join(answer.bundle)) == (result, mids)


def test_sections_without_mid_are_answered_without() -> None:
    answer = read(text(*TRANSPORT, *OPUS, *DATA))
    assert (taken(answer), answer.bundle) == ("A-", [])


@pytest.mark.parametrize(
    ("formats", "maps", "codec"),
    [
        ("0 8 111", ["111 opus/48000/2"], ("opus", 111, 48000, 2)),
        ("96 97", ["96 OPUS/48000/2", "97 opus/48000/2"], ("opus", 96, 48000, 2)),
        ("9 8 0", [], ("PCMA", 8, 8000, 1)),
        ("9 0 8", [], ("PCMU", 0, 8000, 1)),
        ("70 8", ["70 opus/48000/2"], ("PCMA", 8, 8000, 1)),
        ("35", ["35 opus/48000/2"], ("opus", 35, 48000, 2)),
    ],
)
def test_opus_goes_first_then_what_the_client_likes(
    formats: str, maps: list[str], codec: tuple[str, int, int, int]
) -> None:
    lines = [f"m=audio 9 UDP/TLS/RTP/SAVPF {formats}", *(f"a=rtpmap:{each}" for each in maps), "a=rtcp-mux", *TRANSPORT]
    negotiated, answer = write(text(*lines))
    assert negotiated.audio
    sound = negotiated.audio
    assert (sound.codec, sound.payload_type, sound.clock_rate, sound.channels) == codec
    channels = "/2" if codec[3] == 2 else ""
    assert f"a=rtpmap:{codec[1]} {codec[0]}/{codec[2]}{channels}\r\n" in answer
    assert (f"a=fmtp:{codec[1]} minptime=10;useinbandfec=1\r\n" in answer) == (codec[0] == "opus")


@pytest.mark.parametrize(
    ("theirs", "ours", "sending"),
    [
        ("sendrecv", "sendrecv", True),
        ("sendonly", "recvonly", False),
        ("recvonly", "sendonly", True),
        ("inactive", "inactive", False),
    ],
)
def test_directions_are_mirrored_and_who_sends_has_a_stream(theirs: str, ours: str, sending: bool) -> None:
    negotiated, answer = write(audio(f"a={theirs}"))
    assert negotiated.audio
    assert negotiated.audio.direction == ours
    assert f"a={ours}\r\n" in answer
    for line in ("a=msid:q3Jd81 audio", "a=ssrc:3735928559 cname:q3Jd81", "a=ssrc:3735928559 msid:q3Jd81 audio"):
        assert (f"{line}\r\n" in answer) == sending


@pytest.mark.parametrize(
    ("offered", "prefer", "role"),
    [
        ("a=setup:actpass", "active", "client"),
        ("a=setup:actpass", "passive", "server"),
        ("a=setup:active", "active", "server"),
        ("a=setup:active", "passive", "server"),
        ("a=setup:passive", "active", "client"),
        ("a=setup:passive", "passive", "client"),
        ("a=x", "active", "server"),
        ("a=setup:holdconn", "active", "server"),
    ],
)
def test_dtls_roles(offered: str, prefer: Setup, role: str) -> None:
    negotiated, answer = write(audio(offered, remove=SETUP), prefer)
    assert negotiated.dtls_role == role
    assert {"client": "a=setup:active", "server": "a=setup:passive"}[role] in answer.split("\r\n")


@pytest.mark.parametrize("protocol", ["UDP/TLS/RTP/SAVPF", "TCP/DTLS/RTP/SAVPF", "RTP/SAVPF", "RTP/SAVP", "RTP/AVP"])
def test_old_protocol_names_are_taken_and_repeated(protocol: str) -> None:
    assert read(audio().replace("UDP/TLS/RTP/SAVPF", protocol)).sections[0].protocol == protocol


def test_old_data_channels_are_answered_in_their_words() -> None:
    negotiated, answer = write(VECTORS["legacy_chrome"])
    assert negotiated.data == DataMedia(mid="data", sctp_port=5001, max_message_size=65536)
    assert "m=application 3478 DTLS/SCTP 5000\r\n" in answer
    assert "a=sctpmap:5000 webrtc-datachannel 1024\r\n" in answer


@pytest.mark.parametrize(("theirs", "ours"), [(0, 262_144), (1, 1), (65_536, 65_536), (1_073_741_823, 262_144)])
def test_a_message_is_at_most_as_long_as_both_allow(theirs: int, ours: int) -> None:
    negotiated, _ = write(text(*DATA, *TRANSPORT, f"a=max-message-size:{theirs}"))
    assert negotiated.data
    assert negotiated.data.max_message_size == ours


def test_short_rtcp_is_answered_where_it_was_offered() -> None:
    assert "a=rtcp-rsize\r\n" in write(audio("a=rtcp-rsize"))[1]
    assert "a=rtcp-rsize\r\n" not in write(audio())[1]


# Where the transport comes from.


@pytest.mark.parametrize("holder", [0, 1, 2])
def test_one_section_of_the_group_may_speak_for_all(holder: int) -> None:
    sections = [[*VIDEO, "a=mid:0"], [*bundle_only(OPUS), "a=mid:1"], [*bundle_only(DATA), "a=mid:2"]]
    sections[holder] += TRANSPORT
    negotiated, answer = write(text("a=group:BUNDLE 0 1 2", *(line for section in sections for line in section)))
    assert (negotiated.remote_ufrag, negotiated.dtls_role) == ("Cd2/", "client")
    assert len(negotiated.fingerprints) == 1
    assert answer.count("a=ice-ufrag") == 3


def test_the_section_that_gives_the_bundle_its_transport_goes_before_others() -> None:
    other = ["a=ice-ufrag:other", f"a=ice-pwd:{'o' * 24}", "a=fingerprint:sha-384 " + ":".join(["AA"] * 48)]
    lines = ["a=group:BUNDLE b a", *OPUS, *other, "a=setup:passive", "a=mid:a", *DATA, *TRANSPORT, "a=mid:b"]
    negotiated, answer = write(text(*lines))
    assert (negotiated.remote_ufrag, negotiated.fingerprints[0].hash) == ("Cd2/", "sha-256")


def test_rtcp_mux_may_be_said_once_for_the_group() -> None:
    assert taken(read(bundle(OPUS[:2], [*DATA, "a=rtcp-mux"]))) == "AD"
    assert taken(read(bundle([*OPUS[:2], "a=rtcp-mux-only"]))) == "A"


# What there is no answer to.


@pytest.mark.parametrize(
    ("offer", "says"),
    [
        (audio(remove=UFRAG), "line 5: the offer has no a=ice-ufrag and a=ice-pwd"),
        (audio(remove=PWD), "line 5: the offer has no a=ice-ufrag and a=ice-pwd"),
        (audio(remove=FINGERPRINT), "line 5: the offer has no a=fingerprint of sha-256, sha-384 or sha-512"),
        (
            audio(f"a=fingerprint:sha-1 {':'.join(['0A'] * 20)}", remove=FINGERPRINT),
            "line 5: the offer has no a=fingerprint of sha-256, sha-384 or sha-512",
        ),
        (audio(remove="a=rtcp-mux"), "nothing in the offer can be accepted (line 5: it lacks a=rtcp-mux)"),
        (
            text(*VIDEO, *G722, "m=application 9 UDP/BFCP *", "m=audio 0 RTP/AVP 0", "m=audio 9 udp 0"),
            "nothing in the offer can be accepted (line 5: video is not supported; "
            "line 8: it has none of the codecs Opus, PCMU, PCMA; line 11: it is no data channel over DTLS and SCTP; "
            "line 12: it is switched off, port 0 without a=bundle-only; "
            "line 13: its protocol is not RTP over DTLS-SRTP)",
        ),
        (text(*bundle_only(DATA), *TRANSPORT), "it is switched off"),
        (
            text("a=ice-lite", *TRANSPORT, *OPUS),
            "the offer says a=ice-lite, as the answer would: neither side would send checks",
        ),
    ],
)
def test_errors_say_why(offer: str, says: str) -> None:
    with pytest.raises(SDPError) as caught:
        choose(parse_offer(offer))
    assert says in str(caught.value)


def test_errors_stay_short() -> None:
    with pytest.raises(SDPError) as caught:
        choose(parse_offer(text(*[f"m={'v' * 64} 9 RTP/AVP 0"] * 64)))
    assert len(str(caught.value)) < 1000


def test_an_ice_restart_is_the_same_again() -> None:
    first, before = write(VECTORS["chromium"])
    restarted = VECTORS["chromium"].replace("Cd2/", "Xy9+").replace("TfTCT7ZrLcSoCsXxrYIShPVp", "s" * 24)
    offer = parse_offer(restarted.replace("8284335408788532208 2", "8284335408788532208 3"))
    choice = choose(offer)
    second = negotiate(choice)
    assert (second.remote_ufrag, second.remote_pwd) == ("Xy9+", "s" * 24)
    assert second == dataclasses.replace(first, remote_ufrag="Xy9+", remote_pwd="s" * 24)
    local = dataclasses.replace(LOCAL, ufrag="r" * 32, pwd="q" * 27, session_version=2)
    after = write_answer(choice, local)
    check_answer(offer, after, local)
    replaced = before.replace(LOCAL.ufrag, local.ufrag).replace(LOCAL.pwd, local.pwd)
    assert after == replaced.replace("4611686018427387904 1", "4611686018427387904 2")
