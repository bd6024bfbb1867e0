"""The unit tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer: release code has no bounds checks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.background import Script

ROOT = Path(__file__).resolve().parents[2]

PLANTED = """
from libc.stdlib cimport calloc, free

def read(bint early):
    cdef char* four = <char*>calloc(4, 1)
    if early:
        free(four)
    cdef int got = four[0]
    if not early:
        free(four)
    return got

def add(int a, int b):
    return a + b
"""


def test_unit_tests_pass_under_the_sanitizers(sanitize_check: Script) -> None:
    status, said = sanitize_check.result()
    assert status == 0, said
    assert re.search(r"=+ \d{2,} passed", said), said


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extension with two faults in it, built by the same setup.py in the same flavour."""
    root = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "setup.py", root)
    (root / "_fastpath").mkdir()
    (root / "_fastpath" / "__init__.py").touch()
    (root / "_fastpath" / "planted.pyx").write_text(PLANTED)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = os.environ | {"FASTPATH_SANITIZE": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.mark.parametrize(
    ("call", "status", "report"),
    [
        ("read(False)", 0, ""),
        ("read(True)", 1, "AddressSanitizer: heap-use-after-free"),
        ("add(1, 2)", 0, ""),
        ("add(2**31 - 1, 1)", 1, "runtime error: signed integer overflow"),
    ],
)
def test_a_planted_fault_is_found(call: str, status: int, report: str, planted: Path) -> None:
    command = [str(ROOT / "scripts" / "sanitize_check"), "--python", "-c", f"import _fastpath.planted as p; p.{call}"]
    environment = os.environ | {"PYTHONPATH": str(planted), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode == 0) == (status == 0), done.stderr
    assert report in done.stderr
