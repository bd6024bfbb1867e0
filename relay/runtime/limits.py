"""Checks that both programs make of what an operator said, before anything is opened. Errors name the option."""

from __future__ import annotations

import ipaddress

from relay.runtime.config import Address
from relay.runtime.cpus import Plan
from relay.runtime.errors import ConfigError

WORKERS_MOST = 256
BUFFER_LEAST, BUFFER_MOST = 4 << 10, 512 << 20
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def is_loopback(address: Address) -> bool:
    return ipaddress.ip_address(address.host).is_loopback


def check_unicast(address: Address, option: str, who: str) -> None:
    host = ipaddress.ip_address(address.host)
    if host.is_multicast or host.is_link_local or address.host == "255.255.255.255":
        mend = f"name an address of this machine that {who}"
        raise ConfigError("a multicast, broadcast or link-local address", where=f"{option} {address}", mend=mend)


def check_workers(plan: Plan, internal: Address | None) -> None:
    if plan.workers > WORKERS_MOST:
        raise ConfigError(f"{plan.workers} workers", where="--workers", mend=f"{WORKERS_MOST} is the most")
    if internal and internal.port and internal.port + plan.workers - 1 > 65535:
        what = f"worker {plan.workers - 1} would take port {internal.port + plan.workers - 1}"
        raise ConfigError(what, where=f"--internal {internal}", mend="choose a lower port; worker i takes PORT+i")


def check_buffer(size: int) -> None:
    if not BUFFER_LEAST <= size <= BUFFER_MOST:
        mend = f"write {BUFFER_LEAST >> 10}KiB to {BUFFER_MOST >> 20}MiB"
        raise ConfigError(f"a buffer of {size} bytes", where="--recv-buffer", mend=mend)
