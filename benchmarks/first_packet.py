"""What a new flow and a forged token cost (`python -m benchmarks.first_packet`).

One relay worker, four loads in turn, CPU of the worker per packet offered:

    steady   media of established flows, echoed: 2 packets forwarded for each offered
    opening  each packet a check from a new address with a valid token: verified, flow made, answered, established
    noise    packets dropped at the first look: what receiving alone costs
    forged   well-formed checks with a wrong tag: parsed, verified, refused

`opening - steady` is the price of a first packet, `forged - noise` that of an attacker's.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from socket import SOCK_DGRAM

import click

from benchmarks import support

FORWARDER_CPU, OTHER_CPU = 0, 1
MODES = ("steady", "opening", "noise", "forged")
STEADY_FLOWS = 1000
FLOWS_PER_TOKEN = 8
RELAY_OPTIONS = (
    "--max-flows",
    "1000000",
    "--max-half-open",
    "1000000",
    "--flow-timeout",
    "600",
    "--max-new-per-network",
    "0",
)


def measure(relay: support.RelayProcess, mode: str, tokens: Path, rate: int, seconds: float) -> float:
    """CPU ns of the worker per packet offered. A port of the generator's own each time, so that sources are new."""
    steady = mode == "steady"
    port = support.free_port(SOCK_DGRAM)
    flows = STEADY_FLOWS if steady else int(rate * seconds)
    if steady:
        support.Generator(relay.target, tokens, flows=flows, port=port, seconds=0, cpu=OTHER_CPU).run()
    worker = relay.worker_pids()[0]
    load = support.Generator(
        relay.target, tokens, flows=flows, port=port, rate=rate, seconds=seconds, size=160, cpu=OTHER_CPU,
        mode={"steady": "media", "opening": "checks"}.get(mode, mode), skip_setup=True, check_interval=0,
    )  # fmt: skip
    before = support.cpu_ns(worker)
    result = load.run()
    return float((support.cpu_ns(worker) - before) / result["sent"])


@click.command()
@click.option("--rate", default=20_000, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--seconds", default=2.0, show_default=True)
def main(rate: int, rounds: int, seconds: float) -> None:
    """Measure the four loads, interleaved."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo = stack.enter_context(support.Echo(0, cpu=OTHER_CPU))
        key_file = support.write_key_file(folder / "route-keys")
        count = int(rate * seconds) // FLOWS_PER_TOKEN + 1
        relay = stack.enter_context(support.RelayProcess(key_file, cpus=str(FORWARDER_CPU), extra=RELAY_OPTIONS))
        costs: dict[str, list[float]] = {mode: [] for mode in MODES}
        for number in range(rounds):
            # Fresh tokens each round: a token's ninth flow would evict its first, which is another cost.
            tokens = support.write_tokens(folder / "tokens", support.mint_tokens(key_file, [echo.address], count))
            for mode in MODES if number % 2 == 0 else MODES[::-1]:
                costs[mode].append(measure(relay, mode, tokens, rate, seconds))
        metrics = relay.metrics()
    report(costs, metrics)


def report(costs: dict[str, list[float]], metrics: dict[str, float]) -> None:
    for mode in MODES:
        click.echo(
            f"{mode:8} median {statistics.median(costs[mode]):6.0f} ns a packet offered, min {min(costs[mode]):.0f}"
        )
    for name, dear, cheap in (("first packet", "opening", "steady"), ("forged token", "forged", "noise")):
        extra = sorted(a - b for a, b in zip(costs[dear], costs[cheap], strict=True))
        click.echo(
            f"{name}: {dear} - {cheap} = median {statistics.median(extra):.0f} ns, "
            f"min {extra[0]:.0f}, max {extra[-1]:.0f}"
        )
    verdicts = ('"opened"', '"token_forged"', '"unknown_kind"')
    for name, value in metrics.items():
        if value and any(verdict in name for verdict in verdicts):
            click.echo(f"{name} {value:.0f}")


if __name__ == "__main__":
    main()
