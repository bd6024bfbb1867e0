"""Sockets of both programs: buffers, drops, listeners that are shared or not, and errors that name their option."""

from __future__ import annotations

import ipaddress
import logging
import socket

import pytest

from relay.runtime import sockets
from relay.runtime.config import Address, parse_address
from relay.runtime.errors import ConfigError, PortBusy, RuntimeFault
from relay.runtime.sockets import listen, open_internal

PATIENCE_S = 10.0
ANY = parse_address("127.0.0.1:0")
BUFFER = 64 << 10


def bound(sock: socket.socket) -> Address:
    return parse_address(f"127.0.0.1:{sock.getsockname()[1]}")


# Datagrams


def test_an_internal_socket_has_its_buffer_and_fragments() -> None:
    with open_internal(ANY, BUFFER) as sock:
        assert sockets.buffer_got(sock) == BUFFER
        assert sock.getsockopt(socket.IPPROTO_IP, 10) == 0  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        assert not sock.getblocking()
        assert not sock.get_inheritable()


def test_a_wildcard_of_ipv6_takes_both_families() -> None:
    with open_internal(Address("::", 0, socket.AF_INET6), BUFFER) as sock:
        sock.setblocking(True)
        sock.settimeout(PATIENCE_S)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", sock.getsockname()[1]))
        assert sock.recvfrom(10)[1][0] == "::ffff:127.0.0.1"


def test_a_taken_port_names_the_option() -> None:
    with open_internal(ANY, BUFFER) as sock, pytest.raises(PortBusy, match=r"--internal 127\.0\.0\.1:\d+: .*ss -ulpn"):
        open_internal(bound(sock), BUFFER)


def test_the_kernel_tells_what_it_dropped() -> None:
    with open_internal(ANY, 4 << 10) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        assert sockets.kernel_drops(sock) == 0
        for _ in range(100):
            sender.sendto(bytes(1000), sock.getsockname())
        assert 0 < sockets.kernel_drops(sock) < 100


def test_a_kernel_that_does_not_tell_is_named() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.close()
        with pytest.raises(RuntimeFault, match=r"Linux 4\.12"):
            sockets.kernel_drops(left)


@pytest.mark.parametrize(("asked", "says"), [(BUFFER, "INFO"), (BUFFER + 1, "WARNING")])
def test_less_buffer_than_asked_is_a_warning(asked: int, says: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_internal(ANY, BUFFER) as sock, caplog.at_level(logging.INFO):
        sockets.say_buffer(logging.getLogger("test"), asked, sock)
    (record,) = caplog.records
    fields = record.__dict__["fields"]
    assert (record.levelname, fields["got"], "mend" in fields) == (says, BUFFER, says == "WARNING")


def test_networks_as_the_hot_loops_want_them() -> None:
    assert sockets.masked(ipaddress.ip_network("10.0.0.0/8")) == (bytes(10) + b"\xff\xff\x0a\0\0\0", 104)
    assert sockets.masked(ipaddress.ip_network("fd00::/8")) == (b"\xfd" + bytes(15), 8)


# Connections


def test_a_busy_port_says_so() -> None:
    with listen(ANY, "--admin") as sock, pytest.raises(PortBusy, match=r"--admin 127\.0\.0\.1:\d+: the port is taken"):
        listen(bound(sock), "--admin")


def test_a_port_can_be_listened_at_again_at_once() -> None:
    """The side that closes first keeps the connection in TIME_WAIT, with the port."""
    with listen(ANY, "--admin") as sock:
        address = bound(sock)
        with socket.create_connection(address.sockaddr, timeout=PATIENCE_S) as client:
            sock.accept()[0].close()
            assert client.recv(1) == b""
    listen(address, "--admin").close()


def test_an_address_of_another_machine_says_so() -> None:
    with pytest.raises(ConfigError, match=r"--http 192\.0\.2\.1:1: cannot listen"):
        listen(parse_address("192.0.2.1:1"), "--http")


def test_shared_listeners_share_with_each_other_alone() -> None:
    with listen(ANY, "--http", shared=True) as first:
        with listen(bound(first), "--http", shared=True):
            pass
        with pytest.raises(PortBusy):
            listen(bound(first), "--http")


@pytest.mark.parametrize(("both", "v6only"), [(False, 1), (True, 0)])
def test_listening_on_ipv6(both: bool, v6only: int) -> None:
    with listen(Address("::", 0, socket.AF_INET6), "--http", both_families=both) as sock:
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == v6only
