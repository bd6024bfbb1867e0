"""Builds the compiled half of ufrag, one extension per .pyx under _fastpath/; the rest is in pyproject.toml.

Rules: the generated C goes to build/cython/<flavour>/, never beside its source; three flavours never share an object
file:

* release: no bounds checks, -O3, warnings are errors; the machine's own instruction set is not used, a wheel runs
  elsewhere;
* FASTPATH_SANITIZE=1: checks on, AddressSanitizer and UndefinedBehaviorSanitizer (run it as scripts/sanitize_check
  does);
* FASTPATH_DEBUG=1: checks on, line tracing for Cython.Coverage, annotated HTML beside the generated C.

scripts/check_cython.py and scripts/arm_check read DIRECTIVES and WARNINGS from here, so what is checked is what is
shipped.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if not sys.platform.startswith("linux"):
    sys.exit(f"ufrag runs on Linux only: it needs recvmmsg, eventfd and SO_REUSEPORT (this is {sys.platform})")
if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
    sys.exit(f"ufrag needs CPython 3.11 or newer (this is {sys.implementation.name} {sys.version.split()[0]})")

ROOT = Path(__file__).resolve().parent
DIRECTIVES: dict[str, object] = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
}
CHECKS: dict[str, object] = {"boundscheck": True, "wraparound": True, "initializedcheck": True, "cdivision": False}
WARNINGS = ["-Wall", "-Wextra"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]

SANITIZE = os.environ.get("FASTPATH_SANITIZE") == "1"
DEBUG = os.environ.get("FASTPATH_DEBUG") == "1"
FLAVOUR = "-".join([name for name, on in (("sanitize", SANITIZE), ("debug", DEBUG)) if on]) or "release"


def directives() -> dict[str, object]:
    chosen = dict(DIRECTIVES)
    if SANITIZE or DEBUG:
        chosen |= CHECKS
    if DEBUG:
        chosen["linetrace"] = True
    return chosen


def compile_args() -> list[str]:
    if SANITIZE:
        # -fwrapv (from Python's own flags) would define signed overflow away before UBSan sees it.
        return ["-O1", "-g", "-fno-wrapv", *WARNINGS, *SANITIZERS]
    return ["-O1", "-g", *WARNINGS] if DEBUG else ["-O3", *WARNINGS, "-Werror"]


def macros() -> list[tuple[str, str | None]]:
    # From Python 3.12 on Cython would report to sys.monitoring, which Cython.Coverage does not read.
    return [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")] if DEBUG else []


def extension(source: Path) -> Extension:
    return Extension(
        ".".join(source.with_suffix("").parts),
        [str(source)],
        depends=["setup.py", *map(str, sorted(Path("_fastpath").rglob("*.h")))],
        define_macros=macros(),
        extra_compile_args=compile_args(),
        extra_link_args=SANITIZERS if SANITIZE else [],
    )


def extensions() -> list[Extension]:
    return [extension(source) for source in sorted(Path("_fastpath").rglob("*.pyx"))]


def translate(workers: int = 1, force: bool = False) -> dict[str, list[str]]:
    """Module name -> its C files, translated again where a source is newer."""
    from Cython.Build import cythonize
    from Cython.Compiler import Options

    Options.warning_errors = True
    translated = cythonize(
        [Extension(each.name, each.sources) for each in extensions()],
        build_dir=f"build/cython/{FLAVOUR}",
        compiler_directives=directives(),
        annotate=DEBUG,
        nthreads=workers,
        quiet=True,
        force=force,
    )
    return {each.name: each.sources for each in translated}


class BuildFastpath(build_ext):
    """Translates to C when extensions are really built, not whenever somebody asks for the package's name."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.workers = int(self.parallel or os.cpu_count() or 1)
        self.parallel = self.workers

    def build_extensions(self) -> None:
        sources = translate(self.workers, bool(self.force))
        for each in self.extensions:
            each.sources = sources[each.name]
        super().build_extensions()


if __name__ == "__main__":
    os.chdir(ROOT)
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildFastpath})
