"""The wire, table and decision code on 64-bit Arm: compiled by a cross compiler, its unit tests run by an emulator."""

import re

import pytest

from tests.support.background import Script

NO_COMPILER = 77


def test_unit_tests_pass_on_arm(arm_check: Script) -> None:
    status, said = arm_check.result()
    if status == NO_COMPILER:
        pytest.skip(said.strip())
    assert status == 0, said
    assert "compile-only" in said or re.search(r"=+ \d{2,} passed", said), said
