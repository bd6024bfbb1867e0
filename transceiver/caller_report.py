"""What `transceiver call` found out: its stages, its quality second by second, and the verdict, in words and as JSON.

Nothing is measured here. A call is good when it came about, audio and the message came back, and few packets were
lost; whatever else it was, the verdict says what to look at. The names in `as_json` are an interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LOSS_MOST = 0.05
QUIET_DB = -70.0  # below is silence

BUFFER_MS = 80  # the jitter buffer of aiortc, which is the calling client

HEAD = "   time    sent    back  lost up  lost down   jitter      RTT   level     echo"


class Failure(Exception):
    """The call did not come about, or ended; what is wrong, and what to do."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(what, mend)
        self.what = what
        self.mend = mend


@dataclass(frozen=True)
class Second:
    """One look: packets since the start, the rest as it is at this moment. None: not known."""

    at_s: float
    sent: int
    back: int
    lost_up: int
    lost_down: int
    jitter_ms: float
    rtt_ms: float | None
    level_db: float
    echo_ms: float | None

    def line(self) -> str:
        rtt, echo = (f"{each:.{digits}f} ms" if each is not None else "-"
                     for each, digits in ((self.rtt_ms, 1), (self.echo_ms, 0)))  # fmt: skip
        return (
            f"{round(self.at_s, 1):>5g} s {self.sent:>7} {self.back:>7} {self.lost_up:>8} {self.lost_down:>10} "
            f"{self.jitter_ms:>5.1f} ms {rtt:>8} {self.level_db:>4.0f} dB {echo:>8}"
        )


@dataclass
class Report:
    """A call. `stages_ms`, counted from when the offer left: answer, ice, dtls, data, message, audio, as far as it
    came."""

    url: str
    relays: Sequence[str] = ()
    stages_ms: dict[str, float] = field(default_factory=dict)
    seconds: list[Second] = field(default_factory=list)
    spoken_db: float = 0.0
    data_ms: float | None = None  # until the message was back
    data_wanted: bool = True
    failure: str = ""  # what ended the call or kept it from coming about
    mend: str = ""

    def judge(self) -> None:
        """Finds fault with a call that came about."""
        if self.failure:
            return
        last = self.seconds[-1] if self.seconds else None
        if last is None or not last.back:
            self.failure = "no audio came back"
            self.mend = "does the application behind the transceiver send any?"
        elif max(self.loss("up"), self.loss("down")) > LOSS_MOST:
            self.failure = f"too much is lost: {self.loss('up'):.1%} up, {self.loss('down'):.1%} down"
            self.mend = "look for a full link or a busy host on the way"
        elif self.level_db <= QUIET_DB < self.spoken_db:
            self.failure = "only silence came back"
            self.mend = "does the application behind the transceiver send anything?"
        elif self.data_wanted and self.data_ms is None:
            self.failure = "the message on the data channel did not come back"
            self.mend = "is that an echo? --data '' leaves it out"

    @property
    def good(self) -> bool:
        return not self.failure

    @property
    def level_db(self) -> float:
        """Of the loudest second."""
        return max((each.level_db for each in self.seconds), default=-99.0)

    @property
    def echo_ms(self) -> float | None:
        """As it was heard last."""
        return next((each.echo_ms for each in reversed(self.seconds) if each.echo_ms is not None), None)

    def loss(self, way: str) -> float:
        """Of what was sent on that way."""
        if not self.seconds:
            return 0.0
        last = self.seconds[-1]
        lost, total = (last.lost_up, last.sent) if way == "up" else (last.lost_down, last.lost_down + last.back)
        return lost / total if total else 0.0

    def verdict(self) -> str:
        if self.failure:
            return f"BAD: {self.failure}" + (f"; {self.mend}" if self.mend else "")
        last = self.seconds[-1]
        lost = last.lost_up + last.lost_down
        parts = [
            f"connected in {self.stages_ms['dtls']:.0f} ms, audio after {self.stages_ms['audio']:.0f} ms",
            f"{last.sent} packets sent, {last.back} came back, {lost or 'none'} lost",
            "what came back is no echo"
            if self.echo_ms is None
            else f"the echo is {self.echo_ms:.0f} ms late ({BUFFER_MS} ms of that are in this client's own buffer)",
        ]
        if self.data_ms is not None:
            parts.append(f"the message took {self.data_ms:.0f} ms there and back")
        return f"GOOD: {'; '.join(parts)}"

    def as_json(self) -> dict[str, Any]:
        last = self.seconds[-1] if self.seconds else None
        return {
            "ok": self.good,
            "failure": self.failure or None,
            "mend": self.mend or None,
            "url": self.url,
            "relays": list(self.relays),
            "stages_ms": {name: round(each, 1) for name, each in self.stages_ms.items()},
            "packets_sent": last.sent if last else 0,
            "packets_back": last.back if last else 0,
            "lost_up": last.lost_up if last else 0,
            "lost_down": last.lost_down if last else 0,
            "jitter_ms": round(last.jitter_ms, 2) if last else None,
            "rtt_ms": _rounded(last.rtt_ms if last else None),
            "level_db": round(self.level_db, 1) if last else None,
            "echo_ms": _rounded(self.echo_ms),
            "data_ms": _rounded(self.data_ms),
            "seconds": [vars(each) | {"at_s": round(each.at_s, 1)} for each in self.seconds],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
