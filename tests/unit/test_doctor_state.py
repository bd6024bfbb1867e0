"""What `relay doctor` says of the state directory: one that is made yet, one that is there, and unfit ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from _fastpath.slot import slot_bytes
from relay.doctor.state import check_state_dir
from relay.state import bytes_needed
from tests.support.machines import FakeMachine, settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def machine(tmp_path: Path, kind: str = "tmpfs") -> FakeMachine:
    """Its root is elsewhere, but the directory is a real one."""
    mounts = (
        f"none / overlay rw 0 0\nnone {tmp_path} ext4 rw 0 0\nnone {tmp_path} {kind} rw 0 0\nnone /dev/shm2 ext4 rw 0 0"
    )
    return FakeMachine(tmp_path / "root", {"/proc/self/mounts": mounts})


def test_none_is_said(tmp_path: Path) -> None:
    found = check_state_dir(machine(tmp_path), settings(state_dir="none"))
    assert (found.verdict, found.found) == ("ok", "none: flows end with the relay's processes")


def test_the_default_place_is_good(tmp_path: Path) -> None:
    files = {"/proc/self/mounts": "none / overlay rw 0 0\nnone /dev/shm tmpfs rw 0 0"}
    found = check_state_dir(FakeMachine(tmp_path, files), settings(state_dir="auto"))
    assert found.verdict == "ok", found
    assert "127.0.0.1:3478, tmpfs" in found.found


@pytest.mark.parametrize("there", [False, True])
def test_room(tmp_path: Path, path: Path, there: bool) -> None:
    """What lies there already is used again."""
    wanted = settings(state_dir=str(path))
    lacking = machine(tmp_path)
    lacking.room = bytes_needed(wanted)
    if there:
        path.mkdir(0o700)
        (path / "slot-0").touch()
        os.truncate(path / "slot-0", slot_bytes(wanted.max_flows))
        lacking.room -= slot_bytes(wanted.max_flows)
    assert check_state_dir(lacking, wanted).verdict == "ok"
    lacking.room -= 1
    found = check_state_dir(lacking, wanted)
    assert found.verdict == "problem"
    assert "--state-dir none" in found.mend
    assert "--shm-size" in found.mend


def test_a_disk_is_slow(tmp_path: Path, path: Path) -> None:
    found = check_state_dir(machine(tmp_path, "ext4"), settings(state_dir=str(path)))
    assert found.verdict == "warning"
    assert "ext4" in found.found
    assert "tmpfs" in found.mend


def test_a_place_that_is_not_there(tmp_path: Path, path: Path) -> None:
    found = check_state_dir(machine(tmp_path), settings(state_dir=str(path / "deeper")))
    assert found.verdict == "problem"
    assert f"install -d -o {os.geteuid()} -m 700 {path}/deeper" in found.mend


def test_unfit_ones(tmp_path: Path, path: Path) -> None:
    wanted = settings(state_dir=str(path))
    path.write_text("")
    assert "no directory" in check_state_dir(machine(tmp_path), wanted).found
    path.unlink()
    path.symlink_to(tmp_path)
    assert "symbolic link" in check_state_dir(machine(tmp_path), wanted).found
    path.unlink()
    path.mkdir(0o755)
    assert f"chmod 700 {path}" in check_state_dir(machine(tmp_path), wanted).mend


def test_another_users(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.mkdir(0o700)
    stranger = machine(tmp_path)
    monkeypatch.setattr(stranger, "user", lambda: os.geteuid() + 1)
    found = check_state_dir(stranger, settings(state_dir=str(path)))
    assert (found.verdict, f"chown {os.geteuid() + 1}" in found.mend) == ("problem", True)


def test_nothing_is_made(tmp_path: Path, path: Path) -> None:
    check_state_dir(machine(tmp_path), settings(state_dir=str(path)))
    assert not path.exists()
