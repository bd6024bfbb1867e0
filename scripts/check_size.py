"""Fails when a file is longer than 400 lines or a function longer than 80, and names the longest of each.

Counted: Python, Cython, C and shell in the whole tree; not documentation, data and what a build generates. Functions
are found by the Python parser, in Cython by indentation, in C by braces; a function's lines include its signature and
docstring.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.cython_source import CYTHON_SUFFIXES, functions

FILE_LINES = 400
FUNCTION_LINES = 80
LEFT_OUT = {"build", "dist", "docs", "node_modules"}
SHELL = b"#!/usr/bin/env bash"
C_NOISE = re.compile(
    r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:[^\n]*\\\n)*[^\n]*",
    re.DOTALL | re.MULTILINE,
)


class Piece(NamedTuple):
    lines: int
    name: str


def source_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir():
            if path.name not in LEFT_OUT and (not path.name.startswith(".") or path.name == ".ci"):
                yield from source_files(path)
        elif path.suffix in {".py", ".pyi", ".c", ".h", ".sh", *CYTHON_SUFFIXES} or is_shell(path):
            yield path


def is_shell(path: Path) -> bool:
    if path.suffix or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().strip() == SHELL


def function_sizes(path: Path) -> Iterator[Piece]:
    if path.suffix in {".py", ".pyi"}:
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Piece((node.end_lineno or node.lineno) - node.lineno + 1, node.name)
    elif path.suffix in CYTHON_SUFFIXES:
        for function in functions(path):
            yield Piece(function.lines, function.name)
    elif path.suffix in {".c", ".h"}:
        yield from c_functions(path.read_text())


def c_functions(source: str) -> Iterator[Piece]:
    """Text before a brace at depth 0 that has a parameter list and no `=` is a function's head."""
    text = C_NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)
    depth = start = 0
    name: str | None = None
    for match in re.finditer(r"[{};]", text):
        if match.group() == "{":
            if depth == 0:
                head = text[start : match.start()]
                call = re.search(r"(\w+)\s*\(", head)
                name = call.group(1) if call and "=" not in head else None
                start += len(head) - len(head.lstrip())
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0 and name:
                yield Piece(text.count("\n", start, match.end()) + 1, name)
        if depth == 0:
            start = match.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd())
    root = parser.parse_args().root
    try:
        return report(root)
    except SyntaxError as error:
        print(f"{error.filename}:{error.lineno}: {error.msg}")
        return 1


def report(root: Path) -> int:
    files: list[Piece] = []
    parts: list[Piece] = []
    for path in source_files(root):
        name = str(path.relative_to(root))
        files.append(Piece(path.read_text().count("\n"), name))
        parts.extend(Piece(lines, f"{name}:{function}") for lines, function in function_sizes(path))
    too_long = [(each, FILE_LINES) for each in files if each.lines > FILE_LINES]
    too_long += [(each, FUNCTION_LINES) for each in parts if each.lines > FUNCTION_LINES]
    for each, limit in too_long:
        print(f"{each.name} has {each.lines} lines, more than {limit}")
    file, part = max(files, default=Piece(0, "none")), max(parts, default=Piece(0, "none"))
    print(f"longest file {file.name} ({file.lines} lines), longest function {part.name} ({part.lines} lines)")
    return 1 if too_long or not files else 0


if __name__ == "__main__":
    sys.exit(main())
