"""What the swarm measures: the steady state, set-ups, memory. Each returns plain numbers; `swarm_report` words them.

CPU is read as the scheduler counts it, for the server per thread and for the swarm itself, and beside it how long
either was kept from its CPU by somebody else: then the figures are not the server's. Losses are of packets sent since
the last reset, after the stragglers came in.
"""

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import uvloop

from benchmarks import support
from benchmarks.support_transceiver import AddressPort, holdings, thread_cpu_ns, used_cpu_ns
from benchmarks.swarm_call import Times
from benchmarks.swarm_client import Fleet, SetUps

WARM_S, STRAGGLERS_S, SETTLE_S = 1.0, 0.5, 2.0
WARM_CALLS = 100
STAGES = ("answered", "checked", "connected", "heard")

Result = dict[str, Any]


class Server(Protocol):
    """What the modes ask of the server's process."""

    @property
    def http(self) -> AddressPort: ...

    def media_pids(self) -> list[int]: ...

    def account(self) -> dict[str, float]: ...


class SwarmFailed(RuntimeError):
    """The server did not do what is to be measured."""


@dataclass(frozen=True)
class Clocks:
    """Of the server's threads and of this process, in ns."""

    threads: dict[str, int]
    server_waited: int
    client: int
    client_waited: int
    wall: int

    @classmethod
    def read(cls, pids: list[int]) -> "Clocks":
        own = os.getpid()
        return cls(
            thread_cpu_ns(pids), sum(map(support.waited_ns, pids)),
            support.cpu_ns(own), support.waited_ns(own), time.monotonic_ns(),
        )  # fmt: skip

    def since(self, before: "Clocks") -> Result:
        """Shares of one core."""
        wall = self.wall - before.wall
        used = used_cpu_ns(before.threads, self.threads)
        return {
            "seconds": wall / 1e9,
            "server": sum(used.values()) / wall,
            "threads": {name: value / wall for name, value in used.items()},
            "server_waited": (self.server_waited - before.server_waited) / wall,
            "client": (self.client - before.client) / wall,
            "client_waited": (self.client_waited - before.client_waited) / wall,
        }


@dataclass(frozen=True)
class Plan:
    sessions: int
    seconds: float
    segments: int
    rate: float  # set-ups a second, 0: as many as go
    concurrency: int
    count: int  # set-ups measured at full rate, or made and hung up in the memory mode


# --- steady ---


def steady(server: Server, fleet: Fleet, plan: Plan) -> Result:
    ups = uvloop.run(_set_up(fleet, plan.sessions, plan))
    native, pids = fleet.native, server.media_pids()
    fleet.run(WARM_S)
    native.reset()
    segments = list(_segments(fleet, pids, plan))
    fleet.run(STRAGGLERS_S, media=False)
    totals = native.totals()
    lost = totals["sent"] - totals["received"]
    core = statistics.median(each["server"] for each in segments)
    result = {
        "sessions": plan.sessions,
        "setup": _stages(ups),
        "segments": segments,
        "totals": totals,
        "lost": lost,
        "loss": lost / max(1, totals["sent"]),
        "latency_us": {name: native.latency_us(share) for name, share in (("p50", 0.5), ("p99", 0.99))}
        | {"max": totals["latency_max_ns"] / 1e3},
        "server": core,
        "server_percent_a_session": core / plan.sessions * 100,
        "client": statistics.median(each["client"] for each in segments),
        "client_us_a_pair": statistics.median(each["client_us_a_pair"] for each in segments),
        "server_us_a_pair": statistics.median(each["server_us_a_pair"] for each in segments),
        "late_failures": fleet.late_failures[:5],
    }
    uvloop.run(_hang_up(fleet))
    return result


def _segments(fleet: Fleet, pids: list[int], plan: Plan) -> Iterator[Result]:
    for _ in range(plan.segments):
        before, sent = Clocks.read(pids), fleet.native.totals()["sent"]
        fleet.native.mark()
        fleet.run(plan.seconds / plan.segments)
        used = Clocks.read(pids).since(before)
        pairs = max(1, fleet.native.totals()["sent"] - sent)
        for who in ("server", "client"):
            used[f"{who}_us_a_pair"] = used[who] * used["seconds"] * 1e6 / pairs
        used["p99_us"] = fleet.native.latency_us(0.99, marked=True)
        yield used


# --- set-ups ---


