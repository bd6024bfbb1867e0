"""The command line: `relay start`, `relay config`, `relay doctor`, `relay keys`, `relay token`.

Only what concerns options and output stands here; `settings` checks and completes what was given, `program` runs it.
"""

from __future__ import annotations

import ipaddress
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

import relay
from _fastpath.wire.token import CLUSTERS, GENERATIONS, KEY_IDS
from relay import tools
from relay.doctor import examine, keys_unread, plan_anywhere
from relay.doctor.findings import as_json, as_text, worst
from relay.doctor.machine import Machine
from relay.estate import Estate
from relay.program import RelayProgram
from relay.runtime import keys, log
from relay.runtime.completion import completion_command
from relay.runtime.config import Address, AddressPort, Cidr, Duration, Size, program_options, render_show, run_command
from relay.runtime.errors import EXIT_FAILURE, ConfigError
from relay.runtime.given import GivenSockets
from relay.runtime.launcher import Launcher, block_signals
from relay.runtime.redis_url import RedisURL
from relay.runtime.registered import LatLon
from relay.runtime.systemd import ServiceManager
from relay.settings import REDIS_GROUP, REDIS_LOOKUPS, Settings, build
from relay.succession import RelaySuccession
from relay.taking import follow

START_OPTIONS = [
    click.option("--workers", type=click.IntRange(1), help="Worker processes. Default: one for each CPU allowed."),
    click.option("--listen", type=AddressPort(), multiple=True, default=["0.0.0.0:3478"], show_default=True,
                 help="Public UDP address; may be given again. A wildcard answers from the address that was used."),
    click.option("--internal", type=AddressPort(allow_zero=True),
                 help="UDP address towards the transceivers; worker i takes PORT+i. Default: any, as --backends need."),
    click.option("--backends", type=Cidr(), multiple=True,
                 help="Where tokens may point; may be given again. Required beyond loopback."),
    click.option("--route-key-file", type=click.Path(dir_okay=False, readable=False),
                 help="Keys that tokens are verified with."),
    click.option("--cpus", default="auto", show_default=True, help="auto, none, or a list such as 0,2-3."),
    click.option("--max-flows", type=int, default=131_072, show_default=True, help="Flows a worker can hold."),
    click.option("--max-half-open", type=click.IntRange(1), help="Flows not yet answered. Default: an eighth of them."),
    click.option("--max-new-per-network", type=click.IntRange(0), default=1000, show_default=True,
                 help="Flows a second that one IPv4 /24 or IPv6 /56 may open in this relay. 0: any number."),
    click.option("--flow-timeout", type=Duration(), default="30", show_default=True, help="Silence that ends a flow."),
    click.option("--half-open-timeout", type=Duration(), default="5", show_default=True, help="The same, unanswered."),
    click.option("--drain-timeout", type=Duration(), default="20", show_default=True, help="What SIGTERM waits."),
    click.option("--drain-mode", type=click.Choice(["wait", "push"]), default="wait", show_default=True,
                 help="push: while draining, checks stay unanswered, so that clients move; media still passes."),
    click.option("--recv-buffer", type=Size(), default="4MiB", show_default=True, help="Kernel buffer of each socket."),
    click.option("--state-dir", default="auto", show_default=True, metavar="auto|none|DIR",
                 help="Where flows outlive the relay. auto: in /dev/shm, by the addresses it listens at."),
    click.option("--redis", type=RedisURL(),
                 help="Flows are known to a relay that takes over, through this Redis: redis://, rediss://, unix://,"
                      " redis+sentinel://, redis+cluster://. docs/redis.md"),
    click.option("--redis-password-file", type=click.Path(dir_okay=False, readable=False), help="Its password."),
    click.option("--redis-lookups", type=click.IntRange(1, 1_000_000), default=REDIS_LOOKUPS, show_default=True,
                 help="Flows a second that Redis is asked for at most."),
    click.option("--id", help="Its name in `relay fleet`, with --redis. Default: host name and port."),
    click.option("--region", help="Where it is, in a word, for `relay fleet`."),
    click.option("--location", type=LatLon(), help="The same in degrees north and east."),
    click.option("--redis-group", default=REDIS_GROUP, show_default=True,
                 help="Relays of a group know each other's flows; their public addresses are the same."),
    click.option("--admin", type=AddressPort(), default="127.0.0.1:9464", show_default=True,
                 help="HTTP address of /metrics, /livez, /readyz."),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
]  # fmt: skip


