"""What is built and installed: the wheel, the doors of the console scripts, the stubs, and how a bad tree says so."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import _fastpath
import relay
import transceiver

pytestmark = pytest.mark.tree

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("_fastpath", "relay", "transceiver")
SOURCES = sorted((ROOT / "_fastpath").rglob("*.pyx"))
STUBS = [path for path in sorted((ROOT / "_fastpath").rglob("*.pyi")) if path.stem != "__init__"]


def python(code: str, *arguments: str, path: list[Path], alone: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs `code` with `path` in front of everything else an import looks at; `alone`: without what is installed."""
    head = f"import sys; sys.path[:1] = {[str(each) for each in path]!r}\n"
    command = [sys.executable, *(["-S"] if alone else []), "-c", head + code, *arguments]
    return subprocess.run(command, cwd=path[-1], capture_output=True, text=True, check=False, timeout=60)


def door(
    name: str, *arguments: str, path: list[Path] | None = None, alone: bool = False
) -> subprocess.CompletedProcess[str]:
    code = f"from _fastpath.commands import {name}; {name}()"
    return python(code, *arguments, path=path or [ROOT], alone=alone)


def write_package(parent: Path, name: str, text: str) -> Path:
    file = parent / name / "__init__.py"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


# --- the wheel ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Built by setup.py from the tree's own compiled modules, which are copied in so that nothing is compiled again."""
    directory = tmp_path_factory.mktemp("wheel")
    library = directory / "build" / "lib"
    for source in SOURCES:
        for module in source.parent.glob(f"{source.stem}.*.so"):
            target = library / module.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)  # without its time: it must look newer than the generated C
    options = ["--build-base", str(directory / "build"), "--build-lib", str(library)]
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(directory), "build", *options]
    command += ["bdist_wheel", "--dist-dir", str(directory), "--bdist-dir", str(directory / "tree")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = directory.glob("*.whl")
    with zipfile.ZipFile(file) as opened:
        yield opened


def test_wheel_contains_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {*PACKAGES, f"ufrag-{relay.__version__}.dist-info"}


def test_wheel_has_every_python_file_stub_and_declaration(wheel: zipfile.ZipFile) -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.suffix in {".py", ".pyi", ".pxd", ".h"} or path.name == "py.typed"
    }
    assert wanted - set(wheel.namelist()) == set()


def test_wheel_has_every_compiled_module_and_no_source_of_it(wheel: zipfile.ZipFile) -> None:
    compiled = {name.partition(".")[0] for name in wheel.namelist() if name.endswith(".so")}
    assert compiled == {source.relative_to(ROOT).with_suffix("").as_posix() for source in SOURCES}
    assert [name for name in wheel.namelist() if name.endswith((".pyx", ".c"))] == []
    assert [name for name in wheel.namelist() if name.endswith(".html")] == ["transceiver/http/page.html"]


def test_wheel_names_the_three_doors(wheel: zipfile.ZipFile) -> None:
    lines = wheel.read(f"ufrag-{relay.__version__}.dist-info/entry_points.txt").decode().splitlines()
    assert [f"{name} = _fastpath.commands:{name}" for name in ("relay", "transceiver", "ufrag")] == lines[1:]


def test_all_packages_have_one_version() -> None:
    assert _fastpath.__version__ == relay.__version__ == transceiver.__version__
    assert _fastpath.__distribution__ == relay.__distribution__ == transceiver.__distribution__ == "ufrag"


# --- the doors ---


def test_ufrag_says_its_version_and_its_commands() -> None:
    assert door("ufrag", "--version").stdout == f"ufrag, version {relay.__version__}\n"
    shown = door("ufrag", "--help")
    assert shown.returncode == 0
    assert "ufrag relay start" in shown.stdout


