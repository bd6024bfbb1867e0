"""What operators look at: `transceiver status`, `sessions` and `top`, drawn from what the admin port said.

Rules: nothing is asked here and no clock is read; a view is made of `Metrics`, sessions as `/sessions` has them, and
`now`. All of it reads well at 80 columns without colour; wider screens show more columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from relay.runtime.admin_client import Metrics
from relay.runtime.screen import WIDE, count, duration, facts, listed, milliseconds, percent, readiness, share, word

Session = Mapping[str, Any]


# transceiver status


def status(metrics: Metrics, ready: Mapping[str, Any], address: str) -> RenderableType:
    """One screen: may calls come, how many are there, how well do they go, and which worker is in trouble."""
    return facts(_lines(metrics, ready, address), workers(metrics, ready))


def _lines(metrics: Metrics, ready: Mapping[str, Any], address: str) -> Iterable[tuple[str, str]]:
    (build, *_) = metrics.samples("ufrag_transceiver_build_info") or (None,)
    version = build.labels.get("version", "?") if build else "?"
    yield "transceiver", f"{version} at {address}: {readiness(ready)}"
    states = metrics.by("state", "ufrag_transceiver_sessions")
    capacity = metrics.total("ufrag_transceiver_sessions_capacity")
    yield "sessions", f"{sum(states.values()):.0f} of {capacity:.0f}{listed(states)}"
    ended = metrics.by("end_reason", "ufrag_transceiver_sessions_total")
    yield "ended", f"{count(sum(ended.values()))}{listed(ended)}"
    refused = metrics.by("reason", "ufrag_transceiver_refused_total")
    yield "refused", f"{count(sum(refused.values()))}{listed(refused)}"
    yield (
        "set-up 50/95 %",
        _quantiles(metrics, [(stage, "setup", stage) for stage in ("check", "ice", "dtls", "media")]),
    )
    yield "network 50/95 %", _quantiles(metrics, [("round trip", "rtt", ""), ("jitter", "jitter", "")]) + _loss(metrics)
    for way in ("up", "down"):
        yield f"packets {way}", _packets(metrics, way)


def _quantiles(metrics: Metrics, wanted: Sequence[tuple[str, str, str]]) -> str:
    """Half of all and 95 % were within these bounds."""
    parts = []
    for title, name, stage in wanted:
        labels = {"stage": stage} if stage else {}
        half, most = (
            milliseconds(metrics.quantile(q, f"ufrag_transceiver_{name}_seconds", **labels)) for q in (0.5, 0.95)
        )
        parts.append(f"{title} {half.removesuffix(' ms')}/{most}" if half != "-" else f"{title} -")
    return ", ".join(parts)


def _loss(metrics: Metrics) -> str:
    half, most = (metrics.quantile(q, "ufrag_transceiver_loss_ratio") for q in (0.5, 0.95))
    if half is None or most is None:
        return ", loss -"
    return f", loss {percent(half).removesuffix(' %')}/{percent(most)}" if most <= 1 else ", loss above the scale"


def _packets(metrics: Metrics, way: str) -> str:
    kinds = metrics.by("kind", "ufrag_transceiver_packets_total", direction=way)
    drops = metrics.by("reason", "ufrag_transceiver_drops_total", direction=way)
    text = f"{count(sum(kinds.values()))}{listed(kinds)}"
    return f"{text}, dropped {count(sum(drops.values()))}{listed(drops)}"


def workers(metrics: Metrics, ready: Mapping[str, Any]) -> Table:
    """A line a worker."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("worker", "state", "sessions", "hot thread", "event loop", "restarts", "socket drops"):
        table.add_column(title, justify="left" if title in ("worker", "state") else "right", no_wrap=True)
    stale = ready.get("stale_workers") or []
    for worker in metrics.by("worker", "ufrag_transceiver_sessions_capacity"):
        total = {name: metrics.total(f"ufrag_transceiver_{name}", worker=worker) for name in _WORKER_TOTALS}
        busy = metrics.by("thread", "ufrag_transceiver_busy_ratio", worker=worker)
        state = "hangs" if worker in map(str, stale) else "draining" if total["draining"] else "ok"
        table.add_row(
            worker, state, f"{total['sessions']:.0f}", percent(busy.get("hot", 0.0)), percent(busy.get("loop", 0.0)),
            f"{total['worker_restarts_total']:.0f}", count(total["socket_drops_total"]),
        )  # fmt: skip
    return table


_WORKER_TOTALS = ("sessions", "draining", "worker_restarts_total", "socket_drops_total")


