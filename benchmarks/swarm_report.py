"""The figures of the swarm as text: one finding a line, and beside it what was asked of it."""

import re
import statistics
from collections.abc import Iterator
from typing import Any

Result = dict[str, Any]

MOST_PERCENT_A_SESSION = 0.06
MOST_LOSS = 0.001
MOST_P99_US = 5000.0
FEWEST_SETUPS = 400.0
WAITED_MOST = 0.05
LEAST_SHARE = 0.0005  # of a core, for a thread to be worth a line

WRONG = ("duplicated", "corrupted", "misdirected", "unauthentic", "unknown", "overrun", "send_errors")
KIB = 1024


def report(mode: str, result: Result) -> Iterator[str]:
    lines = {"steady": steady, "aiortc": steady, "setups": setups, "memory": memory}[mode](result)
    if mode == "aiortc":  # nothing was asked of it
        lines = (re.sub(r" \[(ok|NOT MET): .*\]", "", line) for line in lines)
    yield from lines
    if account := result.get("account"):
        yield "the server's own account:"
        yield from (f"  {name} {value:.0f}" for name, value in sorted(account.items()))


def verdict(good: bool, what: str) -> str:
    return f"[{'ok' if good else 'NOT MET'}: {what}]"


# --- steady ---


def steady(result: Result) -> Iterator[str]:
    totals, latency = result["totals"], result["latency_us"]
    percent, loss = result["server_percent_a_session"], result["loss"]
    yield f"{result['sessions']} sessions, each a packet every 20 ms and its echo; set up {_rate(result['setup'])}"
    yield (
        f"server: {result['server']:.1%} of a core, {percent:.4f} % a session, {result['server_us_a_pair']:.2f} us "
        f"a packet and its echo {verdict(percent <= MOST_PERCENT_A_SESSION, f'at most {MOST_PERCENT_A_SESSION} %')}"
    )
    yield from _threads(result["segments"])
    yield (
        f"packets: {totals['sent']} sent, {totals['received']} came back, {result['lost']} lost ({loss:.4%}) "
        f"{verdict(loss < MOST_LOSS, f'less than {MOST_LOSS:.1%}')}"
    )
    yield (
        f"latency: p50 {latency['p50']:.0f} us, p99 {latency['p99']:.0f} us, max {latency['max']:.0f} us "
        f"{verdict(latency['p99'] <= MOST_P99_US, f'p99 at most {MOST_P99_US / 1e3:.0f} ms')}"
    )
    parts = [each["p99_us"] for each in result["segments"]]
    yield f"  p99 by segment: {', '.join(f'{each:.0f}' for each in parts)} us; median {statistics.median(parts):.0f} us"
    yield f"checks: {totals['checks_sent']} sent, {totals['checks_answered']} answered; reports: " + (
        f"{totals['reports_sent']} sent, {totals['reports_received']} received"
    )
    yield (
        f"swarm: {result['client']:.1%} of its core, {result['client_us_a_pair']:.2f} us a pair, "
        f"latest packet {totals['latest_send_ns'] / 1e6:.1f} ms behind its time"
    )
    yield from _oddities(result)


