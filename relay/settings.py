"""What `relay start` was told, checked and completed: the one place that knows defaults depending on other options.

Everything here is decided before a socket is opened or a byte of shared memory allocated, so `relay config check`
finds every error that does not depend on the state of the machine. An error says what is wrong, where, and how to
mend it.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Literal

from _fastpath.slot import MOST_FLOWS
from relay.redis_store import GROUP
from relay.runtime import cpus, keys, registered
from relay.runtime.config import Address, Network
from relay.runtime.cpus import Plan
from relay.runtime.errors import ConfigError
from relay.runtime.keys import RouteKeys
from relay.runtime.limits import LOOPBACK, check_buffer, check_unicast, check_workers, is_loopback
from relay.runtime.redis_url import RedisPlace, with_password_file

LISTEN_MOST = 16
BACKENDS_MOST = 64
REDIS_LOOKUPS = 10_000
REDIS_GROUP = "default"


@dataclass(frozen=True)
class RedisSettings:
    """The route cache, of a relay that has one."""

    place: RedisPlace
    lookups_per_s: int
    group: str
    relay: str  # who writes: the host, and a number for this life of the launcher


DrainMode = Literal["wait", "push"]
# What stands in a slot's word while it drains. Beside taking no new flow, `push` leaves checks unanswered, so that
# clients which have another candidate go there, while their media still passes both ways.
DRAINING: Mapping[str, int] = {"wait": 1, "push": 2}


@dataclass(frozen=True)
class Settings:
    """A relay's configuration, complete and consistent."""

    listen: tuple[Address, ...]
    internal: Address
    backends: tuple[Network, ...]
    route_key_file: Path
    route_keys: RouteKeys
    plan: Plan
    max_flows: int
    max_half_open: int
    max_new_per_network: int
    flow_timeout_s: float
    half_open_timeout_s: float
    drain_timeout_s: float
    drain_mode: DrainMode
    recv_buffer: int
    state_dir: str  # a path, `auto` or `none`
    admin: Address
    redis: RedisSettings | None
    registry: registered.Entry | None


