"""What clients are told to send to: how it is written, names that move or fail, and a file that changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from relay.runtime.errors import ConfigError
from transceiver import advertise
from transceiver.advertise import Advertised, Endpoint, parse

RELAY = parse("192.0.2.1:3478")
NAMED = parse("relay.example.com:3478")


@pytest.mark.parametrize(
    ("text", "host", "literal"),
    [
        ("192.0.2.1:3478", "192.0.2.1", True),
        ("[2001:DB8::1]:3478", "2001:db8::1", True),
        ("127.0.0.1:3478", "127.0.0.1", True),
        ("Relay.Example.COM.:3478", "relay.example.com", False),
        ("localhost:3478", "localhost", False),
        ("a_b-c.1x:3478", "a_b-c.1x", False),
    ],
)
def test_endpoints(text: str, host: str, literal: bool) -> None:
    endpoint = parse(text)
    assert endpoint == Endpoint(host, 3478)
    assert endpoint.is_literal is literal
    assert parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "", ":3478", "relay.example.com", "relay.example.com:", "relay:0", "relay:65536", "relay:+1", "relay:٣",
        "2001:db8::1:3478", "[relay]:1", "[192.0.2.1]:1", "[::ffff:192.0.2.1]:1", "[fe80::1%eth0]:1", "[::]:1",
        "0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "169.254.1.1:1", "[ff02::1]:1", "1.2.3:1", "192.0.2.256:1",
        "1.2.3.4.5:1", "-a.example:1", "a-.example:1", "a..b:1", ".:1", "a b:1", "bücher.example:1", "x" * 64 + ":1",
        ".".join(["x" * 60] * 5) + ":1", "http://relay:1",
    ],
)  # fmt: skip
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|port|address"):
        parse(text)


def test_a_file_has_one_a_line() -> None:
    text = "# ours\n192.0.2.1:3478\n\n relay.example.com:3478 # Paris\n192.0.2.1:3478\n"
    assert advertise.parse_file(text, "f") == (RELAY, NAMED)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f: there is no endpoint"),
        ("# none\n", "f: there is no endpoint"),
        ("192.0.2.1:1\nrelay\n", "f:2: 'relay' is not"),
        ("".join(f"192.0.2.{n}:1\n" for n in range(17)), "f: 17 endpoints"),
    ],
)
def test_a_bad_file_names_its_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        advertise.parse_file(text, "f")


# ---- the list


def test_literal_addresses_need_nobody() -> None:
    advertised = Advertised([RELAY, parse("[2001:db8::1]:443"), RELAY])
    assert advertised.current == (("192.0.2.1", 3478), ("2001:db8::1", 443))
    assert advertised.names() == ()


def test_names_stand_where_they_were_given() -> None:
    advertised = Advertised([NAMED, RELAY, parse("relay.example.com:443")])
    assert list(advertised.current) == [("192.0.2.1", 3478)]
    assert advertised.names() == advertised.unresolved() == ("relay.example.com",)
    assert advertised.take({"relay.example.com": ["198.51.100.7", "2001:db8::7"]})
    assert list(advertised.current) == [
        ("198.51.100.7", 3478),
        ("2001:db8::7", 3478),
        ("192.0.2.1", 3478),
        ("198.51.100.7", 443),
        ("2001:db8::7", 443),
    ]
    assert advertised.unresolved() == ()


def test_another_order_is_no_change() -> None:
    advertised = Advertised([NAMED])
    assert advertised.take({"relay.example.com": ["192.0.2.1", "192.0.2.2"]})
    assert not advertised.take({"relay.example.com": ["192.0.2.2", "192.0.2.1", "192.0.2.2"]})
    assert advertised.current == (("192.0.2.1", 3478), ("192.0.2.2", 3478))
    assert advertised.take({"relay.example.com": ["192.0.2.2"]})


@pytest.mark.parametrize(
    "resolved",
    [{}, {"relay.example.com": []}, {"relay.example.com": ["0.0.0.0", "fe80::1%eth0", "nonsense"]}, {"other": ["::1"]}],
)
def test_the_last_good_addresses_stay(resolved: dict[str, list[str]]) -> None:
    advertised = Advertised([NAMED])
    advertised.take({"relay.example.com": ["192.0.2.1"]})
    assert not advertised.take(resolved)
    assert advertised.current == (("192.0.2.1", 3478),)


def test_no_more_addresses_than_an_answer_should_have() -> None:
    advertised = Advertised([NAMED])
    advertised.take({"relay.example.com": [f"192.0.2.{n}" for n in range(1, 100)]})
    assert len(advertised.current) == advertise.ADDRESSES_MOST


def test_mapped_addresses_are_ipv4() -> None:
    advertised = Advertised([NAMED])
    advertised.take({"relay.example.com": ["::ffff:192.0.2.1", "192.0.2.1"]})
    assert advertised.current == (("192.0.2.1", 3478),)


def test_a_resolver_that_fails_for_one_name_resolves_the_others() -> None:
    asked: list[str] = []

    async def resolve(name: str) -> Iterable[str]:
        asked.append(name)
        if name == "gone.example.com":
            raise OSError("no such host")
        return ["192.0.2.9"]

    advertised = Advertised([parse("gone.example.com:1"), NAMED, RELAY])
    assert asyncio.run(advertised.refresh(resolve))
    assert not asyncio.run(advertised.refresh(resolve))
    assert asked == ["gone.example.com", "relay.example.com"] * 2
    assert advertised.current == (("192.0.2.9", 3478), ("192.0.2.1", 3478))
    assert advertised.unresolved() == ("gone.example.com",)


# ---- the file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "relays"
    path.write_text("192.0.2.1:3478\n")
    return path


def replace(path: Path, text: str) -> None:
    """As editors and Kubernetes do it: another file takes the name."""
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_a_file_is_read_again_when_it_changes(file: Path) -> None:
    advertised = Advertised([parse("192.0.2.9:1")], str(file))
    assert advertised.current == (("192.0.2.9", 1), ("192.0.2.1", 3478))
    assert not advertised.reread()
    replace(file, "192.0.2.2:3478\n# the same with words\n")
    assert advertised.reread()
    assert advertised.current == (("192.0.2.9", 1), ("192.0.2.2", 3478))
    replace(file, "192.0.2.2:3478\n")
    assert not advertised.reread()


def test_a_file_gone_bad_is_said_once_and_changes_nothing(file: Path) -> None:
    advertised = Advertised([], str(file))
    for text, says in (("nonsense\n", "relays:1"), ("", "no endpoint"), ("é:1\n", "not ASCII")):
        replace(file, text)
        with pytest.raises(ConfigError, match=says):
            advertised.reread()
        assert not advertised.reread()
    file.unlink()
    with pytest.raises(ConfigError, match="cannot read it"):
        Advertised([], str(file))
    assert not advertised.reread()
    assert advertised.current == (("192.0.2.1", 3478),)
    replace(file, "192.0.2.5:3478\n")
    assert advertised.reread()
    assert advertised.current == (("192.0.2.5", 3478),)


def test_a_name_that_left_the_file_is_forgotten(file: Path) -> None:
    replace(file, "relay.example.com:3478\n")
    advertised = Advertised([], str(file))
    advertised.take({"relay.example.com": ["192.0.2.7"]})
    replace(file, "192.0.2.1:3478\n")
    assert advertised.reread()
    replace(file, "relay.example.com:3478\n")
    assert advertised.reread()
    assert advertised.current == ()
    assert advertised.unresolved() == ("relay.example.com",)
