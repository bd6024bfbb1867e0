"""The program that chooses among a port's sockets, with real ones."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from relay.runtime.reuseport import steer, steer_no_more

HOSTS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
CLIENTS = 200  # one socket's buffer has room for a packet of each


class Group:
    def __init__(self, family: socket.AddressFamily, count: int) -> None:
        self.family = family
        self.port = 0
        self.sockets: list[socket.socket] = []
        self.clients = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(CLIENTS)]
        for _ in range(count):
            self.add()

    def add(self) -> None:
        sock = socket.socket(self.family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((HOSTS[self.family], self.port))
        self.port = sock.getsockname()[1]
        self.sockets.append(sock)

    def who(self) -> list[int]:
        """Each client sends one: the number of the socket that got it."""
        for number, client in enumerate(self.clients):
            client.sendto(number.to_bytes(2), (HOSTS[self.family], self.port))
        found = [-1] * CLIENTS
        for index, sock in enumerate(self.sockets):
            while select.select([sock], [], [], 0)[0]:
                found[int.from_bytes(sock.recv(16))] = index
        return found


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with ExitStack() as stack:
        made = Group(request.param, 4)
        yield made
        for sock in [*made.sockets, *made.clients]:
            stack.enter_context(sock)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_first_ones_get_everything_and_each_its_share(group: Group, count: int) -> None:
    steer(group.sockets[-1], count)
    shares = Counter(group.who())
    assert shares.keys() == set(range(count))
    assert min(shares.values()) > CLIENTS / count / 2


def test_a_client_stays_where_it_is(group: Group) -> None:
    steer(group.sockets[0], 3)
    before = group.who()
    assert group.who() == before
    group.sockets.pop().close()
    assert group.who() == before


def test_it_holds_for_sockets_that_come_later_and_until_it_is_taken_away(group: Group) -> None:
    steer(group.sockets[0], 2)
    group.add()
    assert set(group.who()) == {0, 1}
    steer(group.sockets[0], 5)
    assert set(group.who()) == {0, 1, 2, 3, 4}
    steer(group.sockets[0], 1)
    steer_no_more(group.sockets[3])
    assert set(group.who()) == {0, 1, 2, 3, 4}
    steer_no_more(group.sockets[3])  # where there is none, nothing happens
