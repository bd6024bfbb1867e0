"""The unit files: valid as systemd reads them, and in step with the programs' own times and exit statuses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli import start
from relay.runtime.errors import EXIT_CONFIG, EXIT_USAGE

pytestmark = [pytest.mark.tree, pytest.mark.native]

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "scripts" / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
HUNG_AFTER_S = 5  # Launcher's default: it has to have the time to help itself


def values(path: Path, name: str) -> list[str]:
    """All values of a setting, in order."""
    lines = [line.partition("=") for line in path.read_text().splitlines()]
    return [value for found, _, value in lines if found == name]


def named(path: Path) -> str:
    return path.name


def test_there_are_units_for_both_programs() -> None:
    assert [path.name for path in UNITS] == [
        "ufrag-relay.service",
        "ufrag-relay.socket",
        "ufrag-transceiver@.service",
    ]


def test_systemd_accepts_them(tmp_path: Path) -> None:
    """What it does not know it only warns of, so it has to be silent; the programs are not installed where they say."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("this needs systemd-analyze")
    for path in UNITS:
        text = re.sub(r"/opt/ufrag/bin/\w+", sys.executable, path.read_text())
        (tmp_path / path.name.replace("@", "@9465")).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in done.stderr.splitlines() if "ufrag" in line or str(tmp_path) in line]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.parametrize("path", SERVICES, ids=named)
def test_what_a_start_cannot_mend_is_not_started_again(path: Path) -> None:
    assert values(path, "RestartPreventExitStatus") == [f"{EXIT_USAGE} {EXIT_CONFIG}"]


@pytest.mark.parametrize("path", SERVICES, ids=named)
def test_the_watchdog_comes_after_the_launcher(path: Path) -> None:
    (seconds,) = values(path, "WatchdogSec")
    assert int(seconds) > 2 * HUNG_AFTER_S


@pytest.mark.parametrize("path", SERVICES, ids=named)
def test_only_the_launcher_is_signalled_and_heard(path: Path) -> None:
    assert (values(path, "Type"), values(path, "NotifyAccess"), values(path, "KillMode")) == (
        ["notify"],
        ["main"],
        ["mixed"],
    )


def test_the_relays_sockets_are_those_of_its_default_address() -> None:
    path = ROOT / "scripts" / "systemd" / "ufrag-relay.socket"
    (listen,) = (parameter for parameter in start.params if parameter.name == "listen")
    assert sorted(set(values(path, "ListenDatagram"))) == listen.default
    assert values(path, "ReusePort") == ["yes"]
