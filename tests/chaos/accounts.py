"""What must hold: after each fault, that no more is lost than it excuses; in the end, that nothing is left over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from _fastpath.media_slot import END_REASONS
from tests.chaos.world import CHECK_INTERVAL_S, FLOWS, PPS, World
from tests.support.relays import Relay, until

LEAVE_MOST_S = 25.0  # --drain-timeout and a little
UNDER_WAY = PPS // 50  # packets that may just be on their way when one looks


class Account:
    """Faults, and what was lost by each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.excused = 0.0  # packets
        self.broken: list[str] = []
        self._lost = world.talkers.lost
        self._unspent = self._unspent_until_s = 0.0
        self._seen: set[psutil.Process] = set()

    def step(self, name: str, excused_s: float) -> int:
        """What was lost since the last step. What one excuses and has not cost yet may still be lost for a while: flows
        may come back one by one, each with its next check."""
        for program in (self.world.relay, self.world.transceiver):
            self._seen.update(psutil.Process(program.pid).children(recursive=True))
        lost, self._lost = self.world.talkers.lost - self._lost, self.world.talkers.lost
        now = time.monotonic()
        excused = excused_s * PPS + (self._unspent if now < self._unspent_until_s else 0)
        if excused_s:
            self._unspent_until_s = now + CHECK_INTERVAL_S + 1
        self._unspent = max(0.0, excused - lost)
        self.excused += excused_s * PPS
        if lost > excused + UNDER_WAY:
            self.broken.append(f"{name}: lost {lost} packets, {excused:.0f} are excused")
        return lost

    def expect(self, true: bool, what: str) -> None:
        if not true:
            self.broken.append(what)

    def leftovers(self) -> list[str]:
        """Processes of any moment that are there when all should have ended."""
        left = [process for process in self._seen if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        return [f"process {process.pid} ({process.name()}) is left" for process in left]

    # ---- the end

    def close(self) -> None:
        """All faults are over and undone, the clients too; relay and transceiver still run."""
        self._talkers()
        self._calls()
        self._left()
        self._redis()
        self._flows()
        self.world.relay.check_books()
        self.world.transceiver.check_books()

    def _talkers(self) -> None:
        seen = self.world.talkers.result
        for wrong in ("corrupted", "misdirected", "foreign"):
            self.expect(seen[wrong] == 0, f"{seen[wrong]} packets {wrong}")
        self.expect(seen["lost"] <= self.excused, f"{seen['lost']} packets lost, {self.excused:.0f} are excused")

    def _calls(self) -> None:
        """Each was good, or a fault excuses it and it said why it ended; and none is left."""
        for report in self.world.callers.reports:
            overlaps = [1 for begin, end in self.world.excused if report["begun"] <= end and begin <= report["ended"]]
            if not report["ok"]:
                self.expect(bool(report["failure"]), f"a call ended without a reason: {report}")
                self.expect(bool(overlaps), f"a call failed without a fault that excuses it: {report['failure']}")
        self._await(lambda: not self.world.transceiver.sessions(), "calls are left")
        ended = self.world.transceiver.ended()
        self.expect(set(ended) <= set(END_REASONS), f"calls ended by {ended}")

    def _left(self) -> None:
        """Transceivers that gave way have ended by themselves."""
        for each in self.world.leaving:
            each.ended_within(LEAVE_MOST_S)
            self.expect(each.process.returncode == 0, f"a transceiver left with {each.process.returncode}")
            self.expect("drain timed out" not in each.log(), "a transceiver did not drain in time")

    def _redis(self) -> None:
        """Which has what lives, and nothing else."""
        kept = len(self.world.redis.keys("ufrag:v1:flow:*"))
        self.expect(kept <= FLOWS + 100, f"{kept} flows in Redis, {FLOWS} are alive")

    def _flows(self) -> None:
        relay = self.world.relay
        self._await(lambda: relay.total("ufrag_relay_flows") == 0, "flows are stuck")

    def _await(self, true: Callable[[], bool], what: str) -> None:
        try:
            until(true)
        except AssertionError:
            self.broken.append(what)


def holdings(relay: Relay) -> Counter[str]:
    """Descriptors and threads of a relay's processes, by their kind."""
    found: Counter[str] = Counter()
    for name, pid in {"launcher": relay.pid, **relay.children()}.items():
        kind = name.rstrip("-0123456789")
        found[f"{kind} descriptors"] += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        found[f"{kind} threads"] += psutil.Process(pid).num_threads()
    return found


def compare(before: Counter[str], after: Counter[str]) -> list[str]:
    """What has grown."""
    return [f"{what}: {before[what]} before, {after[what]} now" for what in after if after[what] > before[what]]
