"""A relay worker without sockets: slot memory, keys and the real hot path behind `_fastpath._testing.Harness`.

`Relay` is what tests drive; every batch it passes is followed by the invariant of the house: packets in = sum of
verdicts. `Relay.model` gives the same configuration to tests/support/model.py. Time is the `tick` that a test sets,
16 to a second.
"""

from __future__ import annotations

import ipaddress
import mmap
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from _fastpath._testing import MOST_PAYLOAD, Harness
from _fastpath.exchange import LOOKUP, Route
from _fastpath.forward import Forwarder
from _fastpath.slot import Slot, slot_bytes
from _fastpath.verdicts import VERDICTS_BY_NUMBER
from _fastpath.wire.envelope import key_of, pack_endpoint, unpack_key
from _fastpath.wire.token import Keyring
from relay.runtime.sockets import prepare
from tests.support import oracle
from tests.support.model import Model, Network, Public
from tests.support.oracle import Address

SECOND = 16
SECRET = bytes(range(16, 32))
KEYS = {0: bytes(range(32)), 3: bytes(range(100, 132))}
RETIRED = {6: bytes(range(200, 232))}
BACKENDS: tuple[Network, ...] = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00:1::/32"))

# The listening sockets of every test relay, by index.
WILDCARD, BOUND, WILDCARD6, BOUND6 = range(4)
PUBLICS = (Public(4, 3478), Public(4, 3479, "192.0.2.9"), Public(6, 3478), Public(6, 443, "2001:db8::9"))

CLIENT: Address = ("198.51.100.7", 50000)
CLIENT6: Address = ("2001:db8:7::1", 50000)
LOCAL: Address = ("192.0.2.1", 3478)
LOCAL6: Address = ("2001:db8::1", 3478)
OWNER: Address = ("10.1.2.3", 4000)
OTHER: Address = ("10.1.2.4", 4000)
STRANGER: Address = ("10.1.9.9", 9)
MOST = MOST_PAYLOAD

UpPacket = tuple[Address, Address, bytes]
UpResult = tuple[str, tuple[Address, bytes] | None]
DownResult = tuple[str, tuple[int, Address, str | None, bytes] | None]
Left = tuple[str, tuple[Address, Address], str, tuple[Address, bytes] | tuple[int, Address, str | None, bytes] | None]
MOST_ASKS = 1 << 20
# Verdicts that only a relay with a route cache gives: tests/unit/test_hold_*.py.
OF_THE_CACHE = {
    (way, reason)
    for way in ("up", "down")
    for reason in ("recovered", "no_route", "hold_expired", "hold_full", "lookup_limited")
}


def token(owner: Address = OWNER, serial: int = 1, key_id: int = 0, keys: dict[int, bytes] = KEYS) -> str:
    """An authentic token; `serial` tells those of one owner apart."""
    return oracle.mint((keys | RETIRED)[key_id], oracle.Fields(key_id, owner, 5, 9, serial.to_bytes(6, "big")))


def publics(given: Sequence[Public] = PUBLICS) -> list[tuple[int, int, bytes | None, int]]:
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    return [(-1, families[p.version], oracle.mapped(p.address) if p.address else None, p.port) for p in given]


def networks(given: Sequence[Network]) -> list[tuple[bytes, int]]:
    """Prefixes as the hot path takes them: 16 bytes, IPv4 in the last four."""
    return [
        (oracle.mapped(str(network.network_address)), network.prefixlen + (96 if network.version == 4 else 0))
        for network in given
    ]


def memory_of(max_flows: int) -> mmap.mmap:
    return mmap.mmap(-1, slot_bytes(max_flows))


@dataclass
class Settings:
    """What a test may want other than usual."""

    max_flows: int = 64
    max_half_open: int = 1000
    max_new_per_network_s: float = 0
    max_new_per_token_s: float = 0
    keys: dict[int, bytes] | None = None
    backends: Sequence[Network] = BACKENDS
    internal_version: int = 4
    siblings: Sequence[Slot] = ()
    orphans: Sequence[Slot] = ()
    cache: bool = False
    lookups_per_s: float = 0


