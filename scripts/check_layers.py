"""Fails when an import or cimport breaks the house rules: imports point down, some things one file knows.

The tables below are the rules; ARCHITECTURE.md draws the same picture. A module imports what is below it, or beside
it as long as no circle closes; a module that no row names fails too, so the picture cannot fall behind the code.
Python is read by its own parser (imports inside functions count), .pyx and .pxd by regular expression. Tests,
benchmarks and scripts may import anything.
"""

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from scripts.cython_source import CYTHON_SUFFIXES, without_text

PROJECT = ("_fastpath", "relay", "transceiver")

# The first row that fits counts: a name stands for itself, a star at its end for whatever may follow there.
LAYERS: tuple[tuple[int, str], ...] = (
    (0, "_fastpath _fastpath.siphash _fastpath.atomics _fastpath.sockets _fastpath.verdicts"),
    (0, "_fastpath.wire _fastpath.wire.* _fastpath.peers _fastpath.flows _fastpath.siblings relay"),
    (0, "_fastpath.rates _fastpath.turns transceiver"),
    (0, "_fastpath.sha1 _fastpath.reception _fastpath.index _fastpath.wheel _fastpath.rings _fastpath.steering"),
    (0, "_fastpath.exchange"),
    (1, "_fastpath.batch _fastpath.slot _fastpath.router _fastpath.up _fastpath.down _fastpath.forward"),
    (1, "_fastpath.salvage"),
    (1, "_fastpath.hold _fastpath.interest _fastpath.recovery _fastpath.passage _fastpath.inheritance"),
    (1, "_fastpath.outcomes _fastpath.media_slot _fastpath.sessions _fastpath.srtp_contexts _fastpath.engine"),
    (1, "_fastpath.checks _fastpath.foresight _fastpath.inbound _fastpath.outbound _fastpath.outbox _fastpath.rounds"),
    (1, "_fastpath.media _fastpath.opus _fastpath._testing _fastpath._testing_*"),
    (2, "relay.runtime relay.runtime.*"),
    (3, "transceiver.ice transceiver.sdp transceiver.answer transceiver.srtp transceiver.srtp_memory"),
    (3, "transceiver.audio transceiver.events"),
    (3, "transceiver.identity transceiver.dtls transceiver.dtls_* transceiver.sctp transceiver.sctp_*"),
    (4, "relay.settings relay.slots relay.routes relay.metrics relay.redis_store relay.flows relay.verdicts"),
    (4, "relay.state relay.state_dir relay.state_record"),
    (4, "transceiver.settings transceiver.advertise transceiver.slots transceiver.metrics"),
    (4, "transceiver.admin_client transceiver.beside transceiver.views transceiver.apps transceiver.registry"),
    (4, "transceiver.session"),
    (5, "relay.announced relay.worker relay.route_cache relay.program"),
    (5, "transceiver.program transceiver.media transceiver.calls"),
    (5, "relay.handover relay.estate relay.giving relay.taking relay.headcount relay.succession relay.upgrade"),
    (5, "relay.doctor relay.doctor.*"),
    (5, "transceiver.http transceiver.http.* transceiver.caller transceiver.caller_*"),
    (5, "relay.views relay.explain relay.probe relay.fleet"),
    (6, "relay.cli relay.tools relay.__main__ transceiver.cli transceiver.__main__"),
    # The door of the console scripts looks at both houses from outside, by name and only when called.
    (6, "_fastpath.commands"),
)
DOOR = "_fastpath.commands"

NEVER_IN_FASTPATH = {"asyncio", "click", "logging", "redis"}
ONE_FILE = {"OpenSSL", "pylibsrtp", "redis"}
ALLOWED_IN = {
    "asyncio": {
        "relay.runtime.admin",
        "transceiver.media",
        "transceiver.http.*",
        "transceiver.apps",
        "transceiver.sctp",
        "transceiver.caller",
    },
    "redis": {"relay.runtime.redis_client"},
    "aiortc": {"transceiver.sctp", "transceiver.sctp_*", "transceiver.caller"},
    # Everything else takes `now` as an argument.
    "time": {
        *("relay.runtime.kernel", "relay.runtime.watch", "relay.runtime.screen", "relay.runtime.drains"),
        "relay.runtime.registry",
        "relay.doctor.machine",  # how fine a clock is, never what it shows
        *("relay.route_cache", "relay.tools", "relay.probe", "transceiver.media", "transceiver.cli"),
    },
}
CLOCKS = {"now", "today", "utcnow"}

CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from\s+(?P<base>[.\w]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n]+)|c?import\s+(?P<plain>[^\n]+))", re.M
)


class Import(NamedTuple):
    target: str
    line: int
    in_function: bool


class Module(NamedTuple):
    """One importable name; a .pyx and its .pxd are one module."""

    name: str
    path: Path
    imports: list[Import]
    clocks: list[int]


