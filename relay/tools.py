"""The commands that look at a running relay (`relay status`, `flows`, `top`) or steer it (`drain`), from outside
(`probe`), or at one packet (`explain`)."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from relay import explain as explaining
from relay import fleet as fleets
from relay import probe as probing
from relay import upgrade as upgrading
from relay import views
from relay.flows import AdminClient, Filter, Flow
from relay.redis_store import shown_routes
from relay.runtime import drains, keys, registry, screen
from relay.runtime.config import Address, AddressPort, Cidr, Duration, Network, parse_address
from relay.runtime.errors import ConfigError, RuntimeFault
from relay.runtime.redis_client import RedisClient, RedisDown
from relay.runtime.redis_url import RedisPlace, RedisURL, with_password_file
from relay.settings import REDIS_GROUP, check_group

REDIS_TIMEOUT_S = 5.0  # of a tool: nobody waits behind it

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
@click.option("--redis", type=RedisURL(), help="What stands in this Redis instead, of all relays of a group.")
@click.option("--redis-password-file", type=click.Path(dir_okay=False), help="Its password.")
@click.option("--redis-group", default=REDIS_GROUP, show_default=True, help="Which group.")
@click.option("--most", type=click.IntRange(1), default=1000, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="All that is known, a JSON object a line.")
def flows(
    admin: Address, worker: int | None, state: str | None, client: Network | None, owner: Network | None,
    session: str | None, redis: RedisPlace | None, redis_password_file: str | None, redis_group: str, most: int,
    as_json: bool,
) -> None:  # fmt: skip
    """The flows at this moment. `!` marks one that another owner contends for."""
    wanted = Filter(state, client, owner, session)
    place = with_password_file(redis, redis_password_file)
    if place is not None and worker is not None:
        raise ConfigError("Redis does not know workers", where="--worker", mend="leave it out")
    known = AdminClient(admin).flows(worker) if place is None else routes_of(place, redis_group)
    found = itertools.islice(filter(wanted.admits, known), most)
    if as_json:
        for flow in found:
            click.echo(json.dumps(flow))
        return
    console = screen.console()
    listed = list(found)
    console.print(views.flows(listed, console.width) if place is None else views.routes(listed, console.width))
    if len(listed) == most:
        console.print(f"these are the first {most}; --most shows more")


def routes_of(place: RedisPlace, group: str) -> Iterator[Flow]:
    """What stands in Redis, or one line that says why nothing can be said."""
    check_group(group)
    client = RedisClient(place, timeout_s=REDIS_TIMEOUT_S)
    try:
        yield from shown_routes(client, group)
    except RedisDown as error:
        mend = "is it running, and are name, password and certificate right?"
        raise RuntimeFault(f"Redis does not answer: {error}", where=str(place), mend=mend) from None
    finally:
        client.close()


@click.command("fleet")
@click.option(
    "--redis",
    type=RedisURL(),
    required=True,
    envvar="UFRAG_RELAY_REDIS",
    show_envvar=True,
    help="Where relays and transceivers announce themselves.",
)
@click.option(
    "--redis-password-file",
    type=click.Path(dir_okay=False),
    envvar="UFRAG_RELAY_REDIS_PASSWORD_FILE",
    help="Its password.",
)
@click.option("--json", "as_json", is_flag=True, help="All that is known, as a JSON list.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--interval", type=Duration(), default="2s", show_default=True, help="Between two looks.")
def fleet(
    redis: RedisPlace, redis_password_file: str | None, as_json: bool, watch: bool, interval: float
) -> None:  # fmt: skip
    """Relays and transceivers, by what they say in Redis; silent are those that have gone without a word."""
    place = with_password_file(redis, redis_password_file)
    assert place is not None
    client = RedisClient(place, timeout_s=REDIS_TIMEOUT_S)
    with contextlib.closing(client):
        if as_json:
            click.echo(json.dumps(registry.read_fleet(client), indent=2))
        elif watch:
            screen.watch(
                lambda: registry.read_fleet(client),
                lambda _then, now, shown: fleets.fleet(now, time.time(), shown.width),
                interval,
            )
        else:
            console = screen.console()
            console.print(fleets.fleet(registry.read_fleet(client), time.time(), console.width))


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


@click.command()
@admin_option
@click.option(
    "--mode",
    type=click.Choice(["wait", "push"]),
    default="wait",
    show_default=True,
    help="push: checks stay unanswered, so that clients with another candidate move; media still passes.",
)
@click.option("--wait", is_flag=True, help="Return when no flow is left.")
@click.option("--timeout", type=Duration(), help="Wait no longer than that; ends with 1 when flows are left then.")
def drain(admin: Address, mode: str, wait: bool, timeout: float | None) -> int:
    """Take no new flows until `relay undrain`; /readyz fails, and those there are go on."""
    client = AdminClient(admin)
    drains.ask(client, mode)
    if not wait and timeout is None:
        return 0

    def left() -> int:
        return int(client.metrics().total("ufrag_relay_flows"))

    drained = drains.wait(left, timeout, lambda number: click.echo(f"{number} flows left", err=True))
    click.echo("drained" if drained else "not drained: flows are left")
    return 0 if drained else 1


@click.command()
@admin_option
def undrain(admin: Address) -> None:
    """Take new flows again."""
    drains.ask(AdminClient(admin), drains.OFF)


@click.command()
@click.option(
    "--state-dir",
    default="auto",
    show_default=True,
    envvar="UFRAG_RELAY_STATE_DIR",
    show_envvar=True,
    metavar="auto|DIR",
    help="Of the relay that is meant. auto: there is but one of this user here.",
)
@click.option("--timeout", type=Duration(), default="30s", show_default=True, help="For the new one to come up.")
def upgrade(state_dir: str, timeout: float) -> None:  # fmt: skip
    """Start the program anew and let it take over, with the same options: calls, sockets and memory go on without a
    packet lost. Ends with 0 when the new one is the relay; if anything fails, the one that runs goes on."""
    upgrading.upgrade(upgrading.find(state_dir), timeout, click.echo)


@click.command()
@click.argument("datagram", metavar="HEX")
@click.option("--route-key-file", type=click.Path(dir_okay=False), required=True, help="The route keys.")
@click.option("--backends", type=Cidr(), multiple=True, default=["0.0.0.0/0", "::/0"], help="Where tokens may point.")
@click.option("--client", type=AddressPort(), default="198.51.100.1:50000", show_default=True, help="Who sent it.")
@click.option("--local", type=AddressPort(), default="192.0.2.1:3478", show_default=True, help="Where it arrived.")
@click.option("--owner", type=AddressPort(), help="As if that client had a flow, with this owner.")
@click.option("--from-owner", "sender", type=AddressPort(), help="It arrived on the internal leg, from there.")
def explain(
    datagram: str, route_key_file: str, backends: tuple[Network, ...], client: Address, local: Address,
    owner: Address | None, sender: Address | None,
) -> None:  # fmt: skip
    """Say what the relay does with a datagram and why, by its own code. HEX may be `-`: standard input."""
    try:
        raw = explaining.read_hex(sys.stdin.read() if datagram == "-" else datagram)
    except ValueError:
        mend = "give the UDP payload as hex digits, two for each byte"
        raise ConfigError("these are no hex digits", where="HEX", mend=mend) from None
    ring = keys.load(Path(route_key_file)).keyring()
    question = explaining.Question(raw, client, local, ring, backends, owner, sender)
    for name, text in explaining.explain(question):
        click.echo(f"{name:<10}{text}")


@click.command()
@click.argument("relay", metavar="ADDR:PORT")
@click.option(
    "--call", "url", metavar="URL", help="Make a call of its own at this transceiver, and hang up afterwards."
)
@click.option("--auth-key-file", type=click.Path(dir_okay=False), help="The key that the transceiver wants.")
@click.option("--token", help="Instead: a=ice-ufrag of an SDP answer ...")
@click.option("--password", help="... and its a=ice-pwd.")
@click.option("--count", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many checks.")
@click.option("--wait", type=Duration(), default="1s", show_default=True, help="For each answer.")
def probe(
    relay: str, url: str | None, auth_key_file: str | None, token: str | None, password: str | None, count: int,
    wait: float,
) -> int:  # fmt: skip
    """Send checks to a relay as a client does, and say what comes back. Ends with 1 when nothing does."""
    address = _address(relay)
    auth_key = keys.load_auth_key(Path(auth_key_file)) if auth_key_file else None
    if url:
        session = probing.call(url, auth_key)
    elif token and password:
        session = probing.Session(token, password)
    else:
        mend = "give --call URL, or --token and --password of an SDP answer"
        raise ConfigError("no session to ask for", where="relay probe", mend=mend)
    replies = []
    for reply in probing.probe(address, session, count, wait):
        click.echo(_said(reply, wait))
        replies.append(reply)
    if session.url:
        probing.hang_up(session, auth_key)
    answered = [reply for reply in replies if reply]
    late = sorted(1e3 * reply.late_s for reply in answered)
    click.echo(f"{len(late)} of {count} answered" + (f", median {late[len(late) // 2]:.1f} ms" if late else ""))
    return 0 if answered else 1


def _address(text: str) -> Address:
    try:
        return parse_address(text, 1)
    except ValueError as error:
        raise ConfigError(str(error), where="ADDR:PORT", mend="name the relay's public address and port") from None


def _said(reply: probing.Reply | None, wait_s: float) -> str:
    if reply is None:
        return f"no answer within {wait_s:g} s: is UDP blocked, or are the route keys others? see `relay status`"
    late = f"{reply.source} after {1e3 * reply.late_s:.1f} ms"
    if reply.code == probing.GONE:
        return f"{late}: the way is open, but the session is gone ({probing.GONE})"
    return f"{late}: error {reply.code}" if reply.code else f"{late}: we are {reply.mapped}"
