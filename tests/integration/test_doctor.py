"""`relay doctor` as an operator meets it: machines and configurations that are wrong on purpose, with real limits,
files, ports and networks; and one that is right."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.support import free_port
from tests.support.netns import Namespaces, run
from tests.support.relays import Relay, until

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    status: int
    verdicts: dict[str, str]
    found: dict[str, str]
    mend: dict[str, str]

    @property
    def problems(self) -> list[str]:
        return [name for name, verdict in self.verdicts.items() if verdict == "problem"]


def doctor(
    key_file: Path | str, *words: str, enter: Sequence[str] = (), prepare: Callable[[], object] | None = None
) -> Answer:
    """What it says of a relay with free ports, one worker and little memory, but for what `words` change."""
    good = {
        "--listen": f"127.0.0.1:{free_port(UDP)}", "--admin": f"127.0.0.1:{free_port(TCP)}", "--workers": "1",
        "--cpus": "none", "--max-flows": "1000", "--recv-buffer": "64KiB", "--rate": "1000",
        "--route-key-file": str(key_file),
    }  # fmt: skip
    options = [word for pair in good.items() if pair[0] not in words for word in pair]
    command = [*enter, sys.executable, "-m", "relay", "doctor", "--json", *options, *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False, preexec_fn=prepare
    )
    assert "Traceback" not in done.stderr, done.stderr
    document = json.loads(done.stdout) if done.stdout else {"findings": []}
    by_name = {each["name"]: each for each in document["findings"]}
    verdicts, found, mend = (
        {name: each[field] for name, each in by_name.items()} for field in ("verdict", "found", "mend")
    )
    if by_name:
        assert document["verdict"] == max(verdicts.values(), key=["ok", "warning", "problem"].index)
        assert done.returncode == (document["verdict"] == "problem")
    return Answer(done.returncode, verdicts, found, mend)


def without_capabilities(names: str) -> tuple[str, ...]:
    """Words that take them from a command that root starts; nobody else has any."""
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("setpriv is needed to give up a capability")
    return ("setpriv", "--bounding-set", names) if os.geteuid() == 0 else ()


# ---- nothing is wrong


def test_a_good_configuration(key_file: Path) -> None:
    answer = doctor(key_file)
    assert (answer.status, answer.problems) == (0, [])
    assert len(answer.verdicts) == 17


def test_what_the_doctor_says_is_true(key_file: Path) -> None:
    """A relay lives with as many files as are said to be needed, and its ports are seen to be taken."""
    count = int(doctor(key_file, "--workers", "3").found["files"].split()[0])
    limit = ("prlimit", f"--nofile={count}:{count}")
    if not shutil.which("prlimit"):
        pytest.skip("prlimit is needed")
    with Relay(key_file, workers=3) as relay:
        used = len(os.listdir(f"/proc/{relay.process.pid}/fd"))
        assert used <= count < used + 32
        run("prlimit", f"--pid={relay.process.pid}", f"--nofile={count}:{count}")
        killed = relay.kill_worker(1)  # whose successor is started under the limit
        until(lambda: relay.children().get("relay-worker-1", killed) != killed)
        taken = doctor(key_file, "--listen", relay.listen[0], "--admin", relay.admin, enter=limit)
        assert taken.problems == ["listen", "admin"]
        assert relay.listen[0] in taken.found["listen"]
        assert relay.admin in taken.found["admin"]


def test_nothing_is_left_behind(key_file: Path) -> None:
    """What was looked at can be had afterwards, and no file was touched."""
    listen, admin = f"127.0.0.1:{free_port(UDP)}", f"127.0.0.1:{free_port(TCP)}"
    before = sorted((each.name, each.stat().st_mtime_ns) for each in key_file.parent.iterdir())
    assert doctor(key_file, "--listen", listen, "--admin", admin).status == 0
    assert sorted((each.name, each.stat().st_mtime_ns) for each in key_file.parent.iterdir()) == before
    with Relay(key_file, listen=[listen]) as relay:
        assert relay.status("/readyz") == 200


# ---- one thing is wrong


def test_key_file_for_everybody(key_file: Path) -> None:
    key_file.chmod(0o604)
    answer = doctor(key_file)
    assert answer.problems == ["key-file"]
    assert f"chmod 600 {key_file}" in answer.mend["key-file"]


def test_key_file_that_is_not_there(tmp_path: Path) -> None:
    answer = doctor(tmp_path / "absent")
    assert answer.problems == ["key-file"]
    assert "relay keys new" in answer.mend["key-file"]


def test_key_file_that_holds_something_else(key_file: Path) -> None:
    key_file.write_text("hello\n")
    assert doctor(key_file).problems == ["key-file"]


def test_key_file_that_anybody_may_replace(key_file: Path) -> None:
    key_file.parent.chmod(0o777)
    answer = doctor(key_file)
    assert answer.problems == ["key-file"]
    assert f"chmod o-w {key_file.parent}" in answer.mend["key-file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_key_file_of_another_user(key_file: Path) -> None:
    """As the relay's own user finds it: not to be read."""
    without = without_capabilities("-dac_override,-dac_read_search")
    assert doctor(key_file, enter=without).problems == []
    os.chown(key_file, 4711, 4711)
    answer = doctor(key_file, enter=without)
    assert answer.problems == ["key-file"]
    assert "Permission denied" in answer.found["key-file"]
    assert f"chown 0 {key_file}" in answer.mend["key-file"]


