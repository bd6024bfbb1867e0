"""The commands that look at a running relay: `relay status`, `flows`, `top`."""

from __future__ import annotations

import itertools
import json
import time

import click

from relay import views
from relay.flows import AdminClient, Filter
from relay.runtime import screen
from relay.runtime.config import Address, AddressPort, Cidr, Duration, Network

admin_option = click.option(
    "--admin", type=AddressPort(), default="127.0.0.1:9464", show_default=True, envvar="UFRAG_RELAY_ADMIN",
    show_envvar=True, help="Where it answers.",
)  # fmt: skip


@click.command()
@admin_option
def status(admin: Address) -> int:
    """One screen: is it well, what does it carry, what does it refuse. Ends with 1 when it is not ready."""
    client = AdminClient(admin)
    ready = client.ready()
    screen.console().print(views.status(client.metrics(), ready, str(client.address)))
    return 0 if ready.get("ready") else 1


@click.command()
@admin_option
@click.option("--worker", type=click.IntRange(0), help="Of this worker only.")
@click.option("--state", type=click.Choice(["established", "half_open"]), help="In this state only.")
@click.option("--client", type=Cidr(), help="Of clients in this network only.")
@click.option("--owner", type=Cidr(), help="To owners in this network only.")
@click.option("--session", help="Made by the token with these random bits (`relay token show`) only.")
@click.option("--most", type=click.IntRange(1), default=1000, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="All that is known, a JSON object a line.")
def flows(
    admin: Address, worker: int | None, state: str | None, client: Network | None, owner: Network | None,
    session: str | None, most: int, as_json: bool,
) -> None:  # fmt: skip
    """The flows at this moment. `!` marks one that another owner contends for."""
    wanted = Filter(state, client, owner, session)
    found = itertools.islice(filter(wanted.admits, AdminClient(admin).flows(worker)), most)
    if as_json:
        for flow in found:
            click.echo(json.dumps(flow))
        return
    console = screen.console()
    listed = list(found)
    console.print(views.flows(listed, console.width))
    if len(listed) == most:
        console.print(f"these are the first {most}; --most shows more")


@click.command()
@admin_option
@click.option("--interval", type=Duration(), default="1s", show_default=True, help="Between two looks.")
def top(admin: Address, interval: float) -> None:
    """Rates, workers and drops, live. Ctrl-C ends it."""
    client = AdminClient(admin)
    screen.watch(
        lambda: views.Moment(time.monotonic(), client.metrics(), client.ready()),
        lambda then, now, _console: views.top(then, now),
        interval,
    )
