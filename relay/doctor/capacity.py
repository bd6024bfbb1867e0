"""Checks of what this machine gives: socket buffers, files, CPUs, memory, the clock.

A check gets the machine and the settings and returns one finding. `problem` is what keeps the relay from starting or
from doing its work, `warning` what costs packets or time under load.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator

from _fastpath.slot import slot_bytes
from relay.doctor.findings import Finding, ok, problem, shown, warning
from relay.doctor.machine import Machine
from relay.runtime import cpus
from relay.runtime.cgroups import Group
from relay.runtime.limits import BUFFER_MOST
from relay.runtime.sockets import SMALL_PACKET_BYTES
from relay.settings import Settings

# Milliseconds that a socket's buffer should hold while its worker stands still: a page fault or another process's
# turn on the CPU takes some, the replacement of a dead worker some ten.
STALL_PROBLEM_MS, STALL_WARNING_MS = 10, 100

# Descriptors, counted on a running launcher: 8, 2 for the state directory, and workers x (addresses + 4). Each start of
# a child takes some more for a moment.
_FILES_ALWAYS, _FILES_EACH = 32, 4

_PROCESS_BYTES = 20 << 20  # what launcher, admin process and each worker take for themselves (19 MiB measured)
_TICK_S = 1 / 16  # of the flow table's ages

# Those that the vDSO reads without entering the kernel.
_FAST_CLOCKS = {"tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"}
_CLOCKS = "/sys/devices/system/clocksource/clocksource0"


# ---- sockets


def check_recv_buffer(machine: Machine, settings: Settings) -> Finding:
    return _check_buffer(machine, settings.recv_buffer, "recv-buffer")


def check_send_buffer(machine: Machine, settings: Settings) -> Finding:
    return _check_buffer(machine, settings.recv_buffer, "send-buffer")


def _check_buffer(machine: Machine, asked: int, name: str) -> Finding:
    receive, send = machine.buffers(asked)
    got, sysctl = (receive, "net.core.rmem_max") if name == "recv-buffer" else (send, "net.core.wmem_max")
    limit = machine.read_number(f"/proc/sys/{sysctl.replace('.', '/')}")
    said = "" if limit is None else f", {sysctl} is {limit}"
    if got >= asked:
        force = ", had by CAP_NET_ADMIN" if limit is not None and limit < asked else ""
        return ok(name, f"{shown(got)} as --recv-buffer asks{said}{force}")
    mend = (
        f"Raise the kernel's limit, or give the relay CAP_NET_ADMIN:\n"
        f"  sysctl -w {sysctl}={asked}\n  echo {sysctl}={asked} >> /etc/sysctl.d/90-ufrag.conf"
    )
    return warning(name, f"{shown(got)} of the {shown(asked)} that --recv-buffer asks{said}", mend)


def check_stall(machine: Machine, settings: Settings, rate: int) -> Finding:
    """The kernel deals a port's flows out among the workers, so each socket gets its part of the rate."""
    got = machine.buffers(settings.recv_buffer).receive
    packets = 2 * got // SMALL_PACKET_BYTES
    each = rate / settings.plan.workers
    held_ms = 1000 * packets / each
    found = f"room for {held_ms:.0f} ms of a stalled worker's packets ({packets} of {each:.0f} a second)"
    if held_ms >= STALL_WARNING_MS:
        return ok("stall", found)
    need = max(settings.recv_buffer, math.ceil(each * STALL_WARNING_MS / 1000 * SMALL_PACKET_BYTES / 2 / 2**20) << 20)
    mend = f"For {STALL_WARNING_MS} ms at --rate {rate} {_mend_stall(need)}"
    return (problem if held_ms < STALL_PROBLEM_MS else warning)("stall", found, mend)


def _mend_stall(need: int) -> str:
    if need > BUFFER_MOST:
        return f"a buffer of {shown(need)} would be needed; take more workers, or more relays."
    grant = f"sysctl -w net.core.rmem_max={need} net.core.wmem_max={need}"
    return f"start with this, and let the kernel give it:\n  --recv-buffer {math.ceil(need / 2**20)}MiB\n  {grant}"


def check_files(machine: Machine, settings: Settings) -> Finding:
    need = _FILES_ALWAYS + settings.plan.workers * (len(settings.listen) + _FILES_EACH)
    soft, hard = machine.file_limits()
    found = f"{need} needed, the limit is {'none' if soft < 0 else soft}"
    if soft < 0 or soft >= need:
        return ok("files", found)
    room = "" if hard < 0 or hard >= need else f" (the hard limit {hard} needs root)"
    mend = f"Raise it{room}, in the shell or as LimitNOFILE={need} in the unit:\n  ulimit -n {need}"
    return problem("files", found, mend)


# ---- CPUs


