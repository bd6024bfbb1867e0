"""What `relay doctor` says of addresses, routes, connection tracking and port ranges."""

from __future__ import annotations

import ipaddress
import socket
import sys
from pathlib import Path

import pytest

from relay.doctor.machine import Machine
from relay.doctor.network import (
    check_admin,
    check_conntrack,
    check_ephemeral_ports,
    check_internal,
    check_internal_mtu,
    check_listen,
    read_routes,
)
from relay.runtime.config import parse_address
from relay.runtime.errors import ConfigError, PortBusy
from tests.support.machines import FakeMachine, settings

CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack"
RANGE, RESERVED = "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/ipv4/ip_local_reserved_ports"
TEN = [ipaddress.ip_network("10.0.0.0/8")]


# ---- addresses


@pytest.mark.parametrize(
    ("check", "option"),
    [
        (check_listen, "--listen 127.0.0.1:3478"),
        (check_internal, "--internal 127.0.0.1:5001"),
        (check_admin, "--admin 127.0.0.1:9464"),
    ],
)
def test_addresses(tmp_path: Path, check: type, option: str) -> None:
    """Of --internal, the second worker's port."""
    machine, wanted = FakeMachine(tmp_path), settings(internal=parse_address("127.0.0.1:5000"))
    good = check(machine, wanted)
    assert (good.verdict, good.name) == ("ok", option.split()[0][2:])
    machine.faults[option] = PortBusy("the port is taken", where=option)
    taken = check(machine, wanted)
    assert (taken.verdict, taken.found) == ("problem", f"{option}: the port is taken")
    assert f"\n  ss -tuanp 'sport = :{option.rpartition(':')[2]}'" in taken.mend
    machine.faults[option] = ConfigError("cannot listen there: Cannot assign requested address", where=option)
    assert "\n  ip -brief address" in check(machine, wanted).mend
    machine.faults[option] = ConfigError("cannot listen there: Permission denied", where=option)
    assert "CAP_NET_BIND_SERVICE" in check(machine, wanted).mend


def test_one_limit_for_all_ports(tmp_path: Path) -> None:
    """Commands that are pasted one after the other do not undo each other."""
    machine = FakeMachine(tmp_path)
    for port in (443, 80):
        option = f"--listen 127.0.0.1:{port}"
        machine.faults[option] = ConfigError("cannot listen there: Permission denied", where=option)
    mend = check_listen(machine, settings(listen=[parse_address(f"127.0.0.1:{port}") for port in (443, 80)])).mend
    assert mend.count("sysctl") == 1
    assert mend.endswith("ip_unprivileged_port_start=80")


@pytest.mark.parametrize(
    ("listen", "internal", "backends", "verdict"),
    [
        ("0.0.0.0:3478", "10.0.0.1:3477", TEN, "problem"),  # worker 1 would take 3478
        ("10.0.0.1:3478", "0.0.0.0:3477", TEN, "problem"),
        ("0.0.0.0:3478", "[::]:3478", TEN, "problem"),
        ("10.0.0.2:3478", "10.0.0.1:3478", TEN, "ok"),
        ("[::]:3478", "10.0.0.1:3478", TEN, "ok"),
        ("0.0.0.0:3478", "10.0.0.1:3479", TEN, "ok"),
    ],
)
def test_an_internal_port_that_is_a_public_one(
    tmp_path: Path, listen: str, internal: str, backends: list[ipaddress.IPv4Network], verdict: str
) -> None:
    wanted = settings(listen=[parse_address(listen)], internal=parse_address(internal), backends=backends)
    assert check_internal(FakeMachine(tmp_path), wanted).verdict == verdict


