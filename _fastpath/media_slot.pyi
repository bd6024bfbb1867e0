from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from typing_extensions import Buffer

from _fastpath.steering import Steered

TICKS_PER_SECOND: int
MOST_SESSIONS: int
STATES: tuple[str, ...]
END_REASONS: tuple[str, ...]
TALLY_NAMES: tuple[str, ...]
HISTOGRAM_BOUNDS: dict[str, tuple[float, ...]]

class MediaSlotError(ValueError): ...

def media_slot_bytes(max_sessions: int) -> int: ...

@dataclass(frozen=True)
class SessionView:
    index: int
    serial: int
    token: str
    state: str
    opened_unix_s: float
    client: str
    relay: str
    cipher: str
    profile: str
    codec: str
    packets_up: int
    packets_down: int
    bytes_up: int
    bytes_down: int
    lost_up: int
    lost_down: int
    jitter_up_ms: float
    jitter_down_ms: float
    rtt_ms: float
    paths: int
    ring_drops: int

class MediaSlot(Steered):
    halted: bool
    generation: int
    loop_heart: int
    shared: bool
    lingering: bool
    drain_until: int
    loop_busy_ratio: float
    socket_drops: int
    @property
    def max_sessions(self) -> int: ...
    @property
    def open_sessions(self) -> int: ...
    @classmethod
    def create(cls, buffer: Buffer, max_sessions: int) -> Self: ...
    def format(self, max_sessions: int) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def count(self, tally: str, by: int = 1) -> None: ...
    def totals(self) -> dict[str, int]: ...
    def observe(self, histogram: str, value: float) -> None: ...
    def histograms(self) -> dict[str, tuple[tuple[float, ...], list[int], float]]: ...
    def sessions(self) -> list[SessionView]: ...
    def begin(self, index: int, token: str, opened_unix_s: float) -> int: ...
    def describe(self, index: int, state: str, cipher: str = "", profile: str = "", codec: str = "") -> None: ...
    def session(self, index: int) -> SessionView: ...
    def end(self, index: int) -> None: ...
    def request_hangup(self, index: int, serial: int) -> bool: ...
    def hangups(self) -> Sequence[tuple[int, int]]: ...