@pytest.mark.parametrize("arguments", [[], ["rely", "start"], ["--verbose"]])
def test_ufrag_refuses_what_it_does_not_know(arguments: list[str]) -> None:
    done = door("ufrag", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ufrag")


@pytest.mark.parametrize("program", ["relay", "transceiver"])
def test_the_doors_lead_to_the_click_groups(program: str) -> None:
    assert door(program, "--version").stdout == f"{program}, version {relay.__version__}\n"
    assert f"Usage: ufrag {program} " in door("ufrag", program, "--help").stdout
    assert door(program, "no-such-command").returncode == 2


@pytest.mark.parametrize("program", ["relay", "transceiver"])
def test_python_dash_m_is_the_same_door(program: str) -> None:
    command = [sys.executable, "-m", program, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{program}, version {relay.__version__}\n"


@pytest.mark.parametrize("package", ["relay", "transceiver"])
def test_foreign_package_is_named_and_not_run(package: str, tmp_path: Path) -> None:
    foreign = write_package(tmp_path, package, "print('foreign code ran')\n")
    done = door("relay", "--version", path=[tmp_path, ROOT])
    assert (done.returncode, done.stdout) == (78, "")
    assert str(foreign) in done.stderr
    assert done.stderr.count("\n") == 1


def test_foreign_single_file_module_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "relay.py"
    foreign.touch()
    done = door("relay", "--version", path=[tmp_path, ROOT])
    assert done.returncode == 78
    assert f" {foreign} " in done.stderr


@pytest.fixture
def copied_house(tmp_path: Path) -> Path:
    """The three packages without anything compiled; a stand-in for the module that `import _fastpath` looks for."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.so", "*.py[cx]", "*.pxd"))
    (tmp_path / "_fastpath" / "forward.py").touch()
    return tmp_path


def test_the_copied_house_opens(copied_house: Path) -> None:
    assert door("transceiver", "--version", path=[copied_house]).returncode == 0


def test_package_of_another_version_is_refused(copied_house: Path) -> None:
    stale = copied_house / "relay" / "__init__.py"
    stale.write_text(stale.read_text().replace(relay.__version__, "0.0.9"))
    done = door("transceiver", "--version", path=[copied_house])
    assert done.returncode == 78
    assert str(stale) in done.stderr
    assert "ufrag 0.0.9" in done.stderr


def test_missing_package_is_refused(copied_house: Path) -> None:
    shutil.rmtree(copied_house / "relay")
    done = door("transceiver", "--version", path=[copied_house], alone=True)
    assert done.returncode == 78
    assert "the package relay is missing" in done.stderr


def test_directory_without_init_does_not_pass_for_the_package(copied_house: Path) -> None:
    (copied_house / "relay" / "__init__.py").unlink()
    done = door("transceiver", "--version", path=[copied_house], alone=True)
    assert done.returncode == 78
    assert f" {copied_house / 'relay'} " in done.stderr


# --- a tree that cannot run says so ---


def test_import_without_compiled_modules_names_the_build_command(copied_house: Path) -> None:
    (copied_house / "_fastpath" / "forward.py").unlink()
    done = python("import _fastpath", path=[copied_house], alone=True)
    assert done.returncode == 1
    assert f"missing from {copied_house / '_fastpath'}" in done.stderr
    assert "pip install -e ." in done.stderr


def test_setup_refuses_other_systems_in_one_line() -> None:
    # Imported while the platform is still the true one, as on another system it would be that one's.
    code = "import runpy, setuptools.command.build_ext; sys.platform = 'darwin'; runpy.run_path('setup.py')"
    done = python(code, path=[ROOT])
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Linux only" in done.stderr


@pytest.mark.parametrize(
    ("flavour", "checked", "wanted"),
    [
        ({}, False, "-Werror"),
        ({"FASTPATH_SANITIZE": "1"}, True, "-fsanitize=address,undefined"),
        ({"FASTPATH_DEBUG": "1"}, True, "-O1"),
    ],
)
def test_build_flavours(flavour: dict[str, str], checked: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTPATH_SANITIZE", "FASTPATH_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in flavour.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, "setup", raising=False)
    build = importlib.import_module("setup")
    monkeypatch.delitem(sys.modules, "setup")
    assert build.directives()["boundscheck"] is checked
    assert wanted in build.compile_args()
    assert not [flag for flag in build.compile_args() if flag.startswith("-march")]
    assert (("CYTHON_TRACE_NOGIL", "1") in build.macros()) == ("FASTPATH_DEBUG" in flavour)


# --- the stubs ---


def stub_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
            names |= {node.name, *(f"{node.name}.{member}" for member in members)}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def has(module: object, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(module, part):
            return False
        module = getattr(module, part)
    return True


def test_every_extension_has_a_stub() -> None:
    assert [path.with_suffix("") for path in SOURCES] == [path.with_suffix("") for path in STUBS]


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: os.path.relpath(path, ROOT))
def test_every_name_in_a_stub_exists(stub: Path) -> None:
    module = importlib.import_module(".".join(stub.relative_to(ROOT).with_suffix("").parts))
    assert {name for name in stub_names(stub) if not has(module, name)} == set()
