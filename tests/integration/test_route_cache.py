"""The route cache against a real Redis, round by round, with the hot thread and its table played by a puppet."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pytest

from _fastpath.exchange import ENDED, ESTABLISHED, LOOKUP, Route
from _fastpath.wire.envelope import key_of, mapped
from relay.redis_store import MARKS, Owner, RedisStore, shown_routes
from relay.route_cache import RouteCache
from relay.routes import OPEN, Row
from relay.runtime.redis_client import RedisClient
from relay.runtime.redis_url import parse_redis_url
from tests.support.redis_groups import RedisCluster
from tests.support.redis_servers import RedisServer
from tests.support.relays import until

pytestmark = pytest.mark.native

LOCAL = ("203.0.113.1", 3478)
BOUNDS_US = (500, 1000, 500_000)
COUNTS = (
    "lookups", "hits", "misses", "unavailable", "bad_values", "errors", "writes", "removals", "writes_dropped",
    "writes_waiting", "breaker", "breaker_opened", "losses", "lookup_us",
)  # fmt: skip
FLOW_S = 30.0


class Said(NamedTuple):
    kind: int
    key: bytes
    route: Route | None = None


def key(number: int) -> bytes:
    return key_of(("198.51.100.7", 1000 + number), LOCAL)


def endpoint(host: str, port: int) -> bytes:
    return mapped(host) + port.to_bytes(2, "big")


def route(number: int, owner: str = "10.0.0.7") -> Route:
    return Route(endpoint(owner, 5000), endpoint("10.0.0.8", 5001), number)


class Puppet:
    """A hot thread and its table."""

    heart = 7
    asks_fd = -1

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.answers: dict[bytes, Route | None | str] = {}
        self.flows: dict[bytes, Route] = {}
        self.stats = dict.fromkeys([*COUNTS, *(f"lookup_us_le_{bound}" for bound in BOUNDS_US)], 0)

    def take_asks(self, most: int) -> Sequence[Said]:
        taken, self.said = self.said[:most], self.said[most:]
        return taken

    def answer_all(self, answers: Iterable[tuple[bytes, Route | None]]) -> int:
        self.answers.update(answers)
        return len(self.answers)

    def unavailable_all(self, keys: Iterable[bytes]) -> int:
        self.answers.update(dict.fromkeys(keys, "unavailable"))
        return len(self.answers)

    @property
    def flows_used(self) -> int:
        return len(self.flows)

    def live_flows(self, first: int, most: int, tick: int, flow_ticks: int) -> list[Row]:
        assert tick == self.heart
        return [(key, *route) for key, route in list(self.flows.items())[first : first + most]]

    def has_flow(self, key: bytes) -> bool:
        return key in self.flows

    def cache_stats(self) -> dict[str, int]:
        return dict(self.stats)

    def set_cache_stat(self, name: str, value: int) -> None:
        self.stats[name] = value

    def establish(self, number: int, way: Route | None = None) -> None:
        self.flows[key(number)] = way or route(number)
        self.said.append(Said(ESTABLISHED, key(number), self.flows[key(number)]))

    def end(self, number: int) -> None:
        self.flows.pop(key(number), None)
        self.said.append(Said(ENDED, key(number)))


class Bench:
    """A relay's route cache and its puppet; time goes on by itself, and by leaps."""

    def __init__(self, url: str, relay: str = "one/1234", sibling: Puppet | None = None) -> None:
        self.puppet = Puppet()
        self.leaps_s = 0.0
        self.client = RedisClient(parse_redis_url(url))
        self.cache = RouteCache(
            self.puppet, self.puppet, [sibling] if sibling else [],
            RedisStore(self.client, Owner("g", relay, 0), ttl_s=3 * FLOW_S),
            flow_ticks=480, period_s=FLOW_S, bounds_us=BOUNDS_US, clock=lambda: time.monotonic() + self.leaps_s,
        )  # fmt: skip

    def leap(self, seconds: float) -> None:
        self.leaps_s += seconds
        self.cache.round()

    def until(self, true: Callable[[], bool]) -> None:
        """Round after round, a tenth of a second each."""
        for _ in range(300):
            self.leap(0.1)
            if true():
                return
        raise AssertionError(self.puppet.stats)

    def look_up(self, *numbers: int) -> list[Route | None | str]:
        self.puppet.answers.clear()
        self.puppet.said += [Said(LOOKUP, key(number)) for number in numbers]
        self.cache.round()
        return [self.puppet.answers[key(number)] for number in numbers]

    def stat(self, name: str) -> int:
        return self.puppet.stats[name]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def bench(server: RedisServer) -> Bench:
    bench = Bench(server.url)
    bench.until(lambda: len(server.keys("ufrag:v1:mark:*")) == MARKS)
    return bench


