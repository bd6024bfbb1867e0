"""Each answer leaves from the address that was asked: IPv4, IPv6, wildcards, several addresses, several --listen."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.support import Echo, free_port
from relay.runtime.config import parse_address
from tests.support.asker import ask
from tests.support.netns import Namespaces
from tests.support.relays import Relay

UDP = socket.SOCK_DGRAM


@pytest.mark.parametrize(
    ("listen", "asked"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["[::1]"], ["[::1]"]),
        (["0.0.0.0"], ["127.0.0.1", "127.0.0.2", "127.1.2.3"]),
        (["[::]"], ["[::1]"]),
        (["0.0.0.0", "[::]"], ["127.0.0.1", "127.0.0.9", "[::1]"]),
        (["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.2"]),
    ],
    ids=["ipv4", "ipv6", "wildcard4", "wildcard6", "dual-stack wildcards", "two listen addresses"],
)
def test_answers_leave_from_the_address_asked(listen: list[str], asked: list[str], key_file: Path) -> None:
    port = free_port(UDP)
    addresses = [f"{host}:{port}" for host in listen]
    with Echo(0) as echo, Relay(key_file, listen=addresses, workers=2) as relay:
        token = relay.mint(echo.address)
        for host in asked:
            assert ask(token, parse_address(f"{host}:{port}")) == (f"{host}:{port}", f"{host}:{port}", True)


def test_two_ports_of_one_address(key_file: Path) -> None:
    ports = [free_port(UDP), free_port(UDP)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    with Echo(0) as echo, Relay(key_file, listen=addresses) as relay:
        for address in addresses:
            assert ask(relay.mint(echo.address), parse_address(address)) == (address, address, True)


def test_an_ipv6_owner_behind_an_ipv6_internal_leg(key_file: Path) -> None:
    """The token is the long form; the internal socket, bound to ::, reaches both families."""
    with Echo(0) as echo, Relay(
        key_file, internal=f"[::]:{free_port(UDP)}", backends=("127.0.0.0/8", "::1/128")
    ) as relay, socket.socket(socket.AF_INET6, UDP) as owner:  # fmt: skip
        assert ask(relay.mint(echo.address), parse_address(relay.target))[2]
        owner.bind(("::1", 0))
        owner.settimeout(5)
        token = relay.mint(f"[::1]:{owner.getsockname()[1]}")
        assert len(token) == 48
        with socket.socket(socket.AF_INET, UDP) as client:
            from tests.support.asker import binding_request

            check = binding_request(token)
            client.sendto(check, parse_address(relay.target).sockaddr)
            datagram, _ = owner.recvfrom(2048)
            assert datagram[:2] == b"\x56\xec"
            assert datagram[38:] == check


def test_a_host_with_two_addresses_of_each_family(namespaces: Namespaces, key_file: Path) -> None:
    """Over a veth pair, routing would choose the first address as source; the relay answers from the one that was
    asked."""
    hosts = ["192.0.2.1", "192.0.2.2", "[2001:db8::1]", "[2001:db8::2]"]
    for host in hosts:
        bare = host.strip("[]")
        namespaces.add_address(namespaces.server, f"{bare}/{64 if ':' in bare else 24}")
    namespaces.add_address(namespaces.client, "192.0.2.9/24")
    namespaces.add_address(namespaces.client, "2001:db8::9/64")
    listen = ["0.0.0.0:3478", "[::]:3478"]
    with (
        Relay(key_file, listen=listen, netns=namespaces.server, internal="127.0.0.1:7000") as relay,
        Echo(0).by("ip", "netns", "exec", namespaces.server) as echo,
    ):
        asked = [f"{host}:3478" for host in hosts]
        command = ["ip", "netns", "exec", namespaces.client, sys.executable, "-m", "tests.support.asker"]
        done = subprocess.run([*command, relay.mint(echo.address), *asked], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == [[address, address, True] for address in asked]


def test_an_owner_without_a_route_costs_only_its_own_packets(namespaces: Namespaces, key_file: Path) -> None:
    """Tokens may point to a network that cannot be reached: each such packet is a counted drop, its neighbours pass."""
    namespaces.add_address(namespaces.server, "192.0.2.1/24")
    namespaces.add_address(namespaces.client, "192.0.2.9/24")
    with (
        Echo(0).by("ip", "netns", "exec", namespaces.server) as echo,
        Relay(
            key_file,
            listen=["0.0.0.0:3478"],
            netns=namespaces.server,
            internal="0.0.0.0:7000",
            backends=("127.0.0.0/8", "198.51.100.0/24"),
        ) as relay,
    ):
        command = ["ip", "netns", "exec", namespaces.client, sys.executable, "-m", "tests.support.asker"]
        for token, passes in ((relay.mint("198.51.100.1:9"), False), (relay.mint(echo.address), True)):
            done = subprocess.run([*command, token, "192.0.2.1:3478"], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)[0][2] is passes
        assert relay.total("ufrag_relay_drops_total", reason="send_refused", direction="up") >= 1
