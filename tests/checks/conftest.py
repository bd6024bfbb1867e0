"""These checks build everything once more and test that build: minutes of work, and a test session needs one core of a
machine most of the time. Those that are selected begin with the session, in the background; their tests stand last and
find them almost done."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.background import Script, running

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
stack = ExitStack()
started: dict[str, Script] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if not session.config.option.collectonly:
        for name in sorted(wanted & {"arm_check", "sanitize_check"}):
            started[name] = stack.enter_context(running(SCRIPTS / name))


def pytest_sessionfinish() -> None:
    stack.close()


@pytest.fixture
def arm_check() -> Script:
    return started["arm_check"]


@pytest.fixture
def sanitize_check() -> Script:
    return started["sanitize_check"]