def read_tree(root: Path) -> list[Module]:
    paths = [path for each in PROJECT for path in sorted((root / each).rglob("*"))]
    paths = [path for path in paths if path.suffix in {".py", *CYTHON_SUFFIXES}]
    names = {module_name(root, path) for path in paths}
    return [read(root, path, names) for path in paths]


def module_name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def read(root: Path, path: Path, names: set[str]) -> Module:
    name = module_name(root, path)
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    if path.suffix in CYTHON_SUFFIXES:
        seen = cython_imports(path.read_text(), package, names)
        return Module(name, path, [each for each in seen if each.target != name], [])
    tree = ast.parse(path.read_text(), str(path))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found = [
        Import(target, node.lineno, id(node) in inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in python_targets(node, package, names)
    ]
    return Module(name, path, found, sorted(clock_calls(tree)))


def python_targets(node: ast.Import | ast.ImportFrom, package: str, names: set[str]) -> Iterator[str]:
    members = [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        yield from members
    else:
        yield from from_targets("." * node.level + (node.module or ""), members, package, names)


def cython_imports(source: str, package: str, names: set[str]) -> Iterator[Import]:
    text = without_text(source)
    for match in CYTHON_IMPORT.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        listed = (match["names"] or match["plain"]).strip("() \t")
        members = [each.split()[0] for each in listed.split(",") if each.split()]
        targets = from_targets(match["base"], members, package, names) if match["base"] else members
        for target in targets:
            yield Import(target, line, False)


def from_targets(base: str, members: Iterable[str], package: str, names: set[str]) -> Iterator[str]:
    """`from a import b` names the module a.b where there is one, else a."""
    dots = len(base) - len(base.lstrip("."))
    if dots:
        above = package.split(".")
        base = ".".join([*above[: len(above) - dots + 1], *filter(None, [base.lstrip(".")])])
    yield from dict.fromkeys(f"{base}.{each}" if f"{base}.{each}" in names else base for each in members)


def clock_calls(tree: ast.AST) -> Iterator[int]:
    """datetime.now() and its kin are clocks as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            owner = node.func.value
            if (owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")) in {"date", "datetime"}:
                yield node.lineno


def fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def layer(name: str) -> int | None:
    return next((level for level, row in LAYERS if any(fits(name, pattern) for pattern in row.split())), None)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def check_import(module: Module, target: str, names: set[str]) -> Iterator[str]:
    side, top = module.name.partition(".")[0], target.partition(".")[0]
    if side == "_fastpath" and (top in NEVER_IN_FASTPATH or top in {"relay", "transceiver"}):
        yield f"_fastpath must not import {target}"
    if side == "transceiver" and top == "relay" and not inside(target, "relay.runtime"):
        yield f"transceiver may import relay.runtime only, not {target}"
    if side == "relay" and top == "transceiver":
        yield f"relay must not import {target}"
    if top in ALLOWED_IN and not any(fits(module.name, pattern) for pattern in ALLOWED_IN[top]):
        yield f"{top} belongs to {', '.join(sorted(ALLOWED_IN[top]))}"
    above, below = layer(module.name), layer(target)
    if target in names and above is not None and below is not None and below > above:
        yield f"layer {above} must not import {target} of layer {below}"


def check_module(module: Module, names: set[str]) -> Iterator[str]:
    if layer(module.name) is None:
        yield "no row of LAYERS names this module"
    for target, line, in_function in module.imports:
        if not (module.name == DOOR and in_function):
            yield from (f"line {line}: {problem}" for problem in check_import(module, target, names))
    if module.name not in ALLOWED_IN["time"]:
        yield from (f"line {line}: takes the time itself; `now` is an argument" for line in module.clocks)


def check_owners(modules: list[Module]) -> Iterator[str]:
    """Some libraries are known to one file, so that replacing them, or their failure, is one file's affair."""
    users: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        for target in {each.target.partition(".")[0] for each in module.imports}:
            if target in ONE_FILE:
                users[target].add(module.name)
    for library, importers in sorted(users.items()):
        if len(importers) > 1:
            yield f"{library} is imported by more than one file: {', '.join(sorted(importers))}"


def check_circles(modules: list[Module], names: set[str]) -> Iterator[str]:
    graph: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        graph[module.name] |= {each.target for each in module.imports if each.target in names} - {module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"imports go in a circle: {' <- '.join(error.args[1])}"


def check(root: Path) -> tuple[list[str], int]:
    modules = read_tree(root)
    names = {module.name for module in modules}
    problems = [f"{each.path.relative_to(root)}: {text}" for each in modules for text in check_module(each, names)]
    return [*problems, *check_owners(modules), *check_circles(modules, names)], len(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path.cwd())
    problems, count = check(parser.parse_args().root)
    for problem in problems:
        print(problem)
    print(f"{count} modules, {len(problems)} breaches of the layers")
    return 1 if problems or not count else 0


if __name__ == "__main__":
    sys.exit(main())
