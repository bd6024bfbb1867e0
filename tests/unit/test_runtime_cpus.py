"""Workers and pins from given CPUs and quotas, and quotas from cgroup files as kernels and containers show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.runtime import cpus
from relay.runtime.cpus import decide
from relay.runtime.errors import ConfigError

FOUR = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("spec", "workers", "quota", "pins"),
    [
        ("auto", None, None, [0, 1, 2, 3]),
        ("auto", 2, None, [0, 1]),
        ("auto", 6, None, [0, 1, 2, 3, 0, 1]),
        ("none", None, None, [None] * 4),
        ("auto", None, 2.5, [None] * 3),
        ("auto", None, 0.1, [None]),
        ("auto", None, 64.0, [None] * 4),
        ("auto", 2, 2.5, [None] * 2),
        ("0,2-3", None, None, [0, 2, 3]),
        ("2-3,0,3", 4, None, [2, 3, 0, 2]),
        ("0,2-3", None, 1.5, [0, 2]),
    ],
)
def test_decide(spec: str, workers: int | None, quota: float | None, pins: list[int | None]) -> None:
    plan = decide(spec, workers, FOUR, quota)
    assert plan.pins == pins
    assert plan.workers == len(pins)
    assert "\n" not in plan.explanation


def test_explanations() -> None:
    assert decide("auto", None, [0, 1, 2, 5], None).explanation == "4 workers, pinned to CPU 0-2,5"
    assert decide("auto", None, FOUR, 2.5).explanation == "3 workers, not pinned, the cgroup's quota is 2.5 CPU"
    assert "some share one" in decide("auto", 5, FOUR, None).explanation


@pytest.mark.parametrize("spec", ["4", "0-4", "1,9", "", "a", "2-1", "-1", "0,,1", "1-", "0-99999999999", "٣"])
def test_bad_list_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decide(spec, None, FOUR, None)
    assert "--cpus" in str(caught.value)


def test_list_error_names_the_cpus() -> None:
    with pytest.raises(ConfigError, match=r"CPU 4,7-8 is not among those this process may use \(0-3\)"):
        decide("0,4,7-8", None, FOUR, None)


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int) -> None:
    with pytest.raises(ConfigError):
        decide("auto", workers, FOUR, None)


class FakeCgroup:
    """Files as under /sys/fs/cgroup, and the process's own line file."""

    def __init__(self, base: Path, membership: str, files: dict[str, str]) -> None:
        self.root = base / "cgroup"
        self.own = base / "self"
        self.own.write_text(membership)
        for name, text in files.items():
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def quota(self) -> float | None:
        return cpus.quota(self.root, self.own)


V1_LINE = "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n1:cpuset:/y\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "150000 100000\n"}, 0.5),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4.0),
        ("0::/host/path/unseen\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../other\n", {"cpu.max": "200000 100000\n", "../cpu.max": "1 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "something new\n"}, None),
        ("0::/\n", {}, None),
        (V1_LINE, {"cpu/docker/abc/cpu.cfs_quota_us": "-1\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"}, None),
        (V1_LINE, {"cpu/docker/abc/cpu.cfs_quota_us": "300000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 3.0),
        (V1_LINE, {"cpu,cpuacct/cpu.cfs_quota_us": "70000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 0.7),
        (V1_LINE, {"cpu/cpu.cfs_quota_us": "70000"}, None),
        ("", {"cpu.max": "1 1"}, None),
    ],
)
def test_quota(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None) -> None:
    assert FakeCgroup(tmp_path, membership, files).quota() == quota


def test_quota_without_cgroups(tmp_path: Path) -> None:
    assert cpus.quota(tmp_path, tmp_path / "absent") is None


def test_plan_reads_this_machine() -> None:
    assert cpus.allowed() == sorted(os.sched_getaffinity(0))
    plan = cpus.plan("none", None)
    assert 1 <= plan.workers <= len(cpus.allowed())
    assert set(plan.pins) == {None}


@pytest.mark.native
def test_pin_binds_the_main_thread() -> None:
    before = os.sched_getaffinity(0)
    try:
        cpus.pin(max(before))
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)
