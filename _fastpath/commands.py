"""The doors behind the console scripts `relay`, `transceiver` and `ufrag`.

They stand here because `relay` and `transceiver` are names another distribution, or a directory on PYTHONPATH, may
also have: the door must be outside the house to see whether it is the right house. Before anything of them runs, all
three packages must be the ones this file was installed with: same parent directory, our marker, our version.

This is the one file of `_fastpath` that may import project packages, and only inside its functions, after that check.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from _fastpath import __distribution__, __version__

PACKAGES = ("_fastpath", "relay", "transceiver")
EXIT_USAGE = 2
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: nothing to retry, somebody must repair the installation

USAGE = f"""Usage: ufrag [--version | --help] COMMAND [ARGS]...

ufrag {__version__}: a WebRTC relay that routes by the server's ICE ufrag, and the transceiver behind it.

Commands:
  relay        The relay; `ufrag relay start` is `relay start`.
  transceiver  The transceiver; `ufrag transceiver start` is `transceiver start`.
"""


def relay() -> NoReturn:
    run("relay", sys.argv[1:], "relay")


def transceiver() -> NoReturn:
    run("transceiver", sys.argv[1:], "transceiver")


def ufrag() -> NoReturn:
    match sys.argv[1:]:
        case [("relay" | "transceiver") as package, *arguments]:
            run(package, arguments, f"ufrag {package}")
        case ["--version"]:
            print(f"ufrag, version {__version__}")
            sys.exit(0)
        case ["--help" | "-h"]:
            print(USAGE, end="")
            sys.exit(0)
    print(USAGE, end="", file=sys.stderr)
    sys.exit(EXIT_USAGE)


def run(package: str, arguments: list[str], name: str) -> NoReturn:
    """Hands over to the click group of `package`; `name` is how its messages call the program."""
    for problem in filter(None, map(foreign, PACKAGES)):
        print(f"ufrag: {problem}", file=sys.stderr)
        sys.exit(EXIT_CONFIGURATION)
    import_module(f"{package}.cli").main(args=arguments, prog_name=name)
    sys.exit(0)


def foreign(package: str) -> str | None:
    """Why an import of `package` would not get ours, or None. The place is looked at before any foreign code runs."""
    expected = Path(__file__).resolve().parent.parent / package / "__init__.py"
    found = location(package)
    if found is None:
        return f"the package {package} is missing (expected {expected}); install ufrag again"
    if found != expected:
        return f"the package {package} that Python finds is not ufrag's: {found} (expected {expected}); see PYTHONPATH"
    module = import_module(package)
    marks = (getattr(module, "__distribution__", None), getattr(module, "__version__", None))
    if marks != (__distribution__, __version__):
        return f"{found} is not of ufrag {__version__}: it says {marks[0]} {marks[1]}; install ufrag again"
    return None


def location(package: str) -> Path | None:
    """The file that an import of `package` would run (the directory, if it has no __init__.py)."""
    spec = find_spec(package)
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin).resolve()
    return next((Path(each).resolve() for each in spec.submodule_search_locations or ()), None)
