"""Prometheus text from plain numbers.

The counters themselves live where they are counted (shared memory, mostly) and are read at the time of a scrape;
nothing here keeps a value. A program registers callables that return metric families, made with `counter`, `gauge`
and `histogram`, and renders them all into one page.

Names are interfaces: `ufrag_relay_*` and `ufrag_transceiver_*`, base units (seconds, bytes), counters end in
`_total`. Labels are small closed sets (a direction, a verdict, a worker), never a client, a session or a token.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST

Source = Callable[[], Iterable[Metric]]
_Values = TypeVar("_Values", bound=tuple[str, ...])  # of the labels, in their order


def counter(name: str, help: str, samples: float | Mapping[_Values, float], labels: Sequence[str] = ()) -> Metric:
    """A number that only grows."""
    if not name.endswith("_total"):
        raise ValueError(f"the counter {name} must end in _total")
    return _fill(CounterMetricFamily(name, help, labels=list(labels)), samples, labels)


def gauge(name: str, help: str, samples: float | Mapping[_Values, float], labels: Sequence[str] = ()) -> Metric:
    """A number that goes up and down."""
    return _fill(GaugeMetricFamily(name, help, labels=list(labels)), samples, labels)


def histogram(
    name: str,
    help: str,
    bounds: Sequence[float],
    rows: Mapping[tuple[str, ...], tuple[list[int], float]],
    labels: Sequence[str] = (),
) -> Metric:
    """Distributions: label values -> (counts, sum of the values). `counts[i]` values were at most `bounds[i]` and
    above the bound before; the last count, one more than there are bounds, is of those above all."""
    family = HistogramMetricFamily(name, help, labels=list(labels))
    for values, (counts, total) in rows.items():
        if len(counts) != len(bounds) + 1:
            raise ValueError(f"the histogram {name} has {len(bounds)} bounds and {len(counts)} counts")
        family.add_metric(list(values), list(_cumulate(bounds, counts)), total)
    return family


def build_info(program: str, version: str, **labels: str) -> Metric:
    """`ufrag_<program>_build_info`, always 1: what runs stands in the labels."""
    labels = {"version": version, "python": platform.python_version(), **labels}
    samples = {tuple(labels.values()): 1.0}
    return gauge(f"ufrag_{program}_build_info", "What is running.", samples, labels=list(labels))


def render(families: Iterable[Metric]) -> bytes:
    """The text of one scrape, for `CONTENT_TYPE`."""
    return generate_latest(_Once(families))


class Registry:
    """The sources of one program's metrics, asked anew at each scrape, in the order they were added."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        self._sources.append(source)

    def render(self) -> bytes:
        return render(family for source in self._sources for family in source())


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _fill(
    family: CounterMetricFamily | GaugeMetricFamily, samples: float | Mapping[_Values, float], labels: Sequence[str]
) -> Metric:
    pairs = samples.items() if isinstance(samples, Mapping) else [((), samples)]
    for values, number in pairs:
        if len(values) != len(labels):
            raise ValueError(f"{family.name} has labels {tuple(labels)}, not {values}")
        family.add_metric(list(values), number)
    return family


def _cumulate(bounds: Sequence[float], counts: Sequence[int]) -> Iterator[tuple[str, float]]:
    running = 0
    for bound, count in zip([*map(float, bounds), float("inf")], counts, strict=True):
        running += count
        yield ("+Inf" if bound == float("inf") else repr(bound)), float(running)
