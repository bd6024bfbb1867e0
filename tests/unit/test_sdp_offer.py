"""What is read of an offer, and of which offers nothing is: real clients', variants of the RFCs, bounds, errors."""

from __future__ import annotations

import re

import pytest

from tests.support.offers import DATA, FINGERPRINT, OPUS, PWD, SETUP, SHA_256, TRANSPORT, UFRAG, VECTORS, audio, text
from transceiver import sdp
from transceiver.sdp import Fingerprint, Media, SDPError, parse_offer

SHA_256_BYTES = bytes(range(32))


def only(offer: str) -> Media:
    (media,) = parse_offer(offer).media
    return media


# The clients.


CLIENTS = [
    ("aiortc", "audio application", [("opus", 96), ("PCMU", 0), ("PCMA", 8)], "Gfbv", 3, "actpass"),
    ("chromium", "audio application", [("opus", 111), ("PCMU", 0), ("PCMA", 8)], "Cd2/", 1, "actpass"),
    ("ffmpeg_whip", "audio video", [("opus", 111)], "7916ed03", 1, "passive"),
    ("firefox", "audio application", [("opus", 109), ("PCMU", 0), ("PCMA", 8)], "9ec062b7", 1, "actpass"),
    ("gstreamer", "video audio application", [("opus", 97)], "HdmNU35PBnGwSr34c+zxvLFlbOJnJngi", 1, "actpass"),
    ("legacy_chrome", "audio application", [("opus", 111), ("PCMU", 0)], "XQRI", 1, "actpass"),
    ("libdatachannel", "audio application", [("opus", 96)], "aEEL", 1, "actpass"),
    ("no_bundle", "audio application", [("PCMA", 8)], "6xVh", 1, "active"),
    ("pion", "audio application", [("opus", 111), ("PCMU", 0), ("PCMA", 8)], "oglwepGuJVkkeoeq", 1, "actpass"),
    ("safari", "audio application", [("opus", 111), ("PCMU", 0), ("PCMA", 8)], "zVYc", 1, "actpass"),
    ("werift", "audio application", [("opus", 96), ("PCMU", 0)], "b775", 1, "actpass"),
]


@pytest.mark.parametrize(("name", "kinds", "payload_types", "ufrag", "hashes", "setup"), CLIENTS)
def test_offers_of_clients(
    name: str, kinds: str, payload_types: list[tuple[str, int]], ufrag: str, hashes: int, setup: str
) -> None:
    offer = parse_offer(VECTORS[name])
    assert " ".join(media.kind for media in offer.media) == kinds
    (media,) = (media for media in offer.media if media.kind == "audio")
    assert [(codec.name, codec.payload_type) for codec in media.codecs] == payload_types
    for each in offer.media:
        assert each.transport.ufrag == ufrag
        assert len(each.transport.fingerprints) == hashes
        assert each.transport.setup == setup


def test_every_vector_is_a_client_s() -> None:
    assert [name for name, *_ in CLIENTS] == sorted(VECTORS)


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_line_ends_blank_lines_and_spaces_make_no_difference(name: str) -> None:
    whole = VECTORS[name]
    expected = parse_offer(whole)
    lf = whole.replace("\r\n", "\n")
    for variant in (lf, whole.rstrip(), lf.rstrip(), whole.replace("\r\n", " \t\r\n")):
        assert parse_offer(variant) == expected
    assert len(parse_offer(whole.replace("\r\n", "\r\n\r\n") + "\r\n\r\n").media) == len(expected.media)


def test_all_of_chromium_s_offer() -> None:
    offer = parse_offer(VECTORS["chromium"])
    assert (offer.session_id, offer.ice_lite, offer.bundles) == ("8284335408788532208", False, (("0", "1"),))
    sound, data = offer.media
    assert (sound.mid, sound.port, sound.protocol, sound.formats[:2]) == (
        "0",
        51576,
        "UDP/TLS/RTP/SAVPF",
        ("111", "63"),
    )
    assert (sound.direction, sound.rtcp_mux, sound.rtcp_rsize) == ("sendrecv", True, True)
    assert sound.codecs[0] == ("opus", 111, 48000, 2, {"minptime": "10", "useinbandfec": "1"})
    assert (sound.ssrcs, sound.first_map) == ((749531201,), "111 opus/48000/2")
    assert (sound.sctp_port, data.codecs, data.ssrcs) == (None, (), ())
    assert (data.sctp_port, data.max_message_size, data.mid, data.bundle_only) == (5000, 262144, "1", False)


def test_firefox_says_what_opus_shall_be_before_it_says_which_is_opus() -> None:
    sound, data = parse_offer(VECTORS["firefox"]).media
    assert sound.codecs[0].fmtp == {"maxplaybackrate": "48000", "stereo": "1", "useinbandfec": "1"}
    assert (data.port, data.bundle_only) == (0, True)