class Relay:
    def __init__(self, settings: Settings | None = None, slot: Slot | None = None, tick: int = 1000) -> None:
        """Without a slot it makes one; with one it is the successor of whoever wrote there."""
        self.settings = settings or Settings()
        self.slot = slot or Slot.create(memory_of(self.settings.max_flows), self.settings.max_flows, SECRET)
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[self.settings.internal_version]
        self.keys = KEYS if self.settings.keys is None else self.settings.keys
        self.harness = Harness(
            Forwarder(
                self.slot,
                siblings=self.settings.siblings,
                orphans=self.settings.orphans,
                keyring=Keyring(self.keys),
                backends=networks(self.settings.backends),
                publics=publics(),
                internal=(-1, family),
                max_half_open=self.settings.max_half_open,
                max_new_per_network_s=self.settings.max_new_per_network_s,
                max_new_per_token_s=self.settings.max_new_per_token_s,
                cache=self.settings.cache,
                lookups_per_s=self.settings.lookups_per_s,
            ),
            tick,
        )

    def model(self) -> Model:
        return Model(
            keys=self.keys,
            backends=self.settings.backends,
            publics=PUBLICS,
            max_flows=self.settings.max_flows,
            max_half_open=self.settings.max_half_open,
            internal_version=self.settings.internal_version,
            tick=self.harness.tick,
        )

    @property
    def tick(self) -> int:
        return self.harness.tick

    @tick.setter
    def tick(self, value: int) -> None:
        self.harness.tick = value

    # --- passing packets ---

    def up_all(self, packets: Sequence[UpPacket], socket: int = WILDCARD) -> list[UpResult]:
        results = self.harness.up(packets, socket)
        assert_books_balance(self.slot)
        return results

    def down_all(self, packets: Sequence[tuple[Address, bytes]]) -> list[DownResult]:
        results = self.harness.down(packets)
        assert_books_balance(self.slot)
        return results

    def up(self, datagram: bytes, client: Address = CLIENT, local: Address = LOCAL, socket: int = WILDCARD) -> UpResult:
        return self.up_all([(client, local, datagram)], socket)[0]

    def down(self, datagram: bytes, sender: Address = OWNER) -> DownResult:
        return self.down_all([(sender, datagram)])[0]

    # --- the route cache ---

    def asked(self) -> list[tuple[Address, Address]]:
        """Flows that were asked for since the last look: (client, local)."""
        asks = self.harness.forwarder.take_asks(MOST_ASKS)
        return [unpack_key(ask.key) for ask in asks if ask.kind == LOOKUP]

    def known(
        self,
        owner: Address = OWNER,
        client: Address = CLIENT,
        local: Address = LOCAL,
        nonce: int = 1 << 40,
        next_hop: Address | None = None,
    ) -> list[Left]:
        """The cache knows that flow: what leaves the hold."""
        route = Route(pack_endpoint(owner), pack_endpoint(next_hop or owner), nonce)
        assert self.harness.forwarder.answer(key_of(client, local), route)
        return self.turn()

    def unknown(self, client: Address = CLIENT, local: Address = LOCAL) -> list[Left]:
        assert self.harness.forwarder.answer(key_of(client, local), None)
        return self.turn()

    def unavailable(self, client: Address = CLIENT, local: Address = LOCAL) -> list[Left]:
        assert self.harness.forwarder.unavailable(key_of(client, local))
        return self.turn()

    def turn(self) -> list[Left]:
        left = self.harness.turn()
        assert_books_balance(self.slot)
        return left

    # --- looking ---

    def flow(self, client: Address = CLIENT, local: Address = LOCAL) -> dict[str, object] | None:
        found = [each for each in self.slot.flow_list() if (each["client"], each["local"]) == (client, local)]
        assert len(found) <= 1
        return found[0] if found else None

    def counted(self) -> dict[str, int]:
        """Counters that are not zero, without those of batches."""
        return {name: value for name, value in self.slot.counters().items() if value and not name.startswith("batch")}


def assert_books_balance(slot: Slot) -> None:
    """Packets in = sum of verdicts, in each direction; nothing is ever counted as undecided; the batch sizes add up."""
    counters = slot.counters()
    for direction in ("up", "down"):
        verdicts = [f"{way}_{reason}" for way, _, reason in VERDICTS_BY_NUMBER if way == direction]
        assert counters[f"packets_{direction}"] == sum(counters[name] for name in verdicts)
    assert counters["pending"] == 0
    assert counters["batches"] == sum(value for name, value in counters.items() if name.startswith("batch_le_"))


class Sockets:
    """An internal socket, a public one and an owner's, on loopback; and the eventfd that wakes a worker."""

    def __init__(self) -> None:
        self.internal, self.public, self.owner = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
        for each in (self.internal, self.public, self.owner):
            prepare(each, 4 << 20)  # what a test reads late must not be lost here
            each.bind(("127.0.0.1", 0))
        self.wake = os.eventfd(1)

    def close(self) -> None:
        for each in (self.internal, self.public, self.owner):
            each.close()
        os.close(self.wake)

    def worker(self, slot: Slot, epoch: int = 0, *, cache: bool = False) -> Forwarder:
        publics = [(self.public.fileno(), socket.AF_INET, oracle.mapped("127.0.0.1"), self.public.getsockname()[1])]
        return Forwarder(
            slot,
            keyring=Keyring(KEYS),
            backends=[(oracle.mapped("0.0.0.0"), 96), (oracle.mapped("::"), 0)],
            publics=publics,
            internal=(self.internal.fileno(), int(self.internal.family)),
            wake=self.wake,
            max_half_open=100,
            epoch=epoch,
            cache=cache,
        )

    @property
    def local(self) -> Address:
        """The address that clients write to."""
        name = self.public.getsockname()
        return str(name[0]), int(name[1])

    @staticmethod
    def client() -> socket.socket:
        """One that nobody knows."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        return made

    def arrived(self) -> list[bytes]:
        """What has reached the owner."""
        datagrams = []
        while select.select([self.owner], [], [], 0)[0]:
            datagrams.append(self.owner.recv(4096))
        return datagrams
