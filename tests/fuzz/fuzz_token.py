"""Fuzz target: the verification of route tokens.

Invariant: any text gets the result and the fields that the plain-Python reading gives it. An input is tried as a token,
and as what an authentic one holds: its first byte chooses key, version and length, the others are the payload, which no
mutation could seal by itself. The corpus is corpus/token.
"""

from _fastpath.wire.token import Keyring, TokenFields
from tests.support import oracle
from tests.support.harness import KEYS, RETIRED

RING = Keyring(KEYS)
SIGNERS = [*(KEYS | RETIRED).items()]
LENGTHS = (15, 27)  # of the payload, by the owner's family


def sealed(data: bytes) -> bytes:
    first = data[0] if data else 0
    key_id, key = SIGNERS[first % len(SIGNERS)]
    version = oracle.TOKEN_VERSION if first < 192 else first & 7
    payload = data[1:].ljust(27, b"\0")[: LENGTHS[first >> 3 & 1]]
    return oracle.seal(key, version << 3 | key_id, payload).encode()


def one(data: bytes) -> None:
    for text in (data, sealed(data)):
        result, fields = RING.verify(text)
        expected, read = oracle.verify(KEYS, text)
        assert result == expected
        assert fields == (as_compiled(read) if read else None)


def as_compiled(read: oracle.Fields) -> TokenFields:
    """Mapped addresses are IPv4 to whoever reads them; the random bits are a little-endian number."""
    owner = (oracle.address_text(oracle.mapped(read.owner[0])), read.owner[1])
    return TokenFields(read.key_id, owner, read.cluster, read.generation, int.from_bytes(read.random, "little"))
