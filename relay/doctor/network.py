"""Checks of the network: addresses and ports, the way to the backends, what the kernel does with packets on it.

A check gets the machine and the settings and returns one finding.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from _fastpath.wire.envelope import HEADER_BYTES
from relay.doctor.findings import Finding, ok, problem, warning
from relay.doctor.machine import Machine
from relay.runtime.config import Address, Network
from relay.runtime.errors import PortBusy, RuntimeFault
from relay.runtime.sockets import is_wildcard
from relay.settings import Settings

# Payloads from clients: the most that a path of 1,500 bytes brings, and what DTLS and RTP senders stay below.
_FULL_PAYLOAD, _USUAL_PAYLOAD = 1472, 1200
_UDP_IP_BYTES = {4: 28, 6: 48}

_RTF_UP, _RTF_REJECT, _RTF_LOCAL = 0x1, 0x200, 0x80000000  # <linux/route.h>, <linux/ipv6_route.h>
_RANGE, _RESERVED = "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/ipv4/ip_local_reserved_ports"
_CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack"


# ---- addresses and ports


def check_listen(machine: Machine, settings: Settings) -> Finding:
    faults = [machine.bind_fault(address, "--listen", socket.SOCK_DGRAM) for address in settings.listen]
    return _of_faults("listen", faults, settings.listen)


def check_internal(machine: Machine, settings: Settings) -> Finding:
    addresses = internal_addresses(settings)
    faults = [machine.bind_fault(each, "--internal", socket.SOCK_DGRAM, both_families=True) for each in addresses]
    clashes = [f"{each} and --listen {other}" for each in addresses for other in settings.listen if _clash(each, other)]
    if clashes and not any(faults):
        mend = "Each worker takes a port of its own from --internal on; take others than those of --listen."
        return problem("internal", f"both cannot be had: {', '.join(clashes)}", mend)
    return _of_faults("internal", faults, addresses)


def _clash(internal: Address, listen: Address) -> bool:
    """An internal socket shares its port with none, and one at `::` takes IPv4 as well."""
    if internal.port != listen.port or (internal.family != listen.family and internal.host != "::"):
        return False
    return internal.host == listen.host or is_wildcard(internal) or is_wildcard(listen)


def check_admin(machine: Machine, settings: Settings) -> Finding:
    return _of_faults("admin", [machine.bind_fault(settings.admin, "--admin", socket.SOCK_STREAM)], [settings.admin])


def internal_addresses(settings: Settings) -> list[Address]:
    """One a worker; with port 0 the kernel chooses, and one attempt tells as much as all."""
    host, port, family = settings.internal.host, settings.internal.port, settings.internal.family
    return [Address(host, port + i, family) for i in range(settings.plan.workers)] if port else [settings.internal]


def _of_faults(name: str, faults: Iterable[RuntimeFault | None], addresses: Iterable[Address]) -> Finding:
    had = [(fault, address) for fault, address in zip(faults, addresses, strict=True) if fault is not None]
    if not had:
        return ok(name, f"free: {', '.join(map(str, addresses))}")
    found = "; ".join(f"{fault.where}: {fault.what}" for fault, _ in had)
    lowest = min(address.port for _, address in had)
    return problem(name, found, "\n".join(dict.fromkeys(_mend_bind(*each, lowest) for each in had)))


def _mend_bind(fault: RuntimeFault, address: Address, lowest: int) -> str:
    """`lowest`: the one of all that could not be had, since one limit holds for all."""
    if isinstance(fault, PortBusy):
        show = f"ss -tuanp 'sport = :{address.port}'"
        return f"End who has it (a relay that runs already?), or take another port:\n  {show}"
    if "Permission denied" in fault.what:
        mend = "Take a port above 1023, or give the relay CAP_NET_BIND_SERVICE, or allow all programs lower ones:"
        return f"{mend}\n  sysctl -w net.ipv4.ip_unprivileged_port_start={lowest}"
    return "Name an address of this machine, or a wildcard; these are there:\n  ip -brief address"


# ---- the way to the backends


class Route(NamedTuple):
    network: Network
    interface: str
    metric: int
    mtu: int  # the route's own, 0 for the interface's


class Way(NamedTuple):
    """How datagrams get to a network, or to a part of it."""

    network: Network
    interface: str
    mtu: int  # 0: not known

    @property
    def payload(self) -> int:
        """The most of a client's datagram that fits with the envelope."""
        return self.mtu - _UDP_IP_BYTES[self.network.version] - HEADER_BYTES if self.mtu else _FULL_PAYLOAD

    def __str__(self) -> str:
        return f"{self.interface} {self.mtu or 'unknown'} ({self.network})"


