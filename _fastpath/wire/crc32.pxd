"""CRC-32 of ISO 3309 and ITU-T V.42, which STUN's FINGERPRINT is made of (RFC 8489 14.7).

Eight bytes a step ("slicing by 8"): a check is fingerprinted before anybody knows whether it is authentic, so a long hostile one must
be cheap. Called by `wire.binding`.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef uint32_t crc32(const uint8_t* data, size_t length) noexcept nogil
