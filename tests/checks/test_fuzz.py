"""The fuzz targets, each for a minute or for ten: those of compiled code under the sanitizers, the others on the tree.

Everyday tests give them their corpus and a few mutations of it; tests/unit/test_fuzz_run.py tests the runner.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.background import Script

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "sanitize" / "site"
# Inputs in a second, a tenth of what a busy core did: with fewer a target has become slow, or does nothing.
COMPILED = {
    **{"binding": 400, "media": 8, "rtcp": 800},
    **{"relay": 5, "stun": 800, "token": 30, "demux": 40, "envelope": 200},
}
PYTHON = {"sctp": 100, "sdp": 200}
LENGTHS = [pytest.param(60, marks=pytest.mark.full), pytest.param(600, marks=pytest.mark.soak)]


def run(python: list[str], target: str, seconds: int, least: int, environment: dict[str, str] | None = None) -> None:
    command = [*python, "-m", "tests.fuzz.run", target, "--seconds", str(seconds)]
    environment = os.environ | (environment or {})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=seconds + 300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()[-1]
    closing = re.fullmatch(rf"{target}: (\d+) inputs(?: of \d+ steps)? in \d+ s, \d+ new to the corpus", said)
    assert closing, done.stdout
    assert int(closing[1]) >= least * seconds


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("target", COMPILED)
def test_compiled_code_under_the_sanitizers(target: str, seconds: int, sanitize_check: Script) -> None:
    sanitize_check.result()  # it has built SITE; what else it found is told by its own test
    python = [str(ROOT / "scripts" / "sanitize_check"), "--python"]
    environment = {"PYTHONPATH": str(SITE), "PYTHONSAFEPATH": "1", "UFRAG_EXPECT_SITE": str(SITE)}
    run(python, target, seconds, COMPILED[target], environment)


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("target", PYTHON)
def test_python_code(target: str, seconds: int) -> None:
    run([sys.executable], target, seconds, PYTHON[target])
