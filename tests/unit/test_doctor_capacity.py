"""What `relay doctor` says of a machine's buffers, files, CPUs, memory and clock: good ones, and bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

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
from relay.doctor.machine import Buffers
from tests.support.machines import FakeMachine, settings

RMEM, WMEM = "/proc/sys/net/core/rmem_max", "/proc/sys/net/core/wmem_max"
CLOCK = "/sys/devices/system/clocksource/clocksource0"


# ---- socket buffers


@pytest.mark.parametrize(("check", "sysctl"), [(check_recv_buffer, RMEM), (check_send_buffer, WMEM)])
def test_buffers(tmp_path: Path, check: type, sysctl: str) -> None:
    machine = FakeMachine(tmp_path, {sysctl: "4194304"})
    assert check(machine, settings()).verdict == "ok"
    machine.given = Buffers(212_992, 212_992)
    found = check(machine, settings())
    assert found.verdict == "warning"
    assert found.found.startswith("208 KiB of the 4 MiB")
    name = sysctl.removeprefix("/proc/sys/").replace("/", ".")
    assert f"\n  sysctl -w {name}=4194304" in found.mend


def test_each_direction_is_judged_by_its_own_buffer(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    machine.given = Buffers(4 << 20, 4096)
    assert check_recv_buffer(machine, settings()).verdict == "ok"
    assert check_send_buffer(machine, settings()).verdict == "warning"


def test_the_capability_is_named_when_it_was_what_gave_the_buffer(tmp_path: Path) -> None:
    assert "CAP_NET_ADMIN" in check_recv_buffer(FakeMachine(tmp_path, {RMEM: "212992"}), settings()).found
    assert "CAP_NET_ADMIN" not in check_recv_buffer(FakeMachine(tmp_path, {RMEM: "4194304"}), settings()).found


@pytest.mark.parametrize(
    ("buffer", "rate", "verdict", "held"),
    [
        (4 << 20, 50_000, "ok", "403 ms"),  # 2 x 4 MiB / 832 = 10,082 packets, 25,000 a second for each of two
        (4 << 20, 201_640, "ok", "100 ms"),
        (4 << 20, 201_700, "warning", "100 ms"),
        (1 << 20, 100_000, "warning", "50 ms"),
        (64 << 10, 50_000, "problem", "6 ms"),
    ],
)
def test_stall(tmp_path: Path, buffer: int, rate: int, verdict: str, held: str) -> None:
    found = check_stall(FakeMachine(tmp_path), settings(recv_buffer=buffer), rate)
    assert (found.verdict, f"room for {held}" in found.found) == (verdict, True), found


def test_what_mends_a_stall_does_mend_it(tmp_path: Path) -> None:
    found = check_stall(FakeMachine(tmp_path), settings(recv_buffer=64 << 10), 1_000_000)
    assert "--recv-buffer 20MiB" in found.mend
    assert check_stall(FakeMachine(tmp_path), settings(recv_buffer=20 << 20), 1_000_000).verdict == "ok"


def test_a_buffer_that_cannot_be_had_is_not_advised(tmp_path: Path) -> None:
    assert "more workers" in check_stall(FakeMachine(tmp_path), settings(), 30_000_000).mend


# ---- files


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [((42, 42), "ok"), ((41, 4096), "problem"), ((41, 41), "problem"), ((-1, -1), "ok"), ((1024, 4096), "ok")],
)
def test_files(tmp_path: Path, limits: tuple[int, int], verdict: str) -> None:
    """Two workers with one address: 32 + 2 x (1 + 4)."""
    machine = FakeMachine(tmp_path)
    machine.limits = limits
    found = check_files(machine, settings())
    assert found.verdict == verdict
    assert found.found.startswith("42 needed")
    assert ("ulimit -n 42" in found.mend) == (verdict == "problem")
    assert ("needs root" in found.mend) == (limits == (41, 41))


# ---- CPUs


@pytest.mark.parametrize(
    ("pins", "workers", "allowed", "verdict", "says"),
    [
        ("0-1", 2, [0, 1], "ok", "pinned to CPU 0-1"),
        ("none", 2, [0, 1], "ok", "not pinned"),
        ("0,7", 2, [0, 1], "problem", "CPU 7 is not among"),
        ("0-1", 3, [0, 1], "warning", "3 workers share 2 CPU"),
        ("0", 2, [0, 1], "warning", "2 workers share 1 CPU"),
        ("none", 3, [0, 1], "warning", "3 workers share 2 CPU"),
    ],
)
def test_cpus(tmp_path: Path, pins: str, workers: int, allowed: list[int], verdict: str, says: str) -> None:
    machine = FakeMachine(tmp_path)
    machine.cpus = allowed
    found = check_cpus(machine, settings(pins=pins, workers=workers))
    assert (found.verdict, says in found.found) == (verdict, True), found


V2, V1 = "0::/a/b", "3:cpu,cpuacct:/a\n4:memory:/a"


@pytest.mark.parametrize(
    ("own", "files", "verdict", "says"),
    [
        (V2, {}, "ok", "none"),
        (V2, {"a/b/cpu.max": "max 100000"}, "ok", "none"),
        (V2, {"a/b/cpu.max": "200000 100000"}, "ok", "2 CPU"),
        (V2, {"a/b/cpu.max": "150000 100000"}, "warning", "1.5 CPU for 2 workers"),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, "problem", "cgroup/a"),
        (V1, {"cpu/a/cpu.cfs_quota_us": "100000", "cpu/a/cpu.cfs_period_us": "100000"}, "problem", "1 CPU for 2"),
        (V1, {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, "ok", "none"),
    ],
)
def test_cpu_quota(tmp_path: Path, own: str, files: dict[str, str], verdict: str, says: str) -> None:
    groups = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    found = check_cpu_quota(FakeMachine(tmp_path, {"/proc/self/cgroup": own, **groups}), settings())
    assert (found.verdict, says in found.found) == (verdict, True), found
    assert ("--workers 1" in found.mend) == ("1.5" in found.found or "1 CPU" in found.found)


# ---- memory


def meminfo(mebibytes: int) -> dict[str, str]:
    return {"/proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {mebibytes << 10} kB"}


@pytest.mark.parametrize(
    ("available", "verdict"),
    [(148, "ok"), (147, "warning"), (36, "warning"), (35, "problem")],
)
def test_memory(tmp_path: Path, available: int, verdict: str) -> None:
    """35.3 MiB of slots; 4 processes of 20 MiB, and 2 x 2 sockets with twice 4 MiB."""
    found = check_memory(FakeMachine(tmp_path, meminfo(available)), settings())
    assert (found.verdict, "MemAvailable" in found.found) == (verdict, True), found


@pytest.mark.parametrize(
    ("own", "files", "verdict"),
    [
        (V2, {"a/b/memory.max": "max", "a/b/memory.current": "1"}, "ok"),
        (V2, {"a/b/memory.max": str(200 << 20), "a/b/memory.current": str(10 << 20)}, "ok"),
        (V2, {"a/b/memory.max": str(200 << 20), "a/b/memory.current": str(100 << 20)}, "warning"),
        (V2, {"a/b/memory.max": str(200 << 20), "a/b/memory.current": str(100 << 20),
              "a/b/memory.stat": f"anon 5\ninactive_file {90 << 20}"}, "ok"),
        (V2, {"a/memory.max": str(40 << 20), "a/memory.current": str(20 << 20)}, "problem"),
        (V1, {"memory/a/memory.limit_in_bytes": str(30 << 20), "memory/a/memory.usage_in_bytes": "0"}, "problem"),
        (V1, {"memory/a/memory.limit_in_bytes": "9223372036854771712", "memory/a/memory.usage_in_bytes": "0"}, "ok"),
    ],
)  # fmt: skip
def test_memory_of_the_cgroup(tmp_path: Path, own: str, files: dict[str, str], verdict: str) -> None:
    groups = {f"/sys/fs/cgroup/{name}": text for name, text in files.items()}
    found = check_memory(FakeMachine(tmp_path, {"/proc/self/cgroup": own, **groups}), settings())
    assert found.verdict == verdict, found
    assert ("cgroup" in found.found) == (verdict != "ok" or "MemAvailable" not in found.found)


def test_the_flows_advised_fit(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path, meminfo(200))
    found = check_memory(machine, settings(max_flows=1_000_000))
    assert found.verdict == "problem"
    flows = int(found.mend.rpartition("--max-flows ")[2])
    assert flows > 100_000
    assert check_memory(machine, settings(max_flows=flows)).verdict == "ok"


def test_memory_that_nobody_tells_of_is_no_proof(tmp_path: Path) -> None:
    assert check_memory(FakeMachine(tmp_path, {"/proc/meminfo": ""}), settings()).verdict == "warning"


# ---- the clock


@pytest.mark.parametrize(
    ("source", "available", "resolution_s", "verdict", "mend"),
    [
        ("tsc", "tsc hpet", 0.004, "ok", ""),
        ("arch_sys_counter", "arch_sys_counter", 0.01, "ok", ""),
        ("kvm-clock", "kvm-clock tsc", 0.004, "ok", ""),
        ("hpet", "tsc hpet acpi_pm", 0.004, "warning", f"  echo tsc > {CLOCK}/current_clocksource"),
        ("acpi_pm", "acpi_pm", 0.004, "warning", "  dmesg | grep"),
        ("tsc", "tsc", 0.1, "warning", "CONFIG_HZ"),
    ],
)
def test_clock(tmp_path: Path, source: str, available: str, resolution_s: float, verdict: str, mend: str) -> None:
    machine = FakeMachine(
        tmp_path, {f"{CLOCK}/current_clocksource": source, f"{CLOCK}/available_clocksource": available}
    )
    machine.resolution_s = resolution_s
    found = check_clock(machine, settings())
    assert (found.verdict, mend in found.mend) == (verdict, True), found
    assert source in found.found