@pytest.mark.parametrize(("option", "kind"), [("--listen", UDP), ("--internal", UDP), ("--admin", TCP)])
def test_a_taken_port(key_file: Path, option: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind == TCP:
            holder.listen()
        port = holder.getsockname()[1]
        answer = doctor(key_file, option, f"127.0.0.1:{port}")
    assert answer.problems == [option[2:]]
    assert f"sport = :{port}" in answer.mend[option[2:]]


@pytest.mark.parametrize("option", ["--listen", "--internal", "--admin"])
def test_an_address_of_no_machine(key_file: Path, option: str) -> None:
    answer = doctor(key_file, option, "192.0.2.77:3478", "--backends", "127.0.0.0/8")
    assert option[2:] in answer.problems
    assert "192.0.2.77" in answer.found[option[2:]]
    assert "ip -brief address" in answer.mend[option[2:]]


def test_an_internal_port_that_is_a_public_one(key_file: Path) -> None:
    port = free_port(UDP)
    words = ("--listen", f"127.0.0.1:{port}", "--internal", f"127.0.0.1:{port - 1}", "--workers", "2")
    assert "internal" in doctor(key_file, *words).problems


def test_a_file_limit_that_is_too_low(key_file: Path) -> None:
    answer = doctor(key_file, "--workers", "20", prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)))
    assert answer.problems == ["files"]
    assert "ulimit -n 132" in answer.mend["files"]  # 32 + 20 x (1 + 4)


