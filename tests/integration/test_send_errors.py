"""What the kernel does not take costs the packet it did not take, and is counted; nothing else notices.

The compiled worker with sockets made for it: a link that takes next to nothing (no room), a leg too small for a packet
that must not be cut (EMSGSIZE); and a whole relay with an owner that is not there (ICMP errors).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _fastpath._testing import Harness
from _fastpath.slot import Slot
from benchmarks.support import Echo, free_port
from relay.runtime.config import parse_address
from tests.support.asker import ask, binding_request
from tests.support.harness import LOCAL, SECRET, Sockets, assert_books_balance, memory_of, token
from tests.support.netns import Namespaces, inside, run
from tests.support.oracle import Address
from tests.support.packets import check
from tests.support.relays import Relay, until

pytestmark = pytest.mark.native

IPV6_MTU, IPV6_DONTFRAG = 24, 62  # <linux/in6.h>
PADDING = (0x8022, bytes(1300))  # SOFTWARE
COUNT = 64


@contextmanager
def worker_over(internal: socket.socket) -> Iterator[tuple[Slot, Sockets]]:
    """Sockets as ever, but for the internal one."""
    sockets = Sockets()
    sockets.internal.close()
    sockets.internal = internal
    try:
        yield Slot.create(memory_of(2 * COUNT), 2 * COUNT, SECRET), sockets
    finally:
        sockets.close()


def forward(slot: Slot, sockets: Sockets, checks: list[tuple[Address, Address, bytes]]) -> dict[str, int]:
    """As a batch that a worker finishes; the counters afterwards."""
    Harness(sockets.worker(slot)).take_up(checks)
    slot.stopping = True
    assert sockets.worker(slot).run() == "stopped"
    assert_books_balance(slot)
    return slot.counters()


def test_without_room_the_rest_of_the_batch_is_dropped(namespaces: Namespaces) -> None:
    """A link of a kilobyte a second keeps what was sent to it, and the socket's buffer stays full."""
    namespaces.add_address(namespaces.server, "10.98.0.1/24")
    namespaces.add_address(namespaces.client, "10.98.0.2/24")
    slow = ("tbf", "rate", "8kbit", "burst", "2000", "limit", "1000000")
    run("tc", "-n", namespaces.server, "qdisc", "add", "dev", "veth0", "root", *slow)
    with inside(namespaces.server):
        internal = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        internal.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        internal.bind(("10.98.0.1", 0))
        with worker_over(internal) as (slot, sockets):
            tokens = [token(("10.98.0.2", 9), serial) for serial in range(COUNT)]
            checks = [(("198.51.100.7", n), LOCAL, check(each, "h6vY", PADDING)) for n, each in enumerate(tokens, 1)]
            counters = forward(slot, sockets, checks)
    assert counters["up_send_buffer"] > 0
    assert counters["up_opened"] > 0
    assert counters["up_opened"] + counters["up_send_buffer"] == COUNT


def test_what_is_too_large_for_the_leg_costs_itself_only() -> None:
    """An IPv6 socket that may not cut: 1,280 bytes pass, more is EMSGSIZE; those before and behind it are sent."""
    internal, owner = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    with owner:
        internal.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, 1)
        internal.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
        for each in (internal, owner):
            each.bind(("::1", 0))
        there = owner.getsockname()[:2]
        with worker_over(internal) as (slot, sockets):
            sizes = [(), (PADDING,), (), (PADDING,), ()]
            checks = [
                (("198.51.100.7", n), LOCAL, check(token(there, n), "h6vY", *more)) for n, more in enumerate(sizes, 1)
            ]
            counters = forward(slot, sockets, checks)
        owner.setblocking(False)
        arrived = [owner.recv(2048)[38:] for _ in range(3)]
    assert (counters["up_opened"], counters["up_send_too_big"]) == (3, 2)
    assert arrived == [datagram for _, _, datagram in checks if len(datagram) < 1000]


def test_what_a_firewall_refuses_costs_itself_only(namespaces: Namespaces) -> None:
    """EPERM for the packets to one owner; those to another, before and behind them, are sent."""
    refused, taken = ("127.0.0.2", 4000), ("127.0.0.3", 4000)
    with inside(namespaces.server):
        run("nft", "add table ip filter; add chain ip filter output { type filter hook output priority 0; }")
        run("nft", f"add rule ip filter output ip daddr {refused[0]} drop")
        internal, owner = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with owner:
            internal.bind(("127.0.0.1", 0))
            owner.bind(taken)
            with pytest.raises(PermissionError):
                internal.sendto(b"", refused)
            with worker_over(internal) as (slot, sockets):
                owners = [taken, refused, taken, refused, refused, taken]
                checks = [
                    (("198.51.100.7", n), LOCAL, check(token(each, n), "h6vY")) for n, each in enumerate(owners, 1)
                ]
                counters = forward(slot, sockets, checks)
            owner.setblocking(False)
            arrived = [owner.recv(2048)[38:] for _ in range(3)]
    assert (counters["up_opened"], counters["up_send_refused"]) == (3, 3)
    assert arrived == [datagram for each, (_, _, datagram) in zip(owners, checks, strict=True) if each == taken]


def test_an_owner_that_is_not_there_disturbs_nobody(key_file: Path) -> None:
    """Its host answers each packet with an ICMP error, which must not end up at the next packet of another owner."""
    with Echo(0) as owner, Relay(key_file) as relay, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        nobody = relay.mint(f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}")
        target = parse_address(relay.target)
        for _ in range(20):
            for _ in range(10):
                client.sendto(binding_request(nobody), target.sockaddr)
            assert ask(relay.mint(owner.address), target)[2]
        until(lambda: relay.total("ufrag_relay_packets_total", direction="up") == 20 * 12)
        assert relay.total("ufrag_relay_drops_total", direction="up") == 0
        assert relay.total("ufrag_relay_forwarded_total", direction="up") == 20 * 12
        assert relay.total("ufrag_relay_worker_restarts_total") == 0
