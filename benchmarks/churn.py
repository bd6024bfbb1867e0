"""Whether anything of a relay grows while flows come and go (`python -m benchmarks.churn --minutes 30`).

Each round brings new clients: a check from a new address with an authentic token, answered by the owner, and then
silence, which ends the flow. After the first minutes, memory of their own, descriptors and threads of all processes of
the relay must stay what they are, and the table must hold no more flows than the rate and the timeout explain. Tables
are told apart: they are allocated at the start, and show as their pages are touched for the first time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from socket import SOCK_DGRAM
from typing import Any

import click

from benchmarks import support

ROUND_S = 10
FLOWS_PER_TOKEN = 8
FLOW_TIMEOUT_S = 10
SWEEP_S = 2  # a flow that is over is found within so long
WARM_ROUNDS = 12
GROWTH_MOST_KIB = 256  # of all processes together: what an allocator may still move about
FLAT = ("own_kib", "descriptors", "threads")


def churn(relay: support.RelayProcess, key_file: Path, owner: str, folder: Path, rate: int) -> support.Result:
    """One round: what the generator counted."""
    flows = rate * ROUND_S
    tokens = support.mint_tokens(key_file, [owner], flows // FLOWS_PER_TOKEN + 1)
    load = support.Generator(
        relay.target, support.write_tokens(folder / "tokens", tokens), flows=flows, port=support.free_port(SOCK_DGRAM),
        rate=rate, seconds=ROUND_S, mode="checks", skip_setup=True, check_interval=0,
    )  # fmt: skip
    return load.run()


def look(relay: support.RelayProcess, pids: list[int]) -> dict[str, Any]:
    metrics = relay.metrics()
    flows = sum(value for name, value in metrics.items() if name.startswith("ufrag_relay_flows{"))
    statuses = [status_of(pid) for pid in pids]
    return {
        "flows": int(flows),
        "own_kib": sum(each["RssAnon"] for each in statuses),
        "tables_kib": sum(each["RssShmem"] for each in statuses),
        "descriptors": sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        "threads": sum(each["Threads"] for each in statuses),
    }


def status_of(pid: int) -> dict[str, int]:
    """The numbers of /proc/PID/status; memory in KiB."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(words[0]) for name, _, text in lines if (words := text.split()) and words[0].isdigit()}


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--rate", default=2000, show_default=True, help="New flows a second.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each round.")
def main(minutes: float, rate: int, as_json: bool) -> None:
    """Churn, and look after each round."""
    rounds = max(WARM_ROUNDS + 1, round(minutes * 60 / ROUND_S))
    options = ("--flow-timeout", str(FLOW_TIMEOUT_S), "--max-new-per-network", "0")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key_file = support.write_key_file(folder / "route-keys")
        echo = stack.enter_context(support.Echo(0))
        relay = stack.enter_context(support.RelayProcess(key_file, workers=2, extra=options))
        pids = [relay.pid, *relay.children().values()]
        sent = answered = 0
        looks = []
        for _ in range(rounds):
            result = churn(relay, key_file, echo.address, folder, rate)
            sent, answered = sent + result["sent"], answered + result["received"]
            looks.append(look(relay, pids))
            if as_json:
                click.echo(json.dumps(looks[-1]))
        created = sum(value for name, value in relay.metrics().items() if name.startswith("ufrag_relay_flows_created"))
        assert sorted([relay.pid, *relay.children().values()]) == sorted(pids), "a process was started again"
    sys.exit(report(looks, rate, sent, answered, created))


def report(looks: list[dict[str, Any]], rate: int, sent: int, answered: int, created: float) -> int:
    """0 when all is flat."""
    first, last = looks[WARM_ROUNDS], looks[-1]
    growth = {name: last[name] - first[name] for name in (*FLAT, "tables_kib")}
    most = max(each["flows"] for each in looks)
    bound = rate * (ROUND_S + FLOW_TIMEOUT_S + SWEEP_S)
    flat = growth["own_kib"] <= GROWTH_MOST_KIB and growth["descriptors"] <= 0 and growth["threads"] <= 0
    click.echo(f"{len(looks)} rounds of {ROUND_S} s, {rate} new flows a second: {created:.0f} flows made")
    click.echo(f"checks: {sent} sent, {answered} answered; most flows at a time {most} (explained: {bound})")
    click.echo(f"after {WARM_ROUNDS} rounds: " + ", ".join(f"{name} {first[name]}" for name in growth))
    click.echo("growth since: " + ", ".join(f"{name} {value:+d}" for name, value in growth.items()))
    click.echo("flat" if flat and most <= bound else "NOT FLAT")
    return 0 if flat and most <= bound else 1


if __name__ == "__main__":
    main()
