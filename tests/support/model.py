"""The relay's decisions once more, in plain Python: flows in a dict, the wire formats from tests/support/oracle.py.

What it must agree on with the compiled path: the verdict of every packet, every packet sent, and the flow table after
each step. It follows the rules in the heads of router.pxd and flows.pxd; where these leave a choice open (which of
two flows of a token that are alike in all goes first, in which order flows are looked at) it makes the same choice, so
numbers and chains exist here too, as lists. One worker without siblings; the owner of a flow is its next hop.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.support import oracle
from tests.support.oracle import Address

MOST_PAYLOAD = 1984
FLOWS_PER_TOKEN = 8
LIVE_TICKS = 3 * 16
NO_NONCE = bytes(6)
PUSH = 2  # how it drains
TICKS = 1 << 32
CHECKED = 1 << 16

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UpResult = tuple[str, tuple[Address, bytes] | None]
DownResult = tuple[str, tuple[int, Address, str | None, bytes] | None]


@dataclass(frozen=True)
class Public:
    """A listening socket; without an address it is a wildcard."""

    version: int
    port: int
    address: str | None = None


@dataclass(eq=False)
class Flow:
    number: int
    client: Address
    local: Address
    socket: int
    owner: Address
    token: bytes
    random: bytes
    opened: int
    seen: int
    answered: int
    checked: int
    established: bool = False
    pending_owner: Address | None = None
    pending_token: bytes | None = None


@dataclass
class Model:
    keys: dict[int, bytes]
    backends: Sequence[Network]
    publics: Sequence[Public]
    max_flows: int
    max_half_open: int
    internal_version: int = 4
    tick: int = 0
    flow_ticks: int = 30 * 16
    half_open_ticks: int = 5 * 16
    hold_ticks: int = 12 * 16
    draining: int = 0
    flows: dict[bytes, Flow] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    tokens: Counter[tuple[int, str]] = field(default_factory=Counter)
    # What only orders things.
    chains: dict[bytes, list[Flow]] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    high_water: int = 0
    sweep_at: int = 0

    def since(self, tick: int) -> int:
        return (self.tick - tick) % TICKS

    # --- the table ---

    def link(self, flow: Flow) -> None:
        """Behind the first of its token."""
        self.chains.setdefault(flow.token, []).insert(1, flow)

    def unlink(self, flow: Flow) -> None:
        self.chains[flow.token].remove(flow)

    def has_room(self, token: bytes) -> bool:
        return len(self.chains.get(token, [])) < FLOWS_PER_TOKEN

    def victim(self, token: bytes) -> Flow | None:
        """Whom a token's ninth flow would push out: half-open ones, then the longest unheard of, then the newest."""
        first = max(
            self.chains[token], key=lambda each: (not each.established, self.since(each.seen), -self.since(each.opened))
        )
        return None if first.established and self.since(first.seen) <= LIVE_TICKS else first

    def make_room(self, token: bytes) -> bool:
        """A token's ninth flow pushes out one of its own, unless all are alive."""
        if self.has_room(token):
            return True
        victim = self.victim(token)
        if victim is None:
            return False
        self.drop(victim)
        self.events["flows_evicted"] += 1
        return True

    def open(self, flow: Flow) -> bool:
        if not self.make_room(flow.token):
            return False
        if self.free:
            flow.number = self.free.pop()
        elif self.high_water < self.max_flows:
            flow.number = self.high_water
            self.high_water += 1
        else:
            return False
        self.flows[oracle.spp_key(flow.client, flow.local)] = flow
        self.link(flow)
        self.events["flows_created"] += 1
        return True

    def drop(self, flow: Flow) -> None:
        del self.flows[oracle.spp_key(flow.client, flow.local)]
        self.unlink(flow)
        self.free.append(flow.number)

    def retoken(self, flow: Flow, token: bytes) -> None:
        """Nothing when the token has its flows: nobody's flow is pushed out by a restart."""
        if flow.token != token and self.has_room(token):
            self.unlink(flow)
            flow.token, flow.random, flow.checked = token, NO_NONCE, self.tick
            self.link(flow)
            self.events["retokened"] += 1

    def overdue(self, flow: Flow) -> bool:
        """Silent for too long, or for too long without its owner's answer, whatever its client sends."""
        if flow.established:
            return self.since(flow.seen) > self.flow_ticks
        return self.since(flow.opened) > self.half_open_ticks

    def sweep(self, budget: int) -> int:
        freed = 0
        for _ in range(budget):
            self.sweep_at = 0 if self.sweep_at >= self.high_water else self.sweep_at
            flow = next((each for each in self.flows.values() if each.number == self.sweep_at), None)
            self.sweep_at += 1
            if flow and self.overdue(flow):
                self.drop(flow)
                freed += 1
        return freed

    def repair(self) -> None:
        """A new writer: chains and free numbers in the order of numbers."""
        self.chains.clear()
        by_number = sorted(self.flows.values(), key=lambda flow: flow.number)
        for flow in by_number:
            self.link(flow)
        used = {flow.number for flow in by_number}
        self.free = [number for number in reversed(range(self.high_water)) if number not in used]

    @property
    def half_open(self) -> int:
        return sum(not flow.established for flow in self.flows.values())

    # --- up ---

    def up(self, packets: Iterable[tuple[Address, Address, bytes]], socket: int) -> list[UpResult]:
        results = []
        for client, local, datagram in packets:
            verdict, target = self.route_up(client, self.local_of(local, socket), datagram, socket)
            self.count("up", verdict, min(len(datagram), MOST_PAYLOAD))
            header = oracle.spp_pack(client, self.local_of(local, socket))
            results.append((verdict, (target, header + datagram) if target else None))
        return results

    def count(self, direction: str, verdict: str, payload_bytes: int) -> None:
        if verdict == "held":
            self.counters["held"] += 1  # the rest when it leaves
            return
        self.counters[f"{direction}_{verdict}"] += 1
        self.counters[f"packets_{direction}"] += 1
        self.counters[f"bytes_{direction}"] += payload_bytes

    def local_of(self, local: Address, socket: int) -> Address:
        public = self.publics[socket]
        return public.address or local[0], public.port

    def route_up(self, client: Address, local: Address, datagram: bytes, socket: int) -> tuple[str, Address | None]:
        if len(datagram) > MOST_PAYLOAD:
            return "truncated", None
        if not oracle.answerable(*client):
            return "bad_source", None
        if self.publics[socket].address is None and not one_host(local[0]):
            return "bad_destination", None
        kind = oracle.kind_of(datagram)
        if kind in ("too_short", "bad_cookie", "unknown"):
            return {"unknown": "unknown_kind"}.get(kind, kind), None
        flow = self.flows.get(oracle.spp_key(client, local))
        if kind == "stun" and oracle.is_request(datagram):
            return self.route_check(client, local, datagram, socket, flow)
        if flow is None:
            return self.missed_up(client, local, datagram, socket)
        flow.seen = self.tick
        return "media", flow.owner

    def missed_up(self, client: Address, local: Address, datagram: bytes, socket: int) -> tuple[str, Address | None]:
        """Nobody has the flow."""
        return "no_flow", None

    def missed_down(self, sender: Address, client: Address, local: Address, payload: bytes) -> str:
        return "no_flow"

    def waits(self, client: Address, local: Address, datagram: bytes, socket: int) -> bool:
        """Whether a check that would open a flow waits with packets of it."""
        return False

    def route_check(
        self, client: Address, local: Address, datagram: bytes, socket: int, flow: Flow | None
    ) -> tuple[str, Address | None]:
        walked, username = oracle.username_of(datagram)
        if walked != "ok":
            return {"malformed": "stun_malformed"}.get(walked, walked), None
        token = oracle.token_of(username)
        if token is None:
            self.tokens[7, "malformed"] += 1
            return "no_token", None
        if self.draining == PUSH:
            return "draining", None
        if flow is not None and flow.token == token:
            self.tokens[oracle.claimed_key_id(token), "flow"] += 1
            flow.seen = flow.checked = self.tick
            return "check", flow.owner
        result, fields = oracle.verify(self.keys, token)
        if fields is None:
            self.tokens[self.blame(result, token), result] += 1
            return {"malformed": "no_token", "other_version": "token_version", "unknown_key": "token_key"}.get(
                result, f"token_{result}"
            ), None
        if not self.allowed(fields.owner):
            self.tokens[fields.key_id, "foreign_owner"] += 1
            return "foreign_owner", None
        if flow is None and self.waits(client, local, datagram, socket):
            return "held", None
        self.tokens[fields.key_id, "verified"] += 1
        if flow is not None and self.named(flow, fields, token):
            return "check", flow.owner
        if flow is None:
            if self.draining and not self.chains.get(token):
                return "draining", None
            return self.open_flow(client, local, socket, fields, token)
        flow.seen = self.tick
        flow.pending_owner, flow.pending_token = fields.owner, token
        return ("restart" if fields.owner == flow.owner else "contended"), fields.owner

    def named(self, flow: Flow, fields: oracle.Fields, token: bytes) -> bool:
        """Whether this is the token of a flow from the route cache, which is its own from now on."""
        return False

    def blame(self, result: str, token: bytes) -> int:
        return oracle.claimed_key_id(token) if result in ("unknown_key", "forged") else 7

    def allowed(self, owner: Address) -> bool:
        """A host's address inside --backends, of a family the internal socket can send to."""
        version = ipaddress.ip_address(owner[0]).version
        sendable = self.internal_version in (6, version)
        return sendable and oracle.answerable(*owner) and any(admits(network, owner[0]) for network in self.backends)

    def open_flow(
        self, client: Address, local: Address, socket: int, fields: oracle.Fields, token: bytes
    ) -> tuple[str, Address | None]:
        if self.half_open >= self.max_half_open:
            return "half_open_full", None
        if not self.has_room(token) and self.victim(token) is None:
            return "token_full", None
        now = self.tick
        flow = Flow(-1, client, local, socket, fields.owner, token, fields.random, now, now, now, now)
        return ("opened", fields.owner) if self.open(flow) else ("table_full", None)

    # --- down ---

    def down(self, packets: Iterable[tuple[Address, bytes]]) -> list[DownResult]:
        results = []
        for sender, datagram in packets:
            verdict, flow = self.route_down(sender, datagram)
            kept = min(len(datagram), MOST_PAYLOAD)
            self.count("down", verdict, max(0, kept - oracle.SPP_BYTES))
            results.append((verdict, self.sent_down(flow, datagram) if flow else None))
        return results

    def sent_down(self, flow: Flow, datagram: bytes) -> tuple[int, Address, str | None, bytes]:
        source = flow.local[0] if self.publics[flow.socket].address is None else None
        return flow.socket, flow.client, source, datagram[oracle.SPP_BYTES :]

    def route_down(self, sender: Address, datagram: bytes) -> tuple[str, Flow | None]:
        if len(datagram) > MOST_PAYLOAD:
            return "truncated", None
        opened = oracle.spp_unpack(datagram)
        if opened is None:
            return "bad_envelope", None
        client, local, payload = opened
        flow = self.flows.get(oracle.spp_key(client, local))
        if flow is None:
            return self.missed_down(sender, client, local, payload), None
        answer = oracle.is_success(payload)
        if sender != flow.owner:
            return self.from_contender(flow, sender) if answer else ("not_next_hop", None)
        flow.seen = self.tick
        return (self.answered(flow), flow) if answer else ("media", flow)

    def answered(self, flow: Flow) -> str:
        flow.answered = self.tick
        unused = (self.tick - flow.checked) % CHECKED > self.hold_ticks
        if flow.pending_owner == flow.owner and flow.pending_token and unused:
            self.retoken(flow, flow.pending_token)
            flow.pending_owner = flow.pending_token = None
        verdict = "answer" if flow.established else "established"
        flow.established = True
        return verdict

    def from_contender(self, flow: Flow, sender: Address) -> tuple[str, Flow | None]:
        if flow.pending_owner != sender or flow.pending_token is None:
            return "not_next_hop", None
        if flow.established and self.since(flow.answered) < self.hold_ticks:
            return "owner_live", None
        if flow.token != flow.pending_token and not self.has_room(flow.pending_token):
            return "not_next_hop", None
        flow.owner = sender
        self.retoken(flow, flow.pending_token)
        flow.pending_owner = flow.pending_token = None
        flow.established = True
        flow.seen = flow.answered = self.tick
        self.events["flows_moved"] += 1
        return "moved", flow


def one_host(address: str) -> bool:
    """The test's rule for destinations that are no host: IPv4 ending in .255, IPv6 multicast."""
    parsed = ipaddress.ip_address(address)
    return not (address.endswith(".255") if parsed.version == 4 else parsed.is_multicast)


def admits(network: Network, address: str) -> bool:
    """Networks are of mapped addresses. One that is wider than all of them together does not mean any of them."""
    parsed = ipaddress.ip_address(address)
    bits = network.prefixlen + (96 if network.version == 4 else 0)
    if parsed.version == 4 and bits < 96:
        return False
    prefix, packed = oracle.mapped(str(network.network_address)), oracle.mapped(address)
    return (int.from_bytes(prefix, "big") ^ int.from_bytes(packed, "big")) >> (128 - bits) == 0
