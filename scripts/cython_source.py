"""Reads Cython source just far enough for the checkers: where each function starts, its signature, its lines.

Cython has no parser for others to use, and none is needed: a signature runs until its parentheses are closed, a body
is what is indented deeper than its signature. A signature without a colon behind it is a declaration (in a .pxd) and
has no body.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CYTHON_SUFFIXES = (".pyx", ".pxd")
START = re.compile(
    r"\s*(?:async\s+)?(?:cdef|cpdef|def)\s+(?!(?:class|struct|enum|union|packed|extern)\b)[^=#]*?(\w+)\s*\("
)
STRING = re.compile(r"('''|\"\"\")(?:.|\n)*?\1|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|#[^\n]*")


@dataclass(frozen=True)
class Function:
    """The signature starts at line `first`, the body is `body_first`..`last` (1-based), empty for a declaration."""

    path: Path
    name: str
    signature: str
    first: int
    body_first: int
    last: int

    @property
    def lines(self) -> int:
        return self.last - self.first + 1

    @property
    def is_nogil(self) -> bool:
        return re.search(r"\)[^()]*\bnogil\b", self.signature) is not None

    @property
    def is_noexcept(self) -> bool:
        return re.search(r"\)[^()]*\bnoexcept\b", self.signature) is not None


def without_text(source: str) -> str:
    """The source with comments and strings blanked out, line for line."""
    return STRING.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)


def functions(path: Path) -> Iterator[Function]:
    lines = without_text(path.read_text()).split("\n")
    for index, line in enumerate(lines):
        if match := START.match(line):
            end = signature_end(lines, index)
            signature = " ".join(lines[index : end + 1]).strip()
            last = body_end(lines, index, end) if ends_in_colon(signature) else end
            yield Function(path, match.group(1), signature, index + 1, end + 2, last + 1)


def signature_end(lines: list[str], first: int) -> int:
    depth = 0
    for index in range(first, len(lines)):
        depth += sum(map(lines[index].count, "([{")) - sum(map(lines[index].count, ")]}"))
        if depth <= 0 and not lines[index].rstrip().endswith("\\"):
            return index
    return first


def ends_in_colon(signature: str) -> bool:
    """Also true of a body on the signature's own line, as in `cdef int f() noexcept nogil: return 1`."""
    return ":" in signature.rpartition(")")[2]


def body_end(lines: list[str], first: int, end: int) -> int:
    outer = indent(lines[first])
    last = end
    for index in range(end + 1, len(lines)):
        if not lines[index].strip():
            continue
        if indent(lines[index]) <= outer:
            break
        last = index
    return last


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())
