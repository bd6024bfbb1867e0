"""Fuzz target: the relay's walk to USERNAME.

Invariant: any bytes get the result and the USERNAME that the plain-Python reading gives them. Each input is tried as it
is and as a Binding Request whose cookie and length are right. The corpus is corpus/stun.
"""

from _fastpath.wire import stun
from tests.support import oracle


def plausible(data: bytes) -> bytes:
    data += bytes(-len(data) % 4) if len(data) >= 20 else bytes(20 - len(data))
    return b"\0\1" + ((len(data) - 20) & 0xFFFF).to_bytes(2, "big") + oracle.COOKIE + data[8:]


def one(data: bytes) -> None:
    for message in (data, plausible(data)):
        assert stun.username_of(message) == oracle.username_of(message)