def check_internal_mtu(machine: Machine, settings: Settings) -> Finding:
    """Whether a client's full datagram fits with its envelope. Fragments are allowed, but each one that is lost takes
    the whole datagram with it."""
    networks = [network for network in settings.backends if not network.is_loopback]
    ways = ways_to(networks, machine)
    lost = [network for network in networks if network not in {way.network for way in ways}]
    if lost:
        mend = "Tokens that point there lead nowhere, unless by policy routing; see the way, and name where they are:"
        commands = "".join(f"\n  ip route get {network.network_address}" for network in lost)
        return warning("internal-mtu", f"the main table has no route to {', '.join(map(str, lost))}", mend + commands)
    found = f"MTU of {', '.join(map(str, ways))}" if ways else "backends are on loopback"
    least = min((way.payload for way in ways), default=_FULL_PAYLOAD)
    if least >= _FULL_PAYLOAD:
        return ok("internal-mtu", found)
    needs = {way.interface: _FULL_PAYLOAD + way.mtu - way.payload for way in ways if way.payload < _FULL_PAYLOAD}
    mend = f"Datagrams of clients above {least} bytes travel in fragments"
    mend += "." if least < _USUAL_PAYLOAD else f"; DTLS and RTP senders stay below {_USUAL_PAYLOAD} as a rule."
    mend += " If the network beneath carries it, on this and the backends' side:"
    mend += "".join(f"\n  ip link set dev {interface} mtu {need}" for interface, need in sorted(needs.items()))
    found += f", below {max(needs.values())}"
    return (problem if least < _USUAL_PAYLOAD else warning)("internal-mtu", found, mend)


def ways_to(networks: Iterable[Network], machine: Machine) -> list[Way]:
    routes = list(read_routes(machine))
    ways = [Way(each, route.interface, _mtu(machine, route)) for each in networks for route in routes_to(each, routes)]
    return list(dict.fromkeys(ways))


def _mtu(machine: Machine, route: Route) -> int:
    own = machine.read_number(f"/sys/class/net/{route.interface}/mtu") or 0
    return min(filter(None, (own, route.mtu)), default=0)


def routes_to(network: Network, routes: Iterable[Route]) -> list[Route]:
    """Those to parts of the network, and the best one of those that hold all of it."""
    same = [route for route in routes if route.network.version == network.version]
    parts = [route for route in same if _within(route.network, network)]
    whole = [route for route in same if _within(network, route.network)]
    best = max(whole, key=lambda route: (route.network.prefixlen, -route.metric), default=None)
    return parts if best is None or best in parts else [*parts, best]


def _within(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def read_routes(machine: Machine) -> Iterator[Route]:
    """The kernel's main tables, without routes that are down, that refuse, or that lead to this machine itself."""
    for line in machine.read_text("/proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 9 and _usable(fields[3]):
            address, mask = (int(each, 16).to_bytes(4, sys.byteorder) for each in (fields[1], fields[7]))
            bits = int.from_bytes(mask, "big").bit_count()
            network = ipaddress.IPv4Network((address, bits), strict=False)
            yield Route(network, fields[0], int(fields[6]), int(fields[8]))
    for line in machine.read_text("/proc/net/ipv6_route").splitlines():
        fields = line.split()
        if len(fields) == 10 and _usable(fields[8]) and fields[9] != "lo":
            prefix = ipaddress.IPv6Network((bytes.fromhex(fields[0]), int(fields[1], 16)), strict=False)
            yield Route(prefix, fields[9], int(fields[5], 16), 0)


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_REJECT | _RTF_LOCAL) == _RTF_UP


# ---- what the kernel does with packets and ports


def check_conntrack(machine: Machine, settings: Settings) -> Finding:
    """Where connections are tracked, each client's flow takes an entry; with the table full, new flows are dropped."""
    most, count = machine.read_number(f"{_CONNTRACK}_max"), machine.read_number(f"{_CONNTRACK}_count") or 0
    if most is None:
        return ok("conntrack", "nf_conntrack is not loaded, or not seen from here")
    flows = settings.max_flows * settings.plan.workers
    found = f"{most} entries, {count} in use, for up to {flows} flows"
    if most == 0 or most >= flows + count:  # 0 is no bound
        return ok("conntrack", found)
    mend = "Make it larger, or leave --listen untracked if nothing here translates its addresses:\n"
    mend += f"  sysctl -w net.netfilter.nf_conntrack_max={1 << (flows + count).bit_length()}"
    for family, port in sorted({(address.family, address.port) for address in settings.listen}):
        tables = "ip6tables" if family == socket.AF_INET6 else "iptables"
        mend += f"\n  {tables} -t raw -A PREROUTING -p udp --dport {port} -j NOTRACK"
        mend += f"\n  {tables} -t raw -A OUTPUT -p udp --sport {port} -j NOTRACK"
    return warning("conntrack", found, mend)


def check_ephemeral_ports(machine: Machine, settings: Settings) -> Finding:
    """A port of the range may be another program's by chance at the moment the relay starts."""
    bounds = machine.read_text(_RANGE).split()
    if len(bounds) != 2 or not all(each.isdecimal() for each in bounds):
        return ok("ephemeral-ports", "the kernel does not tell its range")
    low, high = map(int, bounds)
    reserved = machine.read_text(_RESERVED)
    addresses = [*settings.listen, *internal_addresses(settings), settings.admin]
    ports = sorted({each.port for each in addresses if low <= each.port <= high} - set(_ports(reserved)))
    if not ports:
        return ok("ephemeral-ports", f"none of ours is in {low}-{high}, or it is reserved")
    listed = ",".join(map(str, ports))
    mend = "Reserve them, or take others:\n  sysctl -w net.ipv4.ip_local_reserved_ports="
    return warning("ephemeral-ports", f"{listed} of {low}-{high}", mend + ",".join(filter(None, [reserved, listed])))


def _ports(text: str) -> Iterator[int]:
    """Those of a list such as `3478,9000-9010`."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)
