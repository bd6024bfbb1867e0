"""`relay explain`: what the relay would do with a datagram, and why, by the very code that would do it.

A slot in memory and a worker without sockets are made for it; nothing is sent, and no running relay is asked.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6

from _fastpath._testing import Harness
from _fastpath.forward import Forwarder
from _fastpath.slot import SECRET_BYTES, Slot, slot_bytes
from _fastpath.wire import demux, envelope, stun
from _fastpath.wire.token import Keyring
from relay.runtime.config import Address, Network, endpoint
from relay.runtime.sockets import masked
from relay.verdicts import MEANINGS

FLOWS = 16
CHECK_BYTES = (0x00, 0x01)  # of a Binding Request
TOKEN_ENDS = (32, 48)
NO_TOKEN_OF_OURS = 1  # a fingerprint that no token has but by chance

_NO_HEX = re.compile(r"[\s:]|0x")


@dataclass(frozen=True)
class Question:
    """A datagram, where it comes from and goes to, and what the relay knows: `owner` has a flow of that client's."""

    datagram: bytes
    client: Address
    local: Address
    keyring: Keyring
    backends: Sequence[Network]
    owner: Address | None = None
    sender: Address | None = None  # on the internal leg; None: the datagram comes from the client


def read_hex(text: str) -> bytes:
    """Hex digits, with blanks, line ends, colons and 0x where people put them; a ValueError otherwise."""
    return bytes.fromhex(_NO_HEX.sub("", text))


def explain(question: Question) -> Iterator[tuple[str, str]]:
    """(what, how it is), from the first look at it to its end."""
    from_owner = question.sender is not None
    payload = question.datagram
    yield "datagram", f"{len(payload)} bytes {_way(question)}"
    if from_owner:
        opened = envelope.unpack(payload)
        if opened is None:
            yield "header", "none of the internal leg"
        else:
            client, local, payload = opened
            yield "header", f"client {endpoint(*client)}, local {endpoint(*local)}, {len(payload)} bytes behind it"
    yield "kind", _kind(payload)
    if not from_owner and payload[:2] == bytes(CHECK_BYTES):
        yield from _check(payload, question.keyring)
    yield from _verdict(question)


def _way(question: Question) -> str:
    if question.sender is not None:
        return f"from {question.sender} on the internal leg"
    return f"from {question.client} to {question.local}"


def _kind(payload: bytes) -> str:
    first = f", first byte {payload[0]}" if payload else ""
    return demux.kind_of(payload).replace("_", " ") + first


def _check(payload: bytes, keyring: Keyring) -> Iterator[tuple[str, str]]:
    result, username = stun.username_of(payload)
    yield "username", _text(username) if result == "ok" else result.replace("_", " ")
    end = next((end for end in TOKEN_ENDS if username[end : end + 1] == b":"), None)
    if end is None:
        return
    verified, fields = keyring.verify(username[:end])
    if fields is None:
        yield "token", verified.replace("_", " ")
        return
    yield "token", f"verified with key {fields.key_id}: owner {endpoint(*fields.owner)}"
    yield "", f"cluster {fields.cluster}, generation {fields.generation}, random {fields.nonce:012x}"


def _verdict(question: Question) -> Iterator[tuple[str, str]]:
    harness = _worker(question)
    if question.owner is not None:
        harness.open(question.client.sockaddr, question.local.sockaddr, question.owner.sockaddr, NO_TOKEN_OF_OURS)
    if question.sender is not None:
        [(verdict, down)] = harness.down([(question.sender.sockaddr, question.datagram)])
        sent = f"{len(down[3])} bytes to {endpoint(*down[1])}" if down else ""
        yield "verdict", f"{verdict}: {MEANINGS['down', verdict]}"
    else:
        arrived = question.client.sockaddr, question.local.sockaddr, question.datagram
        [(verdict, up)] = harness.up([arrived])
        sent = f"{len(up[1])} bytes to {endpoint(*up[0])}" if up else ""
        yield "verdict", f"{verdict}: {MEANINGS['up', verdict]}"
    yield "sent", sent or "nothing"


def _worker(question: Question) -> Harness:
    """As it is after a start. Its internal socket reaches both families; its public one is bound to `local`."""
    memory = mmap.mmap(-1, slot_bytes(FLOWS))
    family = question.local.family
    public = -1, int(family), envelope.mapped(question.local.host), question.local.port
    harness = Harness(
        Forwarder(
            Slot.create(memory, FLOWS, bytes(SECRET_BYTES)),
            keyring=question.keyring,
            backends=[masked(network) for network in question.backends],
            publics=[public],
            internal=(-1, int(AF_INET6 if _needs_ipv6(question) else AF_INET)),
            max_half_open=FLOWS,
        )
    )
    harness.tick = 1000
    return harness


def _needs_ipv6(question: Question) -> bool:
    return any(network.version == 6 for network in question.backends)


def _text(raw: bytes) -> str:
    """What stands in a datagram must not steer the terminal."""
    return raw.decode("ascii") if raw.isascii() and raw.decode("ascii").isprintable() else repr(raw)
