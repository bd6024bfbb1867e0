"""The relay beside the bare forwarder, in one interleaved run: `python -m benchmarks.forward`.

Both stay up all the time, pinned to one CPU; generator and echo backend share the other. Segments of a few seconds
alternate in ABBA order, so that a slow drift of the machine falls on both arms alike. Beside each pair the direct
way (generator to backend) and the floor (system calls alone) are measured too. Before a segment every flow gets a
fresh check outside of what is measured; in it, clients send media and their checks.
"""

import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks import forward_report, support
from benchmarks.forward_report import Load, Segment

FORWARDER_CPU, OTHER_CPU = 0, 1
FLOOR_MS = 500


@dataclass(frozen=True)
class Arm:
    name: str
    target: str
    pids: list[int]
    port: int  # the clients' port: the same in every segment, so that their flows live on


@dataclass(frozen=True)
class Clocks:
    """Seconds that the forwarder ran, and that it and the backend were kept from running."""

    cpu_s: float
    waited_s: float
    backend_waited_s: float

    def __sub__(self, before: "Clocks") -> "Clocks":
        return Clocks(
            self.cpu_s - before.cpu_s, self.waited_s - before.waited_s, self.backend_waited_s - before.backend_waited_s
        )


@dataclass(frozen=True)
class Setting:
    flows: int
    size: str
    seconds: float
    window: int
    tokens: Path
    backend: str
    backend_pid: int

    def generator(self, target: str, **options: object) -> support.Generator:
        return support.Generator(
            target, self.tokens, flows=self.flows, size=self.size, window=self.window, cpu=OTHER_CPU, **options
        )

    def greet(self, arm: Arm) -> None:
        """One answered check per flow and no media."""
        self.generator(arm.target, port=arm.port, seconds=0).run()

    def measure(self, arm: Arm, rate: int, pair: int) -> Segment:
        self.greet(arm)
        load = self.generator(arm.target, port=arm.port, rate=rate, seconds=self.seconds, skip_setup=True)
        before = self._clocks(arm)
        result = load.run()
        return make_segment(arm.name, pair, self._clocks(arm) - before, result)

    def _clocks(self, arm: Arm) -> Clocks:
        return Clocks(
            cpu_s=sum(map(support.cpu_ns, arm.pids)) / 1e9,
            waited_s=sum(map(support.waited_ns, arm.pids)) / 1e9,
            backend_waited_s=support.waited_ns(self.backend_pid) / 1e9,
        )

    def direct(self, rate: int) -> dict[str, float]:
        """Round trips without a forwarder; the generator writes the internal header itself."""
        return dict(self.generator(self.backend, rate=rate, seconds=1, spp=True).run()["rtt_us"])


def make_segment(arm: str, pair: int, spent: Clocks, result: dict[str, Any]) -> Segment:
    crossed = 2 * (result["received"] + result["checks_answered"])
    if not crossed:
        raise click.ClickException(f"nothing came back through {arm}")
    return Segment(
        arm=arm,
        pair=pair,
        cpu_ns_per_fwd=spent.cpu_s * 1e9 / crossed,
        busy=spent.cpu_s / result["load_s"],
        waited=spent.waited_s / result["load_s"],
        backend_waited=spent.backend_waited_s / result["load_s"],
        fwd_per_s=crossed / result["load_s"],
        sent=result["sent"],
        lost=result["lost"],
        wrong=result["corrupted"] + result["misdirected"] + result["duplicated"],
        checks_lost=result["checks_sent"] - result["checks_answered"],
        rtt_us=result["rtt_us"],
    )


def alternate(arms: list[Arm], pairs: int) -> Iterator[tuple[int, list[Arm]]]:
    """A B, B A, A B, ..."""
    for pair in range(pairs):
        yield pair, arms if pair % 2 == 0 else arms[::-1]


