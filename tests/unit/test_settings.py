"""What `relay start` makes of its options: defaults that depend on others, and mistakes that can be seen beforehand."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from relay.runtime import keys
from relay.runtime.config import parse_address
from relay.runtime.errors import ConfigError
from relay.runtime.limits import LOOPBACK
from relay.runtime.redis_url import parse_redis_url
from relay.settings import Settings, build

LOCAL = parse_address("127.0.0.1:3478")
WILDCARD = parse_address("0.0.0.0:3478")


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    keys.create(tmp_path / "k", keys.new_route_key(0))
    return str(tmp_path / "k")


def make(key_file: str | None, **changed: Any) -> Settings:
    options: dict[str, Any] = {
        "workers": 2, "listen": [LOCAL], "internal": None, "backends": [], "route_key_file": key_file,
        "cpus_spec": "none", "max_flows": 131_072, "max_half_open": None, "flow_timeout_s": 30.0,
        "max_new_per_network": 1000, "half_open_timeout_s": 5.0, "drain_timeout_s": 20.0, "recv_buffer": 4 << 20,
        "drain_mode": "wait", "state_dir": "none", "admin": parse_address("127.0.0.1:9464"),
    }  # fmt: skip
    return build(**(options | changed))


def networks(*texts: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts]


def test_loopback_needs_no_backends(key_file: str) -> None:
    for listen in ([LOCAL], [parse_address("[::1]:1")], [LOCAL, parse_address("127.9.9.9:1")]):
        assert make(key_file, listen=listen).backends == LOOPBACK


@pytest.mark.parametrize("listen", [[WILDCARD], [LOCAL, WILDCARD], [parse_address("[::]:1")]])
def test_anything_beyond_loopback_does(key_file: str, listen: list[Any]) -> None:
    with pytest.raises(ConfigError, match="--backends 10.0.0.0/8"):
        make(key_file, listen=listen)


@pytest.mark.parametrize(
    ("backends", "internal"),
    [
        ([], "127.0.0.1:0"),
        (["127.0.0.0/8"], "127.0.0.1:0"),
        (["10.0.0.0/8"], "0.0.0.0:0"),
        (["10.0.0.0/8", "fd00::/8"], "[::]:0"),
        (["fd00::/8"], "[::]:0"),
        (["::1/128"], "[::1]:0"),
    ],
)
def test_the_internal_address_follows_the_backends(key_file: str, backends: list[str], internal: str) -> None:
    assert str(make(key_file, backends=networks(*backends)).internal) == internal


def test_half_open_flows_are_an_eighth(key_file: str) -> None:
    assert make(key_file).max_half_open == 16_384
    assert make(key_file, max_flows=3).max_half_open == 1
    assert make(key_file, max_half_open=7).max_half_open == 7


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"listen": [LOCAL, LOCAL]}, "--listen"),
        ({"listen": [parse_address(f"127.0.0.{n}:1") for n in range(1, 18)]}, "--listen"),
        ({"backends": networks(*(f"10.{n}.0.0/16" for n in range(65)))}, "--backends"),
        ({"workers": 257}, "--workers"),
        ({"internal": parse_address("127.0.0.1:65535")}, "--internal"),
        ({"max_flows": 0}, "--max-flows"),
        ({"max_flows": 1 << 24}, "--max-flows"),
        ({"flow_timeout_s": 0.5}, "--flow-timeout"),
        ({"half_open_timeout_s": 90_000.0}, "--half-open-timeout"),
        ({"internal": parse_address("[fd00::1]:0"), "backends": networks("10.0.0.0/8")}, "--internal"),
        ({"internal": parse_address("127.0.0.1:0"), "backends": networks("fd00::/8")}, "--internal"),
        ({"listen": [LOCAL], "internal": LOCAL}, "--internal"),
        ({"internal": LOCAL, "backends": networks("10.0.0.0/8")}, "--internal"),
        ({"internal": parse_address("[fd00::1]:0"), "backends": networks("10.0.0.0/8", "fd00::/8")}, "--internal"),
        ({"listen": [parse_address("239.1.1.1:1")], "backends": networks("127.0.0.0/8")}, "--listen"),
        ({"listen": [parse_address("255.255.255.255:1")], "backends": networks("127.0.0.0/8")}, "--listen"),
        ({"listen": [parse_address("169.254.1.1:1")], "backends": networks("127.0.0.0/8")}, "--listen"),
        ({"max_half_open": 2000, "max_flows": 1000}, "--max-half-open"),
        ({"recv_buffer": 0}, "--recv-buffer"),
        ({"state_dir": ""}, "--state-dir"),
        ({"recv_buffer": 4 << 30}, "--recv-buffer"),
        ({"redis_group": "a:b"}, "--redis-group"),
        ({"redis_group": ""}, "--redis-group"),
        ({"redis_password_file": "/nowhere"}, "--redis-password-file"),
        ({"redis": parse_redis_url("redis://:p@h"), "redis_password_file": "/nowhere"}, "--redis-password-file"),
        ({"redis": parse_redis_url("redis://h"), "redis_password_file": "/nowhere"}, "/nowhere: cannot read"),
    ],
)
def test_mistakes_are_named(key_file: str, changed: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(key_file, **changed)
    assert str(caught.value).startswith(where)


def test_a_key_file_is_needed() -> None:
    with pytest.raises(ConfigError, match="relay keys new --out"):
        make(None)


def test_redis_and_its_password(key_file: str, tmp_path: Path) -> None:
    assert make(key_file).redis is None
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text("#p w\n")
    place = parse_redis_url("redis+sentinel://u:@h/main")
    first, second = (make(key_file, redis=place, redis_password_file=str(file)).redis for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.place.user, first.place.password, first.group, first.lookups_per_s) == (
        "u",
        "#p w",
        "default",
        10_000,
    )
    assert "p w" not in repr(first)
    assert first.relay.partition("/")[0] == second.relay.partition("/")[0]
    assert first.relay != second.relay, "each life of a relay has a name of its own"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="no password in it"):
        make(key_file, redis=place, redis_password_file=str(file))
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="everybody on this machine"):
        make(key_file, redis=place, redis_password_file=str(file))