# Where things may stand, and how they may be written.


def test_transport_at_session_level_goes_for_all_and_gives_way_to_a_section_s_own() -> None:
    own = [
        "a=ice-ufrag:own+",
        f"a=ice-pwd:{'o' * 22}",
        f"a=fingerprint:sha-512 {':'.join(['AA'] * 64)}",
        "a=setup:active",
    ]
    general, special = parse_offer(text(*TRANSPORT, *OPUS, *DATA, *own)).media
    assert general.transport == (
        "Cd2/",
        "TfTCT7ZrLcSoCsXxrYIShPVp",
        (Fingerprint("sha-256", SHA_256_BYTES),),
        "actpass",
    )
    assert special.transport == ("own+", "o" * 22, (Fingerprint("sha-512", b"\xaa" * 64),), "active")


def test_a_direction_at_session_level_goes_for_all_that_have_none() -> None:
    offer = parse_offer(text("a=recvonly", *TRANSPORT, *OPUS, *OPUS, "a=sendonly", *OPUS, "a=sendonly", "a=inactive"))
    assert [media.direction for media in offer.media] == ["recvonly", "sendonly", "inactive"]
    assert only(audio()).direction == "sendrecv"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a=rtpmap:111 OPUS/48000/2"], [("opus", 111, 48000, 2)]),
        (["a=rtpmap:111 oPuS/48000"], [("opus", 111, 48000, 2)]),
        (["a=rtpmap:111 opus/48000/1"], []),
        (["a=rtpmap:111 opus/16000/2"], []),
        (["a=rtpmap:111 opus"], []),
        (["a=rtpmap: 111 opus/48000/2 "], [("opus", 111, 48000, 2)]),
        (["a=rtpmap:111 pcmu/8000/1"], [("PCMU", 111, 8000, 1)]),
        (["a=rtpmap:111 PCMA/8000"], [("PCMA", 111, 8000, 1)]),
        (["a=rtpmap:111 PCMU/16000"], []),
        (["a=rtpmap:111 speex/8000"], []),
        (["a=rtpmap:112 opus/48000/2"], []),
        (["a=rtpmap:111 \u043epus/48000/2"], []),
        ([], []),
    ],
)
def test_codecs_by_their_map(lines: list[str], expected: list[tuple[str, int, int, int]]) -> None:
    media = only(text("m=audio 9 UDP/TLS/RTP/SAVPF 111", *lines))
    assert [codec[:4] for codec in media.codecs] == expected


def test_static_payload_types_need_no_map_and_may_be_given_another_meaning() -> None:
    offered = "m=audio 9 UDP/TLS/RTP/SAVPF 8 0"
    assert [codec.name for codec in only(text(offered)).codecs] == ["PCMA", "PCMU"]
    assert [codec.name for codec in only(text(offered, "a=rtpmap:8 G722/8000")).codecs] == ["PCMU"]
    assert [codec.name for codec in only(text(offered, "a=rtpmap:0 opus/48000/2")).codecs] == ["PCMA", "opus"]


@pytest.mark.parametrize("usable", [True, False])
def test_payload_types_that_could_be_rtcp_or_are_none_are_passed_over(usable: bool) -> None:
    numbers = [*range(64), *range(96, 128)] if usable else [*range(64, 96), *range(128, 1000)]
    for number in numbers:
        offered = text(f"m=audio 9 UDP/TLS/RTP/SAVPF {number}", f"a=rtpmap:{number} opus/48000/2")
        assert bool(only(offered).codecs) == usable


def test_parameters_of_a_codec() -> None:
    line = "a=fmtp:111 minptime=10; UseInbandFEC=1 ;;stereo; x=a=b"
    assert only(audio(line)).codecs[0].fmtp == {"minptime": "10", "useinbandfec": "1", "stereo": "", "x": "a=b"}
    many = "a=fmtp:111 " + ";".join(f"p{number}=1" for number in range(1000))
    assert len(only(audio(many)).codecs[0].fmtp) == sdp.MAX_PARAMETERS