def build(
    *,
    workers: int | None,
    listen: Sequence[Address],
    internal: Address | None,
    backends: Sequence[Network],
    route_key_file: str | None,
    cpus_spec: str,
    max_flows: int,
    max_half_open: int | None,
    max_new_per_network: int,
    flow_timeout_s: float,
    half_open_timeout_s: float,
    drain_timeout_s: float,
    drain_mode: DrainMode,
    recv_buffer: int,
    state_dir: str,
    admin: Address,
    redis: RedisPlace | None = None,
    redis_password_file: str | None = None,
    redis_lookups: int = REDIS_LOOKUPS,
    redis_group: str = REDIS_GROUP,
    own_id: str | None = None,
    region: str | None = None,
    location: registered.Location | None = None,
    make_plan: Callable[[str, int | None], Plan] = cpus.plan,
    load_keys: Callable[[Path], RouteKeys] = keys.load,
) -> Settings:
    """`make_plan` and `load_keys` are what looks at the machine; `relay doctor` looks there in its own way."""
    _check_listen(listen)
    networks = _backends(backends, listen)
    plan = make_plan(cpus_spec, workers)
    check_workers(plan, internal)
    internal = internal or _default_internal(networks)
    _check_internal(internal, networks, listen)
    _check_timeouts(flow_timeout_s, half_open_timeout_s)
    _check_sizes(max_flows, max_half_open)
    check_buffer(recv_buffer)
    if not state_dir:
        raise ConfigError("no name", where="--state-dir", mend="write a path, auto, or none")
    key_file = _key_file(route_key_file)
    place = with_password_file(redis, redis_password_file)
    return Settings(
        listen=tuple(listen),
        internal=internal,
        backends=networks,
        route_key_file=key_file,
        route_keys=load_keys(key_file),
        plan=plan,
        max_flows=max_flows,
        # An eighth: in health half-open flows live some milliseconds, so this is a bound for floods only.
        max_half_open=max_half_open if max_half_open is not None else max(1, max_flows // 8),
        max_new_per_network=max_new_per_network,
        flow_timeout_s=flow_timeout_s,
        half_open_timeout_s=half_open_timeout_s,
        drain_timeout_s=drain_timeout_s,
        drain_mode=drain_mode,
        recv_buffer=recv_buffer,
        state_dir=state_dir,
        admin=admin,
        redis=_redis(place, redis_lookups, redis_group),
        registry=registered.entry(place, own_id, region, location),
    )


def _check_listen(listen: Sequence[Address]) -> None:
    if len(listen) > LISTEN_MOST:
        raise ConfigError(
            f"{len(listen)} addresses", where="--listen", mend=f"{LISTEN_MOST} is the most; use wildcards"
        )
    for address in listen:
        check_unicast(address, "--listen", "clients are given, or a wildcard")
        if list(listen).count(address) > 1:
            raise ConfigError(f"{address} is named twice", where="--listen", mend="name each address once")


def _backends(backends: Sequence[Network], listen: Sequence[Address]) -> tuple[Network, ...]:
    """Who holds the route key can send to any address in here, so beyond loopback nothing is assumed."""
    if len(backends) > BACKENDS_MOST:
        raise ConfigError(f"{len(backends)} networks", where="--backends", mend=f"{BACKENDS_MOST} is the most")
    if backends:
        return tuple(backends)
    if all(map(is_loopback, listen)):
        return LOOPBACK
    raise ConfigError(
        "the networks that tokens may point to are not given, and the relay listens beyond loopback",
        where="--backends",
        mend="name where the transceivers are, such as --backends 10.0.0.0/8",
    )


def _default_internal(backends: Sequence[Network]) -> Address:
    """Loopback for loopback backends, else every address of the family needed; both families by one IPv6 socket."""
    if all(network.is_loopback for network in backends):
        only_ipv6 = all(network.version == 6 for network in backends)
        return Address("::1", 0, AF_INET6) if only_ipv6 else Address("127.0.0.1", 0, AF_INET)
    if all(network.version == 4 for network in backends):
        return Address("0.0.0.0", 0, AF_INET)
    return Address("::", 0, AF_INET6)


def _check_internal(internal: Address, backends: Sequence[Network], listen: Sequence[Address]) -> None:
    """The internal socket must be able to reach every backend, and be another one than the public ones."""
    host = ipaddress.ip_address(internal.host)
    reaches_both = host.version == 6 and host.is_unspecified
    for network in backends if backends != LOOPBACK else ():
        if network.version != host.version and not reaches_both:
            what, mend = f"cannot reach {network} from there", "take an address of its family, or [::] for both"
            raise ConfigError(what, where=f"--internal {internal}", mend=mend)
        if host.is_loopback and not network.is_loopback:
            what, mend = f"cannot reach {network} from loopback", "take an address it can answer to, or a wildcard"
            raise ConfigError(what, where=f"--internal {internal}", mend=mend)
    if internal.port and internal in listen:
        raise ConfigError("that is also a --listen address", where=f"--internal {internal}", mend="take another port")


def _check_timeouts(flow_s: float, half_open_s: float) -> None:
    for option, seconds in (("--flow-timeout", flow_s), ("--half-open-timeout", half_open_s)):
        if not 1 <= seconds <= 86_400:
            raise ConfigError(f"{seconds:g} s", where=option, mend="write 1 s to 24 h")


def _check_sizes(max_flows: int, max_half_open: int | None) -> None:
    if not 1 <= max_flows <= MOST_FLOWS:
        raise ConfigError(f"{max_flows} flows", where="--max-flows", mend=f"write 1 to {MOST_FLOWS}")
    if max_half_open is not None and max_half_open > max_flows:
        what, mend = f"more than the {max_flows} flows there are", "write less than --max-flows"
        raise ConfigError(what, where=f"--max-half-open {max_half_open}", mend=mend)


def _key_file(file: str | None) -> Path:
    if file is None:
        mend = "make one with `relay keys new --out route.key`, and give the same file to the transceivers"
        raise ConfigError("no route keys are given", where="--route-key-file", mend=mend)
    return Path(file)


def _redis(place: RedisPlace | None, lookups_per_s: int, group: str) -> RedisSettings | None:
    check_group(group)
    if place is None:
        return None
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()) or "relay"
    return RedisSettings(place, lookups_per_s, group, f"{host}/{secrets.token_hex(4)}")


def check_group(group: str) -> None:
    if not GROUP.fullmatch(group):
        mend = "write up to 64 letters, digits and ._-"
        raise ConfigError("that is no name of a group", where=f"--redis-group {group}", mend=mend)
