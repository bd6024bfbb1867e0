"""CRC-32 by eight tables of 1 KiB, filled when the module is imported; at the end, Python's view for tests and tools."""

from libc.stdint cimport uint64_t

from _fastpath.siphash cimport load_le64

cdef enum:
    SLICES = 8

cdef uint32_t REVERSED_POLYNOMIAL = <uint32_t>0xedb88320
cdef uint32_t TABLE[SLICES][256]      # [k][n]: what byte n contributes when k bytes follow it in the step


cdef void fill_table() noexcept:
    cdef uint32_t word
    for n in range(256):
        word = n
        for _ in range(8):
            word = (word >> 1) ^ (REVERSED_POLYNOMIAL if word & 1 else 0)
        TABLE[0][n] = word
    for k in range(1, SLICES):
        for n in range(256):
            word = TABLE[k - 1][n]
            TABLE[k][n] = (word >> 8) ^ TABLE[0][word & 0xff]


fill_table()


cdef uint32_t crc32(const uint8_t* data, size_t length) noexcept nogil:
    cdef uint32_t crc = <uint32_t>0xffffffff
    cdef uint64_t word
    while length >= SLICES:
        word = load_le64(data) ^ crc
        crc = TABLE[7][word & 0xff] ^ TABLE[6][word >> 8 & 0xff] ^ TABLE[5][word >> 16 & 0xff] ^ TABLE[4][word >> 24 & 0xff] \
            ^ TABLE[3][word >> 32 & 0xff] ^ TABLE[2][word >> 40 & 0xff] ^ TABLE[1][word >> 48 & 0xff] ^ TABLE[0][word >> 56]
        data += SLICES
        length -= SLICES
    while length:
        crc = (crc >> 8) ^ TABLE[0][(crc ^ data[0]) & 0xff]
        data += 1
        length -= 1
    return ~crc


def checksum(data: bytes) -> int:
    """The same as `zlib.crc32`."""
    return crc32(data, len(data))
