"""Configuration: one set of options a program, from flags, environment, a TOML file, or their defaults.

Precedence is click's own: flag, then environment, then file, then default. An option `--recv-buffer` of the relay
is `UFRAG_RELAY_RECV_BUFFER` in the environment and `recv-buffer` (or `recv_buffer`) in the table `[relay]` of the
file that `--config` or `UFRAG_RELAY_CONFIG` names. An option that may be repeated is an array in the file, and
values separated by blanks or commas in the environment.

Rules:
  1. Whatever is in the file and not understood is an error that names file, table, key and the nearest valid name.
     In the environment that cannot be: Kubernetes itself sets UFRAG_RELAY_PORT for a Service called ufrag-relay.
  2. A secret is best the path of the file it stands in. An option that takes one itself is of type `Secret`: what is
     here may be shown and logged, and the value of such an option never is.
  3. All commands of a program that read its configuration get the same options, through `program_options`.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import math
import re
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import click
from click.core import ParameterSource

from relay.runtime.errors import EXIT_FAILURE, ConfigError, RuntimeFault

PROGRAMS = ("relay", "transceiver")

Source = Literal["flag", "environment", "file", "default"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_Function = TypeVar("_Function", bound=Callable[..., Any])
Decorator = Callable[[_Function], _Function]

_SECONDS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "K": 2**10, "KiB": 2**10, "M": 2**20, "MiB": 2**20, "G": 2**30, "GiB": 2**30}

_META = "ufrag.config"  # where a click context keeps which program and file it is about


# Types of options


def endpoint(host: str, port: int) -> str:
    """As people write it, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a literal address and a port."""

    host: str
    port: int
    family: socket.AddressFamily

    @property
    def sockaddr(self) -> tuple[str, int]:
        return self.host, self.port

    def __str__(self) -> str:
        return endpoint(self.host, self.port)


class _ListType:
    """Several values in one environment variable stand apart by blanks or commas."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [item for item in re.split(r"[,\s]+", rv) if item]


class AddressPort(_ListType, click.ParamType[Address]):
    """`ADDR:PORT` or `[V6]:PORT`. Names are refused: an address that changes with DNS is no address to bind."""

    name = "ADDR:PORT"

    def __init__(self, *, allow_zero: bool = False) -> None:
        self._lowest = 0 if allow_zero else 1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return parse_address(value, self._lowest)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_address(text: str, lowest_port: int = 0) -> Address:
    """The address that `text` writes; a ValueError says what is wrong with it."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise ValueError(f"{text!r} is not ADDR:PORT; an IPv6 address stands in brackets, [::1]:3478")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and lowest_port <= int(port) <= 65535):
        raise ValueError(f"the port of {text!r} is not a number from {lowest_port} to 65535")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"{host!r} is no literal address; host names are not resolved here") from None
    if bracketed != (ip.version == 6):
        raise ValueError(f"in {text!r}, brackets are for IPv6 addresses and for them alone")
    if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id is not None or ip.ipv4_mapped is not None):
        raise ValueError(f"{host!r}: addresses with a zone and IPv4-mapped ones are not supported")
    return Address(str(ip), int(port), socket.AF_INET6 if bracketed else socket.AF_INET)


class Cidr(_ListType, click.ParamType[Network]):
    """`10.0.0.0/8`; a lone address is a network of one."""

    name = "CIDR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Network:
        if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
            return value
        try:
            return ipaddress.ip_network(value)
        except ValueError as error:
            self.fail(f"{error}; a network is written like 10.0.0.0/8 or fd00::/8", param, ctx)


class _Quantity(_ListType):
    """A number and a unit, no blank before the unit needed."""

    _FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)

    @classmethod
    def parse(cls, value: str | float, units: Mapping[str, float]) -> float | None:
        match = cls._FORM.fullmatch(str(value).strip())
        if match is None or match[2] not in units:
            return None
        number = float(match[1]) * units[match[2]]
        return number if math.isfinite(number) else None


class Duration(_Quantity, click.ParamType[float]):
    """Seconds, from `30`, `30s`, `500ms`, `2m` or `1h`."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = self.parse(value, _SECONDS)
        if seconds is None:
            self.fail(f"{value!r} is no duration; write 30, 30s, 500ms, 2m or 1h", param, ctx)
        return seconds


