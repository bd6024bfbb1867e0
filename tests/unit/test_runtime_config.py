"""Options of a program: their types, their precedence, the TOML file, and what `config show` prints."""

from __future__ import annotations

import ipaddress
import json
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from relay.runtime import config
from relay.runtime.config import Address, AddressPort, Cidr, Duration, Secret, Size

OPTIONS = [
    click.option("--workers", type=click.IntRange(1)),
    click.option("--listen", type=AddressPort(allow_zero=True), multiple=True, default=("127.0.0.1:3478",)),
    click.option("--backends", type=Cidr(), multiple=True),
    click.option("--recv-buffer", type=Size(), default="4MiB"),
    click.option("--drain-timeout", type=Duration(), default="30s"),
    click.option("--route-key-file", type=click.Path()),
    click.option("--log-format", type=click.Choice(["text", "json"]), default="text"),
    click.option("--gro/--no-gro", default=True),
    click.option("--auth-key", type=Secret()),
]


@click.group()
def program() -> None:
    """A program with the options of this test."""


@program.command()
@click.option("--unrelated")
@config.program_options("relay", OPTIONS)
@click.pass_context
def values(ctx: click.Context, /, **_: Any) -> None:
    """Print key, value and source of each option."""
    click.echo(json.dumps([(key, str(value), source) for key, value, source in config.effective(ctx)]))


@program.command()
@config.program_options("relay", OPTIONS)
@click.pass_context
def show(ctx: click.Context, /, **_: Any) -> int:
    """Print the configuration, and end with a status of its own choice."""
    click.echo(config.render_show(ctx), nl=False)
    return 3


Write = Callable[[str], str]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str) -> str:
        file = tmp_path / "ufrag.toml"
        file.write_text(text)
        return str(file)

    return _write


def run(capsys: Capture, *args: str) -> dict[str, tuple[str, str]]:
    """Key -> (value, source)."""
    assert config.run_command(program, ["values", *args]) == 0
    return {key: (value, source) for key, value, source in json.loads(capsys.readouterr().out)}


# Types


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:3478", Address("127.0.0.1", 3478, socket.AF_INET)),
        ("0.0.0.0:0", Address("0.0.0.0", 0, socket.AF_INET)),
        ("[::1]:65535", Address("::1", 65535, socket.AF_INET6)),
        ("[2001:DB8:0::1]:1", Address("2001:db8::1", 1, socket.AF_INET6)),
    ],
)
def test_address(text: str, address: Address) -> None:
    found = AddressPort(allow_zero=True).convert(text, None, None)
    assert found == address
    assert AddressPort(allow_zero=True).convert(str(found), None, None) == found
    assert AddressPort().convert(found, None, None) is found
    assert found.sockaddr == (address.host, address.port)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("localhost:3478", "host names"),
        ("relay.example:3478", "host names"),
        (":3478", "no literal address"),
        ("127.0.0.1", "ADDR:PORT"),
        ("127.0.0.1:", "port"),
        ("127.0.0.1:65536", "port"),
        ("127.0.0.1:-1", "port"),
        ("127.0.0.1:+1", "port"),
        ("127.0.0.1:٣", "port"),
        ("127.0.0.1:0", "from 1 to 65535"),
        ("::1:3478", "brackets"),
        ("[127.0.0.1]:1", "brackets"),
        ("[::1%lo]:1", "zone"),
        ("[::ffff:1.2.3.4]:1", "IPv4-mapped"),
        ("1.2.3:1", "no literal address"),
        ("", "ADDR:PORT"),
    ],
)
def test_address_refused(text: str, says: str) -> None:
    with pytest.raises(click.BadParameter, match=says):
        AddressPort().convert(text, None, None)


def test_cidr() -> None:
    assert Cidr().convert("10.0.0.0/8", None, None) == ipaddress.ip_network("10.0.0.0/8")
    assert Cidr().convert("::1", None, None) == ipaddress.ip_network("::1/128")
    for text in ("10.0.0.1/8", "10.0.0.0/33", "example", ""):
        with pytest.raises(click.BadParameter, match="written like"):
            Cidr().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5 s", 1.5), (7, 7), (0.25, 0.25), (0, 0)],
)
def test_duration(text: str | float, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["-1", "", "s", "nan", "inf", "1d", "1 2", "1e3", "9" * 400, "٣"])
def test_duration_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no duration"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        (65536, 65536),
        ("4M", 4 << 20),
        ("4MiB", 4 << 20),
        ("64K", 65536),
        ("1.5KiB", 1536),
        ("1G", 1 << 30),
    ],
)
def test_size(text: str | int, size: int) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["-1", "", "1.5", "4MB", "M", "0x10", "9" * 400])
def test_size_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no size"):
        Size().convert(text, None, None)