def setups(server: Server, fleet: Fleet, plan: Plan) -> Result:
    """First at leisure, for what one caller feels; then as many at a time as make the server busy."""
    pids = server.media_pids()
    uvloop.run(_set_up(fleet, WARM_CALLS, plan, hang_up=True))
    before = Clocks.read(pids)
    fleet.run(SETTLE_S, media=False)
    idle = Clocks.read(pids).since(before)["server"]
    result = {"idle": idle, "leisurely": _timed(fleet, pids, plan, int(plan.seconds * plan.rate), plan.rate, idle)}
    uvloop.run(_hang_up(fleet))
    result["full"] = _timed(fleet, pids, plan, plan.count, 0.0, idle)
    uvloop.run(_hang_up(fleet))
    return result


def _timed(fleet: Fleet, pids: list[int], plan: Plan, count: int, rate: float, idle: float) -> Result:
    """`idle` is the share of a core that the server uses anyway. Farewells of former calls are let in first."""
    fleet.run(STRAGGLERS_S, media=False)
    fleet.native.reset()
    before = Clocks.read(pids)
    ups = uvloop.run(_run_setups(fleet, count, rate, plan.concurrency))
    used = Clocks.read(pids).since(before)
    done = max(1, len(ups.done))
    return {
        **_stages(ups),
        "used": used,
        "totals": fleet.native.totals(),
        "server_ms_each": (used["server"] - idle) * used["seconds"] * 1e3 / done,
        "client_ms_each": used["client"] * used["seconds"] * 1e3 / done,
    }


# --- memory ---


def memory(server: Server, fleet: Fleet, plan: Plan) -> Result:
    """What an idle session holds; and whether what calls held comes back when they end."""
    pids = server.media_pids()
    uvloop.run(_set_up(fleet, WARM_CALLS, plan, hang_up=True))
    fleet.run(SETTLE_S, media=False)
    before = holdings(pids)
    ups = uvloop.run(_set_up(fleet, plan.sessions, plan))
    fleet.run(SETTLE_S, media=False)
    full = holdings(pids)
    uvloop.run(_hang_up(fleet))
    fleet.run(SETTLE_S, media=False)
    rounds = [asdict(holdings(pids))]
    step = max(1, plan.count // 10)
    for _ in range(0, plan.count, step):
        uvloop.run(_set_up(fleet, step, plan, hang_up=True))
        fleet.run(SETTLE_S, media=False)
        rounds.append(asdict(holdings(pids)))
    each = {name: value / plan.sessions for name, value in asdict(full - before).items()}
    return {
        "sessions": plan.sessions,
        "setup": _stages(ups),
        "before": asdict(before),
        "full": asdict(full),
        "each": each,
        "churn": step,
        "rounds": rounds,
    }


# --- what they share ---


async def _run_setups(fleet: Fleet, count: int, rate: float, concurrency: int, hang_up: bool = False) -> SetUps:
    async with fleet.open():
        return await fleet.set_up_many(count, rate=rate, concurrency=concurrency, hang_up=hang_up)


async def _set_up(fleet: Fleet, count: int, plan: Plan, *, hang_up: bool = False) -> SetUps:
    """All of them, or it is no measurement of that many."""
    ups = await _run_setups(fleet, count, plan.rate if not hang_up else 0.0, plan.concurrency, hang_up)
    if ups.failures:
        raise SwarmFailed(f"{len(ups.failures)} of {count} set-ups failed; the first: {ups.failures[0]}")
    return ups


async def _hang_up(fleet: Fleet) -> None:
    async with fleet.open():
        failures = await fleet.hang_up_all()
    if failures:
        raise SwarmFailed(f"{len(failures)} hang-ups failed; the first: {failures[0]}")


def _stages(ups: SetUps) -> Result:
    """Milliseconds from the POST to the end of each step."""
    return {
        "done": len(ups.done),
        "failed": len(ups.failures),
        "failures": ups.failures[:5],
        "seconds": ups.seconds,
        "per_second": len(ups.done) / max(1e-9, ups.seconds),
        "ms": {name: _quantiles(ups.done, name) for name in STAGES if ups.done},
    }


def _quantiles(times: list[Times], stage: str) -> dict[str, float]:
    values = sorted((getattr(each, stage) - each.asked) / 1e6 for each in times)
    return {
        name: values[min(len(values) - 1, int(share * len(values)))]
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