class Size(_Quantity, click.ParamType[int]):
    """Bytes, from `65536`, `64K`, `64KiB`, `4M`, `4MiB`, `1G` or `1GiB`; all units are powers of 1024."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        size = self.parse(value, _BYTES)
        if size is None or not size.is_integer():
            self.fail(f"{value!r} is no size in bytes; write 65536, 64KiB or 4MiB", param, ctx)
        return int(size)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret; printing it does not."""

    text: str = field(repr=False)

    @property
    def secret(self) -> bool:
        """Whether it is one: something of which a secret may be part can be without."""
        return True

    def __str__(self) -> str:
        return "(hidden)"


class Secret(click.ParamType[Hidden]):
    """Text that is not shown again."""

    name = "SECRET"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Hidden:
        return value if isinstance(value, Hidden) else Hidden(value)


# Options of a program


def program_options(program: str, options: Sequence[Decorator[Any]]) -> Decorator[Any]:
    """A decorator that gives a command `--config` and all `options` (made by `click.option`) of `program`."""

    def decorate(function: _Function) -> _Function:
        own = list(getattr(function, "__click_params__", []))
        for option in reversed([_config_option(program), *options]):
            function = option(function)
        for param in getattr(function, "__click_params__", []):
            if param not in own:
                param.envvar, param.show_envvar = _env_name(program, _key(param)), True
        return function

    return decorate


def _config_option(program: str) -> Decorator[Any]:
    return click.option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,  # before the options whose defaults it brings
        expose_value=False,
        callback=lambda ctx, _param, value: _load(ctx, program, value),
        help=f"Read the table [{program}] of this file.",
    )


def _key(param: click.Parameter) -> str:
    """The name of an option outside: its first long flag without the dashes."""
    return next((opt[2:] for opt in param.opts if opt.startswith("--")), param.name or "")


def _env_name(program: str, key: str) -> str:
    return f"UFRAG_{program}_{key}".replace("-", "_").upper()


def _options(ctx: click.Context, program: str) -> dict[str, click.Option]:
    """Key -> option, of the program's options alone, `--config` not among them."""
    pairs = ((_key(param), param) for param in ctx.command.params if isinstance(param, click.Option))
    return {key: param for key, param in pairs if key != "config" and param.envvar == _env_name(program, key)}


# The file


def _load(ctx: click.Context, program: str, file: str | None) -> None:
    ctx.meta[_META] = (program, file)
    if file is None or ctx.resilient_parsing:
        return
    table = _read_table(file, program)
    options = _options(ctx, program)
    values: dict[str, Any] = {}
    for key, value in table.items():
        option = options.get(key.replace("_", "-"))
        where = f"{file}: [{program}] {key}"
        if option is None:
            raise ConfigError("unknown key", where=where, mend=_nearest(key.replace("_", "-"), options))
        assert option.name is not None
        if option.name in values:
            raise ConfigError("the key stands there twice, with - and with _", where=where, mend="remove one")
        values[option.name] = _checked(ctx, option, value, where)
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _read_table(file: str, program: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}", where=file, mend="name a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"this is no TOML: {error}", where=file, mend="mend it there") from None
    for name, table in document.items():
        _check_table(f"{file}: {name}", name, table, program)
    found: dict[str, Any] = document.get(program, {})
    return found


def _check_table(where: str, name: str, table: Any, program: str) -> None:
    if not isinstance(table, dict):
        raise ConfigError("the key stands outside any table", where=where, mend=f"put it below [{program}]")
    if name not in PROGRAMS:
        raise ConfigError("unknown table", where=where, mend=_nearest(name, PROGRAMS))


