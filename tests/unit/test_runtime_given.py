"""Sockets of a service manager: which are taken by whom, and each reason to refuse one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from relay.runtime import sockets
from relay.runtime.config import Address, parse_address
from relay.runtime.errors import ConfigError
from relay.runtime.given import Given, GivenSockets
from relay.slots import open_public
from tests.support.service_manager import ServiceManager

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM


@pytest.fixture
def manager() -> Iterator[ServiceManager]:
    with ServiceManager() as manager:
        yield manager


def address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(host, port, socket.AddressFamily(sock.family))


def given(*socks: socket.socket) -> GivenSockets:
    return GivenSockets(Given(f"unit-{index}", sock) for index, sock in enumerate(socks))


# From the environment


def environment(count: object, names: str = "", pid: int = 0) -> dict[str, str]:
    variables = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "LISTEN_PIDFDID": "1"}
    return {**variables, **({"LISTEN_FDNAMES": names} if names else {}), "HOME": "/"}


@pytest.mark.parametrize("variables", [{}, {"LISTEN_FDS": "1"}, environment(1, pid=1), environment(0)])
def test_nothing_was_given(variables: dict[str, str]) -> None:
    """Variables for another process are none for this one: a shell that was started so passes them on."""
    GivenSockets.from_environment(variables).refuse_rest()
    assert [name for name in variables if name.startswith("LISTEN_")] == []


@pytest.mark.parametrize(("names", "called"), [("", "unknown"), ("relay", "relay"), (":x", "")])
def test_one_was_given(manager: ServiceManager, names: str, called: str) -> None:
    sock = manager.opens(UDP)
    descriptor = os.dup(sock.fileno())
    os.set_inheritable(descriptor, True)
    variables = environment(1, names)
    found = GivenSockets.from_environment(variables, first=descriptor)
    assert variables == {"HOME": "/"}
    with pytest.raises(ConfigError, match=rf"nobody reads {called} \(UDP 127\.0\.0\.1:\d+\)"):
        found.refuse_rest()
    taken = found.take(address_of(sock), UDP, "--listen", shared=True)
    assert taken is not None
    with taken:
        assert (taken.fileno(), taken.get_inheritable(), taken.getblocking()) == (descriptor, False, False)
        found.refuse_rest()


@pytest.mark.parametrize("count", ["", "one", "-1", "²"])
def test_a_number_that_is_none(count: str) -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        GivenSockets.from_environment(environment(count))


def test_a_descriptor_that_is_no_socket() -> None:
    read, write = os.pipe()
    with pytest.raises(ConfigError, match="fifo, descriptor .* is no socket"):
        GivenSockets.from_environment(environment(1, "fifo"), first=read)
    os.close(read)
    os.close(write)
    with pytest.raises(ConfigError, match="Bad file descriptor"):
        GivenSockets.from_environment(environment(1, "gone"), first=read)


# Which is taken


def test_the_kth_of_an_address_is_the_kth_that_is_taken(manager: ServiceManager) -> None:
    first = manager.opens(UDP)
    port = first.getsockname()[1]
    other, second, stream = manager.opens(UDP), manager.opens(UDP, port=port), manager.opens(TCP, port=port)
    all_of_them = given(first, other, second, stream)
    assert all_of_them.gave(address_of(first), UDP) == 2
    take = [all_of_them.take(address_of(first), UDP, "--listen", shared=True) for _ in range(3)]
    assert take == [first, second, None]
    assert all_of_them.gave(address_of(first), UDP) == 2
    with pytest.raises(ConfigError, match=r"nobody reads unit-1 \(UDP .*, unit-3 \(TCP "):
        all_of_them.refuse_rest()
    assert sockets.listen(address_of(first), "--admin", given=all_of_them) is stream


def test_ipv6_and_families_that_nobody_asks_for(manager: ServiceManager) -> None:
    sock = manager.opens(UDP, "::1")
    left, right = socket.socketpair()
    with left, right:
        found = given(sock, left)
        assert found.take(parse_address(f"[::1]:{sock.getsockname()[1]}"), UDP, "--listen", shared=True) is sock
        with pytest.raises(ConfigError, match=r"nobody reads unit-1 \(AF_UNIX\)"):
            found.refuse_rest()


def test_stored_ones_are_in_the_order_of_their_workers_and_what_is_left_of_them_is_closed(
    manager: ServiceManager,
) -> None:
    first = manager.opens(UDP)
    port = first.getsockname()[1]
    names = ["ufrag-10", "ufrag-2", "unit", "ufrag-"]
    socks = [manager.opens(UDP, port=port) for _ in names]
    found = GivenSockets(map(Given, names, socks))
    assert found.stored == ["ufrag-10", "ufrag-2"]
    take = [found.take(address_of(first), UDP, "--listen", shared=True) for _ in range(3)]
    assert take == [socks[2], socks[3], socks[1]]
    found.refuse_rest()
    assert socks[0].fileno() == -1
    assert socks[1].fileno() >= 0


def test_a_socket_that_its_unit_gives_and_the_store_too_is_one(manager: ServiceManager) -> None:
    first = manager.opens(UDP)
    second = manager.opens(UDP, port=first.getsockname()[1])
    again = first.dup()
    found = GivenSockets([Given("ufrag-0", again), Given("ufrag-1", second), Given("unit", first)])
    take = [found.take(address_of(first), UDP, "--listen", shared=True) for _ in range(3)]
    assert take == [first, second, None]
    assert again.fileno() == -1
    assert found.stored == ["ufrag-0", "ufrag-1"]


# Which is refused


@pytest.mark.parametrize(
    ("host", "unit", "says"),
    [
        ("127.0.0.1", {"shared": False}, "has no SO_REUSEPORT; write ReusePort=yes"),
        ("::", {"only_ipv6": False}, "is for IPv4, too; write BindIPv6Only=ipv6-only"),
    ],
)
def test_what_does_not_fit_a_public_socket(
    manager: ServiceManager, host: str, unit: dict[str, bool], says: str
) -> None:
    sock = manager.opens(UDP, host, **unit)
    with pytest.raises(ConfigError, match=rf"--listen .*:\d+: unit-0 .* {says}"):
        open_public(address_of(sock), 65536, given(sock))


def test_a_connection_is_no_listener(manager: ServiceManager) -> None:
    server = manager.opens(TCP)
    refused = pytest.raises(ConfigError, match="does not listen; write Accept=no")
    with socket.create_connection(server.getsockname()) as client, refused:
        sockets.listen(address_of(client), "--admin", given=given(client))


# As public sockets


def test_a_given_socket_keeps_a_larger_buffer_and_gets_all_else(manager: ServiceManager) -> None:
    sock = manager.opens(UDP, "0.0.0.0")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
    assert open_public(address_of(sock), 100_000, given(sock)) is sock
    assert sockets.buffer_got(sock) == 200_000
    assert sock.getsockopt(socket.IPPROTO_IP, 8) == 1  # IP_PKTINFO
    assert sock.getsockopt(socket.IPPROTO_IP, 10) == 0  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
    open_public(address_of(sock), 204_000, given(sock))
    assert sockets.buffer_got(sock) == 204_000


def test_what_is_missing_is_opened_beside_it(manager: ServiceManager) -> None:
    sock = manager.opens(UDP)
    found = given(sock)
    assert open_public(address_of(sock), 65536, found) is sock
    with open_public(address_of(sock), 65536, found) as own:
        assert own.getsockname() == sock.getsockname()


@pytest.mark.native
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_beside_another_users_nothing_can_be_opened(manager: ServiceManager) -> None:
    """systemd opens as root; the kernel lets no other user join the group."""
    sock = manager.opens(UDP)
    os.fchown(sock.fileno(), 65534, 65534)
    found = given(sock)
    open_public(address_of(sock), 65536, found)
    with pytest.raises(ConfigError, match=r"1 sockets were given, .* once for each worker"):
        open_public(address_of(sock), 65536, found)
