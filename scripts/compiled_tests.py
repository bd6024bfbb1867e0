"""Prints the unit tests that say something about compiled code, for builds of it other than the tree's own.

They are those that import from `_fastpath` themselves, or reach an extension of it through what they import; but not
those of relay.runtime, which has none and only shares helpers with the others. With `--packages DIR` only those that
can be imported where DIR holds all packages there are besides the standard library and the tree: the Arm emulator's
Python has no others. What counts are imports that run when a module is imported, not those in functions or for type
checkers.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("_fastpath", "benchmarks", "relay", "scripts", "setup", "tests", "transceiver")


def imports_of(body: list[ast.stmt], package: str) -> Iterator[str]:
    """Names of modules, and of what is taken from them, which may be modules as well."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_of(node.orelse, package)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody"):
                yield from imports_of(getattr(node, part, []), package)


@cache
def direct(name: str) -> frozenset[str]:
    """What the module of that name imports; nothing if it is compiled, no module at all, or not ours."""
    place = ROOT.joinpath(*name.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if name.partition(".")[0] not in OURS or not file.is_file():
        return frozenset()
    package = name if place.is_dir() else name.rpartition(".")[0]
    parents = [name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1)]  # they are imported first
    return frozenset([*imports_of(ast.parse(file.read_text(), str(file)).body, package), *parents])


def reached(name: str) -> set[str]:
    seen, waiting = set[str](), [name]
    while waiting:
        if (each := waiting.pop()) not in seen:
            seen.add(each)
            waiting += direct(each)
    return seen


def is_extension(name: str) -> bool:
    return ROOT.joinpath(*name.split(".")).with_suffix(".pyx").is_file()


def missing(names: set[str], packages: Path) -> set[str]:
    there = {each.name.partition(".")[0] for each in packages.iterdir()} | set(OURS) | sys.stdlib_module_names
    return {name.partition(".")[0] for name in names} - there


def is_compiled(test: str, names: set[str]) -> bool:
    itself = any(name.startswith("_fastpath") for name in direct(test))
    return (itself or any(map(is_extension, names))) and not test.startswith("tests.unit.test_runtime_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, metavar="DIR")
    packages = parser.parse_args().packages
    for file in sorted((ROOT / "tests" / "unit").glob("test_*.py")):
        test = f"tests.unit.{file.stem}"
        names = reached(test)
        if is_compiled(test, names) and not (packages and missing(names, packages)):
            print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
