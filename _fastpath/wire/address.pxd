"""Addresses on the wire and in tables: an Endpoint is 16 address bytes and 2 port bytes, network order.

IPv4 stands in IPv6 as `::ffff:a.b.c.d` (RFC 4291 2.5.5.2), so one comparison serves both families. Here is the only place that
turns a kernel `sockaddr` into an Endpoint and back, and that says which sources are never answered.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from _fastpath.sockets cimport AF_INET, AF_INET6, sockaddr_in, sockaddr_in6, socklen_t

cdef enum:
    ADDRESS_BYTES = 16
    ENDPOINT_BYTES = 18

cdef struct Endpoint:                 # 18 bytes, no padding: compared and hashed as bytes
    uint8_t address[16]
    uint8_t port[2]

cdef struct Network:
    uint8_t prefix[16]
    int bits

cdef enum:
    MAPPED_BITS = 96                  # prefix of the IPv4-mapped addresses

cdef extern from *:
    """
    static const unsigned char UFRAG_MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    """
    const uint8_t MAPPED_PREFIX "UFRAG_MAPPED"[12]

cdef inline uint16_t load_be16(const uint8_t* p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])

cdef inline uint32_t load_be32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]

cdef inline void store_be16(uint8_t* p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value

cdef inline void store_be32(uint8_t* p, uint32_t value) noexcept nogil:
    store_be16(p, <uint16_t>(value >> 16))
    store_be16(p + 2, <uint16_t>value)

cdef inline bint is_mapped(const uint8_t* address) noexcept nogil:
    return memcmp(address, MAPPED_PREFIX, 12) == 0

cdef inline void map_ipv4(uint8_t* address, const void* ipv4) noexcept nogil:
    memcpy(address, MAPPED_PREFIX, 12)
    memcpy(address + 12, ipv4, 4)

cdef inline void from_sockaddr(const void* name, uint8_t* address, uint8_t* port) noexcept nogil:
    """Fills 16 address bytes and 2 port bytes from a kernel-written sockaddr; another family gives zeros (never answered)."""
    cdef const sockaddr_in* v4 = <const sockaddr_in*>name
    cdef const sockaddr_in6* v6 = <const sockaddr_in6*>name
    if v4.sin_family == AF_INET:
        map_ipv4(address, &v4.sin_addr)
        memcpy(port, &v4.sin_port, 2)
    elif v6.sin6_family == AF_INET6:
        memcpy(address, &v6.sin6_addr, 16)
        memcpy(port, &v6.sin6_port, 2)
    else:
        memset(address, 0, 16)
        memset(port, 0, 2)

cdef inline socklen_t to_sockaddr(const uint8_t* address, const uint8_t* port, int family, void* name) noexcept nogil:
    """Writes the sockaddr for a socket of `family`, all of it; 0 when that family cannot name the address."""
    cdef sockaddr_in* v4 = <sockaddr_in*>name
    cdef sockaddr_in6* v6 = <sockaddr_in6*>name
    if family == AF_INET:
        if not is_mapped(address):
            return 0
        v4.sin_family = AF_INET
        memcpy(&v4.sin_port, port, 2)
        memcpy(&v4.sin_addr, address + 12, 4)
        return sizeof(sockaddr_in)
    v6.sin6_family = AF_INET6
    memcpy(&v6.sin6_port, port, 2)
    memcpy(&v6.sin6_addr, address, 16)
    v6.sin6_flowinfo = 0
    v6.sin6_scope_id = 0
    return sizeof(sockaddr_in6)

cdef inline bint is_answerable(const uint8_t* address, const uint8_t* port) noexcept nogil:
    """False for addresses no client can have: port 0, `this network`, broadcast, multicast, link-local.

    A reply to any of these would be amplified or leave the routed network; link-local IPv6 would also need a scope id.
    """
    if port[0] == 0 and port[1] == 0:
        return False
    if is_mapped(address):
        if address[12] == 0 or address[12] >= 224:          # 0.0.0.0/8; 224/4 multicast and 240/4 with 255.255.255.255
            return False
        return not (address[12] == 169 and address[13] == 254)
    if address[0] == 0xff:                                   # multicast
        return False
    if address[0] == 0xfe and (address[1] & 0xc0) == 0x80:   # fe80::/10 link-local
        return False
    return load_be32(address) != 0 or load_be32(address + 4) != 0 or load_be32(address + 8) != 0 \
        or load_be32(address + 12) > 0                       # ::

cdef inline bint within(const Network* network, const uint8_t* address) noexcept nogil:
    cdef int whole = network.bits >> 3
    cdef int rest = network.bits & 7
    if memcmp(network.prefix, address, whole):
        return False
    return rest == 0 or (network.prefix[whole] ^ address[whole]) >> (8 - rest) == 0

cdef inline bint within_any(const Network* networks, uint32_t count, const uint8_t* address) noexcept nogil:
    """A short IPv6 prefix such as ::/0 does not contain the IPv4 addresses, although they are written inside it."""
    cdef bint mapped = is_mapped(address)
    cdef uint32_t i
    for i in range(count):
        if within(&networks[i], address) and not (mapped and networks[i].bits < MAPPED_BITS):
            return True
    return False