# transceiver sessions


@dataclass(frozen=True)
class Column:
    """A column of the table of sessions, and what stands in it for one of them at `now`."""

    title: str
    text: Callable[[Session, float], str]
    right: bool = False
    wide: bool = False
    gives_way: bool = False


def _word(session: Session, name: str) -> str:
    return word(session.get(name))


def _number(session: Session, name: str) -> float:
    value = session.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _loss_of(session: Session, way: str) -> str:
    return share(_number(session, f"lost_{way}"), _number(session, f"packets_{way}"))


COLUMNS = (
    Column("session", lambda session, _: _word(session, "id")),
    Column("state", lambda session, _: _word(session, "state")),
    Column("age", lambda session, now: duration(now - _number(session, "opened_unix_s")), right=True),
    Column("client", lambda session, _: _word(session, "client"), gives_way=True),
    Column("codec", lambda session, _: _word(session, "codec"), wide=True),
    Column("rtt ms", lambda session, _: f"{_number(session, 'rtt_ms'):.0f}", right=True),
    Column("up", lambda session, _: count(_number(session, "packets_up")), right=True),
    Column("lost", lambda session, _: _loss_of(session, "up"), right=True),
    Column("jitter", lambda session, _: f"{_number(session, 'jitter_up_ms'):.0f}", right=True, wide=True),
    Column("down", lambda session, _: count(_number(session, "packets_down")), right=True),
    Column("lost", lambda session, _: _loss_of(session, "down"), right=True),
    Column("jitter", lambda session, _: f"{_number(session, 'jitter_down_ms'):.0f}", right=True, wide=True),
    Column("relay", lambda session, _: _word(session, "relay"), wide=True, gives_way=True),
)

ORDERS: Mapping[str, Callable[[Session], Any]] = {
    "age": lambda session: _number(session, "opened_unix_s"),
    "loss": lambda session: -max(_ratio(session, "up"), _ratio(session, "down")),
    "rtt": lambda session: -_number(session, "rtt_ms"),
    "id": lambda session: [int(part) if part.isdigit() else 0 for part in str(session.get("id", "")).split("-")],
}


def _ratio(session: Session, way: str) -> float:
    lost = max(0.0, _number(session, f"lost_{way}"))
    return lost / (lost + _number(session, f"packets_{way}") or 1.0)


def sessions(found: Sequence[Session], now: float, width: int, order: str = "id", most: int | None = None) -> Table:
    """The table; `most` lines of it, which are then the first of that order."""
    chosen = [column for column in COLUMNS if width >= WIDE or not column.wide]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for column in chosen:  # where there is no room for all, addresses give way
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not column.gives_way)
    for session in sorted(found, key=ORDERS[order])[:most]:
        table.add_row(*(Text(column.text(session, now), no_wrap=True, overflow="ellipsis") for column in chosen))
    return table


# transceiver top


@dataclass(frozen=True)
class Moment:
    """What one look at the admin port showed, and when (any monotonic clock)."""

    at_s: float
    metrics: Metrics
    ready: Mapping[str, Any]
    sessions: Sequence[Session]


def top(then: Moment | None, moment: Moment, now: float, width: int, height: int, order: str) -> RenderableType:
    """A screen: what flows, the workers, and as many sessions as fit, the worst by `order` first."""
    states = moment.metrics.by("state", "ufrag_transceiver_sessions")
    head = f"{readiness(moment.ready)}, {sum(states.values()):.0f} sessions{listed(states)}"
    table = workers(moment.metrics, moment.ready)
    left = max(1, height - table.row_count - 6)
    shown = sessions(moment.sessions, now, width, order, left)
    lines = (Text(line, no_wrap=True, overflow="ellipsis") for line in (head, _rates(then, moment), ""))
    return Group(*lines, table, Text(), shown)


def _rates(then: Moment | None, moment: Moment) -> str:
    seconds = moment.at_s - then.at_s if then else 0.0
    if then is None or seconds <= 0:
        return "measuring ..."

    def rate(name: str, **labels: str) -> float:
        name = f"ufrag_transceiver_{name}_total"
        return max(0.0, moment.metrics.total(name, **labels) - then.metrics.total(name, **labels)) / seconds

    ways = [
        f"{way} {count(rate('packets', direction=way))} packets/s {rate('bytes', direction=way) * 8 / 1e6:.3g} Mbit/s"
        for way in ("up", "down")
    ]
    return ", ".join([*ways, f"dropped {count(rate('drops'))}/s", f"new {rate('sessions_begun'):.1f}/s"])
