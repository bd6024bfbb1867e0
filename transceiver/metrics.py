"""The transceiver's metrics: what the slots' counters are called outside. Names and labels are interfaces
(docs/metrics.md).

Reads shared memory at scrape time; keeps nothing. Every family but the last has the label `worker`, none ever a
client's or a session's. Names of outcomes, states, end reasons and histograms come from `_fastpath`, so that one added
there is seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric

import transceiver
from _fastpath.media_slot import END_REASONS, STATES, MediaSlot
from _fastpath.outcomes import DOWN, OUTCOMES, UP
from relay.runtime.metrics import build_info, counter, gauge, histogram

Samples = dict[tuple[str, ...], float]
Rows = dict[tuple[str, ...], tuple[list[int], float]]

STAGES = ("check", "ice", "dtls", "media")
REFUSALS = ("full", "rate", "draining", "offer")
STATUSES = ("2xx", "3xx", "4xx", "5xx")
QUALITY = {
    "jitter_s": ("ufrag_transceiver_jitter_seconds", "Interarrival jitter of received media, when a call ends."),
    "loss_ratio": ("ufrag_transceiver_loss_ratio", "Lost share of media sent to us, over a whole call."),
    "rtt_s": ("ufrag_transceiver_rtt_seconds", "Round trip to the client, when a call ends."),
}


def families(slots: Sequence[MediaSlot]) -> Iterable[Metric]:
    yield from _traffic(slots)
    yield from _sessions(slots)
    yield from _histograms(slots)
    yield from _workers(slots)
    yield build_info("transceiver", transceiver.__version__)


def _each(slots: Sequence[MediaSlot], value: Callable[[MediaSlot], float]) -> Samples:
    return {(str(index),): value(slot) for index, slot in enumerate(slots)}


def _traffic(slots: Sequence[MediaSlot]) -> Iterable[Metric]:
    """Up, packets are what was taken from the socket, dropped or not; down, what was sent, which drops were not."""
    packets: Counter[tuple[str, ...]] = Counter()
    octets: Samples = {}
    good: Samples = {}
    dropped: Samples = {}
    for index, slot in enumerate(slots):
        counters, worker = slot.counters(), str(index)
        octets |= {(way, worker): counters[f"bytes_{way}"] for way in (UP, DOWN)}
        for outcome in OUTCOMES:
            count = counters[f"{outcome.direction}_{outcome.name}"]
            (dropped if outcome.dropped else good)[outcome.direction, outcome.name, worker] = count
            if outcome.direction == UP or not outcome.dropped:
                packets[outcome.direction, outcome.kind, worker] += count
    labels = ["direction", "kind", "worker"]
    yield counter("ufrag_transceiver_packets_total", "Datagrams taken from the socket, or sent.", packets, labels)
    labels = ["direction", "worker"]
    yield counter("ufrag_transceiver_bytes_total", "Their UDP payload, without envelopes.", octets, labels)
    labels = ["direction", "reason", "worker"]
    yield counter("ufrag_transceiver_accepted_total", "Datagrams that were good, by outcome.", good, labels)
    yield counter("ufrag_transceiver_drops_total", "Datagrams dropped, by outcome.", dropped, labels)


def _sessions(slots: Sequence[MediaSlot]) -> Iterable[Metric]:
    states: Samples = {}
    totals = [slot.totals() for slot in slots]

    def tallies(prefix: str, words: Iterable[str]) -> Samples:
        return {(word, str(index)): found[prefix + word] for word in words for index, found in enumerate(totals)}

    for index, slot in enumerate(slots):
        found = Counter(view.state for view in slot.sessions())
        states |= {(state, str(index)): found[state] for state in STATES if state != "free"}
    yield gauge("ufrag_transceiver_sessions", "Calls at this moment.", states, ["state", "worker"])
    capacity = _each(slots, lambda slot: slot.max_sessions)
    yield gauge("ufrag_transceiver_sessions_capacity", "Calls there is room for.", capacity, ["worker"])
    began: Samples = {(str(index),): found["sessions"] for index, found in enumerate(totals)}
    yield counter("ufrag_transceiver_sessions_begun_total", "Calls begun.", began, ["worker"])
    ended = tallies("ended_", END_REASONS)
    yield counter("ufrag_transceiver_sessions_total", "Calls ended, by reason.", ended, ["end_reason", "worker"])
    restarted: Samples = {(str(index),): found["restarts"] for index, found in enumerate(totals)}
    yield counter("ufrag_transceiver_ice_restarts_total", "ICE restarts of calls.", restarted, ["worker"])
    refused = tallies("refused_", REFUSALS)
    yield counter("ufrag_transceiver_refused_total", "Calls refused, by reason.", refused, ["reason", "worker"])
    answers = tallies("http_", STATUSES)
    yield counter("ufrag_transceiver_http_responses_total", "HTTP answers.", answers, ["status", "worker"])
    messages = tallies("messages_", ("up",))
    yield counter("ufrag_transceiver_messages_total", "Data channel messages.", messages, ["direction", "worker"])
    throttled: Samples = {(str(index),): found["throttled"] for index, found in enumerate(totals)}
    yield counter("ufrag_transceiver_throttled_total", "Dropped: calls over their share.", throttled, ["worker"])


def _histograms(slots: Sequence[MediaSlot]) -> Iterable[Metric]:
    read = [slot.histograms() for slot in slots]
    bounds = read[0]["setup_check_s"][0]
    setup: Rows = {
        (stage, str(index)): found[f"setup_{stage}_s"][1:] for stage in STAGES for index, found in enumerate(read)
    }
    labels = ["stage", "worker"]
    yield histogram("ufrag_transceiver_setup_seconds", "How long stages of set-up took.", bounds, setup, labels)
    for name, (family, text) in QUALITY.items():
        rows: Rows = {(str(index),): found[name][1:] for index, found in enumerate(read)}
        yield histogram(family, text, read[0][name][0], rows, ["worker"])


def _workers(slots: Sequence[MediaSlot]) -> Iterable[Metric]:
    busy: Samples = {}
    for index, slot in enumerate(slots):
        busy |= {("hot", str(index)): slot.busy_ratio, ("loop", str(index)): slot.loop_busy_ratio}
    yield gauge("ufrag_transceiver_busy_ratio", "CPU time of a thread over time.", busy, ["thread", "worker"])
    drops = _each(slots, lambda slot: slot.socket_drops)
    yield counter("ufrag_transceiver_socket_drops_total", "Dropped by the kernel: buffer full.", drops, ["worker"])
    restarts = _each(slots, lambda slot: slot.restarts)
    yield counter("ufrag_transceiver_worker_restarts_total", "Media processes started again.", restarts, ["worker"])
    draining = _each(slots, lambda slot: float(slot.draining))
    yield gauge("ufrag_transceiver_draining", "1 while no new call is taken.", draining, ["worker"])
