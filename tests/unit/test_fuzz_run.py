"""The runner of the fuzz targets finds what is planted: an exception, the end of the process, no end of one input."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.run import Lines, Mutator

ROOT = Path(__file__).resolve().parents[2]
TARGET = """
import os

def one(data: bytes) -> None:
    if b"!" in data:
        {fault}
    {ending}
"""
PLANTED = """
import sys
import tests.fuzz
from tests.fuzz import run
tests.fuzz.__path__.append({place!r})
run.MOST_INPUT_S = 0.5
sys.exit(run.main())
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus" / "planted"
    corpus.mkdir(parents=True)
    (corpus / "words").write_bytes(b"some words\n")
    (corpus / "more").write_bytes(b"and others\n")
    return tmp_path


def run(place: Path, fault: str, *arguments: str, ending: str = "") -> subprocess.CompletedProcess[str]:
    (place / "fuzz_planted.py").write_text(TARGET.format(fault=fault, ending=ending))
    command = [
        sys.executable,
        "-c",
        PLANTED.format(place=str(place)),
        "planted",
        "--keep",
        str(place / "keep"),
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_nothing_is_found_where_nothing_is(place: Path) -> None:
    done = run(place, "pass", "--seconds", "0.2")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"planted: \d{2,} inputs in 0 s, 0 new to the corpus\n", done.stdout)
    assert not (place / "keep").exists()


@pytest.mark.parametrize(
    ("ending", "told"), [("", "1000 inputs"), ("return 1", "1000 inputs"), ("return 7", "143 inputs of 1001 steps")]
)
def test_it_ends_when_there_were_so_many_steps(ending: str, told: str, place: Path) -> None:
    """An input is one, unless its target says how many."""
    done = run(place, "pass", "--steps", "1000", ending=ending)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"planted: {told} in \d+ s, 0 new to the corpus\n", done.stdout), done.stdout


def test_it_ends_when_the_time_is_over_before(place: Path) -> None:
    done = run(place, "pass", "--steps", "1000000000", "--seconds", "0.2")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"planted: \d{2,} inputs in 0 s, 0 new to the corpus\n", done.stdout)


def test_an_exception_is_found_and_its_input_made_short(place: Path) -> None:
    done = run(place, "raise KeyError('planted')", "--seconds", "60")
    assert done.returncode == 1
    assert "KeyError: 'planted'" in done.stderr
    (saved,) = (place / "keep").iterdir()
    assert saved.read_bytes() == b"!"
    assert f"planted: KeyError; again: python -m tests.fuzz.run planted --repeat {saved}" in done.stdout
    again = run(place, "raise KeyError('planted')", "--repeat", str(saved))
    assert again.returncode == 1
    assert "KeyError: 'planted'" in again.stderr


@pytest.mark.parametrize(("fault", "status"), [("os.abort()", -6), ("while True: pass", -9)])
def test_an_input_that_ends_or_holds_the_process_is_found(fault: str, status: int, place: Path) -> None:
    done = run(place, fault, "--seconds", "60")
    assert done.returncode == 1
    assert f"planted: the process ended with {status}; again: " in done.stdout
    (saved,) = (place / "keep").iterdir()
    assert b"!" in saved.read_bytes()


@pytest.mark.parametrize("corpus", [[b"v=0\r\na=b\r\n", b"c:d e\n"], [bytes(range(256)), b"\0"], [b""]])
def test_a_seed_gives_the_same_inputs_again(corpus: list[bytes]) -> None:
    first, second, other = (Mutator(corpus, seed) for seed in (1, 1, 2))
    inputs = [first.next() for _ in range(2000)]
    assert inputs == [second.next() for _ in range(2000)]
    assert inputs != [other.next() for _ in range(2000)]
    assert len(set(inputs)) > 500
    assert max(map(len, inputs)) <= first.most


def test_an_input_that_reaches_a_new_line_is_told() -> None:
    def one(data: bytes) -> None:
        if data == b"a":
            raise KeyError
        if data == b"b":
            len(data)

    lines = Lines()
    assert lines.reached_new(one, b"")
    assert not lines.reached_new(one, b"c")
    assert lines.reached_new(one, b"b")
    assert not lines.reached_new(one, b"b")
    with pytest.raises(KeyError):
        lines.reached_new(one, b"a")
    assert not lines.reached_new(one, b"")