def _nearest(name: str, valid: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.0)
    return f"did you mean {close[0]}?" if close else "remove it"


def _checked(ctx: click.Context, option: click.Option, value: Any, where: str) -> Any:
    """`value`, once it is sure that click will take it; what click would bend into shape silently is refused."""
    if option.multiple != isinstance(value, list):
        mend = "write an array" if option.multiple else "write a single value"
        raise ConfigError(f"{_shown(option, value)} does not fit", where=where, mend=mend)
    for item in value if option.multiple else [value]:
        if not _fits(option.type, item):
            what = f"{_shown(option, item)} is of the wrong type"
            raise ConfigError(what, where=where, mend=f"write {option.type.name} there")
        try:
            option.type(item, param=option, ctx=ctx)
        except click.BadParameter as error:
            raise ConfigError(error.message, where=where, mend="mend it there") from None
    return value


def _shown(option: click.Option, value: Any) -> str:
    return "the value" if isinstance(option.type, Secret) else repr(value)


def _fits(kind: click.ParamType[Any], item: Any) -> bool:
    """Whether the TOML type of `item` is one for `kind`: click itself would make 1 of true, and 3 of 3.7."""
    if isinstance(item, bool) or isinstance(kind, click.types.BoolParamType):
        return isinstance(item, bool) and isinstance(kind, click.types.BoolParamType)
    if isinstance(item, float):
        return isinstance(kind, (click.types.FloatParamType, Duration))
    if isinstance(item, int):
        return isinstance(kind, (click.types.IntParamType, click.types.FloatParamType, Duration, Size))
    return isinstance(item, str)


# What is in force


def effective(ctx: click.Context) -> list[tuple[str, Any, Source]]:
    """Key, value and source of every option of the program, in the order they were declared."""
    program, _ = ctx.meta[_META]
    return [(key, ctx.params[param.name or ""], _source(ctx, param)) for key, param in _options(ctx, program).items()]


def _source(ctx: click.Context, param: click.Option) -> Source:
    return _SOURCES.get(ctx.get_parameter_source(param.name or ""), "default")


_SOURCES: dict[ParameterSource | None, Source] = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


def render_show(ctx: click.Context) -> str:
    """What is in force as a TOML file, each line with its source; it may serve as `--config` as it is."""
    program, file = ctx.meta[_META]
    lines = [_line(key, value) for key, value, _ in effective(ctx)]
    width = max((len(line) for line in lines if len(line) <= 60), default=0)
    sources = (source for _, _, source in effective(ctx))
    body = [f"{line:<{width}}  # {source}" for line, source in zip(lines, sources, strict=True)]
    head = [f"# file: {_toml(file)}"] if file else []
    return "\n".join([*head, f"[{program}]", *body, ""])


def _line(key: str, value: Any) -> str:
    if value is None:
        return f"# {key} is not set"
    if isinstance(value, Hidden) and value.secret:
        return f"# {key} is set, and not shown{'' if type(value) is Hidden else f' whole: {value}'}"
    return f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    """A value as TOML writes it; addresses, networks and paths are text there."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return f"{value:.15f}".rstrip("0").rstrip(".") or "0"  # without an exponent, which Duration does not read
    if isinstance(value, int):
        return str(value)
    # JSON's escapes are TOML's, but for DEL, which only TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


# The outermost frame


def run_command(command: click.Command, args: Sequence[str] | None = None, prog_name: str | None = None) -> int:
    """Run `command` and return the exit status; a command that returns a number has chosen it itself."""
    try:
        result = command.main(args, prog_name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("Aborted.", err=True)
        return EXIT_FAILURE
    except RuntimeFault as fault:
        click.echo(f"Error: {fault}", err=True)
        return fault.exit_status
    return result if isinstance(result, int) else 0
