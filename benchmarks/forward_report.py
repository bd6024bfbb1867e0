"""What the segments of a comparison amount to: medians, paired ratios, and a table for people.

A segment is one run of the generator through one arm. Arms are compared only pair by pair, the two segments of a
pair being neighbours in time: the machine's own speed drifts by more than the difference that is looked for.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

DISTURBED = 0.05  # a segment in which the forwarder waited longer than this share for its CPU is marked
PERCENTILES = ("p50", "p99", "p99_9")


@dataclass(frozen=True)
class Segment:
    """CPU is that of the forwarder's processes per packet that crossed it once (an echo crosses twice)."""

    arm: str
    pair: int
    cpu_ns_per_fwd: float
    busy: float  # CPU seconds of the forwarder per second
    waited: float  # the share of time in which the forwarder was kept from running
    backend_waited: float  # the same of the backend, which shares its CPU with the generator
    fwd_per_s: float
    sent: int
    lost: int
    wrong: int  # corrupted, misdirected or duplicated
    checks_lost: int
    rtt_us: dict[str, float]


@dataclass(frozen=True)
class Load:
    """The segments of one offered load; rate 0 saturates."""

    rate: int
    segments: list[Segment]
    direct_rtt_us: list[dict[str, float]]

    def of(self, arm: str) -> list[Segment]:
        return sorted((each for each in self.segments if each.arm == arm), key=lambda each: each.pair)

    def arms(self) -> list[str]:
        return list(dict.fromkeys(each.arm for each in self.segments))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Minimum, quartiles, maximum."""
    ordered = sorted(values)
    if len(ordered) < 2:
        ordered *= 2
    first, middle, third = statistics.quantiles(ordered, n=4, method="inclusive")
    return {"min": ordered[0], "q1": first, "median": middle, "q3": third, "max": ordered[-1]}


def paired_ratios(over: Sequence[Segment], under: Sequence[Segment]) -> list[float]:
    return [a.cpu_ns_per_fwd / b.cpu_ns_per_fwd for a, b in zip(over, under, strict=True)]


def median_rtt(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in PERCENTILES} if runs else {}


def summarise_arm(load: Load, arm: str) -> dict[str, Any]:
    segments = load.of(arm)
    rtt, direct = median_rtt([each.rtt_us for each in segments]), median_rtt(load.direct_rtt_us)
    return {
        "cpu_ns_per_fwd": spread(each.cpu_ns_per_fwd for each in segments),
        "segments": len(segments),
        "disturbed": sum(each.waited > DISTURBED for each in segments),
        "busy": statistics.median(each.busy for each in segments),
        "fwd_per_s": statistics.median(each.fwd_per_s for each in segments),
        "sent": sum(each.sent for each in segments),
        "lost": sum(each.lost for each in segments),
        "wrong": sum(each.wrong for each in segments),
        "checks_lost": sum(each.checks_lost for each in segments),
        "rtt_us": rtt,
        "added_us": {name: rtt[name] - direct[name] for name in direct},
    }


def summarise(load: Load) -> dict[str, Any]:
    arms = load.arms()
    summary: dict[str, Any] = {"rate": load.rate, "arms": {arm: summarise_arm(load, arm) for arm in arms}}
    if "relay" in arms and "bare" in arms:
        summary["relay_over_bare"] = spread(paired_ratios(load.of("relay"), load.of("bare")))
    return summary | {"direct_rtt_us": median_rtt(load.direct_rtt_us)}


def summarise_floor(floors: Sequence[dict[str, float]], load: Load) -> dict[str, Any]:
    """The bare forwarder against the floor measured beside it, pair by pair; both are means over a segment."""
    bare = load.of("bare")
    ratios = [each.cpu_ns_per_fwd / floor["mean_ns"] for each, floor in zip(bare, floors, strict=True)]
    return {"mean_ns": spread(floor["mean_ns"] for floor in floors), "bare_over_floor": spread(ratios)}


def as_json(loads: Sequence[Load], floor: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    return extra | {
        "floor": floor,
        "loads": [summarise(load) | {"segments": [asdict(each) for each in load.segments]} for load in loads],
    }


def render(report: dict[str, Any]) -> str:
    lines = [line for load in report["loads"] for line in _load_lines(load)]
    if floor := report["floor"]:
        lines.append("floor (system calls alone, beside each saturated pair)")
        lines.append(f"  ns per packet   {_spread_text(floor['mean_ns'], 0)}")
        lines.append(f"  bare / floor    {_spread_text(floor['bare_over_floor'], 3)}")
    for arm, figures in report.get("memory", {}).items():
        lines.append(f"memory, {arm}: {figures['bytes_per_flow']:.1f} bytes a flow ({figures['source']})")
    return "\n".join(lines)


def _load_lines(load: dict[str, Any]) -> list[str]:
    title = f"{load['rate']:,} packets/s offered" if load["rate"] else "saturated"
    lines = [
        title,
        f"  {'arm':<7}{'ns/fwd median (min - max)':<32}{'fwd/s':>9}{'busy':>7}{'lost':>8}{'wrong':>7}"
        "  RTT us p50/p99/p99.9",
    ]
    for arm, figures in load["arms"].items():
        cpu = figures["cpu_ns_per_fwd"]
        cost = f"{cpu['median']:.0f} ({cpu['min']:.0f} - {cpu['max']:.0f})"
        lost = figures["lost"] + figures["checks_lost"]
        lines.append(
            f"  {arm:<7}{cost:<32}{figures['fwd_per_s']:>9,.0f}{figures['busy']:>7.0%}{lost:>8}{figures['wrong']:>7}"
            f"  {_rtt_text(figures['rtt_us'])}"
            + (f", added {_rtt_text(figures['added_us'])}" if figures["added_us"] else "")
        )
    disturbed, count = (sum(arm[key] for arm in load["arms"].values()) for key in ("disturbed", "segments"))
    if disturbed:
        lines.append(f"  NOT A QUIET MACHINE: the forwarder waited for its CPU in {disturbed} of {count} segments")
    if load["direct_rtt_us"]:
        lines.append(f"  {'direct':<7}{'':<63}  {_rtt_text(load['direct_rtt_us'])}")
    if "relay_over_bare" in load:
        lines.append(f"  relay / bare    {_spread_text(load['relay_over_bare'], 3)}")
    return [*lines, ""]


def _rtt_text(rtt: dict[str, float]) -> str:
    return "/".join(f"{rtt[name]:.0f}" for name in PERCENTILES)


def _spread_text(values: dict[str, float], digits: int) -> str:
    quartiles = f"{values['q1']:.{digits}f} - {values['q3']:.{digits}f}"
    ends = f"{values['min']:.{digits}f} - {values['max']:.{digits}f}"
    return f"median {values['median']:.{digits}f} (quartiles {quartiles}, ends {ends})"
