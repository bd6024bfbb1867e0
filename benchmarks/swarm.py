"""The transceiver under the load of many calls: `python -m benchmarks.swarm [steady|setups|memory|aiortc]`.

    steady   all sessions talk and hear their echo: CPU of the server, losses, latency
    setups   calls set up one after the other, then as fast as they go: CPU and time of one
    memory   what an idle session holds, and what stays behind when calls have ended
    aiortc   `steady` against an echo on aiortc's parts, for comparison

The server has one CPU, the swarm another. The swarm speaks the internal leg itself, as a relay would, so that no relay
is in the figures; set-ups are real in each step. Traffic stays in 127.0.0.0/8.
"""

import json
import os
import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks import swarm_modes, swarm_report
from benchmarks.support_transceiver import TRANSCEIVER, AiortcEcho, TransceiverProcess
from benchmarks.swarm_client import CandidateRoute, Fleet, Route, TokenRoute
from benchmarks.swarm_modes import Plan, SwarmFailed
from benchmarks.swarm_native import SOCKETS, NativeSwarm
from transceiver.srtp import functions

SPARE_SESSIONS = 200  # for the warm-up, and for calls that end while others begin
SESSIONS = {"steady": 800, "setups": 0, "memory": 1000, "aiortc": 60}
COUNT = {"steady": 0, "setups": 2000, "memory": 10_000, "aiortc": 0}
MODES = {
    "steady": swarm_modes.steady,
    "aiortc": swarm_modes.steady,
    "setups": swarm_modes.setups,
    "memory": swarm_modes.memory,
}


def start_server(stack: ExitStack, mode: str, room: int, options: dict[str, Any]) -> tuple[swarm_modes.Server, Route]:
    if mode == "aiortc":
        return stack.enter_context(AiortcEcho(cpu=options["server_cpu"])), CandidateRoute()
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    server = TransceiverProcess(
        folder, max_sessions=room, cpu=options["server_cpu"],
        extra=tuple(shlex.split(options["server_options"])), program=tuple(shlex.split(options["program"])),
    )  # fmt: skip
    return stack.enter_context(server), TokenRoute(server.route_key_file)


def measure(mode: str, plan: Plan, options: dict[str, Any]) -> swarm_modes.Result:
    room = SPARE_SESSIONS + (max(plan.count, int(plan.seconds * plan.rate)) if mode == "setups" else plan.sessions)
    with ExitStack() as stack:
        server, route = start_server(stack, mode, room, options)
        native = stack.enter_context(
            NativeSwarm(room, functions(), sockets=options["sockets"], spp=route.spp, tick_ns=options["tick_us"] * 1000)
        )
        fleet = Fleet(native, server.http, route, role=options["role"], data=options["data"])
        return {**MODES[mode](server, fleet, plan), "account": server.account()}


@click.command()
@click.argument("mode", type=click.Choice(list(MODES)), default="steady")
@click.option("--sessions", type=click.IntRange(1, 100_000), help="At a time. Default: 800, memory 1000, aiortc 60.")
@click.option("--seconds", default=10.0, show_default=True, help="Of steady load, or of set-ups at leisure.")
@click.option("--segments", default=5, show_default=True, help="CPU is the median of so many parts of the time.")
@click.option("--setup-rate", default=0.0, help="Set-ups a second. Default: as many as go; setups at leisure: 20.")
@click.option("--concurrency", default=32, show_default=True, help="Set-ups at a time.")
@click.option("--count", type=int, help="Set-ups at full rate, default 2000; or of the memory mode, default 10000.")
@click.option(
    "--role",
    type=click.Choice(["passive", "active"]),
    default="passive",
    show_default=True,
    help="The client's in DTLS: passive offers actpass.",
)
@click.option("--data", is_flag=True, help="Offer a data channel too; nothing answers in it.")
@click.option("--tick-us", default=500, show_default=True, help="Packets due within this time leave together.")
@click.option("--sockets", default=SOCKETS, show_default=True, help="UDP sockets of the swarm: a relay's workers.")
@click.option("--server-cpu", default=0, show_default=True)
@click.option("--client-cpu", default=1, show_default=True)
@click.option("--server-options", default="", help="More words for `transceiver start`.")
@click.option("--program", default=shlex.join(TRANSCEIVER), help="Another program with the same options.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write everything that was counted.")
def main(mode: str, json_file: str | None, **options: Any) -> None:
    """Measure a server under many calls."""
    os.sched_setaffinity(0, {options["client_cpu"]})
    plan = Plan(
        sessions=options["sessions"] or SESSIONS[mode], seconds=options["seconds"], segments=options["segments"],
        rate=options["setup_rate"] or (20.0 if mode == "setups" else 0.0),
        concurrency=options["concurrency"], count=COUNT[mode] if options["count"] is None else options["count"],
    )  # fmt: skip
    try:
        result = measure(mode, plan, options)
    except SwarmFailed as error:
        raise click.ClickException(str(error)) from None
    for line in swarm_report.report(mode, result):
        click.echo(line)
    if json_file:
        Path(json_file).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
