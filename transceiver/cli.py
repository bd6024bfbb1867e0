"""The command line: `transceiver start`, `config`, `keys`; `status`, `sessions`, `top` and `hangup` of a running one;
and `call`, a client to try it with.

Only what concerns options and output stands here; `settings` checks and completes what was given, `program` runs it,
`admin_client` asks, `views` draws. This is the outermost frame, hence the one that reads clocks for the views. What a
command needs is imported when it runs, so that looking at a transceiver does not take the libraries of one.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

import transceiver
from relay.runtime import log
from relay.runtime.completion import completion_command
from relay.runtime.config import (
    Address,
    AddressPort,
    Cidr,
    Duration,
    Secret,
    Size,
    program_options,
    render_show,
    run_command,
)
from relay.runtime.errors import ConfigError
from relay.runtime.given import GivenSockets
from relay.runtime.launcher import Launcher, block_signals
from relay.runtime.redis_url import RedisURL
from relay.runtime.registered import LatLon
from relay.runtime.systemd import ServiceManager
from transceiver import advertise

if TYPE_CHECKING:
    from transceiver.admin_client import AdminClient
    from transceiver.settings import Settings
    from transceiver.views import Moment

logger = logging.getLogger("ufrag.transceiver")

# What the extra `transceiver` brings: module and distribution.
EXTRA = {
    "aiohttp": "aiohttp", "aiortc": "aiortc", "OpenSSL": "pyOpenSSL", "pylibsrtp": "pylibsrtp", "uvloop": "uvloop",
}  # fmt: skip


class HostPort(click.ParamType[advertise.Endpoint]):
    """`HOST:PORT`, a name or an address."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> advertise.Endpoint:
        if isinstance(value, advertise.Endpoint):
            return value
        try:
            return advertise.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> list[str]:
        return rv.replace(",", " ").split()


START_OPTIONS = [
    click.option("--workers", type=click.IntRange(1), help="Media processes. Default: one for each CPU allowed."),
    click.option("--internal", type=AddressPort(allow_zero=True), default="127.0.0.1:0", show_default=True,
                 help="UDP address towards the relays, and TCP towards other transceivers; worker i takes PORT+i."),
    click.option("--http", type=AddressPort(allow_zero=True), default="127.0.0.1:8080", show_default=True,
                 help="Address of the calls API; [::]:PORT takes both families."),
    click.option("--tls-cert", type=click.Path(dir_okay=False),
                 help="Certificate chain of --http, PEM; SIGHUP reads it again."),
    click.option("--tls-key", type=click.Path(dir_okay=False), help="Its key, PEM."),
    click.option("--cors-origin", multiple=True, metavar="ORIGIN",
                 help="Whose pages may use the API, such as https://app.example.com, or *; may be given again."),
    click.option("--trusted-proxies", type=Cidr(), multiple=True,
                 help="Whose X-Forwarded-For is believed; may be given again."),
    click.option("--auth-key-file", type=click.Path(dir_okay=False), help="The key that clients of --http must show."),
    click.option("--auth-key", type=Secret(), help="The same itself, best in the environment."),
    click.option("--no-auth", is_flag=True, help="Whoever reaches --http may call, beyond loopback too."),
    click.option("--advertise", type=HostPort(), multiple=True,
                 help="A relay as clients reach it; may be given again. Default on loopback: 127.0.0.1:3478."),
    click.option("--advertise-file", type=click.Path(dir_okay=False),
                 help="The same, one a line; read again when it changes."),
    click.option("--relays", type=Cidr(), multiple=True,
                 help="Who may send to --internal; may be given again. Required beyond loopback."),
    click.option("--route-key-file", type=click.Path(dir_okay=False), help="Keys that tokens are minted with."),
    click.option("--session-key-file", type=click.Path(dir_okay=False),
                 help="Key shared by all transceivers among which calls are found. Default: one of this start's own."),
    click.option("--cpus", default="auto", show_default=True, help="auto, none, or a list such as 0,2-3."),
    click.option("--max-sessions", type=int, default=2000, show_default=True, help="Calls a worker can hold."),
    click.option("--max-new-per-s", type=float, default=100.0, show_default=True, help="New calls a second, a worker."),
    click.option("--answer-role", type=click.Choice(["active", "passive"]), default="active", show_default=True,
                 help="Who begins the DTLS handshake; active is one round trip faster."),
    click.option("--srtp-profiles", default="gcm256,gcm128,cm128", show_default=True, metavar="LIST",
                 help="The profiles allowed, the preferred first."),
    click.option("--cluster", type=int, default=0, show_default=True, help="Cluster id in the tokens."),
    click.option("--drain-timeout", type=Duration(), default="20", show_default=True,
                 help="What SIGTERM waits for calls to end by themselves."),
    click.option("--recv-buffer", type=Size(), default="4MiB", show_default=True, help="Kernel buffer of each socket."),
    click.option("--admin", type=AddressPort(), default="127.0.0.1:9465", show_default=True,
                 help="HTTP address of /metrics, /livez, /readyz, and of the commands that look at a running one."),
    click.option("--beside", is_flag=True,
                 help="Share --http with the transceiver that has it, for it to be drained then; --internal takes "
                      "another port where that one is taken."),
    click.option("--redis", type=RedisURL(), help="Where to announce itself, for `relay fleet`: URLs as the relay's."),
    click.option("--redis-password-file", type=click.Path(dir_okay=False, readable=False), help="Its password."),
    click.option("--id", help="Its name there. Default: host name and internal port."),
    click.option("--region", help="Where it is, in a word, for `relay fleet`."),
    click.option("--location", type=LatLon(), help="The same in degrees north and east."),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True),
]  # fmt: skip


