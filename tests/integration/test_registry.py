"""Relays and transceivers announce themselves in a real Redis, and `relay fleet` shows them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.runtime.redis_client import RedisClient
from relay.runtime.redis_url import parse_redis_url
from relay.runtime.registered import Entry, Location
from relay.runtime.registry import CLEAN_S, FLEET, FORGOTTEN_S, PLACES, Announcer, read_fleet
from tests.support.redis_groups import RedisCluster
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = pytest.mark.native

BERLIN = Location(52.5, 13.4)
NOW = 1_800_000_000.0


@pytest.fixture
def client(redis: RedisServer) -> Iterator[RedisClient]:
    with closing(RedisClient(parse_redis_url(redis.url), timeout_s=5)) as client:
        yield client


def announcer(client: RedisClient, kind: Any = "relay", **named: Any) -> Announcer:
    own = Entry(client.place, **{"id": "a", "region": "eu", "location": BERLIN, **named})
    return Announcer(kind, own, lambda: {"draining": "", "load": {"used": 3}}, 3478, client)


def fleet(redis: RedisServer) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "relay", "fleet", "--redis", redis.url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return {each["id"]: each for each in json.loads(done.stdout)}


# ---- announcing


def test_what_is_announced_stands_there_for_ten_seconds(redis: RedisServer, client: RedisClient) -> None:
    announcer(client).announce(NOW)
    assert redis.keys() == [FLEET, "ufrag:v1:relay:a", PLACES]
    assert 9000 < redis.ask("PTTL", "ufrag:v1:relay:a") <= 10_000
    (found,) = read_fleet(client)
    wanted = {"kind": "relay", "id": "a", "region": "eu", "speaks": ["spp/1"], "location": [52.5, 13.4], "at": NOW}
    assert wanted.items() <= found.items()
    assert (found["state"], found["load"], found["draining"]) == ("here", {"used": 3}, "")
    (distance,) = redis.ask("GEOSEARCH", PLACES, "FROMLONLAT", 13.4, 52.5, "BYRADIUS", 1, "km", "ASC")
    assert distance == "a"


def test_who_leaves_takes_its_word_along_and_nobody_elses(redis: RedisServer, client: RedisClient) -> None:
    old, new = announcer(client), announcer(client)
    old.announce(NOW)
    new.announce(NOW)
    old.leave()
    assert [each["life"] for each in read_fleet(client)] == [new.life]
    new.leave()
    assert redis.keys() == []


def test_one_that_is_silent_is_listed_for_an_hour(redis: RedisServer, client: RedisClient) -> None:
    announcer(client).announce(NOW)
    redis.ask("DEL", "ufrag:v1:relay:a")
    other = announcer(client, "transceiver", id="b")
    other.announce(NOW + FORGOTTEN_S - 1)
    assert [(each["id"], each["state"]) for each in read_fleet(client)] == [("a", "silent"), ("b", "here")]
    other.announce(NOW + FORGOTTEN_S + CLEAN_S)
    assert [each["id"] for each in read_fleet(client)] == ["b"]
    assert redis.ask("ZCARD", PLACES) == 0


def test_two_of_one_name_are_told_once(client: RedisClient, caplog: pytest.LogCaptureFixture) -> None:
    first, second = announcer(client), announcer(client)
    for _ in range(8):
        first.announce(NOW)
        second.announce(NOW)
    said = [record.message for record in caplog.records if "by this name" in record.message]
    assert len(said) == 2  # one of each


def test_no_redis_is_told_once_and_so_is_its_return(
    redis: RedisServer, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    one = announcer(client)
    redis.stop()
    with caplog.at_level(logging.INFO):
        one.announce(NOW)
        one.announce(NOW)
        one.leave()
        redis.start()
        one.announce(NOW)
    words = [record.message for record in caplog.records if record.name.endswith("registry")]
    assert words == ["Redis does not answer: not announced", "announced again"]
    assert len(read_fleet(client)) == 1


def test_a_refusal_is_told_once(redis: RedisServer, client: RedisClient, caplog: pytest.LogCaptureFixture) -> None:
    redis.run_out_of_memory()
    one = announcer(client)
    one.announce(NOW)
    one.announce(NOW)
    assert [record.message for record in caplog.records] == ["Redis refuses the announcement"]


@pytest.mark.parametrize("value", ["nonsense", "[]", '{"v":2}', "[" * 100_000, "\xff"])
def test_what_is_no_word_of_ours_is_told_as_such(redis: RedisServer, client: RedisClient, value: str) -> None:
    redis.ask("ZADD", FLEET, NOW, "relay:x")
    redis.ask("SET", "ufrag:v1:relay:x", value)
    assert read_fleet(client) == [{"kind": "relay", "id": "x", "state": "strange", "at": NOW}]


@pytest.mark.full
def test_in_a_cluster_too() -> None:
    with RedisCluster() as cluster, closing(RedisClient(parse_redis_url(cluster.url), timeout_s=5)) as client:
        one = announcer(client)
        one.announce(NOW)
        one.announce(NOW + 2 * CLEAN_S)
        assert [each["state"] for each in read_fleet(client)] == ["here"]
        one.leave()
        assert read_fleet(client) == []


# ---- the programs


def test_relay_and_transceiver_are_seen_draining_and_going(key_file: Path, redis: RedisServer) -> None:
    where = ("--redis", redis.url, "--region", "eu-1")
    with (
        Relay(key_file, workers=2, extra=(*where, "--id", "edge", "--location", "52.5,13.4")) as relay,
        Transceiver(key_file, advertise=[relay.target], extra=where) as transceiver,
    ):
        until(lambda: len(redis.keys("ufrag:v1:relay:*") + redis.keys("ufrag:v1:transceiver:*")) == 2)
        found = fleet(redis)
        edge = found.pop("edge")
        assert (edge["addresses"], edge["region"], edge["workers"]) == (relay.listen, "eu-1", 2)
        ((name, other),) = found.items()
        assert name.endswith(other["internal"][0].rpartition(":")[2])
        assert other["addresses"] == [transceiver.url]
        assert other["load"]["capacity"] == 2000
        assert {"draining", "generation", "started", "version", "speaks"} <= other.keys()
        command = [sys.executable, "-m", "relay", "drain", "--mode", "push", "--admin", relay.admin]
        assert subprocess.run(command, timeout=20, check=False).returncode == 0
        until(lambda: '"draining": "push"' in redis.ask("GET", "ufrag:v1:relay:edge"))
        command = [sys.executable, "-m", "relay", "fleet", "--redis", redis.url]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
        assert max(map(len, shown.splitlines())) <= 80
        for words in ("1 relay, 0 flows, 1 draining", "pushing", "1 transceiver, 0 calls", "eu-1"):
            assert words in shown
    assert redis.keys("ufrag:v1:relay:*") + redis.keys("ufrag:v1:transceiver:*") == []


def test_without_a_redis_they_run_as_ever(key_file: Path, redis: RedisServer) -> None:
    redis.stop()
    with Transceiver(key_file, advertise=["127.0.0.1:3478"], extra=("--redis", redis.url)) as transceiver:
        assert transceiver.status("/readyz") == 200
        until(lambda: "not announced" in transceiver.log())
        redis.start()
        until(lambda: redis.keys("ufrag:v1:transceiver:*") != [])
        assert "announced again" in transceiver.log()


def test_who_reads_no_redis_is_told_so(redis: RedisServer) -> None:
    redis.stop()
    command = [sys.executable, "-m", "relay", "fleet", "--redis", redis.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
    assert "Traceback" not in done.stderr
