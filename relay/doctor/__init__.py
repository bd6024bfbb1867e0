"""`relay doctor`: whether this machine and this configuration would carry a relay, without starting one.

`machine` reads, `capacity`, `network`, `keyfile`, `redis` and `state` judge, `findings` shows; here is the list of
checks. The settings are built as `relay start` builds them, but what there would end with the first error of the
machine (a CPU that is not allowed, a key file) is a finding here, so that one run names everything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from relay.doctor.capacity import (
    check_clock,
    check_cpu_quota,
    check_cpus,
    check_files,
    check_memory,
    check_recv_buffer,
    check_send_buffer,
    check_stall,
)
from relay.doctor.findings import Finding
from relay.doctor.keyfile import check_key_file
from relay.doctor.machine import Machine
from relay.doctor.network import (
    check_admin,
    check_conntrack,
    check_ephemeral_ports,
    check_internal,
    check_internal_mtu,
    check_listen,
)
from relay.doctor.redis import check_redis
from relay.doctor.state import check_state_dir
from relay.runtime import cpus
from relay.runtime.cpus import Plan
from relay.runtime.keys import RouteKeys
from relay.settings import Settings

Check = Callable[[Machine, Settings], Finding]


def examine(machine: Machine, settings: Settings, rate: int) -> list[Finding]:
    """`rate`: packets a second that the whole relay is offered."""
    checks: list[Check] = [
        check_key_file, check_listen, check_internal, check_admin, check_ephemeral_ports,
        check_recv_buffer, check_send_buffer, partial(check_stall, rate=rate), check_files,
        check_cpus, check_cpu_quota, check_memory, check_clock, check_internal_mtu, check_conntrack,
        check_redis, check_state_dir,
    ]  # fmt: skip
    return [check(machine, settings) for check in checks]


def plan_anywhere(machine: Machine, spec: str, workers: int | None) -> Plan:
    """The plan of `relay start`; CPUs in a list are taken as they are, for `check_cpus` to judge."""
    places = machine.affinity() if spec in ("auto", "none") else range(cpus.CPU_LIMIT)
    return cpus.decide(spec, workers, places, machine.cpu_quota())


def keys_unread(_path: Path) -> RouteKeys:
    """In place of the keys, which `check_key_file` reads."""
    return RouteKeys(0, {})
