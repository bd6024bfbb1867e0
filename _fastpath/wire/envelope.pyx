"""Python's view of `envelope.pxd`: builds and reads the internal leg's header for tools, tests and Python backends."""

import ipaddress

HEADER_BYTES = ENVELOPE_BYTES
MAGIC = bytes((MAGIC_0, MAGIC_1))


def pack(client: tuple[str, int], local: tuple[str, int]) -> bytes:
    """The 38 bytes for a client and the relay's address it used."""
    return MAGIC + key_of(client, local)


def key_of(client: tuple[str, int], local: tuple[str, int]) -> bytes:
    """The 36 bytes that name a flow."""
    ports = client[1].to_bytes(2, "big") + local[1].to_bytes(2, "big")
    return mapped(client[0]) + mapped(local[0]) + ports


def unpack(datagram: bytes) -> tuple[tuple[str, int], tuple[str, int], bytes] | None:
    """(client, local, payload), or None when there is no valid header with something behind it."""
    if not envelope_valid(datagram, len(datagram)):
        return None
    key = datagram[2:HEADER_BYTES]
    return (*unpack_key(key), datagram[HEADER_BYTES:])


def unpack_key(key: bytes) -> tuple[tuple[str, int], tuple[str, int]]:
    """(client, local) of a flow key."""
    client = (unmapped(key[:KEY_LOCAL]), int.from_bytes(key[KEY_CLIENT_PORT:KEY_LOCAL_PORT], "big"))
    return client, (unmapped(key[KEY_LOCAL:KEY_CLIENT_PORT]), int.from_bytes(key[KEY_LOCAL_PORT:], "big"))


def mapped(address: str) -> bytes:
    """16 bytes, IPv4 as ::ffff:a.b.c.d."""
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else bytes(10) + b"\xff\xff" + parsed.packed


def unmapped(packed: bytes) -> str:
    """The usual text of 16 address bytes."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def pack_endpoint(endpoint: tuple[str, int]) -> bytes:
    """An address and port as tables and the route cache have them: 18 bytes."""
    return mapped(endpoint[0]) + endpoint[1].to_bytes(2, "big")


def unpack_endpoint(packed: bytes) -> tuple[str, int]:
    """(address, port) of 18 bytes."""
    return unmapped(packed[:16]), int.from_bytes(packed[16:18], "big")