@pytest.mark.parametrize(
    ("lines", "hashes"),
    [
        ([FINGERPRINT], ["sha-256"]),
        ([f"a=fingerprint:SHA-256 {SHA_256.lower()}"], ["sha-256"]),
        ([FINGERPRINT, f"a=fingerprint:sha-384 {':'.join(['0a'] * 48)}"], ["sha-256", "sha-384"]),
        ([f"a=fingerprint:sha-512 {':'.join(['0a'] * 64)}", FINGERPRINT], ["sha-512", "sha-256"]),
        ([FINGERPRINT, FINGERPRINT.replace("sha-256", "Sha-256")], ["sha-256"]),
        ([f"a=fingerprint:sha-1 {':'.join(['0a'] * 20)}", "a=fingerprint:md5 0A", FINGERPRINT], ["sha-256"]),
        ([f"a=fingerprint:sha-1 {':'.join(['0a'] * 20)}"], []),
        ([FINGERPRINT.replace("sha-256", "sha-384")], []),
        ([FINGERPRINT[:-3]], []),
        ([FINGERPRINT + ":00"], []),
        ([FINGERPRINT.replace(":1F", ":1G")], []),
        ([FINGERPRINT.replace(":1F", "-1F")], []),
        (["a=fingerprint:sha-256"], []),
        (["a=fingerprint"], []),
        ([f"a=fingerprint:sha-256 {number:02X}{SHA_256[2:]}" for number in range(99)], ["sha-256"] * 8),
    ],
)
def test_fingerprints(lines: list[str], hashes: list[str]) -> None:
    found = only(text(*OPUS, *lines)).transport.fingerprints
    assert [each.hash for each in found] == hashes
    assert all(len(each.digest) == sdp.DIGEST_BYTES[each.hash] for each in found)
    if lines[0] == FINGERPRINT:
        assert found[0].digest == SHA_256_BYTES


@pytest.mark.parametrize(
    ("line", "lines", "port"),
    [
        (DATA[0], ["a=sctp-port:5001"], 5001),
        (DATA[0], [], 5000),
        (DATA[0], ["a=sctp-port:x"], 5000),
        (DATA[0], ["a=sctp-port:0"], None),
        (DATA[0], ["a=sctp-port:65536"], None),
        (DATA[0].replace("UDP", "TCP"), ["a=sctp-port:5001"], 5001),
        ("m=application 9 DTLS/SCTP 5001", ["a=sctpmap:5001 webrtc-datachannel 256"], 5001),
        ("m=application 9 DTLS/SCTP 5001", ["a=sctpmap:5001 webrtc-datachannel"], 5001),
        ("m=application 9 DTLS/SCTP 5001", ["a=sctpmap:5000 webrtc-datachannel 1024"], None),
        ("m=application 9 DTLS/SCTP 5001", ["a=sctpmap:5001 bfcp 1024"], None),
        ("m=application 9 DTLS/SCTP 99999", ["a=sctpmap:99999 webrtc-datachannel 1024"], None),
        ("m=application 9 UDP/BFCP *", [], None),
    ],
)
def test_data_channels_of_both_times(line: str, lines: list[str], port: int | None) -> None:
    assert only(text(line, *lines)).sctp_port == port


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        ([], 65_536),
        (["a=max-message-size:262144"], 262_144),
        (["a=max-message-size:0"], 0),
        (["a=max-message-size:-1"], 65_536),
        (["a=max-message-size:99999999999999999999"], 65_536),
    ],
)
def test_message_sizes(lines: list[str], size: int) -> None:
    assert only(text(*DATA, *lines)).max_message_size == size


def test_ssrcs_are_few_different_and_of_32_bits() -> None:
    lines = [f"a=ssrc:{number} cname:x" for number in (1, 1, 0xFFFFFFFF, 0x100000000, 3, 4, 5)]
    assert only(audio("a=ssrc:x cname:y", "a=ssrc:", *lines, "a=ssrc:2")).ssrcs == (1, 0xFFFFFFFF, 3, 4)


def test_groups_are_of_sections_there_are_and_each_section_is_in_one() -> None:
    groups = ["a=group:LS 0 1", "a=group:BUNDLE", "a=group:BUNDLE 1 9 1", "a=group:BUNDLE 0 1 2", "a=group", "a=group:"]
    offer = parse_offer(text(*groups, *OPUS, "a=mid:0", *OPUS, "a=mid:1", *OPUS, "a=mid:2"))
    assert offer.bundles == (("1",), ("0", "2"))
    assert offer.bundle_of("2") == ("0", "2")
    assert offer.bundle_of("9") == ()


def test_what_is_unknown_or_no_line_at_all_is_ignored() -> None:
    noise = [
        "a=extmap-allow-mixed",
        "z=",
        "b=AS:30",
        "a=",
        "=",
        "a",
        "x",
        "k=clear:a",
        "a=crypto:1 x",
        "\x00\x85\u2028a=mid:9",
    ]
    expected, noisy = parse_offer(audio()), parse_offer(text(*noise, *OPUS, *TRANSPORT, *noise))
    assert noisy.media[0].codecs == expected.media[0].codecs
    assert (noisy.media[0].transport, noisy.media[0].mid) == (expected.media[0].transport, "")


def test_the_origin_is_not_needed() -> None:
    assert parse_offer("v=0\r\n" + "".join(f"{line}\r\n" for line in OPUS)).session_id == ""
    assert parse_offer("v=0\no=nonsense\n" + "\n".join(OPUS)).session_id == ""


