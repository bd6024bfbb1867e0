"""The compiled half of ufrag: what touches packets, and the byte layouts that both sides read.

Rules of this package: it imports no project package (`commands` alone does, inside its functions), no logging, no
click, no redis; each .pyx is compiled by itself and other modules read its .pxd. There is no pure-Python fallback: a
relay that silently ran a hundred times slower would be found out under load, so a tree that was never built stops
here and says how to build it.
"""

from importlib.util import find_spec

__distribution__ = "ufrag"
__version__ = "0.1.0"

BUILD_COMMAND = "pip install -e ."

if find_spec("_fastpath.forward") is None:
    raise ImportError(
        f"the compiled modules of _fastpath are missing from {__path__[0]}; build them with `{BUILD_COMMAND}` "
        "in the source tree (./scripts/test does it too), or install a wheel of ufrag",
        name="_fastpath.forward",
    )