# Precedence


def test_defaults(capsys: Capture) -> None:
    found = run(capsys)
    assert found["recv-buffer"] == ("4194304", "default")
    assert found["workers"] == ("None", "default")
    assert set(found) == {
        "workers", "listen", "backends", "recv-buffer", "drain-timeout", "route-key-file", "log-format", "gro",
        "auth-key",
    }  # fmt: skip


def test_flag_beats_environment_beats_file(capsys: Capture, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write('[relay]\nworkers = 1\nrecv-buffer = "1K"\ndrain_timeout = 5\n[transceiver]\nanything = "goes"\n')
    monkeypatch.setenv("UFRAG_RELAY_WORKERS", "2")
    monkeypatch.setenv("UFRAG_RELAY_RECV_BUFFER", "2K")
    found = run(capsys, "--config", file, "--workers", "3")
    assert found["workers"] == ("3", "flag")
    assert found["recv-buffer"] == ("2048", "environment")
    assert found["drain-timeout"] == ("5.0", "file")
    assert found["log-format"] == ("text", "default")


def test_options_before_config_are_no_exception(capsys: Capture, write: Write) -> None:
    found = run(capsys, "--workers", "3", "--config", write("[relay]\nworkers = 1\ngro = false\n"))
    assert found["workers"] == ("3", "flag")
    assert found["gro"] == ("False", "file")


def test_config_file_from_environment(capsys: Capture, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UFRAG_RELAY_CONFIG", write("[relay]\nworkers = 4\n"))
    assert run(capsys)["workers"] == ("4", "file")


def test_repeatable_options(capsys: Capture, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write('[relay]\nlisten = ["127.0.0.1:1", "[::1]:2"]\n')
    monkeypatch.setenv("UFRAG_RELAY_BACKENDS", "10.0.0.0/8, fd00::/8")
    found = run(capsys, "--config", file)
    assert found["listen"][1] == "file"
    assert found["listen"][0].count("Address(") == 2
    assert found["backends"][1] == "environment"
    assert "fd00::/8" in found["backends"][0]


def test_kubernetes_variables_do_no_harm(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UFRAG_RELAY_PORT", "udp://10.0.0.1:3478")
    monkeypatch.setenv("UFRAG_RELAY_UNRELATED", "x")
    assert all(source == "default" for _, source in run(capsys).values())


# What the file may not hold


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[relay]\nworker = 2\n", "[relay] worker: unknown key; did you mean workers?"),
        ("[relay]\nrecv_bufer = 2\n", "[relay] recv_bufer: unknown key; did you mean recv-buffer?"),
        ("[relay]\nunrelated = 2\n", "[relay] unrelated: unknown key"),
        ("[relay]\nconfig = 'x'\n", "[relay] config: unknown key"),
        ("[rely]\nworkers = 2\n", "rely: unknown table; did you mean relay?"),
        ("workers = 2\n", "workers: the key stands outside any table; put it below [relay]"),
        ("relay = 2\n", "relay: the key stands outside any table"),
        ("[relay]\nrecv-buffer = 1\nrecv_buffer = 1\n", "the key stands there twice"),
        ("[relay]\nworkers = 0\n", "[relay] workers: 0 is not in the range"),
        ("[relay]\nworkers = true\n", "[relay] workers: True is of the wrong type"),
        ("[relay]\nworkers = 2.5\n", "[relay] workers: 2.5 is of the wrong type"),
        ("[relay]\nworkers = 'two'\n", "[relay] workers: 'two' is not a valid integer"),
        ("[relay]\nworkers = [2]\n", "write a single value"),
        ("[relay]\nlisten = '127.0.0.1:1'\n", "write an array"),
        ("[relay]\nlisten = ['127.0.0.1:1', 'host:2']\n", "[relay] listen: 'host' is no literal address"),
        ("[relay]\ngro = 1\n", "[relay] gro: 1 is of the wrong type"),
        ("[relay]\ngro = 'yes'\n", "[relay] gro: 'yes' is of the wrong type"),
        ("[relay]\nlog-format = 5\n", "[relay] log-format: 5 is of the wrong type"),
        ("[relay]\nlog-format = 'xml'\n", "[relay] log-format: 'xml' is not one of"),
        ("[relay]\nroute-key-file = 2020-01-01\n", "of the wrong type"),
        ("[relay.deeper]\nx = 1\n", "[relay] deeper: unknown key"),
        ("[relay\n", "this is no TOML"),
        ("\udcff", "this is no TOML"),
    ],
)
def test_file_is_refused(capsys: Capture, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "ufrag.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert config.run_command(program, ["values", "--config", str(file)]) == 78
    message = capsys.readouterr().err
    assert message.startswith(f"Error: {file}: ")
    assert says in message


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_unreadable_file(capsys: Capture, tmp_path: Path, name: str) -> None:
    assert config.run_command(program, ["values", "--config", str(tmp_path / name)]) == 78
    assert "cannot read it" in capsys.readouterr().err


# Exit statuses and `show`


def test_usage_errors_are_2(capsys: Capture) -> None:
    assert config.run_command(program, ["values", "--workers", "0"]) == 2
    assert config.run_command(program, ["values", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err


def test_help_names_the_environment(capsys: Capture) -> None:
    assert config.run_command(program, ["values", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    assert "UFRAG_RELAY_DRAIN_TIMEOUT" in text
    assert "UFRAG_RELAY_CONFIG" in text


def test_abort_is_1(capsys: Capture) -> None:
    @click.command()
    def command() -> None:
        raise click.Abort

    assert config.run_command(command, []) == 1
    assert "Aborted" in capsys.readouterr().err


def test_show_is_toml_with_sources_and_reads_back(
    capsys: Capture, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write('[relay]\nroute-key-file = "a \\"b\\\\ \\u007f\\n.key"\ndrain-timeout = "250ms"\n')
    monkeypatch.setenv("UFRAG_RELAY_LISTEN", "127.0.0.1:1 [::1]:2")
    assert config.run_command(program, ["show", "--config", file, "--backends", "10.0.0.0/8", "--no-gro"]) == 3
    text = capsys.readouterr().out
    lines = {line.partition(" = ")[0]: line.rpartition("# ")[2] for line in text.splitlines() if " = " in line}
    assert lines == {
        "listen": "environment",
        "backends": "flag",
        "recv-buffer": "default",
        "drain-timeout": "file",
        "route-key-file": "file",
        "log-format": "default",
        "gro": "flag",
    }
    assert "# workers is not set" in text
    assert tomllib.loads(text) == {
        "relay": {
            "listen": ["127.0.0.1:1", "[::1]:2"],
            "backends": ["10.0.0.0/8"],
            "recv-buffer": 4194304,
            "drain-timeout": 0.25,
            "route-key-file": 'a "b\\ \x7f\n.key',
            "log-format": "text",
            "gro": False,
        }
    }
    monkeypatch.delenv("UFRAG_RELAY_LISTEN")
    assert config.run_command(program, ["show", "--config", write(text)]) == 3
    again = tomllib.loads(capsys.readouterr().out)
    assert again == tomllib.loads(text)


SECRET = "sk-0123456789abcdef"


@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_a_secret_is_taken_and_never_shown(
    capsys: Capture, write: Write, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("UFRAG_RELAY_AUTH_KEY", SECRET)
    words = {"flag": ["--auth-key", SECRET], "file": ["--config", write(f'[relay]\nauth-key = "{SECRET}"\n')]}
    assert config.run_command(program, ["show", *words.get(source, [])]) == 3
    text = capsys.readouterr().out
    assert SECRET not in text
    assert any(line.startswith("# auth-key is set") and line.endswith(source) for line in text.splitlines())
    assert run(capsys, *words.get(source, []))["auth-key"] == ("(hidden)", source)
    assert config.Secret()(SECRET).text == SECRET
    assert SECRET not in repr(config.Secret()(SECRET))


@pytest.mark.parametrize("value", ["1234567890123456", "['1234567890123456']"])
def test_a_secret_of_the_wrong_type_is_not_shown_either(capsys: Capture, write: Write, value: str) -> None:
    assert config.run_command(program, ["values", "--config", write(f"[relay]\nauth-key = {value}\n")]) == 78
    message = capsys.readouterr().err
    assert "auth-key: the value" in message
    assert "1234567890123456" not in message