def run_load(setting: Setting, arms: list[Arm], rate: int, pairs: int, floors: list[dict[str, float]]) -> Load:
    load = Load(rate, [], [])
    for pair, order in alternate(arms, pairs):
        load.segments.extend(setting.measure(arm, rate, pair) for arm in order)
        if rate:
            load.direct_rtt_us.append(setting.direct(rate))
        else:
            floors.append(support.floor_ns(cpu=FORWARDER_CPU, other_cpu=OTHER_CPU, milliseconds=FLOOR_MS))
        costs = ", ".join(f"{each.arm} {each.cpu_ns_per_fwd:.0f}" for each in load.segments[-len(arms) :])
        click.echo(f"{rate or 'saturated'} pair {pair + 1}/{pairs}: {costs} ns/fwd", err=True)
    return load


def start_arms(stack: ExitStack, backend: str, host: str, key_file: Path, with_relay: bool) -> list[Arm]:
    bare = stack.enter_context(support.Bare(backend, listen=f"{host}:0", cpu=FORWARDER_CPU))
    arms = [Arm("bare", bare.target, [bare.pid], support.free_port(socket.SOCK_DGRAM))]
    if with_relay:
        listen = [f"{host}:{support.free_port(socket.SOCK_DGRAM)}"]
        relay = stack.enter_context(support.RelayProcess(key_file, listen=listen, cpus=str(FORWARDER_CPU)))
        port = support.free_port(socket.SOCK_DGRAM)
        arms.insert(0, Arm("relay", relay.target, relay.worker_pids(), port))
    return arms


def memory_of(setting: Setting, arms: list[Arm]) -> dict[str, Any]:
    """What the first flows add to an arm's resident memory; tables allocated ahead count as they are touched."""
    figures = {}
    for arm in arms:
        before = sum(map(support.rss_bytes, arm.pids))
        setting.greet(arm)
        grown = sum(map(support.rss_bytes, arm.pids)) - before
        figures[arm.name] = {"bytes_per_flow": grown / setting.flows, "source": "growth of resident memory"}
    return figures


@click.command()
@click.option("--pairs", default=9, show_default=True, help="Pairs of segments per load.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of a segment.")
@click.option("--flows", default=10_000, show_default=True)
@click.option("--rate", "rates", type=int, multiple=True, default=(50_000, 0), show_default=True, help="0 saturates.")
@click.option("--size", default="160", show_default=True, help="Payload bytes, or LOW-HIGH at random.")
@click.option("--window", default=512, show_default=True, help="Packets in flight when saturating.")
@click.option("--host", default="0.0.0.0", show_default=True, help="Public listen address of both arms.")
@click.option("--without-relay", is_flag=True, help="The bare forwarder and the floor only.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Everything, also to a file."
)
def main(
    pairs: int, seconds: float, flows: int, rates: tuple[int, ...], size: str, window: int, host: str,
    without_relay: bool, json_file: Path | None,
) -> None:  # fmt: skip
    """Compare the relay with the bare forwarder, packet for packet."""
    floors: list[dict[str, float]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo = stack.enter_context(support.Echo(0, cpu=OTHER_CPU))
        key_file = support.write_key_file(folder / "route-keys")
        tokens = support.write_tokens(folder / "tokens", support.mint_tokens(key_file, [echo.address], flows))
        setting = Setting(flows, size, seconds, window, tokens, echo.address, echo.pid)
        arms = start_arms(stack, echo.address, host, key_file, not without_relay)
        memory = memory_of(setting, arms)
        loads = [run_load(setting, arms, rate, pairs, floors) for rate in rates]
        backend = echo.stop()
    floor = forward_report.summarise_floor(floors, next(load for load in loads if not load.rate)) if floors else {}
    extra = {"flows": flows, "size": size, "pairs": pairs, "seconds": seconds, "memory": memory, "backend": backend}
    report = forward_report.as_json(loads, floor, extra)
    click.echo(forward_report.render(report))
    if json_file:
        json_file.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
