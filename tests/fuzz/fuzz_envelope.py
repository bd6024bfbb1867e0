"""Fuzz target: the header of the internal leg, read and written.

Invariant: any bytes are the client, the local address and the payload that the plain-Python reading finds, or no
datagram of the leg to both; and what was read is written as it was. Each input is tried as it is and behind the right
magic number. The corpus is corpus/envelope.
"""

from _fastpath.wire import envelope
from tests.support import oracle


def one(data: bytes) -> None:
    for datagram in (data, oracle.SPP_MAGIC + data[2:]):
        opened = envelope.unpack(datagram)
        assert opened == oracle.spp_unpack(datagram)
        if opened:
            assert envelope.pack(*opened[:2]) == oracle.spp_pack(*opened[:2]) == datagram[: envelope.HEADER_BYTES]
