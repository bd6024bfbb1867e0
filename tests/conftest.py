"""What every test run shares: Hypothesis profiles, and the rule that continuous integration skips nothing.

Tests are deterministic: Hypothesis derives its examples from the test itself, so that two runs of one tree do the
same. The profile comes from UFRAG_TEST_PROFILE: `everyday`, `full` (./scripts/test --full) or `emulated` (Arm code
under an emulator, some 20 times slower). UFRAG_EXPECT_SITE names the directory whose build is meant to be tested;
another build on the path is an error.
"""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import _fastpath

settings.register_profile("everyday", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("full", settings.get_profile("everyday"), max_examples=5000)
settings.register_profile(
    "emulated", settings.get_profile("everyday"), max_examples=10, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("UFRAG_TEST_PROFILE", "everyday"))

IN_CI = os.environ.get("CI") == "true"
skipped: list[str] = []


def pytest_configure() -> None:
    site = os.environ.get("UFRAG_EXPECT_SITE")
    if site and Path(site).resolve() != Path(_fastpath.__file__).resolve().parent.parent:
        pytest.exit(f"the tests were to run on the build in {site}, but import {_fastpath.__file__}", returncode=3)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if IN_CI and skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if IN_CI and skipped:
        terminalreporter.section("skipped, which is a failure with CI=true", red=True)
        for each in skipped:
            terminalreporter.line(each)
