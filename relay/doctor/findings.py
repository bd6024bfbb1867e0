"""What a check found, and how it is shown: a line or a few for people, JSON for machines.

`mend` is text to act on. A line of it that begins with two blanks is a command to paste and is never wrapped;
the others are prose. A check that is `ok` has nothing to mend.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]

_VERDICTS: tuple[Verdict, ...] = ("ok", "warning", "problem")  # the worst last
_COLUMNS = 80
_FOUND_AT = 25  # behind verdict and name
_MEND_AT = 4  # less than that, so that commands have room
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check; names are stable, docs/operations.md lists them."""

    name: str
    verdict: Verdict
    found: str
    mend: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name, "ok", found)


def warning(name: str, found: str, mend: str) -> Finding:
    return Finding(name, "warning", found, mend)


def problem(name: str, found: str, mend: str) -> Finding:
    return Finding(name, "problem", found, mend)


def worst(findings: Sequence[Finding]) -> Verdict:
    return max((finding.verdict for finding in findings), key=_VERDICTS.index, default="ok")


def shown(size: int) -> str:
    """Bytes, short enough for a line: `4 MiB`, `208 KiB`."""
    unit, name = next((each for each in _UNITS if size >= each[0]), _UNITS[-1])
    return f"{size / unit:.0f} {name}" if size >= 100 * unit else f"{size / unit:.3g} {name}"


# ---- showing


def as_text(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    bad = [f"{counts[each]} {each}{'s' if counts[each] != 1 else ''}" for each in ("problem", "warning")]
    total = ", ".join([*bad, f"{counts['ok']} ok"])
    return "\n".join([line for finding in findings for line in _lines(finding)] + ["", total])


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"verdict": worst(findings), "findings": [asdict(each) for each in findings]}, indent=2)


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.verdict:<8} {finding.name} "
    lines = _wrap(finding.found, f"{head:<{_FOUND_AT}}", _FOUND_AT)
    for line in finding.mend.splitlines():
        lines += [" " * _MEND_AT + line] if line.startswith("  ") else _wrap(line, " " * _MEND_AT, _MEND_AT)
    return lines


def _wrap(text: str, head: str, indent: int) -> list[str]:
    return textwrap.wrap(
        text, _COLUMNS, initial_indent=head, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
