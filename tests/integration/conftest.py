"""Fixtures for real processes: a key file, network namespaces; for each module a browser, a relay, quiet."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.support import write_key_file
from tests.support import background
from tests.support.browser import Browser
from tests.support.faults import NOTES
from tests.support.hub import Hub
from tests.support.netns import Namespaces
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write_key_file(tmp_path / "route.key")


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Named networks of this test's own, gone with it."""
    skip_without_namespaces()
    with Namespaces() as made:
        yield made


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Two hosts for relays, which share an address, and the network of those who use them."""
    skip_without_namespaces()
    with Hub() as made:
        yield made


def skip_without_namespaces() -> None:
    usable = os.geteuid() == 0 and shutil.which("ip") and shutil.which("sysctl")
    if not usable or subprocess.run(["ip", "netns", "list"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces need root, iproute2 and procps")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One server, standing alone."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def quiet_machine() -> Iterator[None]:
    """For tests of rates and times."""
    with background.paused():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with Relay(write_key_file(tmp_path_factory.mktemp("keys") / "route.key")) as relay:
        yield relay


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NOTES:
        terminalreporter.section("what clients saw of faults")
        for note in NOTES:
            terminalreporter.line(note)
