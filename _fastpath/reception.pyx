"""Python's view of `reception.pxd`, for tools and tests; the hot path uses the inline functions."""

from _fastpath.wire.rtcp import Block

RECEPTION_BYTES = sizeof(Reception)


cdef class ReceptionView:
    """One stream; times in microseconds."""

    cdef Reception r

    def __init__(self, ssrc: int, sequence: int, clock_rate: int) -> None:
        reception_start(&self.r, ssrc, sequence, clock_rate)

    def packet(self, sequence: int, timestamp: int, arrival_us: int) -> bool:
        return bool(reception_packet(&self.r, sequence, timestamp, arrival_us))

    def sender(self, ntp_middle: int, arrival_us: int) -> None:
        reception_sender(&self.r, ntp_middle, arrival_us)

    def block(self, now_us: int) -> Block:
        cdef RTCPBlock b
        reception_block(&self.r, now_us, &b)
        return Block(b.ssrc, b.fraction_lost, b.lost, b.highest, b.jitter, b.last_sr, b.delay_since_sr)

    @property
    def lost(self) -> int:
        return reception_lost(&self.r)

    @property
    def jitter_us(self) -> int:
        return reception_jitter_us(&self.r)

    @property
    def received(self) -> int:
        return self.r.received

    @property
    def duplicates(self) -> int:
        return self.r.duplicates

    @property
    def reordered(self) -> int:
        return self.r.reordered


def ntp(unix_us: int) -> int:
    return ntp_from_us(unix_us)


def ntp_middle(ntp: int) -> int:
    return ntp_middle_of(ntp)


def round_trip(arrival_middle: int, last_sr: int, delay_since_sr: int) -> int:
    return round_trip_us(arrival_middle, last_sr, delay_since_sr)