@pytest.mark.native
def test_this_kernel_is_asked() -> None:
    """The attempts themselves: a small buffer; a free address, a taken one, a listening one, one of no machine."""
    machine = Machine()
    assert machine.buffers(16 << 10) == (16 << 10, 16 << 10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind(("127.0.0.1", 0))
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        for sock in (udp, tcp):
            address, kind = parse_address(f"127.0.0.1:{sock.getsockname()[1]}"), socket.SocketKind(sock.type)
            assert isinstance(machine.bind_fault(address, "--x", kind), PortBusy)
            sock.close()
            assert machine.bind_fault(address, "--x", kind) is None
    assert isinstance(machine.bind_fault(parse_address("192.0.2.7:9"), "--x", socket.SOCK_DGRAM), ConfigError)


# ---- the way to the backends


def route(interface: str, network: str, *, metric: int = 0, mtu: int = 0, flags: int = 1) -> str:
    """A line of /proc/net/route."""
    parsed = ipaddress.IPv4Network(network)
    address, mask = (int.from_bytes(each.packed, sys.byteorder) for each in (parsed.network_address, parsed.netmask))
    return f"{interface}\t{address:08X}\t00000000\t{flags:04X}\t0\t0\t{metric}\t{mask:08X}\t{mtu}\t0\t0"


def route6(interface: str, network: str, flags: int = 1) -> str:
    parsed = ipaddress.IPv6Network(network)
    zero = "0" * 32
    prefix = f"{parsed.network_address.packed.hex()} {parsed.prefixlen:02x} {zero} 00 {zero}"
    return f"{prefix} 00000100 00000001 00000000 {flags:08x}     {interface}"


def machine_with(tmp_path: Path, routes: list[str], mtus: dict[str, int], routes6: tuple[str, ...] = ()) -> Machine:
    files = {
        "/proc/net/route": "\n".join(["Iface\tDestination\t...", *routes]),
        "/proc/net/ipv6_route": "\n".join(routes6),
    }
    return FakeMachine(tmp_path, files | {f"/sys/class/net/{name}/mtu": str(mtu) for name, mtu in mtus.items()})


def test_routes_as_a_kernel_writes_them(tmp_path: Path) -> None:
    """Copied from a machine with 10.0.2.0/24 and a default route."""
    text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    text += "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
    text += "eth0\t0002000A\t00000000\t0001\t0\t0\t7\t00FFFFFF\t0\t0\t0"
    machine = FakeMachine(tmp_path, {"/proc/net/route": text})
    if sys.byteorder == "little":
        assert [(str(each.network), each.interface, each.metric) for each in read_routes(machine)] == [
            ("0.0.0.0/0", "eth0", 0),
            ("10.0.2.0/24", "eth0", 7),
        ]


@pytest.mark.parametrize(
    ("routes", "mtus", "verdict", "says"),
    [
        ([route("a", "0.0.0.0/0")], {"a": 1538}, "ok", "a 1538"),
        ([route("a", "0.0.0.0/0")], {"a": 1537}, "warning", "a 1537"),
        ([route("a", "0.0.0.0/0")], {"a": 1265}, "problem", "a 1265"),
        ([route("a", "0.0.0.0/0")], {"a": 1266}, "warning", "a 1266"),
        ([route("a", "0.0.0.0/0", mtu=1500)], {"a": 9000}, "warning", "a 1500"),
        ([route("a", "0.0.0.0/0"), route("b", "10.0.0.0/8")], {"a": 1400, "b": 9000}, "ok", "b 9000"),
        ([route("a", "10.0.0.0/7"), route("b", "10.1.0.0/16")], {"a": 9000, "b": 1400}, "warning", "b 1400"),
        ([route("a", "0.0.0.0/0", metric=9), route("b", "0.0.0.0/0", metric=1)], {"a": 1400, "b": 9000}, "ok", "b"),
        ([route("a", "11.0.0.0/8")], {"a": 9000}, "warning", "no route to 10.0.0.0/8"),
        ([route("a", "0.0.0.0/0", flags=0x201)], {"a": 9000}, "warning", "no route"),
        ([route("a", "0.0.0.0/0")], {}, "ok", "a unknown"),
    ],
)
def test_internal_mtu(tmp_path: Path, routes: list[str], mtus: dict[str, int], verdict: str, says: str) -> None:
    found = check_internal_mtu(machine_with(tmp_path, routes, mtus), settings(backends=TEN))
    assert (found.verdict, says in found.found) == (verdict, True), found


def test_an_interface_that_is_wide_enough_is_left_alone(tmp_path: Path) -> None:
    machine = machine_with(tmp_path, [route("a", "0.0.0.0/0"), route("b", "10.1.0.0/16")], {"a": 9000, "b": 1400})
    mend = check_internal_mtu(machine, settings(backends=TEN)).mend
    assert mend.endswith("\n  ip link set dev b mtu 1538")
    assert "dev a" not in mend


@pytest.mark.parametrize(("mtu", "verdict"), [(1558, "ok"), (1557, "warning")])
def test_ipv6_headers_are_20_bytes_longer(tmp_path: Path, mtu: int, verdict: str) -> None:
    routes = (
        route6("c", "fd00::/8"),
        route6("lo", "::/0", flags=0x200201),
        route6("d", "fd00::1/128", flags=0x80200001),
    )
    machine = machine_with(tmp_path, [], {"c": mtu, "d": 1000}, routes)
    assert check_internal_mtu(machine, settings(backends=[ipaddress.ip_network("fd00::/16")])).verdict == verdict


def test_loopback_is_wide_enough(tmp_path: Path) -> None:
    assert check_internal_mtu(machine_with(tmp_path, [], {}), settings()).verdict == "ok"


# ---- connection tracking


@pytest.mark.parametrize(
    ("most", "count", "verdict"),
    [(None, 0, "ok"), (262_144, 0, "ok"), (262_144, 1, "warning"), (65_536, 9, "warning"), (0, 9, "ok")],
)
def test_conntrack(tmp_path: Path, most: int | None, count: int, verdict: str) -> None:
    files = {} if most is None else {f"{CONNTRACK}_max": str(most), f"{CONNTRACK}_count": str(count)}
    found = check_conntrack(FakeMachine(tmp_path, files), settings())
    assert found.verdict == verdict
    if verdict == "warning":
        assert "nf_conntrack_max=524288" in found.mend
        assert "\n  iptables -t raw -A PREROUTING -p udp --dport 3478 -j NOTRACK" in found.mend


def test_conntrack_of_ipv6_has_a_command_of_its_own(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, {f"{CONNTRACK}_max": "1"})
    assert "\n  ip6tables " in check_conntrack(machine, settings(listen=[parse_address("[::1]:3478")])).mend


# ---- ports that the kernel gives away


@pytest.mark.parametrize(
    ("bounds", "reserved", "internal", "verdict", "ports"),
    [
        ("32768\t60999", "", "127.0.0.1:5000", "ok", ""),
        ("1024\t65535", "", "127.0.0.1:5000", "warning", "3478,5000,5001,9464"),
        ("1024\t65535", "80,3478,5000-5001,9464", "127.0.0.1:5000", "ok", ""),
        ("5001\t5001", "80", "127.0.0.1:5000", "warning", "80,5001"),
        ("1024\t65535", "3478,9464", "127.0.0.1:0", "ok", ""),
        ("", "", "127.0.0.1:5000", "ok", ""),
    ],
)
def test_ephemeral_ports(tmp_path: Path, bounds: str, reserved: str, internal: str, verdict: str, ports: str) -> None:
    """What is reserved already stays in the command: the kernel replaces the whole list."""
    machine = FakeMachine(tmp_path, {RANGE: bounds, RESERVED: reserved})
    found = check_ephemeral_ports(machine, settings(internal=parse_address(internal)))
    assert found.verdict == verdict
    assert found.mend.endswith(f"net.ipv4.ip_local_reserved_ports={ports}" if ports else "")
