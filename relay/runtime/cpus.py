"""How many workers, and on which CPUs.

Two numbers of the machine count: the CPUs this process may run on (its affinity mask, which also follows cpusets),
and the cgroup's CPU quota, which is time and no place. Under a quota a pinned worker would be throttled on its CPU
while another stands idle, so a quota means as many workers as it rounds up to, and no pinning. A list of CPUs
given by the operator is obeyed all the same.

`plan` reads the machine and `decide` is the arithmetic, so that the latter can be tested anywhere. `pin` is called
by a worker for itself. The explanation is one line for the log: why this many, and where.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.runtime import cgroups
from relay.runtime.cgroups import Group
from relay.runtime.errors import ConfigError

CPU_LIMIT = 65_536  # far above any kernel's; a longer range in a list is a typing error, not a machine


@dataclass(frozen=True, slots=True)
class Plan:
    """Workers, the CPU of each (None: not pinned), and why in one line."""

    workers: int
    pins: list[int | None]
    explanation: str


def allowed() -> list[int]:
    """The CPUs this process may run on, ascending."""
    return sorted(os.sched_getaffinity(0))


def plan(spec: str, workers: int | None) -> Plan:
    """Decide for this machine. `spec` is `auto`, `none`, or a list such as `0,2-3`."""
    return decide(spec, workers, allowed(), quota())


def decide(spec: str, workers: int | None, cpus: Sequence[int], cpu_quota: float | None) -> Plan:
    """The same for given CPUs and quota."""
    if workers is not None and workers < 1:
        raise ConfigError(f"{workers} workers", where="--workers", mend="at least one is needed")
    listed = spec not in ("auto", "none")
    places = _parse_list(spec, cpus) if listed else list(cpus)
    count = workers if workers is not None else _default_workers(len(places), cpu_quota)
    pinned = listed or (spec == "auto" and cpu_quota is None)
    pins: list[int | None] = [places[i % len(places)] if pinned else None for i in range(count)]
    return Plan(count, pins, _explain(pins, len(places), cpu_quota))


def pin(cpu: int, thread: int = 0) -> None:
    """Bind a thread of this process (its native id; 0: the calling one), and it alone, to `cpu`.

    Threads that exist already keep their CPUs; threads started from it later inherit the binding. An OSError says
    that the CPU is gone from the allowed set; the caller may well go on without.
    """
    os.sched_setaffinity(thread, {cpu})


def quota(root: Path = cgroups.ROOT, own: Path = cgroups.OWN) -> float | None:
    """The CPU quota of this process's cgroup and all above it, in CPUs; None without one."""
    limits = (group_quota(group) for group in cgroups.groups("cpu", root, own))
    return min((limit for limit in limits if limit is not None), default=None)


def group_quota(group: Group) -> float | None:
    """Version 2 has `<quota or max> <period>` in one file, in microseconds; in version 1 a quota of -1 means none."""
    if group.version == 2:
        return _ratio(group.read("cpu.max").split())
    return _ratio([group.read("cpu.cfs_quota_us"), group.read("cpu.cfs_period_us")])


def _ratio(numbers: Sequence[str]) -> float | None:
    try:
        limit, period = (int(number) for number in numbers)
    except ValueError:  # `max`, an absent file, or a kernel that writes something new
        return None
    return limit / period if limit > 0 and period > 0 else None


def _default_workers(places: int, cpu_quota: float | None) -> int:
    return places if cpu_quota is None else min(places, math.ceil(cpu_quota))


def _parse_list(spec: str, cpus: Sequence[int]) -> list[int]:
    """The CPUs of a list such as `0,2-3`, each once, in the order given."""
    chosen = dict.fromkeys(cpu for item in spec.split(",") for cpu in _parse_item(item.strip(), spec))
    missing = [cpu for cpu in chosen if cpu not in cpus]
    if missing:
        raise ConfigError(
            f"CPU {join(missing)} is not among those this process may use ({join(cpus)})",
            where=f"--cpus {spec}",
            mend="name only those, or widen the affinity mask or the cpuset",
        )
    return list(chosen)


def _parse_item(item: str, spec: str) -> range:
    first, dash, last = item.partition("-")
    numbers = [first, last] if dash else [first]
    if all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
        low, high = int(numbers[0]), int(numbers[-1])
        if low <= high < CPU_LIMIT:
            return range(low, high + 1)
    raise ConfigError(f"cannot read {item!r}", where=f"--cpus {spec}", mend="write auto, none, or CPUs such as 0,2-3")


def _explain(pins: Sequence[int | None], places: int, cpu_quota: float | None) -> str:
    count = len(pins)
    words = [f"{count} worker{'s' if count > 1 else ''}"]
    used = sorted({cpu for cpu in pins if cpu is not None})
    words.append(f"pinned to CPU {join(used)}" if used else "not pinned")
    if cpu_quota is not None:
        words.append(f"the cgroup's quota is {cpu_quota:g} CPU")
    if count > places:
        words.append(f"more than the {places} CPU at hand, so some share one")
    return ", ".join(words)


def join(cpus: Sequence[int]) -> str:
    """`0,2-3` for 0, 2, 3."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
