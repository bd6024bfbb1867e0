"""Fuzz target: what a datagram is taken for, by its first byte, its length and STUN's cookie.

Each input is tried as it is, with a right cookie, and behind every first byte. The corpus is corpus/demux.
"""

from _fastpath.wire import demux
from tests.support import oracle


def one(data: bytes) -> None:
    for datagram in (data, data[:4] + oracle.COOKIE + data[8:]):
        assert demux.kind_of(datagram) == oracle.kind_of(datagram)
    for first in range(256):
        datagram = bytes([first]) + data[1:]
        assert demux.kind_of(datagram) == oracle.kind_of(datagram)