def settings_of(options: dict[str, Any]) -> Settings:
    from transceiver.settings import build

    return build(
        workers=options["workers"],
        internal=options["internal"],
        http=options["http"],
        tls_cert=options["tls_cert"],
        tls_key=options["tls_key"],
        cors_origins=options["cors_origin"],
        trusted_proxies=options["trusted_proxies"],
        auth_key_file=options["auth_key_file"],
        auth_key=options["auth_key"],
        no_auth=options["no_auth"],
        advertise=options["advertise"],
        advertise_file=options["advertise_file"],
        relays=options["relays"],
        route_key_file=options["route_key_file"],
        session_key_file=options["session_key_file"],
        cpus_spec=options["cpus"],
        max_sessions=options["max_sessions"],
        max_new_per_s=options["max_new_per_s"],
        answer_role=options["answer_role"],
        srtp_profiles=options["srtp_profiles"],
        cluster=options["cluster"],
        drain_timeout_s=options["drain_timeout"],
        recv_buffer=options["recv_buffer"],
        admin=options["admin"],
        beside=options["beside"],
        redis=options["redis"],
        redis_password_file=options["redis_password_file"],
        own_id=options["id"],
        region=options["region"],
        location=options["location"],
    )


def require_extra() -> None:
    """Says at once what an installation lacks, instead of failing in the middle with the first of it."""
    missing = [distribution for module, distribution in EXTRA.items() if find_spec(module) is None]
    if missing:
        mend = "pip install 'ufrag[transceiver]'"
        raise ConfigError(f"{', '.join(missing)} must be installed", where="transceiver", mend=mend)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(transceiver.__version__, prog_name="transceiver")
def cli() -> None:
    """The WebRTC endpoint behind the relay."""


@cli.command()
@program_options("transceiver", START_OPTIONS)
@click.pass_context
def start(ctx: click.Context, /, **options: Any) -> int:
    """Run the transceiver. SIGTERM drains and ends, a second one or SIGINT ends at once."""
    block_signals()
    log.setup(options["log_format"], "transceiver")
    require_extra()
    settings = settings_of(options)
    if ctx.get_parameter_source("auth_key") is ParameterSource.COMMANDLINE:
        mend = "use --auth-key-file, or UFRAG_TRANSCEIVER_AUTH_KEY"
        log.event(logger, logging.WARNING, "--auth-key can be read in every list of processes", mend=mend)
    from transceiver.program import TransceiverProgram

    program = TransceiverProgram(settings, given=GivenSockets.from_environment())
    manager = ServiceManager.from_environment(program.status)
    return Launcher(program, drain_timeout_s=settings.drain_timeout_s, manager=manager).run()


@cli.group()
def config() -> None:
    """What `transceiver start` would run with."""


@config.command()
@program_options("transceiver", START_OPTIONS)
@click.pass_context
def show(ctx: click.Context, /, **_options: Any) -> None:
    """Print every option in force and where it comes from."""
    click.echo(render_show(ctx), nl=False)


@config.command()
@program_options("transceiver", START_OPTIONS)
def check(**options: Any) -> None:
    """Check the configuration without opening anything."""
    settings = settings_of(options)
    require_extra()
    click.echo(f"ok: {settings.plan.explanation}")


