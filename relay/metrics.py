"""The relay's metrics: what the slots' counters are called outside. Names and labels are interfaces (docs/metrics.md).

Reads shared memory at scrape time; keeps nothing. Every family has the label `worker`, none ever a client's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from prometheus_client import Metric

import relay
from _fastpath.slot import flow_bytes
from _fastpath.verdicts import BATCH_BOUNDS, CACHE_LATENCY_BOUNDS_US, VERDICTS_BY_NUMBER
from _fastpath.wire.token import KEY_IDS
from relay.runtime.metrics import build_info, counter, gauge, histogram
from relay.slots import WorkerSlot

Samples = dict[tuple[str, ...], float]
DIRECTIONS = ("up", "down")


def families(slots: Sequence[WorkerSlot], *, redis: bool = False) -> Iterable[Metric]:
    """`redis`: the relay has a route cache."""
    counters = {str(own.index): own.slot.counters() for own in slots}
    yield from _traffic(counters)
    yield from _flows(slots)
    yield from _hold(slots)
    yield from _workers(slots)
    yield _batches(counters)
    if redis:
        yield from _redis({str(own.index): own.slot.cache_stats() for own in slots})
    yield build_info("relay", relay.__version__)


def _traffic(counters: dict[str, dict[str, int]]) -> Iterable[Metric]:
    def by_direction(what: str) -> Samples:
        return {(way, worker): values[f"{what}_{way}"] for worker, values in counters.items() for way in DIRECTIONS}

    def by_verdict(forwarded: bool) -> Samples:
        return {
            (way, reason, worker): values[f"{way}_{reason}"]
            for worker, values in counters.items()
            for way, forward, reason in VERDICTS_BY_NUMBER
            if way and forward is forwarded
        }

    labels = ["direction", "worker"]
    yield counter("ufrag_relay_packets_total", "Datagrams taken from sockets.", by_direction("packets"), labels)
    yield counter("ufrag_relay_bytes_total", "Their UDP payload, without envelopes.", by_direction("bytes"), labels)
    labels = ["direction", "reason", "worker"]
    yield counter("ufrag_relay_drops_total", "Datagrams dropped, by verdict.", by_verdict(False), labels)
    yield counter("ufrag_relay_forwarded_total", "Datagrams sent on, by verdict.", by_verdict(True), labels)


def _flows(slots: Sequence[WorkerSlot]) -> Iterable[Metric]:
    def by_state() -> Samples:
        return {(state, str(own.index)): n for own in slots for state, n in own.slot.flows().items()}

    def event(name: str) -> Samples:
        return {(str(own.index),): own.slot.events()[name] for own in slots}

    tokens: Samples = {
        ("none" if key_id == 7 else str(key_id), result, str(own.index)): count
        for own in slots
        for (key_id, result), count in own.slot.tokens().items()
        if count or key_id != 7
    }
    yield gauge("ufrag_relay_flows", "Flows in the table.", by_state(), ["state", "worker"])
    yield counter("ufrag_relay_flows_created_total", "Flows made.", event("flows_created"), ["worker"])
    yield counter("ufrag_relay_flows_expired_total", "Flows gone by timeout.", event("flows_expired"), ["worker"])
    yield counter("ufrag_relay_flows_evicted_total", "Pushed out by their token.", event("flows_evicted"), ["worker"])
    yield counter("ufrag_relay_flows_adopted_total", "Taken over from a sibling.", event("flows_adopted"), ["worker"])
    yield counter("ufrag_relay_flows_moved_total", "Gone to another owner.", event("flows_moved"), ["worker"])
    yield counter("ufrag_relay_flows_recovered_total", "Known to the cache.", event("flows_recovered"), ["worker"])
    yield counter("ufrag_relay_index_rebuilds_total", "Index rebuilds.", event("index_rebuilds"), ["worker"])
    yield counter("ufrag_relay_tokens_total", "Tokens read.", tokens, ["key_id", "result", "worker"])
    present: Samples = {
        (str(key_id), str(own.index)): float(key_id in own.slot.key_ids) for own in slots for key_id in range(KEY_IDS)
    }
    yield gauge("ufrag_relay_route_key_present", "1: tokens of it are taken.", present, ["key_id", "worker"])
    capacity: Samples = {(str(own.index),): own.slot.max_flows for own in slots}
    yield gauge("ufrag_relay_flows_capacity", "Flows a table can hold.", capacity, ["worker"])
    yield gauge("ufrag_relay_flow_bytes", "Memory per flow the table can hold.", flow_bytes(slots[0].slot.max_flows))


def _hold(slots: Sequence[WorkerSlot]) -> Iterable[Metric]:
    """Packets of flows that only the route cache may know."""

    def each(what: dict[str, dict[str, int]], name: str) -> Samples:
        return {(worker,): values[name] for worker, values in what.items()}

    held = {str(own.index): own.slot.held() for own in slots}
    counters = {str(own.index): own.slot.counters() for own in slots}
    events = {str(own.index): own.slot.events() for own in slots}
    yield gauge("ufrag_relay_hold_packets", "On hold now.", each(held, "packets"), ["worker"])
    yield gauge("ufrag_relay_hold_flows", "Flows they wait for.", each(held, "flows"), ["worker"])
    yield counter("ufrag_relay_held_total", "Datagrams that were put on hold.", each(counters, "held"), ["worker"])
    yield counter("ufrag_relay_asks_lost_total", "No room to ask or tell.", each(events, "asks_lost"), ["worker"])
    refused = each(events, "answers_refused")
    yield counter("ufrag_relay_answers_refused_total", "Known, but not to be opened.", refused, ["worker"])


def _workers(slots: Sequence[WorkerSlot]) -> Iterable[Metric]:
    drops: Samples = {
        (label, str(own.index)): own.slot.socket_drops(i) for own in slots for i, (label, _) in enumerate(own.sockets())
    }
    queues: Samples = {
        (label, str(own.index)): own.slot.socket_queue(i) for own in slots for i, (label, _) in enumerate(own.sockets())
    }
    restarts: Samples = {(str(own.index),): own.slot.restarts for own in slots}
    busy: Samples = {(str(own.index),): own.slot.busy_ratio for own in slots}
    resumed: Samples = {(str(own.index),): own.slot.events()["batches_resumed"] for own in slots}
    draining: Samples = {(str(own.index),): float(own.slot.draining) for own in slots}
    yield counter("ufrag_relay_socket_drops_total", "Dropped by the kernel: buffer full.", drops, ["socket", "worker"])
    yield gauge("ufrag_relay_socket_queue_bytes", "Waiting in the kernel, last second.", queues, ["socket", "worker"])
    yield counter("ufrag_relay_worker_restarts_total", "Workers started again.", restarts, ["worker"])
    yield counter("ufrag_relay_batches_resumed_total", "Finished for a dead predecessor.", resumed, ["worker"])
    yield gauge("ufrag_relay_busy_ratio", "CPU time of the hot thread over time.", busy, ["worker"])
    yield gauge(
        "ufrag_relay_draining", "1 while no new flow is taken; 2: and checks stay unanswered.", draining, ["worker"]
    )


def _batches(counters: dict[str, dict[str, int]]) -> Metric:
    """Datagrams per receive call. The sum is that of all datagrams; nothing is above the last bound."""
    rows: dict[tuple[str, ...], tuple[list[int], float]] = {
        (worker,): (
            [values[f"batch_le_{bound}"] for bound in BATCH_BOUNDS] + [0],
            float(values["packets_up"] + values["packets_down"]),
        )
        for worker, values in counters.items()
    }
    return histogram("ufrag_relay_batch_size", "Datagrams a receive call took.", BATCH_BOUNDS, rows, ["worker"])


def _redis(stats: dict[str, dict[str, int]]) -> Iterable[Metric]:
    """Of the route cache: what each worker's third thread has counted."""

    def of(name: str) -> Samples:
        return {(worker,): values[name] for worker, values in stats.items()}

    results = {"hit": "hits", "miss": "misses", "unavailable": "unavailable"}
    looked_up: Samples = {
        (result, worker): values[name] for worker, values in stats.items() for result, name in results.items()
    }
    head = "ufrag_relay_redis"
    yield counter(f"{head}_lookups_total", "Flows looked for, by result.", looked_up, ["result", "worker"])
    yield counter(f"{head}_bad_values_total", "Misses: what stood there is none of ours.", of("bad_values"), ["worker"])
    yield counter(f"{head}_writes_total", "Flows written.", of("writes"), ["worker"])
    yield counter(f"{head}_writes_dropped_total", "Not written then, but later.", of("writes_dropped"), ["worker"])
    yield gauge(f"{head}_writes_waiting", "Flows to be written or removed.", of("writes_waiting"), ["worker"])
    yield counter(f"{head}_removals_total", "Flows removed at their end.", of("removals"), ["worker"])
    yield counter(f"{head}_losses_total", "Times that it had lost what was written.", of("losses"), ["worker"])
    yield counter(f"{head}_errors_total", "Round trips that failed.", of("errors"), ["worker"])
    yield gauge(f"{head}_breaker_state", "0: asked, 1: tried, 2: left alone.", of("breaker"), ["worker"])
    yield counter(f"{head}_breaker_opened_total", "Times that it was left alone.", of("breaker_opened"), ["worker"])
    rows: dict[tuple[str, ...], tuple[list[int], float]] = {(each,): _latencies(stats[each]) for each in stats}
    bounds = [bound / 1e6 for bound in CACHE_LATENCY_BOUNDS_US]
    yield histogram(f"{head}_lookup_seconds", "A look-up's round trip.", bounds, rows, ["worker"])


def _latencies(values: dict[str, int]) -> tuple[list[int], float]:
    """Counts between two bounds each, of counts up to a bound."""
    up_to = [0, *(values[f"lookup_us_le_{bound}"] for bound in CACHE_LATENCY_BOUNDS_US), values["lookups"]]
    return [more - less for less, more in pairwise(up_to)], values["lookup_us"] / 1e6
