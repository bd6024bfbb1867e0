"""What a large flow table costs: CPU per packet with many flows against few, in random order (`python -m
benchmarks.table`).

Two workers with filled tables stay up, pinned to one CPU; generator and backend share the other; segments
alternate. Every packet goes to a flow drawn at random, so with a million flows (115 MB of table) nearly every
look-up misses the caches.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from socket import SOCK_DGRAM

import click

from _fastpath.slot import flow_bytes
from benchmarks import support

FORWARDER_CPU, OTHER_CPU = 0, 1


class FilledWorker(support.Server):
    def __init__(self, flows: int, next_hop: str, client_port: int) -> None:
        options = support.options_of(flows=flows, next_hop=next_hop, client_port=client_port, cpu=FORWARDER_CPU)
        super().__init__([sys.executable, "-m", "benchmarks.filled_worker", *options])
        self.flows = flows
        self.client_port = client_port

    def stop(self) -> support.Result:
        """It knows no end of its own."""
        self.process.kill()
        self.process.wait()
        return {}


def measure(worker: FilledWorker, tokens: Path, rate: int, seconds: float) -> float:
    """CPU ns per forwarded packet."""
    generator = support.Generator(
        worker.address, tokens, flows=worker.flows, port=worker.client_port, rate=rate, seconds=seconds, size=160,
        skip_setup=True, order="random", check_interval=0, cpu=OTHER_CPU,
    )  # fmt: skip
    before = support.cpu_ns(worker.pid)
    result = generator.run()
    spent = support.cpu_ns(worker.pid) - before
    if result["corrupted"] or result["misdirected"] or not result["received"]:
        raise click.ClickException(f"the relay did not carry it: {result}")
    if result["lost"] > 0.001 * result["sent"]:
        click.echo(f"NOT A QUIET MACHINE: {result['lost']} of {result['sent']} lost in a segment", err=True)
    return float(spent / (2 * result["received"]))


@click.command()
@click.option("--few", default=1000, show_default=True)
@click.option("--many", default=1_000_000, show_default=True)
@click.option("--rate", "rates", type=int, multiple=True, default=(50_000, 0), show_default=True, help="0 saturates.")
@click.option("--pairs", default=9, show_default=True)
@click.option("--seconds", default=3.0, show_default=True)
def main(few: int, many: int, rates: tuple[int, ...], pairs: int, seconds: float) -> None:
    """Compare a worker with MANY flows to one with FEW."""
    click.echo(f"memory: {flow_bytes(many):.1f} bytes a flow for {many:,} flows, {flow_bytes(131_072):.1f} for 131,072")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo = stack.enter_context(support.Echo(0, cpu=OTHER_CPU))
        tokens = support.write_tokens(folder / "tokens", ["x" * 32])  # no check is ever sent
        workers = [
            stack.enter_context(FilledWorker(flows, echo.address, support.free_port(SOCK_DGRAM)))
            for flows in (few, many)
        ]
        for rate in rates:
            pairs_ns: list[tuple[float, float]] = []
            for pair in range(pairs):
                order = workers if pair % 2 == 0 else workers[::-1]
                cost = {worker.flows: measure(worker, tokens, rate, seconds) for worker in order}
                pairs_ns.append((cost[few], cost[many]))
            report(rate, pairs_ns)


def report(rate: int, pairs_ns: list[tuple[float, float]]) -> None:
    ratios = sorted(many / few for few, many in pairs_ns)
    few, many = (statistics.median(column) for column in zip(*pairs_ns, strict=True))
    load = f"{rate:,} packets/s" if rate else "saturated"
    click.echo(
        f"{load}: few {few:.0f} ns, many {many:.0f} ns per forwarded packet; "
        f"ratio median {statistics.median(ratios):.3f}, min {ratios[0]:.3f}, max {ratios[-1]:.3f}, {len(ratios)} pairs"
    )


if __name__ == "__main__":
    main()
