"""What operators look at: `relay status`, `flows` and `top`, drawn from what the admin port said.

Rules: nothing is asked here and no clock is read. All of it reads well at 80 columns without colour; wider screens
show more columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from relay.flows import Flow
from relay.runtime.admin_client import Metrics
from relay.runtime.screen import WIDE, count, duration, facts, listed, percent, readiness, word

WAYS = ("up", "down")
DRAINING = {1: "draining", 2: "pushing"}
FLOW_EVENTS = ("expired", "evicted", "moved", "adopted", "recovered")
MOST_REASONS = 4  # of drops a second, in one line


def status(metrics: Metrics, ready: Mapping[str, Any], address: str) -> RenderableType:
    """One screen: is it well, what does it carry, what did it refuse, and which worker is in trouble."""
    return facts(_lines(metrics, ready, address), _workers(metrics, ready))


def _lines(metrics: Metrics, ready: Mapping[str, Any], address: str) -> Iterable[tuple[str, str]]:
    (build, *_) = metrics.samples("ufrag_relay_build_info") or (None,)
    version = build.labels.get("version", "?") if build else "?"
    yield "relay", f"{version} at {address}: {readiness(ready)}"
    states = metrics.by("state", "ufrag_relay_flows")
    yield "flows", f"{sum(states.values()):.0f} of {metrics.total('ufrag_relay_flows_capacity'):.0f}{listed(states)}"
    ends = {name: metrics.total(f"ufrag_relay_flows_{name}_total") for name in FLOW_EVENTS}
    yield "made", f"{count(metrics.total('ufrag_relay_flows_created_total'))}{listed(ends)}"
    for way in WAYS:
        packets = metrics.total("ufrag_relay_packets_total", direction=way)
        forwarded = metrics.by("reason", "ufrag_relay_forwarded_total", direction=way)
        yield f"packets {way}", f"{count(packets)}{listed(forwarded)}"
        drops = metrics.by("reason", "ufrag_relay_drops_total", direction=way)
        yield f"dropped {way}", f"{count(sum(drops.values()))}{listed(drops)}"
    yield "tokens", _tokens(metrics)
    dropped = count(metrics.total("ufrag_relay_socket_drops_total"))
    waiting = count(metrics.total("ufrag_relay_socket_queue_bytes"))
    yield "kernel", f"{dropped} dropped for full buffers, {waiting}B waiting"
    if metrics.samples("ufrag_relay_redis_breaker_state"):
        yield "redis", _redis(metrics)


def _redis(metrics: Metrics) -> str:
    states = metrics.by("worker", "ufrag_relay_redis_breaker_state").values()
    left = sum(state > 0 for state in states)
    away = "asked" if not left else f"not asked by {left} of {len(states)} workers"
    results = metrics.by("result", "ufrag_relay_redis_lookups_total")
    written, held = (metrics.total(f"ufrag_relay_{name}") for name in ("redis_writes_total", "hold_packets"))
    found = f"looked up {count(sum(results.values()))}{listed(results)}"
    return f"{away}, wrote {count(written)}, {found}, {count(held)} on hold"


def _tokens(metrics: Metrics) -> str:
    """A part for each key that a worker has or that was seen."""
    present = metrics.by("key_id", "ufrag_relay_route_key_present")
    parts = []
    for key_id in [*present, "none"]:
        results = metrics.by("result", "ufrag_relay_tokens_total", key_id=key_id)
        if present.get(key_id) or any(results.values()):
            name = "no key" if key_id == "none" else f"key {key_id}" + ("" if present.get(key_id) else " (gone)")
            parts.append(f"{name}{listed(results)}")
    return ", ".join(parts) or "-"


WORKER_COLUMNS = ("worker", "state", "flows", "busy", "batch", "restarts", "waiting", "dropped")


def _workers(metrics: Metrics, ready: Mapping[str, Any]) -> Table:
    table = _table(WORKER_COLUMNS, left=("worker", "state"))
    for worker, state in _states(metrics, ready):
        batches = metrics.total("ufrag_relay_batch_size_count", worker=worker)
        packets = metrics.total("ufrag_relay_packets_total", worker=worker)
        table.add_row(
            worker, state, count(metrics.total("ufrag_relay_flows", worker=worker)),
            percent(metrics.total("ufrag_relay_busy_ratio", worker=worker)),
            f"{packets / batches:.1f}" if batches else "-",
            f"{metrics.total('ufrag_relay_worker_restarts_total', worker=worker):.0f}",
            count(metrics.total("ufrag_relay_socket_queue_bytes", worker=worker)) + "B",
            count(metrics.total("ufrag_relay_socket_drops_total", worker=worker)),
        )  # fmt: skip
    return table


def _states(metrics: Metrics, ready: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    stale = [str(each) for each in ready.get("stale_workers") or []]
    for worker, draining in metrics.by("worker", "ufrag_relay_draining").items():
        yield worker, "hangs" if worker in stale else DRAINING.get(int(draining), "ok")


def _table(titles: Sequence[str], left: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in left else "right", no_wrap=True)
    return table


# relay flows


def flows(found: Iterable[Flow], width: int) -> Table:
    """Clients and owners in full; when each was heard of."""
    titles = ["worker", "state", "client", "owner", "age", "silent"]
    wide = ["local", "answered", "session"] if width >= WIDE else []
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in [*titles, *wide]:
        table.add_column(title, justify="right" if title in ("age", "silent", "answered") else "left", no_wrap=True)
    for flow in found:
        ages = [duration(flow["age_s"]), f"{flow['silent_s']:.1f} s"]
        more = [word(flow["local"]), f"{flow['answered_s']:.1f} s", word(flow["session"])] if wide else []
        cells = [str(flow["worker"]), _state(flow), word(flow["client"]), word(flow["owner"]), *ages, *more]
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    return table


def routes(found: Iterable[Flow], width: int) -> Table:
    """The same as Redis has them: who wrote each, and nothing of when."""
    titles = ["relay", "state", "client", "owner", *(["local", "session"] if width >= WIDE else [])]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for title in titles:
        table.add_column(title, no_wrap=True)
    for flow in found:
        table.add_row(*(Text(word(flow[title]), no_wrap=True, overflow="ellipsis") for title in titles))
    return table


def _state(flow: Flow) -> str:
    short = {"half_open": "half-open", "established": "open"}
    contended = flow["pending_owner"] and flow["pending_owner"] != flow["owner"]
    return short.get(flow["state"], word(flow["state"])) + (" !" if contended else "")


# relay top


@dataclass(frozen=True)
class Moment:
    """What one look at the admin port showed, and when (any monotonic clock)."""

    at_s: float
    metrics: Metrics
    ready: Mapping[str, Any]


TOP_COLUMNS = ("worker", "state", "up/s", "down/s", "Mbit/s", "drops/s", "busy", "flows", "new/s", "waiting")


def top(then: Moment | None, now: Moment) -> RenderableType:
    """A screen: totals, the workers, and why packets are dropped at this moment."""
    states = now.metrics.by("state", "ufrag_relay_flows")
    head = f"{readiness(now.ready)}, {sum(states.values()):.0f} flows{listed(states)}"
    if then is None or now.at_s <= then.at_s:
        return Group(Text(head), Text("measuring ..."))
    rates = _Rates(then, now)
    table = _table(TOP_COLUMNS, left=("worker", "state"))
    names = [name for name, _ in _states(now.metrics, now.ready)]
    for worker, state in _states(now.metrics, now.ready):
        table.add_row(worker, state, *_top_cells(now.metrics, rates, worker=worker))
    if len(names) > 1:
        table.add_row("all", "", *_top_cells(now.metrics, rates, busy_of=len(names)), style="bold")
    return Group(Text(head), Text(), table, Text(), *(Text(line) for line in _reasons(rates)))


class _Rates:
    """Counters' growth a second between two moments."""

    def __init__(self, then: Moment, now: Moment) -> None:
        self._then, self._now, self._seconds = then.metrics, now.metrics, now.at_s - then.at_s

    def of(self, name: str, **labels: str) -> float:
        name = f"ufrag_relay_{name}_total"
        return max(0.0, self._now.total(name, **labels) - self._then.total(name, **labels)) / self._seconds

    def by_reason(self, way: str) -> dict[str, float]:
        reasons = self._now.by("reason", "ufrag_relay_drops_total", direction=way)
        return {reason: self.of("drops", direction=way, reason=reason) for reason in reasons}


def _top_cells(metrics: Metrics, rates: _Rates, busy_of: int = 1, **labels: str) -> list[str]:
    return [
        count(rates.of("packets", direction="up", **labels)),
        count(rates.of("packets", direction="down", **labels)),
        f"{rates.of('bytes', **labels) * 8 / 1e6:.3g}",
        count(rates.of("drops", **labels) + rates.of("socket_drops", **labels)),
        percent(metrics.total("ufrag_relay_busy_ratio", **labels) / busy_of),
        count(metrics.total("ufrag_relay_flows", **labels)),
        count(rates.of("flows_created", **labels)),
        count(metrics.total("ufrag_relay_socket_queue_bytes", **labels)) + "B",
    ]


def _reasons(rates: _Rates) -> Iterable[str]:
    """The commonest reasons of drops in this moment, a line for each way."""
    for way in WAYS:
        found = sorted((-rate, reason) for reason, rate in rates.by_reason(way).items() if rate)
        words = [f"{reason} {count(-rate)}/s" for rate, reason in found[:MOST_REASONS]]
        yield f"dropped {way:<5} {', '.join(words) or '-'}"
    yield f"kernel        {count(rates.of('socket_drops'))}/s dropped for full buffers"
