"""Compiles the benchmark programs in `native/` when they are older than their sources.

A program or library `name` is `native/name.c`, any `native/name_*.c`, and `native/common.c`; every header counts as a
source. The result goes to `build/benchmarks/name` (a library: `name.so`) by a rename, so several runners (or tests in
parallel) may build at once: each compiles into a file of its own and the last one wins with an identical program.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "benchmarks" / "native"
OUTPUT = ROOT / "build" / "benchmarks"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
LIBRARY_FLAGS = ("-shared", "-fPIC")


class BuildError(RuntimeError):
    """A benchmark program could not be built; the text says what to do."""


def build(name: str) -> Path:
    """The path of the program, compiled first if need be."""
    return _build(name, OUTPUT / name, FLAGS)


def build_library(name: str) -> Path:
    """The same of a library that Python loads."""
    return _build(name, OUTPUT / f"{name}.so", (*FLAGS, *LIBRARY_FLAGS))


def _build(name: str, target: Path, flags: tuple[str, ...]) -> Path:
    sources = _sources(name)
    if not target.exists() or target.stat().st_mtime_ns < max(path.stat().st_mtime_ns for path in _inputs(sources)):
        _compile(sources, target, flags)
    return target


def _sources(name: str) -> list[Path]:
    main = NATIVE / f"{name}.c"
    if not main.is_file():
        raise BuildError(f"there is no benchmark program {name!r} in {NATIVE}")
    return [main, *sorted(NATIVE.glob(f"{name}_*.c")), NATIVE / "common.c"]


def _inputs(sources: list[Path]) -> list[Path]:
    return [*sources, *NATIVE.glob("*.h")]


def _compile(sources: list[Path], target: Path, flags: tuple[str, ...]) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise BuildError("no C compiler found: install one (Debian: apt-get install build-essential) or set CC")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    try:
        command = [*compiler.split(), *flags, "-o", scratch, *map(str, sources)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{' '.join(command)} failed:\n{done.stderr}")
        os.chmod(scratch, 0o755)
        os.replace(scratch, target)
    finally:
        Path(scratch).unlink(missing_ok=True)
