"""Redis gone, frozen, emptied, full, failing over, cut off: flows that are established lose nothing, new sessions are
set up as ever, and what lives is in Redis again soon after its return. And a flood asks it no more than was said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from benchmarks.support import rss_bytes
from relay.runtime.config import parse_address
from tests.support.asker import ask
from tests.support.faults import EVERYDAY, FULL, FULL_RUNS, Course, Load, under_load
from tests.support.hub import Hub, noise
from tests.support.netns import inside
from tests.support.redis_groups import RedisCluster, Sentinels
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

WORKERS = 2
BACK_MOST_S = 10.0  # from its return until all live flows are in Redis
NEWCOMER_MOST_S = 1.0
RSS_SLACK_BYTES = WORKERS * (8 << 20)
FLOW_KEYS = "ufrag:v1:flow:*"


class Fault(NamedTuple):
    begin: Callable[[RedisServer], None]
    heal: Callable[[RedisServer], None]


def fill(redis: RedisServer) -> None:
    """Empty, and without room for anything."""
    redis.run_out_of_memory()
    redis.flush()


FAULTS = {
    "stopped": Fault(RedisServer.stop, RedisServer.start),
    "killed": Fault(RedisServer.kill, RedisServer.start),
    "frozen": Fault(RedisServer.freeze, RedisServer.thaw),
    "out of memory": Fault(fill, RedisServer.have_memory),
    "flushed": Fault(RedisServer.flush, RedisServer.flush),
}
EVERY_DAY = ("stopped", "frozen")


def each() -> Iterator[object]:
    for name in EVERY_DAY:
        yield pytest.param(name, EVERYDAY, id=f"{name}-everyday")
    for name in FAULTS:
        for run in range(1, FULL_RUNS + 1):
            yield pytest.param(name, FULL, id=f"{name}-full-{run}", marks=pytest.mark.full)


Keys = Callable[[str], list[str]]


def await_all(keys: Keys, flows: int, most_s: float = BACK_MOST_S) -> float:
    """Seconds until all flows are there."""
    begun_s = time.monotonic()
    while len(keys(FLOW_KEYS)) < flows:
        assert time.monotonic() - begun_s < most_s, f"{len(keys(FLOW_KEYS))} of {flows} flows"
        time.sleep(0.05)
    return time.monotonic() - begun_s


def newcomer(relay: Relay, owner: str) -> float:
    """Seconds until a client that nobody knew was served."""
    begun_s = time.monotonic()
    asked, _, served = ask(relay.mint(owner), parse_address(relay.target))
    assert served
    return time.monotonic() - begun_s


def memory(relay: Relay) -> int:
    return sum(map(rss_bytes, relay.worker_pids()))


@contextmanager
def talking(name: str, relay: Relay, load: Load, folder: Path, keys: Keys) -> Iterator[Course]:
    """Within, all flows are in Redis, and load is on; at the end nothing may be lost."""
    with under_load(name, relay.target, relay.key_file, load, folder) as course:
        await_all(keys, load.flows)
        before = memory(relay)
        yield course
    assert memory(relay) - before <= RSS_SLACK_BYTES
    course.assert_nothing_lost()
    assert relay.total("ufrag_relay_worker_restarts_total") == 0


def while_it_lasts(seconds: float, relay: Relay, course: Course) -> float:
    """Clients that come meanwhile: the longest that any waited."""
    begun_s = time.monotonic()
    took_s = [newcomer(relay, course.owner.address)]
    while time.monotonic() - begun_s < seconds:
        time.sleep(0.1)
        took_s.append(newcomer(relay, course.owner.address))
    return max(took_s)


def judge(took_s: float, back_s: float) -> None:
    print(f"newcomers served within {took_s * 1e3:.0f} ms; all flows in Redis {back_s:.1f} s after its return")
    assert took_s < NEWCOMER_MOST_S


@pytest.mark.parametrize(("name", "load"), list(each()))
def test_redis_fails(name: str, load: Load, redis: RedisServer, key_file: Path, tmp_path: Path) -> None:
    with Relay(key_file, workers=WORKERS, extra=("--redis", redis.url)) as relay:
        with talking(f"Redis {name}", relay, load, tmp_path, redis.keys) as course:
            FAULTS[name].begin(redis)
            took_s = while_it_lasts(load.seconds / 5, relay, course)
            FAULTS[name].heal(redis)
            back_s = await_all(redis.keys, load.flows)
        judge(took_s, back_s)


@pytest.mark.full
@pytest.mark.parametrize("run", range(FULL_RUNS))
def test_sentinels_fail_over(run: int, key_file: Path, tmp_path: Path) -> None:
    with Sentinels() as group, Relay(key_file, workers=WORKERS, extra=("--redis", group.url)) as relay:
        with talking("Sentinels fail over", relay, FULL, tmp_path, group.master.keys) as course:
            group.fail_over()
            took_s = while_it_lasts(1, relay, course)
            group.replica.flush()  # a replica has what its master had; this shows who writes to it now
            back_s = await_all(group.replica.keys, FULL.flows)
        judge(took_s, back_s)


@pytest.mark.full
@pytest.mark.parametrize("run", range(FULL_RUNS))
def test_a_cluster_fails_over(run: int, key_file: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(RedisCluster(replicas=True))
        relay = stack.enter_context(Relay(key_file, workers=WORKERS, extra=("--redis", cluster.url)))
        with talking("Cluster fails over", relay, FULL, tmp_path, cluster.keys) as course:
            cluster.fail_over()
            took_s = while_it_lasts(1, relay, course)
            cluster.replicas[0].flush()
            back_s = await_all(cluster.keys, FULL.flows)
        judge(took_s, back_s)


@pytest.mark.full
def test_a_cluster_loses_a_node(key_file: Path, tmp_path: Path) -> None:
    """Which nobody replaces for a while: a third of the flows cannot be written."""
    with RedisCluster() as cluster, Relay(key_file, workers=WORKERS, extra=("--redis", cluster.url)) as relay:
        with talking("Cluster loses a node", relay, FULL, tmp_path, cluster.keys) as course:
            cluster.masters[2].kill()
            took_s = while_it_lasts(3, relay, course)
            cluster.masters[2].start()
            back_s = await_all(cluster.keys, FULL.flows)
        judge(took_s, back_s)


# ---- in networks of their own

ONCE = Load(FULL.flows, FULL.pps, 75.0)


@pytest.mark.full
@pytest.mark.parametrize(("load", "lasts_s"), [(ONCE, 60), *((FULL, 4) for _ in range(FULL_RUNS))])
def test_redis_is_cut_off(load: Load, lasts_s: float, hub: Hub, key_file: Path, tmp_path: Path) -> None:
    with hub.redis() as redis, hub.relay(hub.one, key_file, "--redis", redis.url) as relay:
        with hub.under_load(f"Redis cut off for {lasts_s:.0f} s", key_file, load, tmp_path) as course:
            await_all(redis.keys, load.flows)
            before = memory(relay)
            hub.cut_off_redis()
            with inside(hub.netns):
                took_s = while_it_lasts(lasts_s, relay, course)
            grown = memory(relay) - before
            hub.join_redis()
            redis.flush()
            back_s = await_all(redis.keys, load.flows)
        course.assert_nothing_lost()
        assert grown <= RSS_SLACK_BYTES
        judge(took_s, back_s)


LOOKUPS_PER_S = 400
BURST_S = 0.25  # of the rate, at once
FLOODS = [
    pytest.param(Load(200, 10_000, 2.5), 20_000, 15_000, id="everyday"),
    *(pytest.param(FULL, 200_000, 180_000, id=f"full-{run}", marks=pytest.mark.full) for run in range(FULL_RUNS)),
]


@pytest.mark.parametrize(("load", "pps", "least_pps"), FLOODS)
def test_a_flood_of_nobody(load: Load, pps: int, least_pps: int, hub: Hub, key_file: Path, tmp_path: Path) -> None:
    """From sources that nobody knows, with no route: Redis is asked at most so often."""
    options = ("--redis-lookups", str(LOOKUPS_PER_S), "--recv-buffer", "16MiB")
    with hub.redis() as redis, hub.relay(hub.one, key_file, "--redis", redis.url, *options) as relay:
        with hub.under_load(f"{pps} packets/s of nobody", key_file, load, tmp_path) as course:
            await_all(redis.keys, load.flows)
            flood = hub.flood(
                hub.one, noise(Random(pps)), tmp_path, rate=pps, seconds=load.seconds - 1, source_count=5 * pps
            )
            redis.forget_reads()
            begun_s = time.monotonic()
            with flood:
                sent = flood.wait()
            lasted_s, (_, asked) = time.monotonic() - begun_s, redis.reads()
        limited = relay.total("ufrag_relay_drops_total", reason="lookup_limited")
        print(f"flood: {sent}; Redis asked {asked / lasted_s:.0f} times a second, {limited:.0f} packets limited")
        course.assert_nothing_lost()
        assert 0 < asked <= LOOKUPS_PER_S * (lasted_s + BURST_S)
        assert limited > 0
    if sent["pps"] < least_pps:
        pytest.xfail(f"unharmed, but this machine could send only {sent['pps']} of {pps} packets/s")
