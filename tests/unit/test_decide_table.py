"""The relay's decisions as a table: what came before, the packet, its verdict, the packet that leaves.

One row at least for every verdict that needs neither a real socket nor a sibling (those stand in test_batch.py and
test_flows_siblings.py); a test says so. A packet before is given to the relay as it is; each row also checks that
exactly its verdict's counter moved.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from _fastpath.slot import Slot
from _fastpath.verdicts import VERDICTS_BY_NUMBER
from tests.support import packets
from tests.support.harness import (
    BOUND6,
    CLIENT,
    CLIENT6,
    LOCAL,
    LOCAL6,
    MOST,
    OF_THE_CACHE,
    OTHER,
    OWNER,
    SECOND,
    SECRET,
    STRANGER,
    WILDCARD,
    WILDCARD6,
    Relay,
    Settings,
    memory_of,
    token,
)
from tests.support.oracle import Address
from tests.support.packets import BINDING_REQUEST, PRIORITY, RTP, USERNAME, answer, check, framed, stun

OWN, RESTART, RIVAL = token(), token(serial=2), token(OTHER)


@dataclass(frozen=True)
class Up:
    datagram: bytes
    client: Address = CLIENT
    local: Address = LOCAL
    socket: int = WILDCARD


@dataclass(frozen=True)
class Down:
    datagram: bytes
    sender: Address = OWNER


@dataclass(frozen=True)
class Wait:
    ticks: int


@dataclass(frozen=True)
class Drain:
    pass


Event = Up | Down | Wait | Drain


def from_owner(payload: bytes, client: Address = CLIENT, local: Address = LOCAL) -> Down:
    return Down(framed(client, local, payload))


def from_other(payload: bytes) -> Down:
    return Down(framed(CLIENT, LOCAL, payload), OTHER)


@dataclass(frozen=True)
class Row:
    description: str
    before: Sequence[Event]
    packet: Up | Down
    verdict: str
    to: Address | None = None  # where it leaves to: an owner (up) or the client (down)
    settings: Settings = field(default_factory=Settings)


HALF_OPEN = (Up(check(OWN)),)
ESTABLISHED = (*HALF_OPEN, from_owner(answer()))
CONTENDED = (*ESTABLISHED, Up(check(RIVAL)))
ELSEWHERE: Address = ("198.51.100.8", 50000)
HOLD, LIVE = 12 * SECOND, 3 * SECOND
RESTARTED = (*ESTABLISHED, Wait(HOLD + 1), Up(check(RESTART)), from_owner(answer()))


def crowd(established: int) -> list[Event]:
    """Eight clients with one token, the first ones answered by its owner."""
    events: list[Event] = []
    for number in range(8):
        client = ("198.51.101.1", 1000 + number)
        events += [Up(check(OWN), client), *([from_owner(answer(), client)] if number < established else [])]
    return events


def open_to(*networks: str, internal_version: int = 6) -> Settings:
    return Settings(backends=[ipaddress.ip_network(each) for each in networks], internal_version=internal_version)


def foreign(address: str, *networks: str) -> Row:
    """An owner that is in the networks but is no host one could send to, or whom they do not mean."""
    packet = Up(check(token((address, 4000))))
    return Row(f"the owner {address} with {networks}", [], packet, "foreign_owner", settings=open_to(*networks))


def owners(count: int) -> list[Event]:
    """Checks that name as many owners as a slot of 64 flows can hold, each from its own client."""
    return [Up(check(token(("10.1.3.1", 1000 + n))), ("198.51.101.1", 1000 + n)) for n in range(count)]


UP_ROWS = [
    Row("a first check", [], Up(check(OWN)), "opened", OWNER),
    Row("a first check over IPv6", [], Up(check(OWN), CLIENT6, LOCAL6, WILDCARD6), "opened", OWNER),
    Row("a first check on a bound socket", [], Up(check(OWN), CLIENT6, LOCAL6, BOUND6), "opened", OWNER),
    Row("the same check again", HALF_OPEN, Up(check(OWN)), "check", OWNER),
    Row("another check of the session", ESTABLISHED, Up(check(OWN, "abcd")), "check", OWNER),
    Row("media of an established flow", ESTABLISHED, Up(RTP), "media", OWNER),
    Row("media of a half-open flow", HALF_OPEN, Up(RTP), "media", OWNER),
    Row("DTLS", ESTABLISHED, Up(packets.DTLS), "media", OWNER),
    Row("a STUN answer of the client", ESTABLISHED, Up(answer()), "media", OWNER),
    Row("a STUN indication", ESTABLISHED, Up(stun(packets.BINDING_INDICATION)), "media", OWNER),
    Row("the longest datagram", ESTABLISHED, Up(b"\x80" + bytes(MOST - 1)), "media", OWNER),
    Row("ICE restart", ESTABLISHED, Up(check(RESTART)), "restart", OWNER),
    Row("ICE restart, answered: now its own", RESTARTED, Up(check(RESTART)), "check", OWNER),
    Row("the token before the restart", RESTARTED, Up(check(OWN)), "restart", OWNER),
    Row("ICE restart, answered a tick before", [*ESTABLISHED, Wait(HOLD), Up(check(RESTART)), from_owner(answer())],
        Up(check(RESTART)), "restart", OWNER),
    Row("a restart remembered until the old token rests",
        [*ESTABLISHED, Up(check(RESTART)), from_owner(answer()), Wait(HOLD + 1), from_owner(answer())],
        Up(check(RESTART)), "check", OWNER),
    Row("a restart while the old token is used",
        [*ESTABLISHED, Wait(HOLD), Up(check(OWN)), Wait(HOLD), Up(check(RESTART)), from_owner(answer())],
        Up(check(RESTART)), "restart", OWNER),
    Row("the old token while it is used",
        [*ESTABLISHED, Wait(HOLD), Up(check(OWN)), Wait(HOLD), Up(check(RESTART)), from_owner(answer())],
        Up(check(OWN)), "check", OWNER),
    Row("a token's ninth flow, one half-open", crowd(7), Up(check(OWN)), "opened", OWNER),
    Row("a token's ninth flow, one silent", [*crowd(8), Wait(LIVE + 1)], Up(check(OWN)), "opened", OWNER),
    Row("a token's ninth flow in a full table", [*crowd(8), Wait(LIVE + 1)], Up(check(OWN)), "opened", OWNER,
        settings=Settings(max_flows=8)),
    Row("a restart with the token of eight live flows", [Up(check(RESTART)), *crowd(8)], Up(check(OWN)), "restart",
        OWNER),
    Row("another owner's token", ESTABLISHED, Up(check(RIVAL)), "contended", OTHER),
    Row("media while contended stays", CONTENDED, Up(RTP), "media", OWNER),
    Row("its own check while contended stays", CONTENDED, Up(check(OWN)), "check", OWNER),
    Row("media after the move", [*CONTENDED, Wait(12 * SECOND), from_other(answer())], Up(RTP), "media", OTHER),
    Row("drained: known flows go on", [*ESTABLISHED, Drain()], Up(check(RESTART)), "restart", OWNER),
    Row("drained: a new path of a session that is here", [*ESTABLISHED, Drain()], Up(check(OWN), ELSEWHERE), "opened",
        OWNER),
    Row("drained: a new path by the token after a restart", [*RESTARTED, Drain()], Up(check(RESTART), ELSEWHERE),
        "opened", OWNER),
    Row("anybody may be an owner", [], Up(check(OWN)), "opened", OWNER, settings=open_to("0.0.0.0/0")),
    Row("anybody may be an owner, IPv6", [], Up(check(token(("2001:db8::5", 4000)))), "opened", ("2001:db8::5", 4000),
        settings=open_to("::/0")),
    Row("all of IPv4, said in IPv6", [], Up(check(OWN)), "opened", OWNER, settings=open_to("::ffff:0:0/96")),
    Row("a part of IPv4, said in IPv6", [], Up(check(OWN)), "opened", OWNER, settings=open_to("::ffff:10.1.0.0/112")),
    # Dropped.
    Row("one byte too long", ESTABLISHED, Up(b"\x80" + bytes(MOST)), "truncated"),
    Row("source port 0", [], Up(check(OWN), ("198.51.100.7", 0)), "bad_source"),
    Row("a multicast source", [], Up(check(OWN), ("224.0.0.1", 50000)), "bad_source"),
    Row("a link-local source", [], Up(check(OWN), ("fe80::1", 50000), LOCAL6, WILDCARD6), "bad_source"),
    Row("sent to a broadcast address", [], Up(check(OWN), local=("192.0.2.255", 3478)), "bad_destination"),
    Row("sent to a multicast address", [], Up(check(OWN), CLIENT6, ("ff02::1", 3478), WILDCARD6), "bad_destination"),
    Row("nothing", ESTABLISHED, Up(b""), "too_short"),
    Row("half a STUN header", ESTABLISHED, Up(check(OWN)[:19]), "too_short"),
    Row("TURN channel data", ESTABLISHED, Up(b"\x40" + bytes(30)), "unknown_kind"),
    Row("STUN with another cookie", ESTABLISHED, Up(stun(BINDING_REQUEST, cookie=b"\x21\x12\xa4\x43")), "bad_cookie"),
    Row("a check that was cut", [], Up(check(OWN)[:-4]), "stun_malformed"),
    Row("a check with trailing bytes", ESTABLISHED, Up(check(OWN) + bytes(4)), "stun_malformed"),
    Row("a check of nobody", ESTABLISHED, Up(stun(BINDING_REQUEST, [(PRIORITY, b"1234")])), "no_username"),
    Row("a name too long", [], Up(check(OWN, "x" * 480)), "long_username"),
    Row("another server's ufrag", [], Up(check("evtj")), "no_token"),
    Row("a token without a colon", [], Up(stun(BINDING_REQUEST, [(USERNAME, OWN.encode())])), "no_token"),
    Row("a token with spare bits", [], Up(check(OWN[:-1] + "B")), "no_token"),
    Row("version 0", [], Up(check("A" + OWN[1:])), "token_version"),
    Row("a key we do not have", [], Up(check(token(key_id=6))), "token_key"),
    Row("a forged token", [], Up(check(OWN[:-4] + "AAAA")), "token_forged"),
    Row("a forged token on a live flow", ESTABLISHED, Up(check(OWN[:-4] + "AAAA")), "token_forged"),
    Row("an owner outside --backends", [], Up(check(token(("10.2.0.1", 4000)))), "foreign_owner"),
    Row("an owner with port 0", [], Up(check(token(("10.1.0.1", 0)))), "foreign_owner"),
    Row("an owner we cannot send to", [], Up(check(token(("fd00:1::3", 4000)))), "foreign_owner"),
    Row("more owners than a slot can name", owners(64), Up(check(OWN)), "peers_full", settings=Settings(max_flows=65)),
    Row("a full table", [Up(check(RIVAL), ELSEWHERE)], Up(check(OWN)), "table_full", settings=Settings(max_flows=1)),
    Row("too many half-open", [Up(check(RIVAL), ELSEWHERE)], Up(check(OWN)), "half_open_full",
        settings=Settings(max_half_open=1)),
    foreign("224.0.0.1", "0.0.0.0/0"),
    foreign("255.255.255.255", "0.0.0.0/0"),
    foreign("169.254.1.1", "0.0.0.0/0"),
    foreign("0.1.2.3", "0.0.0.0/0"),
    foreign("ff02::1", "::/0"),
    foreign("fe80::1", "::/0"),
    foreign("::", "::/0"),
    foreign("10.1.2.3", "::/0"),
    foreign("10.1.2.3", "::/95"),
    foreign("10.1.2.3", "::ffff:10.2.0.0/112", "fd00::/8"),
    Row("a token's ninth flow", crowd(8), Up(check(OWN)), "token_full"),
    Row("a token's ninth flow, none silent for 3 s", [*crowd(8), Wait(LIVE)], Up(check(OWN)), "token_full"),
    Row("a token's ninth flow, and the table full", crowd(8), Up(check(OWN)), "token_full",
        settings=Settings(max_flows=8)),
    Row("a token's ninth flow, and too many half-open", [*crowd(8), Up(check(RIVAL), ELSEWHERE)], Up(check(OWN)),
        "half_open_full", settings=Settings(max_half_open=1)),
    Row("draining", [Drain()], Up(check(OWN)), "draining"),
    Row("draining: another session of the owner", [*ESTABLISHED, Drain()], Up(check(RESTART), ELSEWHERE), "draining"),
    Row("draining: the token before the restart", [*RESTARTED, Drain()], Up(check(OWN), ELSEWHERE), "draining"),
    Row("media of nobody", [], Up(RTP), "no_flow"),
    Row("media from another port", ESTABLISHED, Up(RTP, ("198.51.100.7", 50001)), "no_flow"),
    Row("media to another local address", ESTABLISHED, Up(RTP, local=("192.0.2.2", 3478)), "no_flow"),
]  # fmt: skip

DOWN_ROWS = [
    Row("the owner's first answer", HALF_OPEN, from_owner(answer()), "established", CLIENT),
    Row("the same over IPv6", [Up(check(OWN), CLIENT6, LOCAL6, WILDCARD6)], from_owner(answer(), CLIENT6, LOCAL6),
        "established", CLIENT6),
    Row("a later answer", ESTABLISHED, from_owner(answer()), "answer", CLIENT),
    Row("media", ESTABLISHED, from_owner(RTP), "media", CLIENT),
    Row("media before an answer", HALF_OPEN, from_owner(RTP), "media", CLIENT),
    Row("an error answer establishes nothing", HALF_OPEN, from_owner(answer(packets.BINDING_ERROR)), "media", CLIENT),
    Row("the owner's own check", ESTABLISHED, from_owner(check("abcd", OWN)), "media", CLIENT),
    Row("a contender of a half-open flow", [*HALF_OPEN, Up(check(RIVAL))], from_other(answer()), "moved", CLIENT),
    Row("a contender 12 s after the answer", [*CONTENDED, Wait(12 * SECOND)], from_other(answer()), "moved", CLIENT),
    # Dropped.
    Row("a contender a tick earlier", [*CONTENDED, Wait(12 * SECOND - 1)], from_other(answer()), "owner_live"),
    Row("a contender, the owner answered since", [*CONTENDED, Wait(11 * SECOND), from_owner(answer()), Wait(SECOND)],
        from_other(answer()), "owner_live"),
    Row("a contender's media", [*CONTENDED, Wait(99 * SECOND)], from_other(RTP), "not_next_hop"),
    Row("an answer nobody asked for", [*ESTABLISHED, Wait(99 * SECOND)], from_other(answer()), "not_next_hop"),
    Row("the old owner after the move", [*CONTENDED, Wait(12 * SECOND), from_other(answer())],
        from_owner(RTP), "not_next_hop"),
    Row("somebody else", ESTABLISHED, Down(framed(CLIENT, LOCAL, RTP), STRANGER), "not_next_hop"),
    Row("the right host, wrong port", ESTABLISHED, Down(framed(CLIENT, LOCAL, RTP), (OWNER[0], 4001)), "not_next_hop"),
    Row("one byte too long", ESTABLISHED, from_owner(b"\x80" + bytes(MOST - 38)), "truncated"),
    Row("no envelope", ESTABLISHED, Down(RTP), "bad_envelope"),
    Row("an envelope and nothing in it", ESTABLISHED, from_owner(b""), "bad_envelope"),
    Row("a bundle, which this version does not know", ESTABLISHED, Down(b"UF\x01\x00" + bytes(100)), "bad_envelope"),
    Row("a client that never wrote", ESTABLISHED, from_owner(RTP, ELSEWHERE), "no_flow"),
    Row("another local address", ESTABLISHED, from_owner(RTP, CLIENT, ("192.0.2.2", 3478)), "no_flow"),
]  # fmt: skip

ROWS = [*UP_ROWS, *DOWN_ROWS]

# Send errors need a socket and giving up dead workers (test_batch.py), adoption a sibling (test_flows_siblings.py).
NOT_HERE = {
    ("up", "adopted"),
    ("up", "abandoned"),
    ("up", "token_busy"),
    ("up", "prefix_full"),
    ("down", "abandoned"),
} | {(way, f"send_{error}") for way in ("up", "down") for error in ("buffer", "too_big", "refused")}


def feed(relay: Relay, event: Event) -> object:
    match event:
        case Up(datagram, client, local, socket):
            return relay.up(datagram, client, local, socket)
        case Down(datagram, sender):
            return relay.down(datagram, sender)
        case Wait(ticks):
            relay.tick += ticks
        case Drain():
            relay.slot.draining = True
    return None


def expected(row: Row) -> object:
    """(verdict, what leaves): up with the envelope before it; down without, from the address the client used."""
    if row.to is None:
        return row.verdict, None
    if isinstance(row.packet, Up):
        local = ("2001:db8::9", 443) if row.packet.socket == BOUND6 else row.packet.local
        return row.verdict, (row.to, framed(row.packet.client, local, row.packet.datagram))
    socket, source = (WILDCARD, LOCAL[0]) if row.to == CLIENT else (WILDCARD6, LOCAL6[0])
    return row.verdict, (socket, row.to, source, row.packet.datagram[38:])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{type(row.packet).__name__.lower()}: {row.description}")
def test_row(row: Row) -> None:
    relay = Relay(row.settings)
    for event in row.before:
        feed(relay, event)
    before = relay.slot.counters()
    assert feed(relay, row.packet) == expected(row)
    moved = {name: value - before[name] for name, value in relay.slot.counters().items() if value != before[name]}
    way = "up" if isinstance(row.packet, Up) else "down"
    header = 0 if way == "up" else 38
    payload_bytes = max(0, min(len(row.packet.datagram), MOST) - header)
    counted = {
        f"{way}_{row.verdict}": 1,
        f"packets_{way}": 1,
        f"bytes_{way}": payload_bytes,
        "batches": 1,
        "batch_le_1": 1,
    }
    assert moved == {name: value for name, value in counted.items() if value}


def test_every_verdict_has_a_row() -> None:
    rows = {("up" if isinstance(row.packet, Up) else "down", row.verdict) for row in ROWS}
    verdicts = {(way, reason) for way, _, reason in VERDICTS_BY_NUMBER if way}
    assert verdicts - rows == NOT_HERE | OF_THE_CACHE
    assert rows <= verdicts


def test_forwarded_is_what_the_verdict_says() -> None:
    """A row sends something exactly when its verdict is one of those that forward."""
    forwards = {(way, reason) for way, forwarded, reason in VERDICTS_BY_NUMBER if forwarded}
    for row in ROWS:
        way = "up" if isinstance(row.packet, Up) else "down"
        assert (row.to is not None) == ((way, row.verdict) in forwards), row.description


@pytest.mark.parametrize(("at", "name"), [(8, "level"), (12, "type")])
@pytest.mark.parametrize("socket", [WILDCARD, WILDCARD6])
def test_only_pktinfo_says_what_address_the_client_used(socket: int, at: int, name: str) -> None:
    """Another control message in its place, by level or by type, tells nothing."""
    memory = memory_of(64)
    relay = Relay(slot=Slot.create(memory, 64, SECRET))
    packet = (CLIENT6, LOCAL6, check(OWN)) if socket == WILDCARD6 else (CLIENT, LOCAL, check(OWN))
    relay.harness.take_up([packet] * 2, socket)
    first_control = int.from_bytes(memory[48:56], "little") + 53248
    level_or_type = struct.unpack_from("<i", memory, first_control + at)[0]
    struct.pack_into("<i", memory, first_control + at, level_or_type + 1)
    verdicts = [verdict for verdict, _ in relay.harness.step_up(socket)]
    assert verdicts == ["bad_destination", "opened"], name
