"""A relay with three owners in one namespace; its clients, and an attacker who spoofs their addresses, in another.

    client (192.0.2.9, 10.66.0.0/16, spoofed: all) -- veth0 -- server (192.0.2.1: relay, 127.0.0.1: owners) -- sink

What the relay sends to a spoofed source in 198.18.0.0/15 leaves by `sink` and is counted there: the clients' network is
reached by veth0.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.support import Echo, Flood, Generator, Result, Words, mint_tokens, rss_bytes, write_lines
from relay.runtime.config import parse_address
from tests.support.asker import ask
from tests.support.netns import Namespaces, inside, left_by, mac_of, udp_drops
from tests.support.relays import Relay, Samples, sum_of

RELAY = "192.0.2.1:3478"
CLIENTS, CLIENT_PORT = "10.66.0.0", 40_000
NOBODY, NOBODYS_NETWORK = "198.18.0.0", "198.18.0.0/15"
FLOWS = 1000
PAUSE_S = 0.5  # between two newcomers
# The attacker has what processor time the others leave: elsewhere he would take none of it.
LAST = ("nice", "-n", "10")
# Four times the default: room for what comes while the scheduler has given both processors to others.
EXTRA = ("--recv-buffer", "16MiB")
MARGIN_S = 3.0  # the clients' load goes on before and after the attack
FLOW_SOURCES = [f"10.66.{number >> 8}.{number & 255}:{CLIENT_PORT}" for number in range(FLOWS)]


@dataclass(frozen=True)
class Load:
    """What the clients send, and what the attacker does beside it."""

    media_pps: int
    flood_pps: int
    least_pps: int  # of the flood, where processors are busy: less than that is another attack
    sources: int
    seconds: float


@dataclass
class Look:
    """The relay at one moment."""

    samples: Samples
    rss_bytes: int

    def sum(self, name: str, **labels: str) -> int:
        return int(sum_of(self.samples, f"ufrag_relay_{name}", **labels))


@dataclass
class Course:
    """How an attack went: the relay before it, during it (several times), after it; and what each side counted."""

    before: Look
    during: list[Look] = field(default_factory=list)
    newcomers_s: list[float] = field(default_factory=list)
    clients: Result = field(default_factory=dict)
    flood: Result = field(default_factory=dict)
    drops: dict[str, dict[int, int]] = field(default_factory=dict)
    outlived: bool = False  # the clients' load went on when the attack was over

    @property
    def after(self) -> Look:
        return self.during[-1]

    def grown(self, name: str, **labels: str) -> int:
        return self.after.sum(name, **labels) - self.before.sum(name, **labels)


class AttackedRelay:
    """The relay with two workers; the clients' owner, the attacker's, and one that never answers. All end with it."""

    def __init__(self, namespaces: Namespaces, key_file: Path, folder: Path) -> None:
        self.namespaces, self.folder = namespaces, folder
        self.near: Words = ("ip", "netns", "exec", namespaces.server)
        self.far: Words = ("ip", "netns", "exec", namespaces.client)
        self.relay = Relay(
            key_file, listen=[RELAY], workers=2, netns=namespaces.server, internal="127.0.0.1:7000", extra=EXTRA
        )
        self.owner, self.attackers = (Echo(number).by(*self.near) for number in (0, 1))
        self.silent = Echo(2, sink=True).by(*self.near)
        self.tokens: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._lay_out()
            for process in (self.owner, self.attackers, self.silent, self.relay):
                stack.enter_context(process)
            self.tokens = self.mint(self.owner, FLOWS)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _lay_out(self) -> None:
        made = self.namespaces
        made.add_address(made.server, "192.0.2.1/24")
        made.add_address(made.client, "192.0.2.9/24")
        made.add_route(made.client, "local", "10.66.0.0/16", "dev", "lo")
        made.add_route(made.server, "10.66.0.0/16", "via", "192.0.2.9")
        made.add_sink(NOBODYS_NETWORK)
        made.set_mtu(9000)

    def mint(self, owner: Echo, count: int = 1) -> list[str]:
        return mint_tokens(self.relay.key_file, [owner.address], count)

    # ---- looking

    def look(self) -> Look:
        return Look(self.relay.samples(), sum(map(rss_bytes, self.relay.worker_pids())))

    def drops(self) -> dict[str, dict[int, int]]:
        """Side -> port -> datagrams that the kernel had no room for, where there are any."""
        made = self.namespaces
        counted = {"client": udp_drops(made.client), "server": udp_drops(made.server)}
        return {side: {port: count for port, count in by.items() if count} for side, by in counted.items()}

    def towards_nobody(self) -> tuple[int, int]:
        """(packets, bytes) that left for spoofed sources."""
        return left_by(self.namespaces.server, "sink")

    # ---- doing

    def newcomer(self) -> float:
        """Seconds until a client that nobody knew had both its check and its media answered, if they were."""
        (token,) = self.mint(self.owner)
        with inside(self.namespaces.client):
            begun = time.monotonic()
            served = ask(token, parse_address(RELAY)) == (RELAY, RELAY, True)
            return time.monotonic() - begun if served else math.inf

    def clients(self, load: Load) -> Generator:
        tokens = write_lines(self.folder / "tokens", self.tokens)
        return Generator(
            RELAY, tokens, flows=FLOWS, rate=load.media_pps, seconds=load.seconds + MARGIN_S, live=True,
            port=CLIENT_PORT, source_base=CLIENTS, size=160, burst=32,
        ).by(*self.far)  # fmt: skip

    def flood(self, datagrams: list[bytes], *, from_flows: bool = False, sources: int = 1, **options: object) -> Flood:
        """From spoofed sources that are nobody's, or those of the clients' flows."""
        file = write_lines(self.folder / "datagrams", [datagram.hex() for datagram in datagrams])
        if from_flows:
            options["sources"] = write_lines(self.folder / "sources", FLOW_SOURCES)
        else:
            options.update(source_base=NOBODY, source_count=sources)
        options.update(device="veth0", mac=mac_of(self.namespaces.server, "veth0"))
        return Flood(RELAY, file, **options).by(*self.far, *LAST)

    def attack(self, load: Load, flood: Flood) -> Course:
        """Beside the clients' load; meanwhile newcomers, one after the other."""
        with self.clients(load) as clients:
            seconds = clients.seconds()
            next(seconds)  # all flows are there
            course = Course(self.look())
            with flood:
                while not flood.ended_within(PAUSE_S):
                    course.newcomers_s.append(self.newcomer())
                    course.during.append(self.look())
                course.flood = flood.wait()
                course.outlived = clients.process.poll() is None
            for _ in seconds:
                pass
        course.clients = clients.result
        course.during.append(self.look())
        course.drops = self.drops()
        return course
