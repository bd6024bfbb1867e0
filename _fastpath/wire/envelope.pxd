"""The internal leg's header: Cloudflare's Simple Proxy Protocol, 38 bytes before each datagram's payload.

    0        2                18               34      36      38
    +--------+----------------+----------------+-------+-------+---------
    | 56 EC  | client address | local address  | client| local | payload
    |        | (16)           | (16)           | port  | port  |
    +--------+----------------+----------------+-------+-------+---------

All in network order, IPv4 as IPv4-mapped IPv6. "Local" is the relay's address that the client used (SPP says proxy). The 36 bytes
after the magic number are exactly the key of a flow, so building the header also builds the key, and a header from the internal leg
is looked up as it stands. The header is written into the buffer's headroom: no payload byte is ever moved.
"""

from libc.stdint cimport uint8_t

cdef enum:
    ENVELOPE_BYTES = 38
    KEY_BYTES = 36                    # what follows the magic number; the flow key
    MAGIC_0 = 0x56
    MAGIC_1 = 0xec

    KEY_CLIENT = 0                    # offsets inside the key
    KEY_LOCAL = 16
    KEY_CLIENT_PORT = 32
    KEY_LOCAL_PORT = 34

cdef inline uint8_t* envelope_key(uint8_t* payload) noexcept nogil:
    """Where the key stands for a payload with an envelope before it."""
    return payload - KEY_BYTES

cdef inline void envelope_seal(uint8_t* payload) noexcept nogil:
    """Puts the magic number before a key already written."""
    payload[-ENVELOPE_BYTES] = MAGIC_0
    payload[-ENVELOPE_BYTES + 1] = MAGIC_1

cdef inline bint envelope_valid(const uint8_t* datagram, size_t length) noexcept nogil:
    """Magic number, a whole header, and something behind it."""
    return length > ENVELOPE_BYTES and datagram[0] == MAGIC_0 and datagram[1] == MAGIC_1
