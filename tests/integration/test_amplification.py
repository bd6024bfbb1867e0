"""Bytes towards a source that has proven nothing, for those that came from it: by the relay alone none, whatever comes.

Every kind of packet is sent from spoofed sources whose network is reached by a device of its own, and that device's
counters are read: all that leaves there is counted, also what the kernel might say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.support import Result
from tests.support.asker import binding_request
from tests.support.attacked import AttackedRelay
from tests.support.netns import Namespaces
from tests.support.relays import until

pytestmark = pytest.mark.native

COOKIE = bytes.fromhex("2112a442")
HEADERS_BYTES = 14 + 20 + 8  # Ethernet, IPv4, UDP
SOURCES = 7  # no divisor of the number of kinds: each source sends each kind
RATE, SECONDS = 10_000, 0.3


@pytest.fixture
def attacked(namespaces: Namespaces, key_file: Path, tmp_path: Path) -> Iterator[AttackedRelay]:
    with AttackedRelay(namespaces, key_file, tmp_path) as attacked:
        yield attacked


def stun(kind: int, attributes: bytes = b"", cookie: bytes = COOKIE) -> bytes:
    return kind.to_bytes(2, "big") + len(attributes).to_bytes(2, "big") + cookie + os.urandom(12) + attributes


def kinds(token: str) -> dict[str, bytes]:
    """Media first: the first packets from each source find no flow."""
    check = binding_request(token)
    other = "B" if token[9] == "A" else "A"
    return {
        "RTP": bytes([0x80, 111]) + os.urandom(158),
        "RTCP": bytes([0x80, 200]) + os.urandom(62),
        "DTLS ClientHello": bytes.fromhex("16feff0000000000000000") + bytes([0, 100, 1]) + os.urandom(99),
        "DTLS record": bytes.fromhex("17fefd0001000000000001") + bytes([0, 60]) + os.urandom(60),
        "empty": b"",
        "one byte": b"\0",
        "ChannelData": bytes([0x40]) + os.urandom(99),
        "QUIC": bytes([0xC0]) + os.urandom(1199),
        "garbage": b"\x05" + os.urandom(199),
        "STUN without cookie": stun(1, cookie=bytes(4)),
        "STUN without USERNAME": stun(1),
        "STUN with a long USERNAME": stun(1, b"\0\x06\x02\x04" + b"I" * 516),
        "STUN with a browser's USERNAME": binding_request("abcd"),
        "STUN indication": stun(0x0011),
        "STUN answer": stun(0x0101),
        "STUN error": stun(0x0111),
        "TURN Allocate": stun(0x0003, b"\0\x19\0\x04\x11\0\0\0"),
        "check": check,
        "check, cut in its header": check[:19],
        "check, cut": check[:-1],
        "check with a forged token": binding_request(token[:9] + other + token[10:]),
        "check with a token of another version": binding_request("A" + token[1:]),
        "check with a token of another key": binding_request("O" + token[1:]),
        "check, 1,985 bytes": check + bytes(1_985 - len(check)),
        "RTP, 2,048 bytes": bytes([0x80, 111]) + os.urandom(2_046),
    }


VERDICTS = {
    "forwarded_total": ["opened", "check", "media"],
    "drops_total": [
        *("truncated", "too_short", "unknown_kind", "bad_cookie", "stun_malformed", "no_username", "long_username"),
        *("no_token", "token_version", "token_key", "token_forged", "no_flow"),
    ],
}


def send(attacked: AttackedRelay, datagrams: list[bytes], sources: int) -> Result:
    """Sends them, again and again, until the relay has seen them all."""
    with attacked.flood(datagrams, sources=sources, rate=RATE, seconds=SECONDS) as flood:
        result = flood.wait()
    assert result["send_errors"] == 0
    until(lambda: attacked.relay.total("ufrag_relay_packets_total", direction="up") == result["sent"])
    return result


def test_nothing_leaves_for_whoever_has_proven_nothing(attacked: AttackedRelay) -> None:
    """Nor for one with a flow that no owner has answered."""
    datagrams = kinds(attacked.mint(attacked.silent)[0])
    assert len(datagrams) % SOURCES
    result = send(attacked, list(datagrams.values()), SOURCES)
    assert attacked.towards_nobody() == (0, 0)
    print(f"\n{len(datagrams)} kinds: {result['bytes']} bytes in {result['sent']} packets came, 0 bytes left")
    for metric, reasons in VERDICTS.items():
        for reason in reasons:
            assert attacked.relay.total(f"ufrag_relay_{metric}", direction="up", reason=reason) > 0, reason
    assert attacked.relay.total("ufrag_relay_packets_total", direction="down") == 0


def test_an_owners_answers_leave_and_are_seen_to(attacked: AttackedRelay) -> None:
    """What makes the test above one: this owner answers each check with as many bytes, and they are counted."""
    check = binding_request(attacked.tokens[0])
    result = send(attacked, [check], 1)
    until(lambda: attacked.relay.total("ufrag_relay_forwarded_total", direction="down") == result["sent"])
    packets, bytes_out = attacked.towards_nobody()
    assert packets == result["sent"]
    assert bytes_out - packets * HEADERS_BYTES == result["bytes"]
