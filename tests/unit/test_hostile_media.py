"""Hostile input to the transceiver. The policy, for datagrams from anybody who can reach its internal socket:

1. Every datagram of any length and content has exactly one outcome and is counted once; none raises, none is read
   beyond its end. Which outcome, tests/support/media_oracle.py says.
2. Only what was authenticated is answered, and nobody else is sent anything because of it.
3. What is dropped changes nothing of a session: no path, no source, no statistics, no packet of its media.

Reachability before authentication: anybody who gets past the relay reaches the demux, the STUN walk, the tokens'
index and one HMAC; DTLS reaches the loop from the address of an authentic check alone, SRTP one look-up before libsrtp.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _fastpath.outcomes import IN
from _fastpath.wire import binding, envelope
from tests.fuzz import fuzz_media
from tests.support.media_oracle import MOST, Knowledge
from tests.support.media_rig import OTHER_RELAY, RELAY, STRANGER, Rig
from tests.support.world import RELAYS

CORPUS = sorted((Path(fuzz_media.__file__).parent / "corpus" / "media").iterdir())
INTERNAL = RELAYS[RELAY]
DROPPED = {each.name for each in IN if each.dropped}
ANSWERED = {"check", "gone", "conflict"}
RECORD = b"\x16\xfe\xfd" + bytes(8) + b"\x00\x10" + bytes(16)


class Scene:
    """Two live sessions, a third that is gone, and a request of ours that waits for its answer."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.line, self.other = self.rig.line(0), self.rig.line(1)
        self.lost = self.rig.line(2)
        self.lost.close()
        for line in (self.line, self.other):
            assert self.rig.up(line.media(), line.client)[0] == "rtp"
        self.knowledge = Knowledge(self.rig, [self.line, self.other])
        _, sent = self.rig.up(self.line.check(), STRANGER)
        (self.request,) = (each.datagram for each in sent if each.datagram[:2] == b"\0\1")
        self.knowledge.asked[self.request[8:20]] = (STRANGER, RELAY), self.line
        self.knowledge.flows[STRANGER, RELAY] = self.line

    def take(self, wrapped: bytes, sender: tuple[str, int] = INTERNAL) -> str:
        """The outcome, after all that must hold of it."""
        expected = self.knowledge.expected(wrapped, sender)
        before = self.states()
        outcome, sent = self.rig.take(wrapped, sender)
        assert outcome == expected, wrapped.hex()
        opened = envelope.unpack(wrapped)
        if outcome in DROPPED:
            assert sent == []
            assert self.states() == before
        for each in sent:
            assert opened is not None
            assert (each.client, each.relay) == opened[:2]
        if outcome not in ANSWERED:
            assert [each for each in sent if each.datagram[0] < 2] == []
        return outcome

    def states(self) -> list[object]:
        return [line.state() for line in (self.line, self.other)]

    def still_alive(self) -> None:
        """Both are heard and echoed."""
        self.rig.events()
        for line in (self.line, self.other):
            outcome, sent = self.rig.up(line.media(b"still here"), line.client)
            assert outcome == "rtp"
            assert [(each.client, each.datagram[1]) for each in sent] == [(line.client, 111)]


def good(scene: Scene) -> dict[str, bytes]:
    """One authentic datagram of each kind, without its envelope."""
    return {
        "check": scene.line.check(),
        "answer": scene.line.answer(scene.request),
        "check in the wrong role": scene.line.check(controlling=False),
        "check of a session that is gone": scene.lost.check(),
        "error": binding.error(scene.request[8:20], 487, scene.line.remote_pwd.encode()),
        "media": scene.line.media(b"x" * 20),
        "report": scene.line.report(),
        "record": RECORD,
    }


KINDS = list(good(Scene()))


def truncations(wrapped: bytes) -> Iterator[bytes]:
    for length in range(len(wrapped)):
        yield wrapped[:length]


def mutations(wrapped: bytes) -> Iterator[bytes]:
    """Each byte behind the envelope's magic number, two ways; and a few bits of that."""
    for position, byte in enumerate(wrapped):
        for change in (0x01, 0x80):
            yield wrapped[:position] + bytes([byte ^ change]) + wrapped[position + 1 :]


def extensions(wrapped: bytes) -> Iterator[bytes]:
    for extra in (1, 2, 3, 4, 8, 20, MOST - len(wrapped), MOST - len(wrapped) + 1, 4000):
        yield wrapped + bytes(extra)


