"""The internal leg's header (Simple Proxy Protocol) and the addresses in it: vectors, truncations, the oracle."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath._testing import answerable
from _fastpath.wire.envelope import HEADER_BYTES, MAGIC, key_of, mapped, pack, unmapped, unpack, unpack_key
from tests.support import oracle, packets
from tests.support.oracle import Address

VECTORS = packets.load_vectors("envelope.json")
addresses = st.tuples(st.ip_addresses().map(lambda ip: oracle.address_text(ip.packed)), st.integers(0, 65535))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["description"])
def test_vectors(vector: dict[str, str]) -> None:
    client, local = (vector["client"], int(vector["client_port"])), (vector["local"], int(vector["local_port"]))
    payload = bytes.fromhex(vector["payload"])
    frame = bytes.fromhex(vector["frame"])
    assert pack(client, local) == oracle.spp_pack(client, local) == bytes.fromhex(vector["header"])
    assert unpack(frame) == oracle.spp_unpack(frame) == (client, local, payload)
    assert key_of(client, local) == frame[2:38]
    assert unpack_key(frame[2:38]) == (client, local)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["description"])
def test_vectors_truncated_and_extended(vector: dict[str, str]) -> None:
    """A header needs one byte behind it; what follows the header is payload, however long."""
    frame = bytes.fromhex(vector["frame"])
    for cut in packets.truncations(frame):
        assert (unpack(cut) is not None) == (len(cut) > 38), len(cut)
        assert unpack(cut) == oracle.spp_unpack(cut)
    for longer in packets.extensions(frame):
        unpacked = unpack(longer)
        assert unpacked is not None
        assert unpacked[2] == longer[38:]


def test_sizes() -> None:
    assert (HEADER_BYTES, MAGIC) == (38, b"\x56\xec")


@pytest.mark.parametrize("bit", range(16))
def test_each_bit_of_the_magic_number_counts(bit: int) -> None:
    frame = bytearray(bytes.fromhex(VECTORS[0]["frame"]))
    frame[bit // 8] ^= 1 << bit % 8
    assert unpack(bytes(frame)) is None


@given(addresses, addresses, st.binary(min_size=1, max_size=20))
def test_what_is_packed_is_unpacked(client: Address, local: Address, payload: bytes) -> None:
    assert pack(client, local) == oracle.spp_pack(client, local)
    assert unpack(pack(client, local) + payload) == (client, local, payload)


@given(st.binary(max_size=60))
def test_agrees_with_the_oracle_on_anything(datagram: bytes) -> None:
    assert unpack(datagram) == oracle.spp_unpack(datagram)
    assert unpack(MAGIC + datagram) == oracle.spp_unpack(MAGIC + datagram)


@given(st.binary(min_size=16, max_size=16))
def test_sixteen_bytes_and_their_text(packed: bytes) -> None:
    assert unmapped(packed) == oracle.address_text(packed)
    assert mapped(unmapped(packed)) == packed


# --- who is answered ---


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("0.0.0.0", False),
        ("0.255.255.255", False),
        ("1.0.0.0", True),
        ("127.0.0.1", True),
        ("169.253.255.255", True),
        ("169.254.0.0", False),
        ("169.254.255.255", False),
        ("169.255.0.0", True),
        ("223.255.255.255", True),
        ("224.0.0.0", False),
        ("239.255.255.255", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", True),
        ("2001:db8::1", True),
        ("fe7f:ffff::1", True),
        ("fe80::1", False),
        ("febf:ffff::1", False),
        ("fec0::1", True),
        ("fd00::1", True),
        ("feff::1", True),
        ("ff00::", False),
        ("ff02::1", False),
        ("::ffff:224.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("::ffff:0.0.0.0", False),
    ],
)
def test_limits_of_what_is_answered(address: str, expected: bool) -> None:
    assert answerable(address, 1) is expected
    assert answerable(address, 65535) is expected
    assert answerable(address, 0) is False
    assert oracle.answerable(address, 1) is expected


@given(st.one_of(st.ip_addresses(), st.binary(min_size=4, max_size=4).map(ipaddress.ip_address)), st.integers(0, 65535))
def test_agrees_with_the_oracle_on_who_is_answered(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    text = oracle.address_text(address.packed)
    assert answerable(text, port) == oracle.answerable(text, port)