def _threads(segments: list[Result]) -> Iterator[str]:
    """Of the threads beside the event loop's the busiest is the one that carries packets."""
    used = segments[-1]["threads"]
    order = sorted(used, key=lambda name: -used[name])
    hot = next((name for name in order if not name.startswith("loop")), None)
    for name in order:
        shares = sorted(each["threads"].get(name, 0.0) for each in segments)
        if shares[-1] >= LEAST_SHARE:
            middle = shares[len(shares) // 2]
            what = "hot thread" if name == hot else "thread"
            yield f"  {what} {name}: {middle:.1%} of a core ({shares[0]:.1%} to {shares[-1]:.1%} by segment)"


def _oddities(result: Result) -> Iterator[str]:
    totals = result["totals"]
    yield from _wrong(totals)
    if (unanswered := totals["checks_sent"] - totals["checks_answered"]) > 0:
        yield f"checks without an answer at the end: {unanswered}"
    for text in result["late_failures"]:
        yield f"AFTER SET-UP: {text}"
    yield from _quiet(result["segments"])
    if result["client"] > 0.9:
        yield f"THE SWARM IS SHORT OF CPU: {result['client']:.0%} of its core, latencies are partly its own"


def _wrong(totals: Result) -> Iterator[str]:
    if wrong := {name: totals[name] for name in WRONG if totals[name]}:
        yield f"WRONG: {wrong}"


def _quiet(segments: list[Result]) -> Iterator[str]:
    for who in ("server", "client"):
        noisy = [each for each in segments if each[f"{who}_waited"] > WAITED_MOST]
        if noisy:
            most = max(each[f"{who}_waited"] for each in noisy)
            yield (
                f"NOT A QUIET MACHINE: the {who} waited for its CPU in {len(noisy)} of {len(segments)} segments, "
                f"up to {most:.0%} of the time"
            )


# --- set-ups ---


def setups(result: Result) -> Iterator[str]:
    leisurely, full = result["leisurely"], result["full"]
    yield f"server without anything to do: {result['idle']:.2%} of a core, not counted below"
    yield f"at leisure: {_rate(leisurely)}"
    yield from _stages(leisurely)
    yield f"  server CPU {leisurely['server_ms_each']:.2f} ms each"
    enough = verdict(full["per_second"] >= FEWEST_SETUPS, f"{FEWEST_SETUPS:.0f} a second")
    yield f"as fast as they go: {_rate(full)} {enough}"
    yield from _stages(full)
    yield (
        f"  server CPU {full['server_ms_each']:.2f} ms each, so {1e3 / full['server_ms_each']:.0f} a second would "
        f"fill its core; it used {full['used']['server']:.0%} of it"
    )
    yield f"  swarm CPU {full['client_ms_each']:.2f} ms each, {full['used']['client']:.0%} of its core"
    for part in (leisurely, full):
        yield from (f"FAILED: {text}" for text in part["failures"])
        yield from _wrong(part["totals"])
        yield from _quiet([part["used"]])


def _rate(part: Result) -> str:
    failed = f", {part['failed']} FAILED" if part["failed"] else ""
    return f"{part['done']} set-ups in {part['seconds']:.2f} s, {part['per_second']:.0f} a second{failed}"


def _stages(part: Result) -> Iterator[str]:
    names = {"answered": "answer", "checked": "ICE", "connected": "DTLS", "heard": "first packet back"}
    for stage, ms in part["ms"].items():
        yield f"  POST to {names[stage]:18} p50 {ms['p50']:7.1f} ms   p99 {ms['p99']:7.1f} ms   max {ms['max']:7.1f} ms"


# --- memory ---


def memory(result: Result) -> Iterator[str]:
    each, rounds = result["each"], result["rounds"]
    yield (
        f"{result['sessions']} idle sessions: RSS {each['rss_bytes'] / KIB:.1f} KiB and "
        f"PSS {each['pss_bytes'] / KIB:.1f} KiB each, {each['fds']:.3f} descriptors each"
    )
    yield f"server with them: RSS {result['full']['rss_bytes'] / KIB**2:.1f} MiB, without {_mib(result['before'])}"
    yield f"after they ended: {_mib(rounds[0])}; then set-ups with hang-up, {result['churn']} a line:"
    for number, held in enumerate(rounds[1:], start=1):
        yield f"  {number * result['churn']:6}: {_mib(held)}, {held['fds']} descriptors, {held['threads']} threads"
    if len(rounds) > 2:
        calls = (len(rounds) - 2) * result["churn"]
        last, first = rounds[-1], rounds[1]
        growth = (last["rss_bytes"] - first["rss_bytes"]) / calls
        yield (
            f"growth after the first {result['churn']}: {growth:.0f} bytes of RSS a call; "
            f"{last['fds'] - first['fds']} descriptors, {last['threads'] - first['threads']} threads"
        )


def _mib(held: Result) -> str:
    return f"RSS {held['rss_bytes'] / KIB**2:.1f} MiB, PSS {held['pss_bytes'] / KIB**2:.1f} MiB"