# What there is no answer to.


@pytest.mark.parametrize(
    ("offer", "says"),
    [
        ("", "line 1: this is no SDP"),
        ("\r\n\r\n", "line 1: this is no SDP"),
        ("<html>", "line 1: this is no SDP"),
        ("\n\nhello", "line 3: this is no SDP"),
        ("v=1\r\nm=audio 9 x 0\r\n", "line 1: this is no SDP"),
        ('{"type":"offer"}', "line 1: this is no SDP"),
        (text(), "no m-line"),
        (text("m="), "line 5: this is no m-line"),
        (text("m=audio"), "line 5: this is no m-line"),
        (text("m=audio 9 RTP/AVP"), "line 5: this is no m-line"),
        (text("m=audio x RTP/AVP 0"), "line 5: this is no m-line"),
        (text("m=audio 65536 RTP/AVP 0"), "line 5: this is no m-line"),
        (text("m=audio -1 RTP/AVP 0"), "line 5: this is no m-line"),
        (text("m=audio \u0669 RTP/AVP 0"), "line 5: this is no m-line"),
        (text("m=audi\x00o 9 RTP/AVP 0"), "line 5: the m-line has characters"),
        (text("m=audio 9 RTP//AVP 0"), "line 5: the m-line has characters"),
        (text('m=audio 9 RTP/AVP "0'), "line 5: the m-line has characters"),
        (text(f"m={'a' * 65} 9 RTP/AVP 0"), "line 5: the m-line has characters"),
        (text(f"m=audio 9 {'a' * 17} 0"), "line 5: the m-line has characters"),
        (audio("a=mid:a b"), "line 12: a=mid has characters"),
        (audio("a=mid:"), "line 12: a=mid has characters"),
        (audio(f"a=mid:{'m' * 65}"), "line 12: a=mid has characters"),
        (audio("a=mid:ä"), "line 12: a=mid has characters"),
        (audio("a=mid:0\ra=x"), "line 12: a=mid has characters"),
        (text("a=ice-ufrag:abc", *OPUS), "line 5: a=ice-ufrag has characters"),
        (text(*OPUS, "a=ice-ufrag:abc-"), "line 8: a=ice-ufrag has characters"),
        (text(*OPUS, f"a=ice-ufrag:{'a' * 257}"), "line 8: a=ice-ufrag has characters"),
        (text(*OPUS, f"a=ice-pwd:{'a' * 21}"), "line 8: a=ice-pwd has characters"),
        (text(*OPUS, f"a=ice-pwd:{'a' * 257}"), "line 8: a=ice-pwd has characters"),
        (text(*OPUS, "a=mid:0", *OPUS, "a=mid:0"), "two sections have the same a=mid"),
    ],
)
def test_errors_say_what_and_where(offer: str, says: str) -> None:
    with pytest.raises(SDPError, match=re.escape(says)) as caught:
        parse_offer(offer)
    assert str(caught.value).isprintable()
    assert bool(caught.value.line) == says.startswith("line")


def test_longest_and_shortest_credentials() -> None:
    for ufrag, pwd in (("a" * 4, "b" * 22), ("a" * 256, "b" * 256)):
        transport = only(text(*OPUS, f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{pwd}")).transport
        assert (transport.ufrag, transport.pwd) == (ufrag, pwd)


def test_bounds() -> None:
    filler = sdp.MAX_CHARACTERS - len(audio("a=x:"))
    assert parse_offer(audio("a=x:" + "y" * filler))
    with pytest.raises(SDPError, match="longer than 65536 characters"):
        parse_offer(audio("a=x:" + "y" * (filler + 1)))
    lines = sdp.MAX_LINES - audio().count("\n")
    assert parse_offer(audio() + "\n" * lines)
    with pytest.raises(SDPError, match="more than 4096 lines"):
        parse_offer(audio() + "\n" * (lines + 1))
    assert len(parse_offer(text(*["m=audio 9 RTP/AVP 0"] * 64)).media) == 64
    with pytest.raises(SDPError, match="line 69: the offer has more than 64 m-lines"):
        parse_offer(text(*["m=audio 9 RTP/AVP 0"] * 65))


def test_secrets_are_not_shown() -> None:
    offer = parse_offer(VECTORS["chromium"])
    assert "TfTCT7ZrLcSoCsXxrYIShPVp" not in repr(offer)
    with pytest.raises(SDPError) as caught:
        parse_offer(text(*OPUS, f"{PWD}?"))
    assert PWD[10:] not in str(caught.value)


def test_unknown_setups_are_nothing() -> None:
    for value in ("holdconn", "", "ACTPASS", "actpass active"):
        assert only(audio(f"a=setup:{value}", remove=SETUP)).transport.setup == ""
    assert only(audio(remove=UFRAG)).transport.ufrag == ""
