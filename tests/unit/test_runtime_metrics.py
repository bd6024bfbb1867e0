"""Families made of plain numbers come out as the text Prometheus reads."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.runtime import metrics


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The page as Prometheus's own parser reads it."""
    families = text_string_to_metric_families(page.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_counter_without_labels() -> None:
    page = metrics.render([metrics.counter("ufrag_relay_drops_total", "Drops.", 5)])
    assert b"# HELP ufrag_relay_drops_total Drops.\n# TYPE ufrag_relay_drops_total counter\n" in page
    assert b"\nufrag_relay_drops_total 5.0\n" in page


def test_counter_with_labels() -> None:
    table = {("up", "forwarded"): 3, ("down", "no_flow"): 4}
    page = metrics.render([metrics.counter("ufrag_relay_packets_total", "P.", table, ("direction", "verdict"))])
    assert samples(page) == {
        ("ufrag_relay_packets_total", (("direction", "up"), ("verdict", "forwarded"))): 3,
        ("ufrag_relay_packets_total", (("direction", "down"), ("verdict", "no_flow"))): 4,
    }


def test_gauge() -> None:
    page = metrics.render([metrics.gauge("ufrag_relay_flows", "F.", {("0",): 7}, ("worker",))])
    assert samples(page) == {("ufrag_relay_flows", (("worker", "0"),)): 7}


def test_histogram_is_cumulative_and_ends_in_infinity() -> None:
    page = metrics.render([metrics.histogram("ufrag_relay_batch", "B.", [1, 8], {(): ([2, 3, 4], 99.5)})])
    assert samples(page) == {
        ("ufrag_relay_batch_bucket", (("le", "1.0"),)): 2,
        ("ufrag_relay_batch_bucket", (("le", "8.0"),)): 5,
        ("ufrag_relay_batch_bucket", (("le", "+Inf"),)): 9,
        ("ufrag_relay_batch_count", ()): 9,
        ("ufrag_relay_batch_sum", ()): 99.5,
    }


def test_build_info() -> None:
    ((name, labels), value) = next(iter(samples(metrics.render([metrics.build_info("relay", "1.2")])).items()))
    assert name == "ufrag_relay_build_info"
    assert dict(labels)["version"] == "1.2"
    assert value == 1


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="_total"):
        metrics.counter("ufrag_relay_drops", "D.", 1)
    with pytest.raises(ValueError, match="labels"):
        metrics.gauge("ufrag_relay_flows", "F.", {("a", "b"): 1}, ("worker",))
    with pytest.raises(ValueError, match="bounds"):
        metrics.histogram("ufrag_relay_batch", "B.", [1, 8], {(): ([2, 3], 0)})


def test_registry_asks_its_sources_at_each_scrape() -> None:
    registry = metrics.Registry()
    numbers = iter([1, 2])
    registry.add(lambda: [metrics.gauge("a", "A.", next(numbers))])
    registry.add(lambda: [metrics.gauge("b", "B.", 9)])
    assert samples(registry.render()) == {("a", ()): 1, ("b", ()): 9}
    assert samples(registry.render())[("a", ())] == 2
