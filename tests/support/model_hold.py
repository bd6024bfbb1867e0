"""The model of a relay with a route cache: what waits, what was asked, what leaves; without rates, and with room for
everything but a flow's seventeenth packet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support import oracle
from tests.support.model import Flow, Model
from tests.support.oracle import Address

HOLD_TICKS = 8
NEGATIVE_TICKS = 32
HELD_OF_A_FLOW = 16
INTERNAL = 255
UNAVAILABLE = "unavailable"

Answer = tuple[Address, int] | None | str  # (owner, nonce), nobody knows, or UNAVAILABLE
Left = tuple[str, tuple[Address, Address], str, object]


@dataclass
class Wait:
    client: Address
    local: Address
    tick: int
    packets: list[tuple[int, Address, bytes]]  # (socket, sender, datagram)
    drop: str = ""  # not empty: they are about to leave
    remember: bool = False


@dataclass
class HoldModel(Model):
    waiting: dict[bytes, Wait] = field(default_factory=dict)
    negative: dict[bytes, int] = field(default_factory=dict)
    leaving: list[bytes] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    told: list[tuple[str, bytes]] = field(default_factory=list)  # look-ups and news, in order
    fallback: str = ""  # of the packet that leaves just now
    swept: int = 0
    secret: bytes = bytes(16)

    # --- in ---

    def missed_up(self, client: Address, local: Address, datagram: bytes, socket: int) -> tuple[str, Address | None]:
        return self.fallback or self.hold(client, local, (socket, client, datagram)), None

    def missed_down(self, sender: Address, client: Address, local: Address, payload: bytes) -> str:
        if self.fallback:
            return self.fallback
        if not self.allowed(sender):
            return "not_next_hop"
        if self.socket_of(local) is None:
            return "no_route"
        return self.hold(client, local, (INTERNAL, sender, oracle.spp_pack(client, local) + payload))

    def hold(self, client: Address, local: Address, packet: tuple[int, Address, bytes]) -> str:
        key = oracle.spp_key(client, local)
        if wait := self.waiting.get(key):
            if len(wait.packets) >= HELD_OF_A_FLOW:
                return "hold_full"
            wait.packets.append(packet)
            return "held"
        if key in self.negative and self.since(self.negative[key]) <= NEGATIVE_TICKS:
            return "no_route"
        self.negative.pop(key, None)
        self.waiting[key] = Wait(client, local, self.tick, [packet])
        self.told.append(("lookup", key))
        return "held"

    def waits(self, client: Address, local: Address, datagram: bytes, socket: int) -> bool:
        key = oracle.spp_key(client, local)
        wait = self.waiting.get(key)
        if wait is None or self.fallback:
            return False
        at = len(wait.packets) if wait.drop else 0
        self.release(key, "hold_expired")
        if len(wait.packets) >= 2 * HELD_OF_A_FLOW:
            return False
        wait.packets.insert(at, (socket, client, datagram))
        return True

    def socket_of(self, local: Address) -> int | None:
        """Bound to that address, else a wildcard of its port and family."""
        version = 6 if ":" in local[0] else 4
        fitting = [i for i, each in enumerate(self.publics) if (each.version, each.port) == (version, local[1])]
        bound = [i for i in fitting if self.publics[i].address == local[0]]
        wild = [i for i in fitting if self.publics[i].address is None]
        return next(iter(bound + wild), None)

    def place(self, key: bytes) -> int:
        """Where its entry stands, unless it had to give way: in that order they are looked at."""
        return oracle.siphash_1_3(self.secret, key) % 4096

    # --- answers ---

    def turn(self, answers: list[tuple[Address, Address, Answer]]) -> list[Left]:
        for answer in answers:
            self.hear(*answer)
        if self.waiting and self.swept != self.tick:
            self.swept = self.tick
            for key in sorted(self.waiting, key=self.place):
                if self.since(self.waiting[key].tick) > HOLD_TICKS:
                    self.release(key, "hold_expired")
        self.leave()
        left, self.left = self.left, []
        return left

    def hear(self, client: Address, local: Address, said: Answer) -> None:
        key = oracle.spp_key(client, local)
        if key not in self.flows:
            if isinstance(said, tuple) and not self.recovered(client, local, *said):
                self.events["answers_refused"] += 1
                said = None
            if said is None:
                self.refuse(key)
        if key in self.waiting:
            self.release(key, "no_route" if isinstance(said, tuple) else "hold_expired")

    def refuse(self, key: bytes) -> None:
        if wait := self.waiting.get(key):
            wait.remember = True
            self.release(key, "no_route")
        else:
            self.negative[key] = self.tick

    def release(self, key: bytes, drop: str) -> None:
        if not self.waiting[key].drop:
            self.waiting[key].drop = drop
            self.leaving.append(key)

    def recovered(self, client: Address, local: Address, owner: Address, nonce: int) -> bool:
        socket = self.socket_of(local)
        if socket is None or not self.allowed(owner):
            return False
        now, token = self.tick, provisional(client, local, owner, nonce)
        flow = Flow(-1, client, local, socket, owner, token, nonce.to_bytes(6, "little"), now, now, now, now)
        flow.established = True
        if not self.open(flow):
            return False
        self.events["flows_recovered"] += 1
        self.tell("established", flow)
        return True

    def named(self, flow: Flow, fields: oracle.Fields, token: bytes) -> bool:
        nonce = int.from_bytes(fields.random, "little")
        if not nonce or flow.token != provisional(flow.client, flow.local, fields.owner, nonce):
            return False
        self.retoken(flow, token)
        if flow.token != token:
            return False
        flow.random = fields.random
        flow.seen = flow.checked = self.tick
        return True

    # --- out ---

    def leave(self) -> None:
        """Up by socket, then down; within these by flow, each in order."""
        for source in (*range(len(self.publics)), INTERNAL):
            for key in self.leaving:
                wait = self.waiting[key]
                for socket, sender, datagram in wait.packets:
                    if socket == source:
                        self.left.append(self.pass_on(wait, socket, sender, datagram))
        for key in self.leaving:
            if self.waiting.pop(key).remember:
                self.negative[key] = self.tick
        self.leaving.clear()
        self.fallback = ""

    def pass_on(self, wait: Wait, socket: int, sender: Address, datagram: bytes) -> Left:
        self.fallback = wait.drop
        flow = (wait.client, wait.local)
        if socket == INTERNAL:
            verdict, found = self.route_down(sender, datagram)
            verdict = "recovered" if verdict in ("media", "answer") else verdict
            self.count("down", verdict, len(datagram) - oracle.SPP_BYTES)
            return "down", flow, verdict, self.sent_down(found, datagram) if found else None
        verdict, target = self.route_up(*flow, datagram, socket)
        verdict = "recovered" if verdict == "media" else verdict
        self.count("up", verdict, len(datagram))
        return "up", flow, verdict, (target, oracle.spp_pack(*flow) + datagram) if target else None

    # --- news ---

    def tell(self, what: str, flow: Flow) -> None:
        self.told.append((what, oracle.spp_key(flow.client, flow.local)))

    def drop(self, flow: Flow) -> None:
        super().drop(flow)
        if flow.established:
            self.tell("ended", flow)

    def answered(self, flow: Flow) -> str:
        pending = flow.pending_token
        verdict = super().answered(flow)
        if verdict == "established" or pending and flow.pending_token is None:
            self.tell("established", flow)
        return verdict

    def from_contender(self, flow: Flow, sender: Address) -> tuple[str, Flow | None]:
        verdict, found = super().from_contender(flow, sender)
        if verdict == "moved":
            self.tell("established", flow)
        return verdict, found

    def repair(self) -> None:
        """A successor asks again, and takes nothing that it was not told."""
        super().repair()
        for wait in self.waiting.values():
            wait.tick = self.tick
        self.told = [("lookup", key) for key in self.waiting]


def provisional(client: Address, local: Address, owner: Address, nonce: int) -> bytes:
    """In place of a token: the session's, or the flow's own where no nonce is known."""
    name = b"provisional" + oracle.mapped(owner[0]) + owner[1].to_bytes(2, "big") + nonce.to_bytes(8, "little")
    return name if nonce else name + oracle.spp_key(client, local)
