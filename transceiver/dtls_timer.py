"""When the last flight of a DTLS handshake is sent again (RFC 6347, 4.2.4).

OpenSSL begins at one second, which at 10 % loss would be the wait of every fifth call; this begins at 100 ms or twice
the round trip, uses each wait twice, and doubles it up to 1.6 s (with waits used once the worst of 1,200 set-ups at
that loss took 4.0 s, with this 1.5). All repetitions of a handshake count against one bound, those asked for as well,
so neither a silent peer nor a busy one makes us send for ever. Takes time, has no clock. Used by `transceiver.dtls`,
one object per handshake.
"""

from __future__ import annotations

# The last is above the second at which OpenSSL and GnuTLS begin: GnuTLS (seen with 3.7) never repeats its own flight to
# a peer that repeats more often than that.
FIRST_RESEND_S, LAST_RESEND_S = 0.1, 1.6
MAX_RESENDS = 20


class ResendTimer:
    """When the last flight goes out again: doubling times, and a bound on how often in all."""

    __slots__ = ("_first_s", "_interval_s", "_left", "_twice", "at")

    def __init__(self) -> None:
        self.at: float | None = None
        self._left = MAX_RESENDS
        self._first_s = self._interval_s = FIRST_RESEND_S
        self._twice = False

    def set_rtt(self, rtt_s: float) -> None:
        self._first_s = min(max(FIRST_RESEND_S, 2 * rtt_s), LAST_RESEND_S)

    def flight_sent(self, now: float) -> None:
        self._interval_s, self._twice = self._first_s, False
        self._arm(now)

    def take(self, now: float, *, early: bool = False) -> bool:
        """Whether to send it again now; asking early is heard from half of the interval on, so it makes no storm."""
        if self.at is None or now < self.at - (self._interval_s / 2 if early else 0):
            return False
        self._left -= 1
        self._twice = not self._twice
        if not self._twice:
            self._interval_s = min(2 * self._interval_s, LAST_RESEND_S)
        self._arm(now)
        return True

    def _arm(self, now: float) -> None:
        self.at = now + self._interval_s if self._left > 0 else None