def flows_in(server: RedisServer | RedisCluster) -> list[str]:
    return [name.removeprefix("ufrag:v1:flow:g:203.0.113.1:3478:198.51.100.7:") for name in server.keys("*:flow:*")]


def test_a_flow_is_written_found_and_removed(server: RedisServer, bench: Bench) -> None:
    bench.puppet.establish(1)
    bench.until(lambda: flows_in(server) == ["1001"])
    name = server.keys("*:flow:*")[0]
    assert server.ask("GET", name) == (
        "v=1 relay=one/1234 owner=10.0.0.7:5000 next=10.0.0.8:5001 session=000000000001 state=established"
    )
    assert 89_000 < server.ask("PTTL", name) <= 90_000
    assert bench.look_up(1, 2) == [route(1), None]
    bench.puppet.end(1)
    bench.until(lambda: flows_in(server) == [])
    counts = ("lookups", "hits", "misses", "writes", "removals", "lookup_us_le_500000", "errors")
    assert [bench.stat(name) for name in counts] == [2, 1, 1, 1, 1, 2, 0]
    assert list(shown_routes(bench.client, "g")) == []


def test_only_who_wrote_it_removes_it(server: RedisServer, bench: Bench) -> None:
    other = Bench(server.url, relay="one/5678")
    bench.puppet.establish(1)
    bench.puppet.establish(2)
    bench.until(lambda: len(flows_in(server)) == 2)
    other.puppet.establish(1, route(1, owner="10.9.9.9"))
    other.until(lambda: other.stat("writes") >= 1)
    for number in (1, 2):
        bench.puppet.end(number)
    bench.until(lambda: flows_in(server) == ["1001"])
    assert bench.look_up(1) == [route(1, owner="10.9.9.9")]


def test_a_flow_that_a_sibling_has_is_not_removed(server: RedisServer) -> None:
    sibling = Puppet()
    bench = Bench(server.url, sibling=sibling)
    bench.puppet.establish(1)
    bench.puppet.establish(2)
    bench.until(lambda: len(flows_in(server)) == 2)
    sibling.flows[key(1)] = route(1)
    for number in (1, 2):
        bench.puppet.end(number)
    bench.until(lambda: flows_in(server) == ["1001"])


def test_many_look_ups_are_one_round_trip(server: RedisServer, bench: Bench) -> None:
    for number in range(600):
        bench.puppet.establish(number)
    bench.until(lambda: len(flows_in(server)) == 600)
    before = server.calls("mget")
    assert bench.look_up(*range(600, 0, -1))[1:] == [route(number) for number in range(599, 0, -1)]
    assert server.calls("mget") - before <= 2


def test_what_stands_in_redis_may_be_anything(server: RedisServer, bench: Bench) -> None:
    good = "v=1 relay=a/1 owner=10.0.0.7:5000 next=10.0.0.8:5001 session=000000000001 state=x future=y"
    bad = ["", "x", "v=2" + good[3:]]
    changes = (("7:5000", "7:0"), ("10.0.0.7", "host"), ("next", "nxt"), ("session=0", "session=-"), ("10.", "\xff"))
    bad += [good.replace(*change) for change in changes]
    name = "ufrag:v1:flow:g:203.0.113.1:3478:198.51.100.7:{}"
    for number, text in enumerate([good, *bad]):
        server.ask("SET", name.format(1000 + number), text)
    server.ask("SADD", name.format(1500), "not even a string")
    assert bench.look_up(*range(len(bad) + 1), 500) == [route(1), *[None] * (len(bad) + 1)]
    assert bench.stat("bad_values") == len(bad)
    server.ask("DEL", name.format(1500))
    assert [(each["client"], each["owner"]) for each in shown_routes(bench.client, "g")] == [
        ("198.51.100.7:1000", "10.0.0.7:5000")
    ]


