"""The transceiver's metrics from real slots: names, labels, sums that must agree, and that each is documented."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from _fastpath.media_slot import END_REASONS, HISTOGRAM_BOUNDS, TALLY_NAMES, MediaSlot, media_slot_bytes
from _fastpath.outcomes import OUTCOMES
from relay.runtime.admin_client import Metrics, parse_metrics
from relay.runtime.metrics import render
from transceiver import metrics

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
PREFIX = "ufrag_transceiver_"


class Counted(MediaSlot):
    """A slot in which every outcome was seen: the first once, the second twice, and so on."""

    def counters(self) -> dict[str, int]:
        seen = {f"{each.direction}_{each.name}": number for number, each in enumerate(OUTCOMES, 1)}
        return super().counters() | seen | {"bytes_up": 1000, "bytes_down": 2000}


@pytest.fixture
def slots() -> list[MediaSlot]:
    return [kind.create(mmap.mmap(-1, media_slot_bytes(8)), 8) for kind in (Counted, MediaSlot)]


def read(slots: list[MediaSlot]) -> Metrics:
    return parse_metrics(render(metrics.families(slots)).decode())


def test_every_packet_is_accepted_or_dropped(slots: list[MediaSlot]) -> None:
    found = read(slots)
    for worker in ("0", "1"):
        for way in ("up", "down"):
            packets, accepted, dropped = (
                found.total(f"{PREFIX}{name}_total", direction=way, worker=worker)
                for name in ("packets", "accepted", "drops")
            )
            assert packets == accepted + (dropped if way == "up" else 0)
    assert sum(found.total(f"{PREFIX}{name}_total") for name in ("accepted", "drops")) == sum(
        range(1, len(OUTCOMES) + 1)
    )
    assert found.total(f"{PREFIX}bytes_total", direction="down") == 2000


def test_packets_by_kind(slots: list[MediaSlot]) -> None:
    kinds = read(slots).by("kind", f"{PREFIX}packets_total", direction="up", worker="0")
    assert kinds == {
        kind: sum(n for n, each in enumerate(OUTCOMES, 1) if (each.direction, each.kind) == ("up", kind))
        for kind in ("stun", "dtls", "srtp", "srtcp", "other")
    }


def test_one_outcome_in_two_directions_is_two_samples(slots: list[MediaSlot]) -> None:
    found = read(slots)
    ways = found.by("direction", f"{PREFIX}drops_total", reason="no_path", worker="0")
    assert set(ways) == {"up", "down"}
    assert ways["up"] != ways["down"]


def test_sessions_by_state(slots: list[MediaSlot]) -> None:
    for index, state in enumerate(("live", "live", "checking", "closing")):
        slots[1].begin(index, "x", 1.0)
        slots[1].describe(index, state)
    slots[1].end(0)
    states = read(slots).by("state", f"{PREFIX}sessions", worker="1")
    assert states == {"new": 0, "checking": 1, "handshaking": 0, "live": 1, "closing": 1}
    assert read(slots).total(f"{PREFIX}sessions_capacity") == 16


def test_every_tally_is_exported(slots: list[MediaSlot]) -> None:
    """One that the slot gains and nobody exports would be counted in vain."""
    before = read(slots)
    for number, name in enumerate(TALLY_NAMES, 1):
        slots[0].count(name, number)
    after = read(slots)
    families = ("sessions_begun", "sessions", "ice_restarts", "refused", "http_responses", "messages", "throttled")
    names = [f"{PREFIX}{family}_total" for family in families]
    assert sum(before.total(name) for name in names) == 0
    assert sum(after.total(name) for name in names) == sum(range(1, len(TALLY_NAMES) + 1))
    reasons = after.by("end_reason", f"{PREFIX}sessions_total", worker="0")
    assert reasons == {reason: TALLY_NAMES.index(f"ended_{reason}") + 1 for reason in END_REASONS}


def test_histograms_add_up(slots: list[MediaSlot]) -> None:
    for name, bounds in HISTOGRAM_BOUNDS.items():
        for value in (bounds[0], bounds[-1], bounds[-1] + 1):
            slots[1].observe(name, value)
    found = read(slots)
    for stage in metrics.STAGES:
        assert found.total(f"{PREFIX}setup_seconds_count", stage=stage) == 3
        assert found.quantile(0.95, f"{PREFIX}setup_seconds", stage=stage) == float("inf")
    for name, (family, _) in metrics.QUALITY.items():
        bounds = HISTOGRAM_BOUNDS[name]
        assert found.total(f"{family}_count", worker="1") == 3
        assert found.total(f"{family}_sum") == pytest.approx(bounds[0] + 2 * bounds[-1] + 1)
        assert found.quantile(0.3, family) == bounds[0]
    assert set(HISTOGRAM_BOUNDS) == {f"setup_{stage}_s" for stage in metrics.STAGES} | set(metrics.QUALITY)


def test_what_the_launcher_and_the_threads_say(slots: list[MediaSlot]) -> None:
    slots[0].busy_ratio, slots[0].loop_busy_ratio = 0.25, 0.5
    slots[0].restarts, slots[0].socket_drops, slots[1].draining = 3, 7, True
    found = read(slots)
    assert found.by("thread", f"{PREFIX}busy_ratio", worker="0") == {"hot": 0.25, "loop": 0.5}
    assert found.by("worker", f"{PREFIX}worker_restarts_total") == {"0": 3, "1": 0}
    assert found.by("worker", f"{PREFIX}socket_drops_total") == {"0": 7, "1": 0}
    assert found.by("worker", f"{PREFIX}draining") == {"0": 0, "1": 1}
    assert found.total(f"{PREFIX}build_info") == 1


def test_no_label_names_a_call(slots: list[MediaSlot]) -> None:
    slots[0].begin(0, "the-call-id", 1.0)
    text = render(metrics.families(slots)).decode()
    assert "the-call-id" not in text
    labels = {
        word.partition("=")[0] for line in text.splitlines() if "{" in line for word in line.split("{")[1].split(",")
    }
    assert labels <= {
        "worker", "direction", "kind", "reason", "state", "end_reason", "status", "stage", "le", "thread", "version",
        "python",
    }  # fmt: skip


@pytest.mark.tree
def test_every_family_and_outcome_is_documented(slots: list[MediaSlot]) -> None:
    document = DOCUMENT.read_text()
    for family in metrics.families(slots):
        name = family.name + "_total" * (family.type == "counter")
        assert f"`{name}`" in document, name
    for each in OUTCOMES:
        assert f"`{each.name}`" in document, each.name
    for reason in (*END_REASONS, *metrics.REFUSALS):
        assert f"`{reason}`" in document, reason
