"""The relay at work, to look at: `./scripts/demo` starts a relay, an echo backend behind it and a packet generator
in front of it.

Everything is real and on 127.0.0.1: the relay is `relay start` with two workers and a fresh route key, the backend
an SPP server that echoes, the generator plays some hundred WebRTC clients that each check in with a STUN request
and then send and expect 50 packets a second. A line a second says what passed; the last lines say what was lost,
and how long the way there and back took.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.support import Echo, Generator, RelayProcess, Result, mint_tokens, write_key_file, write_tokens

PACKETS_PER_CALL = 50
PACKET_BYTES = 160
WORKERS = 2


class View:
    """What is shown of one second: the generator's counts, and the relay's own from its metrics page."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self._before: dict[str, float] = {}

    def rows(self, second: Result) -> list[tuple[str, str]]:
        metrics = self._relay.metrics()
        rows = [
            ("clients", f"{second['sent']:,} packets sent, {second['received']:,} came back this second"),
            ("flows", f"{total(metrics, 'ufrag_relay_flows{', 'established'):,.0f} established"),
        ]
        rows += [(f"worker {index}", self._worker(metrics, index)) for index in range(WORKERS)]
        dropped = total(metrics, "ufrag_relay_drops_total") + total(metrics, "ufrag_relay_socket_drops_total")
        rows.append(("dropped", f"{dropped:,.0f} since the start"))
        self._before = metrics
        return rows

    def _worker(self, metrics: dict[str, float], index: int) -> str:
        label = f'worker="{index}"'
        up, down = (
            total(metrics, "ufrag_relay_packets_total", f'"{way}"', label)
            - total(self._before, "ufrag_relay_packets_total", f'"{way}"', label)
            for way in ("up", "down")
        )
        busy = total(metrics, "ufrag_relay_busy_ratio", label)
        return f"{up:>7,.0f} up  {down:>7,.0f} down  {busy:>4.0%} busy"


def total(metrics: dict[str, float], name: str, *parts: str) -> float:
    """Sum of the samples of a metric whose labels contain all parts."""
    return sum(value for key, value in metrics.items() if key.startswith(name) and all(part in key for part in parts))


def table_of(rows: list[tuple[str, str]], second: int, seconds: int) -> Table:
    table = Table(title=f"ufrag relay, second {second} of {seconds}", show_header=False, title_justify="left")
    for name, text in rows:
        table.add_row(name, text)
    return table


def show(seconds: Iterator[Result], view: View, length: int, console: Console) -> None:
    """A table that renews itself on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        for number, second in enumerate(seconds, 1):
            print(f"second {number}: " + "; ".join(f"{name}: {text}" for name, text in view.rows(second)), flush=True)
        return
    with Live(console=console, auto_refresh=False) as live:
        for number, second in enumerate(seconds, 1):
            live.update(table_of(view.rows(second), number, length), refresh=True)


def summary(result: Result) -> str:
    rtt = result["rtt_us"]
    return (
        f"{result['sent']:,} packets sent, {result['received']:,} came back, {result['lost']} lost, "
        f"{result['corrupted']} damaged, {result['misdirected']} to the wrong client\n"
        f"there and back: median {rtt['p50'] / 1000:.2f} ms, 99 of 100 within {rtt['p99'] / 1000:.2f} ms"
    )


@click.command()
@click.option("--seconds", type=click.IntRange(1, 3600), default=20, show_default=True)
@click.option(
    "--calls", type=click.IntRange(1, 10_000), default=400, show_default=True, help="Clients at the same time."
)
def main(seconds: int, calls: int) -> None:
    """Run a relay, a backend and a packet generator on 127.0.0.1 and show what passes."""
    console = Console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ufrag-demo-")))
        key_file = write_key_file(folder / "route.key")
        echo = stack.enter_context(Echo(0))
        relay = stack.enter_context(RelayProcess(key_file, workers=WORKERS, cpus="none"))
        tokens = write_tokens(folder / "tokens", mint_tokens(key_file, [echo.address], calls))
        print(f"relay      udp {relay.listen}, metrics at http://{relay.admin}/metrics")
        print(f"backend    udp {echo.address}, named by every route token")
        print(f"clients    {calls} calls of {PACKETS_PER_CALL} packets/s, {PACKET_BYTES} bytes each", flush=True)
        generator = Generator(
            relay.target,
            tokens,
            flows=calls,
            rate=calls * PACKETS_PER_CALL,
            seconds=seconds,
            size=PACKET_BYTES,
            live=True,
        )
        with generator:
            show(generator.seconds(), View(relay), seconds, console)
        print(summary(generator.result))
        sys.exit(0 if generator.result["received"] else 1)


if __name__ == "__main__":
    main()