def test_live_flows_are_written_again_once_in_a_while(server: RedisServer, bench: Bench) -> None:
    for number in range(10):
        bench.puppet.establish(number)
    bench.until(lambda: len(flows_in(server)) == 10)
    bench.leap(5.0)
    server.ask("DEL", server.keys("*:flow:*")[3])  # nobody tells us
    bench.until(lambda: len(flows_in(server)) == 10)
    before = bench.stat("writes")
    for _ in range(300):
        bench.leap(0.1)
    assert 8 <= bench.stat("writes") - before <= 12, "each flow once in the time of a lap"


@pytest.mark.parametrize("loss", ["flush", "restart", "kill"])
def test_all_live_flows_are_back_soon_after_a_loss(loss: str, server: RedisServer, bench: Bench) -> None:
    for number in range(500):
        bench.puppet.establish(number)
    bench.until(lambda: len(flows_in(server)) == 500)
    bench.leap(10.0)
    if loss == "kill":
        server.kill()
        assert bench.look_up(1) == ["unavailable"]
        server.start()
    else:
        getattr(server, loss)()
    began = bench.leaps_s
    bench.until(lambda: len(flows_in(server)) == 500)
    assert bench.leaps_s - began < 8


def test_without_memory_look_ups_go_on_and_writes_wait(
    server: RedisServer, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    bench.puppet.establish(1)
    bench.until(lambda: flows_in(server) == ["1001"])
    server.run_out_of_memory()
    bench.puppet.establish(2)
    bench.until(lambda: bench.stat("writes_dropped") > 0)
    refused = server.calls("set")
    for _ in range(50):
        bench.leap(0.1)
    assert bench.look_up(1, 2) == [route(1), None]
    assert server.calls("set") - refused <= 6 * MARKS, "it is tried once a second"
    assert [record.message for record in caplog.records] == ["redis refuses writes"]
    server.have_memory()
    bench.until(lambda: len(flows_in(server)) == 2)
    assert bench.stat("breaker_opened") == 0


def test_while_redis_is_away_nothing_waits_for_it(
    server: RedisServer, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.puppet.establish(1)
    bench.until(lambda: flows_in(server) == ["1001"])
    with server.frozen():
        assert bench.look_up(1) == ["unavailable"]
        assert bench.stat("breaker") == OPEN
        began = time.monotonic()
        for number in range(100):
            bench.puppet.establish(number)
            assert bench.look_up(1) == ["unavailable"]
        assert time.monotonic() - began < 0.2, "an open breaker asks nobody"
        assert bench.stat("writes_waiting") == 0
        assert bench.stat("writes_dropped") >= 100
        bench.leap(1.0)  # a probe, in vain
        bench.leap(0.1)
        assert (bench.stat("errors"), bench.stat("breaker_opened")) == (2, 1)
    bench.until(lambda: len(flows_in(server)) == 100)
    assert bench.look_up(1) == [route(1)]
    told = [record.message for record in caplog.records if record.message.startswith("redis")]
    assert told == ["redis is not asked for now", "redis answers"]


def test_a_redis_that_was_never_there_is_used_when_it_comes(server: RedisServer) -> None:
    server.stop()
    bench = Bench(server.url)
    bench.puppet.establish(1)
    for _ in range(3):
        bench.leap(1.0)
    server.start()
    bench.until(lambda: flows_in(server) == ["1001"])


def test_one_server_of_a_cluster_that_was_flushed_gets_its_flows_again() -> None:
    with RedisCluster() as cluster:
        bench = Bench(cluster.url)
        for number in range(60):
            bench.puppet.establish(number)
        bench.until(lambda: len(flows_in(cluster)) == 60)
        assert bench.look_up(1, 100) == [route(1), None]
        bench.leap(10.0)
        assert all(node.keys("*:mark:*") for node in cluster.nodes)
        cluster.nodes[1].flush()
        began = bench.leaps_s
        bench.until(lambda: len(flows_in(cluster)) == 60)
        assert bench.leaps_s - began < 8
        for number in range(60):
            bench.puppet.end(number)
        bench.until(lambda: flows_in(cluster) == [])


def test_slow_answers_are_as_good_as_none(server: RedisServer, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        server.ask("CLIENT", "PAUSE", 120, "ALL")
        bench.look_up(1)
    assert bench.stat("breaker") == OPEN
    assert bench.look_up(1) == ["unavailable"]
    until(lambda: bool(server.answers()))
    bench.until(lambda: bench.look_up(1) == [None])
