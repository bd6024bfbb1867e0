"""How well one stream (SSRC) arrives: the numbers of our report blocks (RFC 3550 6.4.1, A.1, A.3, A.8), and NTP time for SRs.

`reception_start` and then `reception_packet` for the first packet, `reception_packet` for each one after; `reception_sender` for each
SR of that stream; `reception_block` when a report is due. The rules:

* No probation (A.1): SRTP has authenticated the sender. A jump still counts only when the next packet follows it, because one
  packet more than 100 late looks just the same. A confirmed jump is a restart: counts begin anew, as A.1 has it.
* Sequence numbers are kept in 64 bits, so no peer can make a count wrap; what a report has no room for is cut or clamped there.
* `received` has duplicates in it (A.1), so losses may be negative. Duplicates are told for the newest 64 sequence numbers; older ones
  count as reordered. SRTP's replay check lets none through, so that a number here is worth a look.
* Time is a parameter, in microseconds, of one clock of the caller's that does not go back.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from _fastpath.wire.rtcp cimport RTCP_LOST_MAX, RTCP_LOST_MIN, RTCPBlock

cdef enum:
    MAX_DROPOUT = 3000                # RFC 3550 A.1: packets that may be missing before it is a jump; 60 s of audio
    MAX_MISORDER = 100                # how late a packet may be
    NO_JUMP = 0x10000                 # no sequence number
    SECOND_US = 1000000

cdef struct Reception:
    uint64_t first                    # sequence number of the first packet
    uint64_t highest                  # extended by the number of wraps
    uint64_t received
    uint64_t expected_prior           # at the last report
    uint64_t received_prior
    uint64_t window                   # bit i: `highest - i` was received
    uint64_t jitter_q4                # 16 times the jitter, in units of the RTP clock
    uint64_t sr_arrival_us
    uint32_t ssrc
    uint32_t clock_rate
    uint32_t transit                  # arrival less timestamp of the last packet, modulo 2^32
    uint32_t last_sr                  # middle 32 bits of the last SR's NTP time; 0: none came
    uint32_t duplicates
    uint32_t reordered
    uint32_t after_jump               # the sequence number that would confirm one
    uint32_t has_transit

# --- counting (A.1) ---

cdef inline void reception_restart(Reception* r, uint16_t sequence) noexcept nogil:
    r.first = sequence
    r.highest = sequence
    r.received = 0
    r.expected_prior = 0
    r.received_prior = 0
    r.window = 0
    r.after_jump = NO_JUMP
    r.has_transit = False             # who begins anew has a new timestamp too; the difference is not jitter

cdef inline void reception_start(Reception* r, uint32_t ssrc, uint16_t sequence, uint32_t clock_rate) noexcept nogil:
    """The packet itself is counted by `reception_packet`. A clock rate of 0 is taken as 1: it is a divisor."""
    memset(r, 0, sizeof(Reception))
    r.ssrc = ssrc
    r.clock_rate = clock_rate if clock_rate else 1
    reception_restart(r, sequence)

cdef inline void reception_mark(Reception* r, uint32_t behind) noexcept nogil:
    """Notes `highest - behind`."""
    cdef uint64_t bit = <uint64_t>1 << behind if behind < 64 else 0
    if r.window & bit:
        r.duplicates += 1
    elif behind:
        r.reordered += 1
    r.window |= bit

cdef inline uint32_t arrival_in(uint32_t clock_rate, uint64_t arrival_us) noexcept nogil:
    """In units of the RTP clock, modulo 2^32; seconds apart, so that no product is too large."""
    return <uint32_t>(arrival_us // SECOND_US * clock_rate + arrival_us % SECOND_US * clock_rate // SECOND_US)

cdef inline void reception_jitter(Reception* r, uint32_t timestamp, uint64_t arrival_us) noexcept nogil:
    """A.8, of every packet counted, in order of arrival."""
    cdef uint32_t transit = arrival_in(r.clock_rate, arrival_us) - timestamp
    cdef uint32_t difference = transit - r.transit
    if difference > <uint32_t>0x80000000:
        difference = 0 - difference
    if r.has_transit:
        r.jitter_q4 += difference - ((r.jitter_q4 + 8) >> 4)
    r.transit = transit
    r.has_transit = True

cdef inline bint reception_packet(Reception* r, uint16_t sequence, uint32_t timestamp, uint64_t arrival_us) noexcept nogil:
    """False: a jump that nothing confirms yet, not counted."""
    cdef uint16_t ahead = <uint16_t>(sequence - <uint16_t>r.highest)
    cdef uint16_t behind = <uint16_t>(0 - ahead)
    if ahead < MAX_DROPOUT:
        r.highest += ahead
        if ahead:
            r.window = r.window << ahead if ahead < 64 else 0
        behind = 0
    elif behind >= MAX_MISORDER:
        if sequence != r.after_jump:
            r.after_jump = <uint16_t>(sequence + 1)
            return False
        reception_restart(r, sequence)
        behind = 0
    reception_mark(r, behind)
    r.received += 1
    reception_jitter(r, timestamp, arrival_us)
    return True

# --- reporting (A.3) ---

cdef inline uint64_t reception_expected(const Reception* r) noexcept nogil:
    return r.highest - r.first + 1

cdef inline int32_t reception_lost(const Reception* r) noexcept nogil:
    """In all, as a report has it: negative when duplicates outnumber losses, and clamped to 24 bits."""
    cdef int64_t lost = <int64_t>(reception_expected(r) - r.received)
    return <int32_t>min(max(lost, <int64_t>RTCP_LOST_MIN), <int64_t>RTCP_LOST_MAX)

cdef inline uint32_t reception_jitter_us(const Reception* r) noexcept nogil:
    cdef uint64_t jitter_us = r.jitter_q4 * SECOND_US // r.clock_rate >> 4
    return <uint32_t>min(jitter_us, <uint64_t>0xffffffff)

cdef inline uint8_t reception_fraction(Reception* r) noexcept nogil:
    """Of 256, since the last call; 0 when more came than were due."""
    cdef uint64_t expected = reception_expected(r)
    cdef int64_t due = <int64_t>(expected - r.expected_prior)
    cdef int64_t lost = due - <int64_t>(r.received - r.received_prior)
    r.expected_prior = expected
    r.received_prior = r.received
    # What moved `highest` was itself received: fewer are lost than were due, and the quotient is below 256.
    return <uint8_t>((lost << 8) // due) if lost > 0 else 0

cdef inline uint32_t sr_units(uint64_t microseconds) noexcept nogil:
    """1/65536 s, at most what the field holds: 18 hours."""
    return <uint32_t>min((microseconds << 16) // SECOND_US, <uint64_t>0xffffffff)

cdef inline void reception_sender(Reception* r, uint32_t ntp_middle, uint64_t arrival_us) noexcept nogil:
    """An SR of this stream has come."""
    r.last_sr = ntp_middle
    r.sr_arrival_us = arrival_us

cdef inline void reception_block(Reception* r, uint64_t now_us, RTCPBlock* out) noexcept nogil:
    """The block for a report that leaves now; the next one's fraction counts from here."""
    out.ssrc = r.ssrc
    out.fraction_lost = reception_fraction(r)
    out.lost = reception_lost(r)
    out.highest = <uint32_t>r.highest
    out.jitter = <uint32_t>(r.jitter_q4 >> 4)
    out.last_sr = r.last_sr
    out.delay_since_sr = sr_units(now_us - r.sr_arrival_us) if r.last_sr and now_us > r.sr_arrival_us else 0

# --- NTP time ---

cdef inline uint64_t ntp_from_us(uint64_t unix_us) noexcept nogil:
    """Seconds since 1900 in 32.32 fixed point, of microseconds since 1970; wraps in 2036 like everybody's."""
    cdef uint64_t seconds = unix_us // SECOND_US + <uint64_t>2208988800
    return seconds << 32 | (unix_us % SECOND_US << 32) // SECOND_US

cdef inline uint32_t ntp_middle_of(uint64_t ntp) noexcept nogil:
    """The 32 bits that LSR and DLSR are counted in: 1/65536 s."""
    return <uint32_t>(ntp >> 16)

cdef inline uint64_t round_trip_us(uint32_t arrival_middle, uint32_t last_sr, uint32_t delay_since_sr) noexcept nogil:
    """From a block about us (RFC 3550 6.4.1), of 32 bits whatever it says.

    0 when the peer has no SR of ours yet, or claims to have held it for longer than it did.
    """
    cdef uint32_t units = arrival_middle - last_sr - delay_since_sr
    if last_sr == 0 or units >= <uint32_t>0x80000000:
        return 0
    return min(<uint64_t>units * SECOND_US >> 16, <uint64_t>0xffffffff)
