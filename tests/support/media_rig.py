"""The hot thread of a media process without loop, sockets and handshakes: `MediaEngine.step`, sessions with known keys.

`Rig` is for tests of single datagrams: each that it passes is followed by the invariant of the house, one more packet
and one more outcome. `Line` is one session and the client at its other end, who knows every key; it makes whatever
such a client could send. Whole calls, with their handshakes, are tests/support/world.py.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from _fastpath.media import MediaEngine
from _fastpath.media_slot import MediaSlot, SessionView, media_slot_bytes
from _fastpath.outcomes import IN
from _fastpath.wire import binding, envelope, rtcp, rtp
from _fastpath.wire.token import Keyring
from tests.support.world import CLUSTER, GENERATION, ICE_KEY, KEYS, OWN, RELAY_NETWORKS, RELAYS, UNIX_US
from transceiver import ice, srtp
from transceiver.srtp import SRTPKeys, SRTPPair
from transceiver.srtp_memory import contexts_known

Address = tuple[str, int]
Event = tuple[str, int, int, int, int, bytes]
PROFILE = "SRTP_AEAD_AES_128_GCM"
TX, RX = bytes(range(28)), bytes(range(100, 128))
PAYLOAD_TYPE = 111
RELAY, OTHER_RELAY = RELAYS
STRANGER: Address = ("203.0.113.66", 6666)
START_US = 1_000_000_000


class Sent(NamedTuple):
    client: Address
    relay: Address
    datagram: bytes


class Line:
    """A session, number `index`, and all that its client knows."""

    def __init__(self, rig: Rig, index: int, client: Address, ufrag: str = "cli1") -> None:
        self.rig, self.index, self.client, self.ufrag = rig, index, client, ufrag
        self.token = rig.keyring.mint(1, OWN, CLUSTER, GENERATION)
        self.pwd, self.remote_pwd = ice.derive_pwd(ICE_KEY, self.token), f"client-password-{index:08}"
        self.ssrc, self.server_ssrc = 1000 + index, 2000 + index
        self.sequence = 0
        self.transactions = 0
        self.serial = 0

    @cached_property
    def server(self) -> SRTPPair:
        return SRTPPair(SRTPKeys(PROFILE, TX, RX))

    @cached_property
    def pair(self) -> SRTPPair:
        return SRTPPair(SRTPKeys(PROFILE, RX, TX))

    def open(self, *, echo: bool = True, keys: bool = True) -> None:
        engine = self.rig.engine
        self.serial = self.rig.slot.begin(self.index, self.token, 1.0)
        engine.open(
            self.index, self.serial, ssrc=self.server_ssrc, sequence=7, timestamp_offset=0,
            payload_type=PAYLOAD_TYPE, echo=echo,
        )  # fmt: skip
        self.add_credential(self.token, self.pwd)
        if keys:
            engine.set_keys(self.index, self.serial, self.server.tx, self.server.rx)
        self.rig.rest()

    def add_credential(self, token: str, pwd: str) -> None:
        self.rig.engine.add_credential(
            self.index, self.serial, token=token, password=pwd, remote_ufrag=self.ufrag,
            remote_password=self.remote_pwd,
        )  # fmt: skip

    def close(self) -> None:
        self.rig.engine.close(self.index, self.serial)
        self.rig.rest()
        self.rig.slot.end(self.index)

    # What the client can send

    def check(self, *, use_candidate: bool = True, controlling: bool = True, ufrag: str | None = None) -> bytes:
        self.transactions += 1
        name = f"{self.token}:{self.ufrag if ufrag is None else ufrag}".encode()
        return binding.request(
            self.transactions.to_bytes(12, "big"), name, self.pwd.encode(), priority=1 << 24, tie_breaker=1,
            controlling=controlling, use_candidate=use_candidate,
        )  # fmt: skip

    def answer(self, request: bytes) -> bytes:
        return binding.success(request[8:20], RELAY, self.remote_pwd.encode())

    def media(
        self, payload: bytes = b"opus", *, ssrc: int = 0, sequence: int = -1, payload_type: int = PAYLOAD_TYPE
    ) -> bytes:
        if sequence < 0:
            self.sequence = sequence = (self.sequence + 1) & 0xFFFF
        header = rtp.pack(payload_type, False, sequence, 960 * sequence, ssrc or self.ssrc)
        return self.pair.protect(header + payload)

    def report(self, *, ssrc: int = 0, bye: bool = False) -> bytes:
        return self.pair.protect_rtcp(rtcp.pack(ssrc or self.ssrc, b"client", bye=bye))

    # Its ways

    def prove(self, client: Address | None = None, relay: Address = RELAY) -> None:
        """A check, and the answer to the request that follows it."""
        where = client or self.client
        _, sent = self.rig.up(self.check(), where, relay)
        (request,) = (each.datagram for each in sent if each.datagram[:2] == b"\x00\x01")
        assert self.rig.up(self.answer(request), where, relay) == ("probe_answer", [])

    def state(self) -> tuple[object, SessionView]:
        """All that may be seen of it."""
        return self.rig.engine.debug(self.index), self.rig.slot.session(self.index)


class Rig:
    def __init__(self, sessions: int = 4) -> None:
        self.us = START_US
        self.keyring = Keyring(KEYS)
        self.slot = MediaSlot.create(mmap.mmap(-1, media_slot_bytes(sessions)), sessions)
        self.engine = MediaEngine(
            self.slot, secret=bytes(16), keyring=self.keyring, ice_key=ICE_KEY, own=OWN, generation=GENERATION,
            relays=RELAY_NETWORKS, srtp=srtp.functions(), srtp_known=contexts_known(),
            now_us=self.us, unix_us=UNIX_US + self.us,
        )  # fmt: skip

    def line(self, index: int, *, proven: bool = True, ufrag: str = "cli1", echo: bool = True) -> Line:
        """A session with keys; its client has an address of its own, and a proven path."""
        line = Line(self, index, (f"198.51.100.{index + 1}", 50_000), ufrag)
        line.open(echo=echo)
        if proven:
            line.prove()
        return line

    def up(self, datagram: bytes, client: Address, relay: Address = RELAY) -> tuple[str, list[Sent]]:
        return self.take(envelope.pack(client, relay) + datagram, RELAYS[relay])

    def take(self, wrapped: bytes, sender: Address) -> tuple[str, list[Sent]]:
        """One datagram at the internal socket: its outcome, and what left because of it."""
        before = self.slot.counters()
        sent = self.engine.step(self.us, [(wrapped, sender)])
        after = self.slot.counters()
        assert after["packets_up"] == before["packets_up"] + 1
        (outcome,) = (each.name for each in IN if after[f"up_{each.name}"] != before[f"up_{each.name}"])
        assert after[f"up_{outcome}"] == before[f"up_{outcome}"] + 1
        return outcome, self._opened(sent)

    def pour(self, datagrams: Sequence[bytes], client: Address, relay: Address = RELAY) -> Counter[str]:
        """Many at once from one client: how many had which outcome."""
        before = self.slot.counters()
        self.engine.step(self.us, [(envelope.pack(client, relay) + each, RELAYS[relay]) for each in datagrams])
        after = self.slot.counters()
        found = Counter({each.name: after[f"up_{each.name}"] - before[f"up_{each.name}"] for each in IN})
        assert found.total() == after["packets_up"] - before["packets_up"] == len(datagrams)
        return +found

    def _opened(self, sent: list[tuple[bytes, Address]]) -> list[Sent]:
        found = []
        for wrapped, to in sent:
            opened = envelope.unpack(wrapped)
            assert opened is not None
            assert RELAYS.get(opened[1], to) == to
            found.append(Sent(*opened))
        return found

    def rest(self, seconds: float = 0.0) -> list[Sent]:
        """Commands and timers, from event to event."""
        end = self.us + round(seconds * 1e6)
        sent = self._opened(self.engine.step(self.us))
        while self.us < end:
            wait_us = self.engine.wait_us()
            self.us = min(end, self.us + max(wait_us, 1)) if wait_us >= 0 else end
            sent += self._opened(self.engine.step(self.us))
        return sent

    def events(self) -> list[Event]:
        found = []
        while some := self.engine.events():
            found += some
        return found
