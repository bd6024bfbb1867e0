"""Scripts beside the tests: awaited, paused, and ended with all they have started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import background
from tests.support.background import paused, running
from tests.support.relays import until

pytestmark = pytest.mark.native


def script(folder: Path, *lines: str) -> Path:
    path = folder / "script"
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_its_end_and_its_words_are_awaited(tmp_path: Path) -> None:
    with running(script(tmp_path, "echo one", "echo two >&2", "exit 3")) as started:
        assert started.result() == (3, "one\ntwo\n")


def test_it_is_idle_and_pauses_and_goes_on_and_ends(tmp_path: Path) -> None:
    child = tmp_path / "child"
    with running(script(tmp_path, f"sh -c 'echo $$ >{child}; while :; do :; done'")):
        until(lambda: child.is_file() and child.read_text().endswith("\n"))
        pid = int(child.read_text())
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        with paused():
            until(lambda: state(pid) == "T")
        until(lambda: state(pid) == "R")
        assert background.groups
    until(lambda: not Path(f"/proc/{pid}").exists() or state(pid) == "Z")
