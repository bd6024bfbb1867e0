"""What a datagram's outcome in the transceiver must be, in plain Python: `expected` reads the rules, not the code.

It is told what whoever holds the sessions knows: tokens, passwords, which flows are whose, and which requests were
asked. Packets of media it does not decrypt: a test that makes an authentic one says so with `authentic`, everything
else that looks like media is a forgery. The parsers it uses have oracles of their own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass, field

from _fastpath.wire import binding
from _fastpath.wire.demux import kind_of
from tests.support import oracle
from tests.support.media_rig import RELAY, Address, Line, Rig
from tests.support.world import GENERATION, ICE_KEY, OWN
from transceiver import ice

MOST = 1982  # bytes of a datagram with its envelope; no WebRTC datagram is as long
RELAYS_OF_THE_TESTS = ipaddress.ip_network("10.1.0.0/16")

Flow = tuple[Address, Address]


@dataclass
class Knowledge:
    rig: Rig
    lines: list[Line]
    flows: dict[Flow, Line] = field(default_factory=dict)
    asked: dict[bytes, tuple[Flow, Line]] = field(default_factory=dict)  # transaction -> who is to answer
    authentic: Collection[bytes] = ()  # media and reports that have not been taken yet

    def __post_init__(self) -> None:
        self.flows |= {(line.client, RELAY): line for line in self.lines}

    def expected(self, wrapped: bytes, sender: Address) -> str:
        if len(wrapped) > MOST:
            return "truncated"
        if ipaddress.ip_address(sender[0]) not in RELAYS_OF_THE_TESTS:
            return "not_relay"
        opened = oracle.spp_unpack(wrapped)
        if opened is None or not opened[2]:
            return "bad_envelope"
        client, relay, body = opened
        kind = kind_of(body)
        if kind == "stun":
            return self.stun((client, relay), body)
        line = self.flows.get((client, relay))
        if kind == "rtp":
            return self.media(line, body)
        if kind == "dtls" and 20 <= body[0] <= 26 and body[1] == 0xFE:
            return "no_path" if line is None else "dtls"
        return "unknown_kind"

    def media(self, line: Line | None, body: bytes) -> str:
        if line is None:
            return "no_path"
        report = 192 <= body[1] <= 223
        if not report and len(body) < 12:
            return "rtp_malformed"
        if body in self.authentic:
            return "rtcp" if report else "rtp"
        return "srtp_forged"

    def stun(self, flow: Flow, body: bytes) -> str:
        result, fields = binding.parse(body)
        if result == "bad_fingerprint":
            return "stun_forged"
        if result != "ok" or fields is None:
            return "stun_malformed"
        if fields.kind == binding.SUCCESS:
            return self.answer(flow, body, fields.transaction)
        if fields.kind != binding.REQUEST or fields.username is None:
            return "stun_unexpected"
        token, colon, _ = fields.username.partition(b":")
        if not colon or len(token) not in (32, 48):
            return "stun_unknown"
        line = next((each for each in self.lines if each.token.encode() == token), None)
        if line is None:
            return self.gone(token, body)
        if not binding.verify(body, line.pwd.encode()):
            return "stun_forged"
        return "conflict" if fields.controlled else "check"

    def answer(self, flow: Flow, body: bytes, transaction: bytes) -> str:
        asked, line = self.asked.get(transaction, (None, None))
        if asked != flow or line is None:
            return "stun_unexpected"
        return "probe_answer" if binding.verify(body, line.remote_pwd.encode()) else "stun_forged"

    def gone(self, token: bytes, body: bytes) -> str:
        result, fields = self.rig.keyring.verify(token)
        if result != "verified" or fields is None or fields.owner != OWN:
            return "stun_unknown"
        if (GENERATION - fields.generation) % 4096 >= 2048:
            return "stun_unknown"
        password = ice.derive_pwd(ICE_KEY, token.decode()).encode()
        return "gone" if binding.verify(body, password) else "stun_forged"
