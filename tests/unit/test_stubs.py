"""Every hand-written .pyi of the compiled half says what the module has: names, parameters, and nothing that is not
there.

The stubs are read by Python's own parser and the modules by `inspect`, since what is compiled carries its signatures.
"""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import TypeGuard

import pytest

import _fastpath

ROOT = Path(_fastpath.__file__).resolve().parent
STUBS = sorted(ROOT.rglob("*.pyi"))


def module_of(stub: Path) -> str:
    parts = stub.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parameters_of(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """(name, has a default) of each, without self or cls."""
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [False] * (len(plain) - len(given.defaults)) + [True] * len(given.defaults)
    keyword_only = [
        (each.arg, default is not None) for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    found = [*zip([each.arg for each in plain], defaults, strict=True), *keyword_only]
    return [each for each in found if each[0] not in ("self", "cls")]


def real_parameters(function: object) -> list[tuple[str, bool]]:
    assert callable(function)
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.default is not each.empty) for each in found if each.name not in ("self", "cls")]


def comparable(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Properties have no parameters, and compiled `__init__`s carry no signature."""
    return isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name != "__init__"


def is_alias(node: ast.stmt) -> bool:
    """A name for type checkers only."""
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias")


def names_of(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a stub or a class in it declares."""
    names: dict[str, ast.stmt] = {}
    for node in body:
        match node:
            case ast.AnnAssign() if is_alias(node):
                continue
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = node
    return names


def compare(where: str, owner: object, body: list[ast.stmt]) -> list[str]:
    problems = []
    for name, node in names_of(body).items():
        if not hasattr(owner, name) and not (inspect.isclass(owner) and name in getattr(owner, "__annotations__", {})):
            problems.append(f"{where}.{name} is declared, not there")
            continue
        real = getattr(owner, name, None)
        if isinstance(node, ast.ClassDef):
            problems += compare(f"{where}.{name}", real, node.body)
        elif comparable(node) and real_parameters(real) != parameters_of(node):
            problems.append(f"{where}.{name} has other parameters: {real_parameters(real)}")
    return problems


def test_there_are_stubs() -> None:
    assert len(STUBS) > 10


@pytest.mark.parametrize("stub", STUBS, ids=module_of)
def test_a_stub_says_what_its_module_has(stub: Path) -> None:
    name = module_of(stub)
    module = import_module(name)
    body = ast.parse(stub.read_text()).body
    assert compare(name, module, body) == []


@pytest.mark.parametrize("stub", STUBS, ids=module_of)
def test_a_stub_leaves_out_nothing_public(stub: Path) -> None:
    """What a compiled module defines itself, not what it imports."""
    name = module_of(stub)
    module = import_module(name)
    declared = set(names_of(ast.parse(stub.read_text()).body))
    own = {
        each
        for each, value in vars(module).items()
        if not each.startswith("_")
        and (inspect.isroutine(value) or inspect.isclass(value))
        and value.__module__ == name
    }
    assert own <= declared


@pytest.mark.tree
def test_every_module_has_a_stub() -> None:
    modules = {module_of(path) for path in ROOT.rglob("*.pyx")}
    assert modules <= {module_of(stub) for stub in STUBS}
