"""What `transceiver call` is asked for: its options, checked before a call is made, and what follows from them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from relay.runtime import keys
from relay.runtime.config import Hidden, Secret
from transceiver import caller_sound as sound

CALLS = "/v1/realtime/calls"

_PATH = click.Path(dir_okay=False, path_type=Path)
_SECONDS = click.FloatRange(0, min_open=True)


@dataclass(frozen=True)
class Wishes:
    """A call as it is wished for."""

    url: str
    seconds: float
    timeout_s: float
    source: sound.Source
    data: str
    record: Path | None = None
    insecure: bool = False
    key: str | None = field(default=None, repr=False)

    @property
    def on_loopback(self) -> bool:
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def full_url(_ctx: click.Context, _param: click.Parameter, text: str) -> str:
    """A base alone gets the path of the calls API."""
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise click.BadParameter(f"{text} is no http:// or https:// address")
    return parts._replace(path=CALLS).geturl() if parts.path in ("", "/") else text


def writable(_ctx: click.Context, _param: click.Parameter, file: Path | None) -> Path | None:
    """Said before the call, not after it."""
    try:
        if file:
            file.open("wb").close()
    except OSError as error:
        raise click.BadParameter(f"{file}: {error.strerror}") from None
    return file


OPTIONS = [
    click.argument("url", callback=full_url),
    click.option("--seconds", type=_SECONDS, default=5, show_default=True,
                 help="How long to speak once audio comes back. Ctrl-C ends it sooner."),
    click.option("--timeout", type=_SECONDS, default=10, show_default=True,
                 help="Seconds that HTTP, the connection, and the first audio may each take."),
    click.option("--wav", type=_PATH, help="Say what is in this audio file, again and again."),
    click.option("--tone", type=click.FloatRange(20, 20_000), default=440, show_default=True,
                 help="Hertz of the dots that are sent otherwise."),
    click.option("--record", type=_PATH, callback=writable, help="Write what comes back into this WAV file."),
    click.option("--data", default="hello", show_default=True,
                 help="Text for the data channel, expected back; '' goes without a channel."),
    click.option("--auth-key-file", type=_PATH, envvar="UFRAG_TRANSCEIVER_AUTH_KEY_FILE", show_envvar=True,
                 help="The key to show, if one is asked for."),
    click.option("--auth-key", type=Secret(), envvar="UFRAG_TRANSCEIVER_AUTH_KEY", show_envvar=True,
                 help="The same itself, best in the environment."),
    click.option("--insecure", is_flag=True, help="Accept any certificate from an https:// address."),
    click.option("--json", "as_json", is_flag=True, help="Say nothing but one JSON object at the end."),
]  # fmt: skip


def call_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def wishes_of(options: dict[str, Any]) -> Wishes:
    return Wishes(
        url=options["url"],
        seconds=options["seconds"],
        timeout_s=options["timeout"],
        source=_source(options["wav"], options["tone"], options["seconds"]),
        data=options["data"],
        record=options["record"],
        insecure=options["insecure"],
        key=_key(options["auth_key_file"], options["auth_key"]),
    )


def _source(wav: Path | None, hertz: float, seconds: float) -> sound.Source:
    if wav is None:
        return sound.tone(hertz)
    try:
        return sound.file(wav, seconds)
    except (OSError, ValueError) as error:  # av's own errors are the one or the other
        reason = getattr(error, "strerror", None) or error
        raise click.BadParameter(f"{wav}: {reason}", param_hint="--wav") from None


def _key(file: Path | None, given: Hidden | None) -> str | None:
    if file and given:
        raise click.UsageError("--auth-key and --auth-key-file: give one of the two")
    return keys.load_auth_key(file) if file else given.text if given else None
