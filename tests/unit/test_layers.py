"""The tree keeps the rules of the house, and each checker fails on a tree that breaks one of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check_cython import check as check_cython
from scripts.check_layers import check as check_layers

pytestmark = pytest.mark.tree

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# --- layers ---


def test_the_tree_keeps_the_layers() -> None:
    problems, modules = check_layers(ROOT)
    assert problems == []
    assert modules > 10


GOOD = {
    "_fastpath/__init__.py": "",
    "_fastpath/wire/token.pxd": "from libc.stdint cimport uint8_t\n",
    "_fastpath/flows.pyx": "from _fastpath.wire.token cimport a, b\nfrom _fastpath.wire cimport token\n",
    "_fastpath/forward.pyx": "cimport _fastpath.flows as flows\n",
    "_fastpath/commands.py": "def relay():\n    import relay.cli\n",
    "relay/__init__.py": "",
    "relay/runtime/__init__.py": "",
    "relay/runtime/config.py": "import click\n",
    "relay/runtime/launcher.py": "from . import config, kernel\n",
    "relay/runtime/kernel.py": "import time\n",
    "relay/slots.py": "from .runtime import config\nimport _fastpath.flows\n",
    "relay/runtime/redis_client.py": "import redis\n",
    "relay/worker.py": "from relay import slots\n",
    "transceiver/__init__.py": "",
    "transceiver/registry.py": "from relay.runtime import config\n",
    "transceiver/sctp.py": "import aiortc, asyncio\n",
    "transceiver/media.py": "import asyncio, time\nfrom transceiver.registry import x\n",
    "transceiver/program.py": "from relay.runtime import launcher\ndef f():\n    from transceiver.media import x\n",
    "transceiver/cli.py": "import time\nfrom transceiver import program\n",
}


def test_a_good_tree_passes(tmp_path: Path) -> None:
    assert check_layers(write(tmp_path, GOOD)) == ([], len(GOOD))


BROKEN = [
    ("relay/slots.py", "from relay import worker\n", "layer 4 must not import relay.worker of layer 5"),
    ("relay/slots.py", "def f():\n    import relay.worker\n", "layer 4 must not import relay.worker of layer 5"),
    ("relay/runtime/config.py", "from ..slots import x\n", "layer 2 must not import relay.slots of layer 4"),
    ("_fastpath/flows.pyx", "from _fastpath cimport forward\n", "layer 0 must not import _fastpath.forward of layer 1"),
    ("_fastpath/flows.pyx", "from .forward cimport (\n    x,\n    y,\n)\n", "must not import _fastpath.forward"),
    ("_fastpath/wire/token.pxd", "cimport _fastpath.flows\n", "imports go in a circle"),
    ("relay/runtime/config.py", "from relay.runtime import launcher\n", "imports go in a circle"),
    ("_fastpath/flows.pyx", "import logging\n", "_fastpath must not import logging"),
    ("_fastpath/flows.pyx", "from relay.slots import x\n", "_fastpath must not import relay.slots"),
    ("_fastpath/__init__.py", "import click\n", "_fastpath must not import click"),
    ("_fastpath/commands.py", "import relay\n", "_fastpath must not import relay"),
    ("transceiver/registry.py", "from relay import slots\n", "transceiver may import relay.runtime only"),
    ("transceiver/registry.py", "import relay\n", "transceiver may import relay.runtime only"),
    ("relay/worker.py", "import transceiver.registry\n", "relay must not import transceiver.registry"),
    ("relay/worker.py", "from redis.asyncio import Redis\n", "redis is imported by more than one file"),
    ("relay/worker.py", "import redis\n", "redis belongs to relay.runtime.redis_client"),
    ("relay/worker.py", "import asyncio\n", "asyncio belongs to"),
    ("relay/slots.py", "from time import monotonic\n", "time belongs to"),
    ("relay/slots.py", "import datetime\nx = datetime.datetime.now()\n", "takes the time itself"),
    ("relay/worker.py", "import time\n", "time belongs to"),
    ("transceiver/media.py", "from transceiver import cli\n", "layer 5 must not import transceiver.cli of layer 6"),
    ("transceiver/settings.py", "from transceiver import media\n", "must not import transceiver.media of layer 5"),
    ("transceiver/views.py", "from time import time\n", "time belongs to"),
    ("transceiver/session.py", "from aiortc.rtcsctptransport import x\n", "aiortc belongs to"),
    ("relay/helpers.py", "", "no row of LAYERS names this module"),
]


@pytest.mark.parametrize(("name", "text", "problem"), BROKEN)
def test_a_breach_of_the_layers_is_found(name: str, text: str, problem: str, tmp_path: Path) -> None:
    problems, _ = check_layers(write(tmp_path, GOOD | {name: text}))
    assert [each for each in problems if problem in each], problems


def test_a_library_of_one_file_is_found_in_two(tmp_path: Path) -> None:
    files = {"transceiver/dtls.py": "import OpenSSL\n", "transceiver/srtp.py": "from OpenSSL import SSL\n"}
    problems, _ = check_layers(write(tmp_path, GOOD | files))
    assert problems == ["OpenSSL is imported by more than one file: transceiver.dtls, transceiver.srtp"]


def test_imports_in_comments_and_strings_do_not_count(tmp_path: Path) -> None:
    text = '"""\nimport logging\n"""\n# import logging\n'
    assert check_layers(write(tmp_path, GOOD | {"_fastpath/flows.pyx": text}))[0] == []


# --- Cython rules ---

CYTHON = {
    "_fastpath/__init__.pxd": "",
    "_fastpath/__init__.py": "",
    "_fastpath/good.pyx": "cdef int twice(int x) noexcept nogil:\n    return 2 * x\n\ndef f(x):\n    return twice(x)\n",
    "_fastpath/hint.pyx": "cdef void store(int* x) nogil:\n    x[0] = 1\n\n"
    "def f():\n    cdef int x = 0\n    with nogil:\n        store(&x)\n",
    "_fastpath/silent.pyx": "cdef int minus(int x) nogil:\n    return -x\n\ndef f(x):\n    return minus(x)\n",
    "_fastpath/declared.pxd": "cdef int plain(\n    int x,\n    int y) nogil\n",
    "_fastpath/scored.pyx": "cdef void shout(int x) noexcept nogil:\n    with gil:\n        print(x)\n\n"
    "def f(x):\n    shout(x)\n",
    "_fastpath/inline.pxd": "cdef inline void whisper(int x) noexcept nogil:\n    with gil:\n        print(x)\n",
    "_fastpath/inline.pyx": "def f(x):\n    whisper(x)\n",
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return check_cython(write(tmp_path_factory.mktemp("cython"), CYTHON))


@pytest.mark.parametrize(
    "wanted",
    [
        "_fastpath/hint.pyx: cython says:",
        "_fastpath/silent.pyx:1: minus is nogil without noexcept",
        "_fastpath/declared.pxd:1: plain is nogil without noexcept",
        "_fastpath/scored.pyx:3: shout calls into Python",
        "_fastpath/inline.pxd:3: whisper calls into Python",
    ],
)
def test_a_breach_of_the_cython_rules_is_found(wanted: str, complaints: list[str]) -> None:
    assert [each for each in complaints if each.startswith(wanted)], complaints


def test_a_performance_hint_is_shown(complaints: list[str]) -> None:
    (text,) = [each for each in complaints if each.startswith("_fastpath/hint.pyx: cython says:")]
    assert "performance hint: _fastpath/hint.pyx:1" in text


def test_good_cython_is_not_complained_of(complaints: list[str]) -> None:
    assert [each for each in complaints if "good" in each] == []


def test_cython_that_does_not_compile_is_found(tmp_path: Path) -> None:
    problems = check_cython(write(tmp_path, {"_fastpath/__init__.pxd": "", "_fastpath/bad.pyx": "cdef int f(\n"}))
    assert [each for each in problems if each.startswith("_fastpath/bad.pyx: cython says:")], problems


# --- sizes ---


def sizes(root: Path) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "scripts.check_size", "--root", str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout.splitlines()


LONG = "    x = 1\n" * 80
C_LONG = "    x = 1; /* } */ if (x) { y('}'); }\n" * 79


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("relay/a.py", "x = 1\n" * 401, "relay/a.py has 401 lines, more than 400"),
        ("scripts/tool", "#!/usr/bin/env bash\n" + "true\n" * 400, "scripts/tool has 401 lines, more than 400"),
        ("relay/a.py", "class A:\n  def f():\n" + LONG, "relay/a.py:f has 81 lines, more than 80"),
        ("relay/a.py", "async def f():\n" + LONG, "relay/a.py:f has 81 lines, more than 80"),
        ("_fastpath/a.pyx", "cdef int f(int a,\n    int b) noexcept nogil:\n" + LONG, "_fastpath/a.pyx:f has 82 lines"),
        ("_fastpath/a.pxd", "cdef inline int f() noexcept nogil:\n" + LONG, "_fastpath/a.pxd:f has 81 lines"),
        ("benchmarks/a.c", "#define X {\nstatic int f(int a)\n{\n" + C_LONG + "}\n", "benchmarks/a.c:f has 82 lines"),
    ],
)
def test_what_is_too_long_is_named(name: str, text: str, problem: str, tmp_path: Path) -> None:
    status, lines = sizes(write(tmp_path, {name: text}))
    assert status == 1
    assert lines[0].startswith(problem)


def test_the_longest_are_named_and_documents_left_out(tmp_path: Path) -> None:
    files = {
        "relay/a.py": "def short(): ...\n\n\ndef longer():\n    x = 1\n    return x\n",
        "_fastpath/b.pyx": "cdef int f(int a) noexcept nogil\n\ncdef int g():\n    return 1\n\n\n\n\n\n",
        "docs/c.py": "x\n" * 1000,
        "build/d.c": "x\n" * 1000,
        "README.md": "x\n" * 1000,
    }
    found = "longest file _fastpath/b.pyx (9 lines), longest function relay/a.py:longer (3 lines)"
    assert sizes(write(tmp_path, files)) == (0, [found])