def settings_of(options: dict[str, Any], **reads: Any) -> Settings:
    return build(
        workers=options["workers"],
        listen=options["listen"],
        internal=options["internal"],
        backends=options["backends"],
        route_key_file=options["route_key_file"],
        cpus_spec=options["cpus"],
        max_flows=options["max_flows"],
        max_half_open=options["max_half_open"],
        max_new_per_network=options["max_new_per_network"],
        flow_timeout_s=options["flow_timeout"],
        half_open_timeout_s=options["half_open_timeout"],
        drain_timeout_s=options["drain_timeout"],
        drain_mode=options["drain_mode"],
        recv_buffer=options["recv_buffer"],
        state_dir=options["state_dir"],
        admin=options["admin"],
        redis=options["redis"],
        redis_password_file=options["redis_password_file"],
        redis_lookups=options["redis_lookups"],
        redis_group=options["redis_group"],
        own_id=options["id"],
        region=options["region"],
        location=options["location"],
        **reads,
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(relay.__version__, prog_name="relay")
def cli() -> None:
    """One public UDP port in front of any number of WebRTC transceivers."""


@cli.command()
@program_options("relay", START_OPTIONS)
@click.option("--takeover", is_flag=True, help="Follow the relay that runs here: its calls, sockets and memory.")
def start(*, takeover: bool, **options: Any) -> int:
    """Run the relay. SIGTERM drains and ends, a second one or SIGINT ends at once."""
    block_signals()
    log.setup(options["log_format"], "relay")
    settings = settings_of(options)
    given = GivenSockets.from_environment()
    taking = follow(settings) if takeover else None
    estate = taking.estate if taking else Estate.open(settings, given)
    program = RelayProgram(estate, follows=takeover)
    manager = ServiceManager.from_environment(program.status, successor=takeover)
    manager.store(estate.sockets(), before=given.stored)
    succession = RelaySuccession(estate, taking, manager, program)
    timeout_s = settings.drain_timeout_s
    launcher = Launcher(program, drain_timeout_s=timeout_s, name="relay", manager=manager, succession=succession)
    status = launcher.run()
    program.ended(status)
    return status


@cli.group()
def config() -> None:
    """What `relay start` would run with."""


@config.command()
@program_options("relay", START_OPTIONS)
@click.pass_context
def show(ctx: click.Context, /, **_options: Any) -> None:
    """Print every option in force and where it comes from."""
    click.echo(render_show(ctx), nl=False)


@config.command()
@program_options("relay", START_OPTIONS)
def check(**options: Any) -> None:
    """Check the configuration without opening anything."""
    settings = settings_of(options)
    click.echo(f"ok: {settings.plan.explanation}")


@cli.command()
@program_options("relay", START_OPTIONS)
@click.option(
    "--rate",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    metavar="PACKETS_PER_SECOND",
    help="What the whole relay will be offered; the socket buffers are judged by it.",
)
@click.option("--json", "json_wanted", is_flag=True, help="The findings as JSON.")  # fmt: skip
def doctor(rate: int, json_wanted: bool, **options: Any) -> int:
    """Look for what on this machine, or in this configuration, would trouble a relay; nothing is started or changed.

    Takes the options of `relay start`. Ends with 1 if there is a problem, with 0 if there are warnings at most.
    """
    machine = Machine()
    settings = settings_of(options, make_plan=partial(plan_anywhere, machine), load_keys=keys_unread)
    findings = examine(machine, settings, rate)
    click.echo(as_json(findings) if json_wanted else as_text(findings))
    return EXIT_FAILURE if worst(findings) == "problem" else 0


cli.add_command(completion_command("relay"))


@cli.group("keys")
def keys_group() -> None:
    """Route keys."""


@keys_group.command("new")
@click.option("--id", "key_id", type=click.IntRange(0, KEY_IDS - 1), default=0, show_default=True, help="The key's id.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write a new key file. Default: print the line.")
def keys_new(key_id: int, out: str | None) -> None:
    """Make a route key."""
    if out is None:
        click.echo(keys.new_route_key(key_id))
        return
    keys.create(Path(out), keys.new_route_key(key_id))
    click.echo(f"{out}: one key with id {key_id}, readable by you alone; relays and transceivers need the same file")


@cli.group()
def token() -> None:
    """Route tokens."""


_key_file = click.option("--route-key-file", type=click.Path(dir_okay=False), required=True, help="The route keys.")


@token.command()
@_key_file
@click.option("--owner", type=AddressPort(), required=True, help="Where the token's packets are to go.")
@click.option("--cluster", type=click.IntRange(0, CLUSTERS - 1), default=0, show_default=True)
@click.option("--generation", type=click.IntRange(0, GENERATIONS - 1), default=0, show_default=True)
def mint(route_key_file: str, owner: Address, cluster: int, generation: int) -> None:
    """Print a token that names OWNER."""
    route_keys = keys.load(Path(route_key_file))
    click.echo(route_keys.keyring().mint(route_keys.minting, owner.sockaddr, cluster, generation))


@token.command("show")
@click.argument("text", metavar="TOKEN")
@_key_file
def token_show(text: str, route_key_file: str) -> None:
    """Verify TOKEN and print what it says."""
    ring = keys.load(Path(route_key_file)).keyring()
    result, fields = ring.verify(text.split(":", 1)[0].encode("utf-8", "replace"))
    if fields is None:
        mends = {
            "malformed": "a token has 32 or 48 letters, digits, + and /",
            "unknown_key": "use the key file it was minted with",
        }
        raise ConfigError(f"the token is not valid: {result}", where="TOKEN", mend=mends.get(result, ""))
    owner = f"[{fields.owner[0]}]" if ipaddress.ip_address(fields.owner[0]).version == 6 else fields.owner[0]
    click.echo(f"owner       {owner}:{fields.owner[1]}\ncluster     {fields.cluster}\ngeneration  {fields.generation}")
    click.echo(f"key id      {fields.key_id}\nrandom      {fields.nonce:012x}")


for command in (
    tools.status, tools.flows, tools.top, tools.fleet, tools.drain, tools.undrain, tools.upgrade, tools.explain,
    tools.probe,
):  # fmt: skip
    cli.add_command(command)


def main(args: list[str] | None = None, prog_name: str = "relay") -> NoReturn:
    sys.exit(run_command(cli, args, prog_name))
