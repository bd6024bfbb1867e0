"""`relay doctor` as a whole: the plan it judges, key files, how findings are shown, and that their names are told."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from relay.doctor import examine, plan_anywhere
from relay.doctor.findings import Finding, as_json, as_text, ok, problem, shown, warning, worst
from relay.doctor.keyfile import check_key_file
from relay.doctor.machine import Machine
from relay.doctor.redis import check_redis
from relay.runtime import keys
from relay.runtime.errors import ConfigError
from relay.runtime.redis_url import parse_redis_url
from tests.support.machines import FakeMachine, settings

ROOT = Path(__file__).resolve().parents[2]


# ---- the plan


def test_the_plan_keeps_cpus_that_are_not_allowed(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path)
    assert plan_anywhere(machine, "0,9", None).pins == [0, 9]
    assert plan_anywhere(machine, "auto", None).pins == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="cannot read"):
        plan_anywhere(machine, "first", None)


def test_the_plan_follows_the_machines_quota(tmp_path: Path) -> None:
    files = {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "150000 100000"}
    assert plan_anywhere(FakeMachine(tmp_path, files), "auto", None).workers == 2


# ---- key files


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "route.key"
    path.parent.mkdir(mode=0o755)
    keys.create(path, keys.new_route_key(1))
    return path


def test_key_file(key_file: Path) -> None:
    found = check_key_file(Machine(), settings(route_key_file=str(key_file)))
    assert (found.verdict, found.name) == ("ok", "key-file"), found


def test_key_file_for_everybody(key_file: Path) -> None:
    key_file.chmod(0o644)
    found = check_key_file(Machine(), settings(route_key_file=str(key_file)))
    assert (found.verdict, "everybody" in found.found) == ("problem", True)
    assert f"\n  chmod 600 {key_file}" in found.mend


def test_key_file_without_keys(key_file: Path) -> None:
    key_file.write_text("1:12\n")
    found = check_key_file(Machine(), settings(route_key_file=str(key_file)))
    assert (found.verdict, f"{key_file}:1" in found.found) == ("problem", True)
    absent = check_key_file(Machine(), settings(route_key_file=f"{key_file}.old"))
    assert (absent.verdict, "No such file" in absent.found) == ("problem", True)


@pytest.mark.parametrize(("mode", "verdict"), [(0o777, "problem"), (0o1777, "ok"), (0o775, "ok")])
def test_key_file_in_a_directory_for_everybody(key_file: Path, mode: int, verdict: str) -> None:
    """The sticky bit keeps others from replacing what is ours; and a directory above is as good as the file's own."""
    wanted = settings(route_key_file=str(key_file))
    for directory in (key_file.parent, key_file.parent.parent):
        before = directory.stat().st_mode & 0o7777
        directory.chmod(mode)
        found = check_key_file(Machine(), wanted)
        assert found.verdict == verdict, found
        assert (f"\n  chmod o-w {directory}" in found.mend) == (verdict == "problem")
        directory.chmod(before)


def test_the_sticky_bit_does_not_bind_a_strange_owner(key_file: Path) -> None:
    class Strange(Machine):
        def stat(self, path: Path) -> os.stat_result:
            facts = super().stat(path)
            if path != key_file.parent:
                return facts
            return os.stat_result((facts.st_mode | 0o1777, *facts[1:4], 4711, *facts[5:10]))

    assert check_key_file(Strange(), settings(route_key_file=str(key_file))).verdict == "problem"


# ---- showing

FINDINGS = [
    ok("one", "good"),
    warning("two", "something " * 20, "A long story of what to do about it, longer than a line can be, and a command:\n"
            "  " + "sysctl -w " + "x" * 90),
    problem("three", "bad", "Mend it."),
]  # fmt: skip


def test_text_has_80_columns_but_for_commands() -> None:
    lines = as_text(FINDINGS).splitlines()
    assert lines[0] == "ok       one             good"
    assert [line for line in lines if len(line) > 80] == [f"      sysctl -w {'x' * 90}"]
    assert lines[-1] == "1 problem, 1 warning, 1 ok"
    assert lines[-3:-1] == ["    Mend it.", ""]


def test_json() -> None:
    document = json.loads(as_json(FINDINGS))
    assert document["verdict"] == "problem"
    assert document["findings"][0] == {"name": "one", "verdict": "ok", "found": "good", "mend": ""}


def test_the_worst_verdict() -> None:
    assert [worst(FINDINGS[:count]) for count in range(4)] == ["ok", "ok", "warning", "problem"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(212_992, "208 KiB"), (4 << 20, "4 MiB"), (32_220_000, "30.7 MiB"), (24 << 30, "24 GiB"), (512, "0.5 KiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert shown(size) == text


# ---- documents


@pytest.mark.tree
def test_every_check_is_in_the_table_and_nothing_else(tmp_path: Path) -> None:
    findings = examine(FakeMachine(tmp_path), settings(), 50_000)
    section = (ROOT / "docs" / "operations.md").read_text().partition("## `relay doctor`")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", section, re.M) == [each.name for each in findings]
    assert {each.verdict for each in findings if each.name != "key-file"} == {"ok"}


# ---- Redis


def redis_found(tmp_path: Path, *servers: dict[str, str], down: str = "") -> Finding:
    machine = FakeMachine(tmp_path)
    machine.redis_down, machine.redis_servers = down, list(servers)
    place = parse_redis_url("redis://u:secret@cache")
    return check_redis(machine, settings(redis=place, max_flows=100_000))


def test_redis(tmp_path: Path) -> None:
    assert check_redis(FakeMachine(tmp_path), settings()).verdict == "ok"
    plain = {"redis_version": "7.0.15", "used_memory": "1000000", "maxmemory": "0"}
    found = redis_found(tmp_path, plain)
    assert (found.verdict, found.found) == ("ok", "redis://u@cache: redis 7.0.15")
    valkey = {"server_name": "valkey", "valkey_version": "8.0.1", "redis_version": "7.2.4"}
    assert redis_found(tmp_path, valkey).found == "redis://u@cache: valkey 8.0.1"
    found = redis_found(tmp_path, down="no route")
    assert (found.verdict, found.found, "secret" in repr(found)) == ("warning", "redis://u@cache: no route", False)


@pytest.mark.parametrize(("policy", "command"), [("noeviction", "volatile-ttl"), ("allkeys-lru", "maxmemory 169mb")])
def test_redis_with_little_memory(tmp_path: Path, policy: str, command: str) -> None:
    small = {"redis_version": "7", "used_memory": "60000000", "maxmemory": "110000000", "maxmemory_policy": policy}
    large = {"redis_version": "7", "used_memory": "60000000", "maxmemory": "910000000", "maxmemory_policy": policy}
    assert redis_found(tmp_path, large).verdict == "ok"
    assert redis_found(tmp_path, small, small).verdict == "ok", "two share the flows between them"
    found = redis_found(tmp_path, small)
    assert (found.verdict, "47.7 MiB left, 64.8 MiB for 200000 flows" in found.found) == ("warning", True)
    assert command in found.mend