def check_cpus(machine: Machine, settings: Settings) -> Finding:
    pins, allowed = settings.plan.pins, machine.affinity()
    missing = sorted({cpu for cpu in pins if cpu is not None and cpu not in allowed})
    if missing:
        found = f"CPU {cpus.join(missing)} is not among those allowed here ({cpus.join(allowed)})"
        mend = f"Name only those, or widen the affinity mask or the cpuset:\n  --cpus {cpus.join(allowed)}"
        return problem("cpus", found, mend)
    workers, places = settings.plan.workers, len(set(pins) - {None}) or len(allowed)
    if workers > places:
        found = f"{workers} workers share {places} CPU ({cpus.join(allowed)} are allowed)"
        return warning("cpus", found, f"Take as many workers as CPUs, or allow more:\n  --workers {places}")
    used = sorted({cpu for cpu in pins if cpu is not None})
    where = f"pinned to CPU {cpus.join(used)}" if used else "not pinned"
    return ok("cpus", f"{workers} workers, {where}, of CPU {cpus.join(allowed)} allowed")


def check_cpu_quota(machine: Machine, settings: Settings) -> Finding:
    """The least quota of our group and those above it. Who has used it up stands still until the next period."""
    quotas = [(limit, group) for group in machine.groups("cpu") if (limit := cpus.group_quota(group)) is not None]
    if not quotas:
        return ok("cpu-quota", "none")
    limit, group = min(quotas, key=lambda each: each[0])
    workers = settings.plan.workers
    found = f"{limit:g} CPU for {workers} workers, by {group.directory}"
    if limit >= workers:
        return ok("cpu-quota", found)
    mend = "All workers stand still when it is used up, mostly for tens of milliseconds. Raise it (CPUQuota= in the "
    mend += "unit, --cpus of docker, resources.limits.cpu in Kubernetes)"
    whole = math.floor(limit)
    mend += f", or take fewer workers:\n  --workers {whole}" if whole else "."
    # Less than a whole CPU too little is what --workers itself chooses.
    return (problem if workers > math.ceil(limit) else warning)("cpu-quota", found, mend)


# ---- memory


def check_memory(machine: Machine, settings: Settings) -> Finding:
    """Flow tables are reserved at the start; the cgroup bounds them, too, wherever they lie. The kernel books socket
    buffers there as well, as they fill."""
    workers = settings.plan.workers
    slots = workers * slot_bytes(settings.max_flows)
    buffers = workers * (len(settings.listen) + 1) * 2 * settings.recv_buffer
    rest = (workers + 2) * _PROCESS_BYTES + buffers
    room, place = min(_rooms(machine), default=(0, ""))
    if not place:
        return warning("memory", "the kernel does not tell how much there is", "Mount /proc.")
    found = f"{shown(slots)} for flows, up to {shown(rest)} besides; {shown(room)} free ({place})"
    if room >= slots + rest:
        return ok("memory", found)
    fitting = bisect_right(range(1, settings.max_flows), (room - rest) // workers, key=slot_bytes)
    fewer = f", or lower the flows:\n  --max-flows {fitting}" if fitting else ", or take fewer workers."
    mend = f"Give the process {shown(slots + rest)} (MemoryMax=, resources.limits.memory){fewer}"
    return (problem if room < slots else warning)("memory", found, mend)


def _rooms(machine: Machine) -> Iterator[tuple[int, str]]:
    """Bytes free, and where."""
    for line in machine.read_text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10, "MemAvailable"
    for group in machine.groups("memory"):
        room = _group_room(group)
        if room is not None:
            yield room, str(group.directory)


def _group_room(group: Group) -> int | None:
    """Limit less use; what of the latter is cache of files nobody uses now can be had back."""
    limit_file, use_file, cache = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[group.version]
    limit, use = group.read(limit_file), group.read(use_file)
    if not (limit.isdecimal() and use.isdecimal()):  # `max`, or no such file
        return None
    stat = dict(line.split()[:2] for line in group.read("memory.stat").splitlines() if " " in line)
    return max(0, int(limit) - int(use) + int(stat.get(cache, "0")))


# ---- the clock


def check_clock(machine: Machine, _settings: Settings) -> Finding:
    """The loop reads CLOCK_MONOTONIC_COARSE, whatever the source; the system's other clocks follow the source."""
    resolution, source = machine.coarse_resolution_s(), machine.read_text(f"{_CLOCKS}/current_clocksource")
    found = f"source {source or 'unknown'}, coarse resolution {1000 * resolution:g} ms"
    if resolution > _TICK_S:
        mend = f"Flows age in steps of {1000 * _TICK_S:g} ms; use a kernel with CONFIG_HZ=100 or more."
        return warning("clock", found, mend)
    if not source or source in _FAST_CLOCKS:
        return ok("clock", found)
    available = machine.read_text(f"{_CLOCKS}/available_clocksource").split()
    better = [f"  echo {each} > {_CLOCKS}/current_clocksource" for each in available if each in _FAST_CLOCKS]
    mend = "Each look at the clock enters the kernel, which costs every process here. "
    mend += "Take a better one:\n" if better else "See in its log why there is no other:\n"
    return warning("clock", found, mend + (better or ["  dmesg | grep -i clocksource"])[0])