cli.add_command(completion_command("transceiver"))


@cli.group("keys")
def keys_group() -> None:
    """Session keys and auth keys; route keys are made by `relay keys`."""


@keys_group.command("new")
@click.option("--out", type=click.Path(dir_okay=False), help="Write a new key file. Default: print the line.")
def keys_new(out: str | None) -> None:
    """Make a key that will do for --session-key-file, or for --auth-key-file; never one for both."""
    from relay.runtime import keys

    if out is None:
        click.echo(keys.new_session_key())
        return
    keys.create(Path(out), keys.new_session_key())
    click.echo(f"{out}: one key, readable by you alone")


# Looking at a running one

_admin_option = click.option(
    "--admin", type=AddressPort(), default="127.0.0.1:9465", show_default=True, envvar="UFRAG_TRANSCEIVER_ADMIN",
    show_envvar=True, help="Where it answers.",
)  # fmt: skip


def _client(admin: Address) -> AdminClient:
    from transceiver.admin_client import AdminClient

    return AdminClient(admin)


@cli.command()
@_admin_option
def status(admin: Address) -> int:
    """One screen: may calls come, how many are there, how well do they go. Ends with 1 when it is not ready."""
    from relay.runtime import screen
    from transceiver import views

    client = _client(admin)
    ready = client.ready()
    screen.console().print(views.status(client.metrics(), ready, str(client.address)))
    return 0 if ready.get("ready") else 1


@cli.command()
@_admin_option
@click.option("--json", "as_json", is_flag=True, help="All that is known, as a JSON list.")
@click.option("--order", type=click.Choice(["id", "loss", "rtt", "age"]), default="id", show_default=True)
def sessions(admin: Address, as_json: bool, order: str) -> None:
    """The calls at this moment."""
    from relay.runtime import screen
    from transceiver import views

    found = _client(admin).sessions()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = screen.console()
    console.print(views.sessions(found, time.time(), console.width, order))


@cli.command()
@_admin_option
@click.option("--interval", type=Duration(), default="1s", show_default=True, help="Between two looks.")
@click.option("--order", type=click.Choice(["loss", "rtt", "age", "id"]), default="loss", show_default=True,
              help="Which sessions come first.")  # fmt: skip
def top(admin: Address, interval: float, order: str) -> None:
    """The same, live: rates, workers, and the sessions that do worst. Ctrl-C ends it."""
    from relay.runtime import screen
    from transceiver import views

    client = _client(admin)
    screen.watch(
        lambda: _look(client),
        lambda then, now, shown: views.top(then, now, time.time(), shown.width, shown.height, order),
        interval,
    )


def _look(client: AdminClient) -> Moment:
    from transceiver.views import Moment

    return Moment(time.monotonic(), client.metrics(), client.ready(), client.sessions())


@cli.command()
@_admin_option
@click.option("--wait", is_flag=True, help="Return when no call is left.")
@click.option("--timeout", type=Duration(), help="What is left to calls to end by themselves. "
              "Default: its --drain-timeout.")  # fmt: skip
def drain(admin: Address, wait: bool, timeout: float | None) -> None:
    """Take no new calls until `transceiver undrain`; /readyz fails. Calls end by themselves, or at the end of the time.

    Where another one was started --beside it, new calls are that one's; else they are refused with 503.
    """
    from relay.runtime import drains

    client = _client(admin)
    drains.ask(client, "default" if timeout is None else f"{timeout:.3f}")
    if wait:
        drains.wait(
            lambda: int(client.metrics().total("ufrag_transceiver_sessions")),
            None,
            lambda number: click.echo(f"{number} calls left", err=True),
        )
        click.echo("drained")


@cli.command()
@_admin_option
def undrain(admin: Address) -> None:
    """Take new calls again."""
    from relay.runtime import drains

    drains.ask(_client(admin), drains.OFF)


@cli.command()
@click.argument("session", metavar="SESSION")
@_admin_option
def hangup(session: str, admin: Address) -> None:
    """End a call, named as `transceiver sessions` does."""
    _client(admin).hangup(session)
    click.echo(f"{session}: asked to end")


# A client to try it with


@cli.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def call(words: tuple[str, ...]) -> int:
    """Call a transceiver and say how it went; `transceiver call --help`."""
    require_extra()
    from transceiver.caller import command

    return run_command(command, words, "transceiver call")


def main(args: list[str] | None = None, prog_name: str = "transceiver") -> NoReturn:
    sys.exit(run_command(cli, args, prog_name))