def test_a_cpu_outside_the_affinity_mask(key_file: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("two CPUs are needed")
    answer = doctor(key_file, "--cpus", str(allowed[1]), prepare=lambda: os.sched_setaffinity(0, {allowed[0]}))
    assert answer.problems == ["cpus"]
    assert f"CPU {allowed[1]} is not among" in answer.found["cpus"]


def test_more_workers_than_cpus(key_file: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    answer = doctor(key_file, "--workers", "3", prepare=lambda: os.sched_setaffinity(0, {cpu}))
    assert (answer.status, answer.verdicts["cpus"]) == (0, "warning")
    assert "--workers 1" in answer.mend["cpus"]


def test_a_buffer_too_small_for_the_rate(key_file: Path) -> None:
    answer = doctor(key_file, "--recv-buffer", "16KiB", "--rate", "500000")
    assert answer.problems == ["stall"]
    assert "--recv-buffer" in answer.mend["stall"]


def test_a_kernel_that_gives_less_than_is_asked(key_file: Path) -> None:
    answer = doctor(key_file, "--recv-buffer", "512MiB", enter=without_capabilities("-net_admin"))
    if int(Path("/proc/sys/net/core/rmem_max").read_text()) >= 512 << 20:
        pytest.skip("this machine gives that much to everybody")
    assert (answer.verdicts["recv-buffer"], answer.verdicts["send-buffer"]) == ("warning", "warning")
    assert f"sysctl -w net.core.rmem_max={512 << 20}" in answer.mend["recv-buffer"]


def test_more_flows_than_memory(key_file: Path) -> None:
    answer = doctor(key_file, "--max-flows", "4194304", "--workers", "250", "--rate", "250000")
    assert "memory" in answer.problems


def test_a_port_that_the_kernel_gives_away(key_file: Path) -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    answer = doctor(key_file, "--internal", f"127.0.0.1:{low}")
    assert answer.verdicts["ephemeral-ports"] == "warning"
    assert str(low) in answer.mend["ephemeral-ports"]


@pytest.mark.parametrize(("mtu", "verdict"), [(1600, "ok"), (1500, "warning"), (1000, "problem")])
def test_a_narrow_way_to_the_backends(key_file: Path, namespaces: Namespaces, mtu: int, verdict: str) -> None:
    namespaces.add_address(namespaces.server, "10.77.0.1/24")
    run("ip", "-n", namespaces.server, "link", "set", "dev", "veth0", "mtu", str(mtu))
    answer = doctor(key_file, "--backends", "10.77.0.0/24", enter=("ip", "netns", "exec", namespaces.server))
    assert answer.verdicts["internal-mtu"] == verdict
    assert f"veth0 {mtu}" in answer.found["internal-mtu"]
    assert ("ip link set dev veth0 mtu 1538" in answer.mend["internal-mtu"]) == (mtu < 1538)


def test_backends_without_a_route(key_file: Path, namespaces: Namespaces) -> None:
    answer = doctor(key_file, "--backends", "10.77.0.0/24", enter=("ip", "netns", "exec", namespaces.server))
    assert answer.verdicts["internal-mtu"] == "warning"
    assert "10.77.0.0/24" in answer.found["internal-mtu"]


# What a kernel shows in these files cannot be had on every machine: they are covered in a mount namespace of the
# command's own. /proc/self/cgroup stays the true one; the limits stand at the mount's root, which is above any group.
COVERED = {
    "cpu-quota": ("problem", {"/sys/fs/cgroup/cpu.max": "50000 100000", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                              "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}),
    "memory": ("problem", {f"/sys/fs/cgroup/{name}": str(size) for name, size in (
        ("memory.max", 1 << 20), ("memory.current", 1 << 19),
        ("memory/memory.limit_in_bytes", 1 << 20), ("memory/memory.usage_in_bytes", 1 << 19))}),
    "clock": ("warning", {f"/sys/devices/system/clocksource/clocksource0/{name}_clocksource": "acpi_pm"
                          for name in ("current", "available")}),
}  # fmt: skip


@pytest.mark.parametrize("name", COVERED)
def test_limits_that_the_kernel_would_show(key_file: Path, tmp_path: Path, name: str) -> None:
    verdict, files = COVERED[name]
    directory = "/sys/fs/cgroup" if "cgroup" in min(files) else os.path.dirname(min(files))
    for path, text in files.items():
        file = tmp_path / "cover" / os.path.relpath(path, directory)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    cover = ("unshare", "--mount", "sh", "-c", f'mount --bind {tmp_path}/cover {directory} && exec "$@"', "sh")
    if os.geteuid() or subprocess.run([*cover, "true"], capture_output=True, check=False).returncode:
        pytest.skip("covering the kernel's files needs root and mount namespaces")
    answer = doctor(key_file, "--workers", "2", enter=cover)
    assert answer.verdicts[name] == verdict, answer.found[name]
    assert answer.problems == [name] * (verdict == "problem")


# ---- much is wrong, or all


def test_everything_is_named_at_once(key_file: Path) -> None:
    key_file.chmod(0o644)
    words = ("--listen", "192.0.2.77:3478", "--backends", "127.0.0.0/8", "--cpus", "4000", "--recv-buffer", "8KiB")
    answer = doctor(key_file, *words, "--rate", "1000000")
    assert answer.problems == ["key-file", "listen", "stall", "cpus"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--listen", "0.0.0.0:3478"), 78),
        (("--max-flows", "0"), 78),
        (("--cpus", "some"), 78),
        (("--config", "/nonexistent.toml"), 78),
        (("--listen", "nowhere"), 2),
        (("--rate", "0"), 2),
    ],
)
def test_what_cannot_be_read_ends_it_before_it_looks(key_file: Path, words: tuple[str, ...], status: int) -> None:
    answer = doctor(key_file, *words)
    assert (answer.status, answer.verdicts) == (status, {})


def test_its_options_are_those_of_start(tmp_path: Path, key_file: Path) -> None:
    """From file and environment as well; and people get lines of 80 columns."""
    file = tmp_path / "ufrag.toml"
    file.write_text(f'[relay]\nlisten = ["127.0.0.1:{free_port(UDP)}"]\nroute-key-file = "{key_file}"\nworkers = 2\n')
    command = [sys.executable, "-m", "relay", "doctor", "--config", str(file), "--admin", f"127.0.0.1:{free_port(TCP)}"]
    environment = os.environ | {"UFRAG_RELAY_CPUS": "4000"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "problem  cpus            CPU 4000 is not among" in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80 and str(key_file) not in line] == []


# ---- completion


@pytest.mark.parametrize("program", ["relay", "transceiver"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(program: str, shell: str) -> None:
    command = [sys.executable, "-m", program, "completion", shell]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert f"_{program.upper()}_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, timeout=30, check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is needed")
def test_bash_completes(tmp_path: Path) -> None:
    """The script, in a bash, with a program of that name: the words it offers are those of the program."""
    (tmp_path / "relay").write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m relay "$@"\n')
    (tmp_path / "relay").chmod(0o755)
    lines = 'eval "$(relay completion bash)"; COMP_WORDS=(relay "$1" "$2"); COMP_CWORD=$3; _relay_completion relay\n'
    lines += 'printf "%s\\n" "${COMPREPLY[@]}"'
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def offered(*words: str) -> set[str]:
        command = ["bash", "-c", lines, "bash", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
        return set(done.stdout.split())

    assert offered("doc", "", "1") == {"doctor"}
    assert {"--rate", "--json", "--recv-buffer"} <= offered("doctor", "--", "2")
