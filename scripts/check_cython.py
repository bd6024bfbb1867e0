"""Fails when code that runs without the GIL could take it after all, which neither compiler calls an error.

Three things are looked for in every .pyx and .pxd under _fastpath/:

* a warning or a performance hint: a `void` function without `noexcept` prints a hint and exits 0, and takes the GIL
  after every call;
* a function whose signature has `nogil` without `noexcept`: on an `int` function there is no hint at all, it silently
  means `except? -1`;
* a line inside a `noexcept nogil` function that Cython's annotation scores above 0, that is, whose C calls into
  Python.

The directives are those of the release build. Cython annotates the main file only, but collects the same of every
.pxd whose inline functions it compiles, so this asks its writer for all of them. Each .pyx is one process; a tree
that passed is remembered.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from scripts.cython_source import CYTHON_SUFFIXES, functions

STAMP = Path("build/stamps/check_cython")
COMPLAINT = re.compile(r"^(?:warning|performance hint|note):", re.MULTILINE)
SCORED = re.compile(r'<pre class="cython line score-([1-9]\d*)"[^>]*>.*?<span class="">0*(\d+)</span>')


def cython_files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "_fastpath").rglob("*") if path.suffix in CYTHON_SUFFIXES)


def check_signatures(root: Path) -> Iterator[str]:
    for path in cython_files(root):
        for function in functions(path):
            if function.is_nogil and not function.is_noexcept:
                yield f"{path.relative_to(root)}:{function.first}: {function.name} is nogil without noexcept"


def translate(root: Path, source: Path) -> list[str]:
    """What Cython says of one .pyx, from a process of its own: the compiler keeps state between files."""
    command = [sys.executable, "-m", "scripts.check_cython", "--root", str(root), "--translate", str(source)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    problems = done.stdout.splitlines()
    if done.returncode or COMPLAINT.search(done.stderr):
        problems.append(f"{source.relative_to(root)}: cython says:\n{done.stderr.strip()}")
    return problems


def translate_here(root: Path, source: Path) -> int:
    """Runs inside that process: translates, and prints each scored line of a `noexcept nogil` body."""
    from Cython.Compiler import Annotate
    from Cython.Compiler.Main import CompilationOptions, compile_single

    import setup

    writer = Annotate.AnnotationCCodeWriter

    def print_scored(self: Annotate.AnnotationCCodeWriter, *_given: object, **_named: object) -> None:
        written = {Path(name).resolve(): code for name, code in self.code.items() if name}
        for path in written.keys() & set(cython_files(root)):
            for line, score in scored_lines(self, path.read_text(), written[path]):
                if name := nogil_body_at(path, line):
                    print(f"{path.relative_to(root)}:{line}: {name} calls into Python (score {score})")

    writer.save_annotation = print_scored
    os.chdir(root)
    target = root / "build" / "annotate" / source.relative_to(root).with_suffix(".c")
    target.parent.mkdir(parents=True, exist_ok=True)
    options = CompilationOptions(
        output_file=str(target), compiler_directives=setup.DIRECTIVES, annotate=True, include_path=[str(root)]
    )
    name = ".".join(source.relative_to(root).with_suffix("").parts)
    return 1 if compile_single(str(source), options, full_module_name=name).num_errors else 0


def nogil_body_at(path: Path, line: int) -> str | None:
    for function in functions(path):
        if function.body_first <= line <= function.last and function.is_nogil and function.is_noexcept:
            return function.name
    return None


def scored_lines(writer: object, text: str, code: object) -> Iterator[tuple[int, int]]:
    body = writer._save_annotation_body(text, code, {}, {})  # type: ignore[attr-defined]
    for match in map(SCORED.match, body):
        if match:
            yield int(match[2]), int(match[1])


def fingerprint(root: Path) -> str:
    seen = hashlib.sha256(sys.version.encode())
    for path in [*cython_files(root), Path(__file__), Path(__file__).with_name("cython_source.py"), root / "setup.py"]:
        seen.update(path.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()


def check(root: Path) -> list[str]:
    sources = [path for path in cython_files(root) if path.suffix == ".pyx"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        translated = list(pool.map(partial(translate, root), sources))
    # A .pxd is compiled into several modules: each line is reported once.
    return [*check_signatures(root), *dict.fromkeys(line for lines in translated for line in lines)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd())
    parser.add_argument("--translate", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    root = given.root.resolve()
    if given.translate:
        return translate_here(root, given.translate)
    files, seen, stamp = cython_files(root), fingerprint(root), root / STAMP
    if stamp.exists() and stamp.read_text() == seen:
        print(f"{len(files)} files, unchanged since they passed")
        return 0
    problems = check(root)
    print("\n".join([*problems, f"{len(files)} files, {len(problems)} complaints"]))
    if not problems and files:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(seen)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