@pytest.mark.parametrize("spoil", [truncations, mutations, extensions], ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_spoilt(name: str, spoil: Callable[[bytes], Iterator[bytes]]) -> None:
    scene = Scene()
    client = STRANGER if name == "answer" else scene.line.client
    wrapped = envelope.pack(client, RELAY) + good(scene)[name]
    counts = Counter(scene.take(each) for each in spoil(wrapped))
    assert counts.total() > 8
    scene.still_alive()


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_from_elsewhere(name: str) -> None:
    """From a machine that is no relay, without an envelope, twice enveloped, by another relay, of another client."""
    scene = Scene()
    datagram = good(scene)[name]
    wrapped = envelope.pack(scene.line.client, RELAY) + datagram
    assert scene.take(wrapped, ("10.9.0.1", 9001)) == "not_relay"
    assert scene.take(wrapped, ("10.0.255.255", 9001)) == "not_relay"
    assert scene.take(datagram) == "bad_envelope"
    assert scene.take(envelope.pack(scene.line.client, RELAY) + wrapped) == "unknown_kind"
    scene.take(envelope.pack(scene.line.client, OTHER_RELAY) + datagram, RELAYS[OTHER_RELAY])
    scene.take(envelope.pack(("203.0.113.9", 1), RELAY) + datagram)
    scene.still_alive()


def test_ipv6_relays_are_no_relays_here() -> None:
    scene = Scene()
    wrapped = envelope.pack(scene.line.client, RELAY) + scene.line.check()
    outcome, sent = scene.rig.take(wrapped, ("2001:db8::1", 9001))
    assert (outcome, sent) == ("not_relay", [])


@pytest.mark.parametrize("head", [b"", b"\x00\x01", b"\x01\x01", b"\x16\xfe\xfd", b"\x80\x6f", b"\x80\xc9", b"\xff"])
def test_every_length(head: bytes) -> None:
    scene = Scene()
    for length in (*range(0, 300), *range(1400, 1500), *range(MOST - 60, MOST + 5)):
        body = (head + bytes(length))[:length]
        scene.take(envelope.pack(scene.line.client, RELAY) + body)
        scene.rig.events()
    scene.still_alive()


def test_authentic_media_counts_once() -> None:
    """The oracle's own check: it knows what is authentic, and a copy of it is a replay."""
    scene = Scene()
    media = [scene.line.media(), scene.line.report()]
    scene.knowledge.authentic = media
    for each in media:
        assert scene.take(envelope.pack(scene.line.client, RELAY) + each) in ("rtp", "rtcp")
        assert scene.rig.up(each, scene.line.client)[0] == "srtp_replayed"
    scene.still_alive()


def test_guessing_tokens_is_answered_with_silence() -> None:
    scene = Scene()
    token = scene.line.token
    outcomes: Counter[str] = Counter()
    for at in range(1, 32):
        for c in "Ab+":
            guess = token[:at] + c + token[at + 1 :]
            check = binding.request(bytes(12), f"{guess}:x".encode(), b"guess", priority=1, tie_breaker=1)
            outcomes[scene.take(envelope.pack(STRANGER, RELAY) + check)] += 1
    assert set(outcomes) <= {"stun_unknown", "stun_forged"}
    assert outcomes["stun_unknown"] > 80


def test_paths_of_a_session_are_bounded() -> None:
    """Eight that are proven stay, and a ninth is told nothing until one has been quiet for ten seconds."""
    scene = Scene()
    line = scene.line
    for number in range(7):
        line.prove(("198.51.100.50", 1000 + number))
    assert scene.rig.up(line.check(), ("198.51.100.60", 1)) == ("paths_full", [])
    for _ in range(4):
        for number in range(7):
            assert scene.rig.up(line.check(), ("198.51.100.50", 1000 + number))[0] == "check"
        assert scene.rig.up(line.check(), line.client)[0] == "check"
        scene.rig.rest(4)
    assert scene.rig.up(line.check(), ("198.51.100.60", 1)) == ("paths_full", [])
    scene.rig.rest(11)
    assert scene.rig.up(line.check(), ("198.51.100.60", 1))[0] == "check"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.binary(max_size=120)), max_size=20))
def test_anything_at_all(datagrams: list[tuple[int, bytes]]) -> None:
    """Also behind the head of a good check, so that it gets past the demux."""
    scene = Scene()
    heads = [b"", scene.line.check()[:20], envelope.pack(scene.line.client, RELAY)]
    for which, rest in datagrams:
        scene.take(heads[2] + heads[which] + rest if which < 2 else heads[2] + rest)
        scene.take(rest)
    scene.still_alive()


# --- the fuzz target ---


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_corpus_of_the_fuzz_target(path: Path) -> None:
    fuzz_media.one(path.read_bytes())


@pytest.mark.parametrize("seed", range(100))
def test_streams_at_random(seed: int) -> None:
    choice = random.Random(seed)
    data = bytearray(choice.choice(CORPUS).read_bytes() + choice.randbytes(choice.randrange(200)))
    for _ in range(choice.randrange(12)):
        data[choice.randrange(len(data))] = choice.randrange(256)
    fuzz_media.one(bytes(data))
