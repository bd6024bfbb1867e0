"""Relays with a real Redis: flows are there again for a relay that knows nothing, and a Redis in trouble costs none of
those that live."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.support import free_port
from relay.runtime.config import parse_address
from tests.support import packets
from tests.support.faults import EVERYDAY, Course, Load, kill_everything, said, under_load
from tests.support.redis_groups import RedisCluster
from tests.support.redis_servers import RedisServer
from tests.support.relays import Relay, until

pytestmark = pytest.mark.native

FLOWS = "ufrag:v1:flow:*"
HEADER = 38  # bytes of the internal leg before each datagram


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def media(number: int) -> bytes:
    return bytes([0x80, 111]) + number.to_bytes(2, "big") + bytes(4) + b"ssrc" + bytes(100)


class Call:
    """A client and its owner, which answers a check and says what else it gets."""

    def __init__(self, relay: Relay) -> None:
        self.client, self.owner = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.owner.bind(("127.0.0.1", 0))
        for sock in (self.client, self.owner):
            sock.settimeout(3)
        self.target = parse_address(relay.target).sockaddr
        host, port = self.owner.getsockname()
        token = relay.mint(f"{host}:{port}")
        self.client.sendto(packets.check(token), self.target)
        frame, self.relay = self.owner.recvfrom(2048)
        self.header = frame[:HEADER]
        self.owner.sendto(self.header + packets.answer(), self.relay)
        assert self.client.recv(2048) == packets.answer()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.owner.close()

    def up(self, numbers: range) -> list[bytes]:
        """Sent at once; what has come, as often."""
        for number in numbers:
            self.client.sendto(media(number), self.target)
        return [self.owner.recv(2048).removeprefix(self.header) for _ in numbers]

    def down(self, numbers: range) -> list[bytes]:
        for number in numbers:
            self.owner.sendto(self.header + media(number), self.relay)
        return [self.client.recv(2048) for _ in numbers]


def successor(relay: Relay, stack: ExitStack) -> Relay:
    """Knows nothing of the flows of the one that is killed."""
    kill_everything(relay)
    return stack.enter_context(relay.again("--state-dir", "none"))


def relay_with(redis: RedisServer | RedisCluster, key_file: Path, *extra: str, **options: object) -> Relay:
    return Relay(key_file, extra=("--redis", redis.url, "--state-dir", "none", *extra), **options)  # type: ignore[arg-type]


def test_a_flow_is_written_and_removed_when_it_ends(redis: RedisServer, key_file: Path) -> None:
    with relay_with(redis, key_file, "--flow-timeout", "1s", workers=2) as relay, Call(relay):
        until(lambda: len(redis.keys(FLOWS)) == 1)
        assert redis.ask("PTTL", redis.keys(FLOWS)[0]) <= 3000
        assert relay.total("ufrag_relay_redis_writes_total") >= 1
        until(lambda: not redis.keys(FLOWS))
        until(lambda: relay.total("ufrag_relay_redis_removals_total") == 1)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_relay_that_knows_nothing_has_its_flows_from_redis(way: str, redis: RedisServer, key_file: Path) -> None:
    internal = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with relay_with(redis, key_file, internal=internal) as relay, Call(relay) as call, ExitStack() as stack:
        until(lambda: len(redis.keys(FLOWS)) == 1)
        after = successor(relay, stack)
        send: Callable[[range], list[bytes]] = getattr(call, way)
        began = time.monotonic()
        assert send(range(10)) == [media(number) for number in range(10)]
        took_ms = (time.monotonic() - began) * 1e3
        print(f"\n{way}: ten packets of a flow that Redis knew took {took_ms:.1f} ms")
        assert took_ms < 300
        assert call.up(range(3)) == call.down(range(3)) == [media(number) for number in range(3)]
        until(lambda: after.total("ufrag_relay_forwarded_total", reason="recovered") >= 1)
        until(lambda: after.total("ufrag_relay_redis_lookups_total", result="hit") == 1)
        assert after.total("ufrag_relay_drops_total") == 0


def test_what_redis_says_must_lie_in_the_backends(redis: RedisServer, key_file: Path) -> None:
    with relay_with(redis, key_file) as relay, Call(relay) as call, ExitStack() as stack:
        until(lambda: len(redis.keys(FLOWS)) == 1)
        (name,) = redis.keys(FLOWS)
        value = redis.ask("GET", name).replace("127.0.0.1", "192.0.2.1")
        after = successor(relay, stack)
        redis.ask("SET", name, value)
        for number in range(3):
            call.client.sendto(media(number), call.target)
        until(lambda: after.total("ufrag_relay_drops_total", direction="up") == 3)
        assert after.total("ufrag_relay_flows") == 0


def test_nobody_knows_a_flow(redis: RedisServer, key_file: Path) -> None:
    """One look-up for all of its packets; and that nobody knew is remembered for a while."""
    with relay_with(redis, key_file) as relay, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for count in (5, 10):
            for number in range(5):
                stranger.sendto(media(number), parse_address(relay.target).sockaddr)
            until(lambda count=count: relay.total("ufrag_relay_drops_total", reason="no_route") == count)  # type: ignore[misc]
        until(lambda: relay.total("ufrag_relay_redis_lookups_total", result="miss") == 1)


def test_look_ups_have_a_rate(redis: RedisServer, key_file: Path) -> None:
    with relay_with(redis, key_file, "--redis-lookups", "100") as relay, ExitStack() as stack:
        until(lambda: bool(redis.keys("ufrag:v1:mark:*")))
        redis.forget_reads()
        began = time.monotonic()
        for number in range(600):
            stranger = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            stranger.sendto(media(number), parse_address(relay.target).sockaddr)
        until(lambda: relay.total("ufrag_relay_drops_total") == 600)
        passed_s = time.monotonic() - began
        looked_up = relay.total("ufrag_relay_redis_lookups_total")
        assert 1 <= looked_up <= 100 * (passed_s + 0.25)
        assert redis.reads()[1] <= looked_up
        assert relay.total("ufrag_relay_drops_total", reason="lookup_limited") == 600 - looked_up


# ---- Redis in trouble


def stop(redis: RedisServer) -> None:
    redis.stop()
    time.sleep(0.3)
    redis.start()


def freeze(redis: RedisServer) -> None:
    with redis.frozen():
        time.sleep(0.5)


def run_full(redis: RedisServer) -> None:
    redis.run_out_of_memory()
    redis.flush()
    time.sleep(0.3)
    redis.have_memory()


TROUBLES = (stop, freeze, RedisServer.flush, run_full)
TROUBLED = Load(100, 5_000, 9.0)


@pytest.mark.usefixtures("quiet_machine")
def test_redis_in_trouble_costs_nothing(redis: RedisServer, key_file: Path, tmp_path: Path) -> None:
    """And what lives is in Redis again when that is well."""
    with relay_with(redis, key_file, workers=2) as relay:
        with under_load("Redis in trouble", relay.target, key_file, TROUBLED, tmp_path) as course, ExitStack() as stack:
            until(lambda: len(redis.keys(FLOWS)) == TROUBLED.flows)
            for number, trouble in enumerate(TROUBLES, 1):
                trouble(redis)
                call = stack.enter_context(Call(relay))
                assert call.up(range(3)) == [media(number) for number in range(3)]
                back_s = time_until(lambda number=number: len(redis.keys(FLOWS)) == TROUBLED.flows + number)  # type: ignore[misc]
                print(f"{trouble.__name__}: all flows in Redis again after {back_s:.1f} s")
        course.assert_nothing_lost()


def time_until(true: Callable[[], bool]) -> float:
    began = time.monotonic()
    until(true)
    return time.monotonic() - began


@pytest.mark.usefixtures("quiet_machine")
def test_a_relay_replaced_under_load_has_all_flows_at_once(redis: RedisServer, key_file: Path, tmp_path: Path) -> None:
    with relay_with(redis, key_file, workers=2) as relay, ExitStack() as stack:
        with under_load("replaced, with Redis", relay.target, key_file, EVERYDAY, tmp_path) as course:
            until(lambda: len(redis.keys(FLOWS)) == EVERYDAY.flows)
            began = time.monotonic()
            after = successor(relay, stack)
            course.silences_s.append(time.monotonic() - began)
        check_replaced(course, after)


def check_replaced(course: Course, after: Relay) -> None:
    course.assert_right()
    assert course.gap_ms <= 1e3 * course.silences_s[0] + 2 * course.load.every_ms + 150
    # A check opens its flow itself, where one is the first to come.
    assert after.total("ufrag_relay_redis_lookups_total", result="hit") >= 0.9 * course.load.flows


def test_a_relay_starts_and_serves_without_its_redis(redis: RedisServer, key_file: Path) -> None:
    redis.stop()
    with relay_with(redis, key_file) as relay, Call(relay) as call:
        assert call.up(range(3)) == [media(number) for number in range(3)]
        until(lambda: relay.total("ufrag_relay_redis_breaker_state") == 2)
        assert len(said(relay, "redis is not asked for now")) == 1
        redis.start()
        until(lambda: len(redis.keys(FLOWS)) == 1)
        until(lambda: relay.total("ufrag_relay_redis_breaker_state") == 0)
        assert said(relay, "redis answers")


def test_a_workers_successor_goes_on_with_redis(redis: RedisServer, key_file: Path) -> None:
    with relay_with(redis, key_file) as relay, Call(relay) as call:
        until(lambda: relay.total("ufrag_relay_redis_writes_total") >= 1)
        before = relay.total("ufrag_relay_redis_writes_total")
        relay.kill_worker(0)
        assert call.up(range(3)) == [media(number) for number in range(3)]
        redis.flush()
        with Call(relay):
            until(lambda: len(redis.keys(FLOWS)) == 2)
        until(lambda: relay.total("ufrag_relay_redis_writes_total") >= before + 2)


def test_status_tells_how_it_is_with_redis(redis: RedisServer, key_file: Path) -> None:
    def status() -> str:
        words = [sys.executable, "-m", "relay", "status", "--admin", relay.admin]
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    with relay_with(redis, key_file, workers=2) as relay, Call(relay):
        until(lambda: relay.total("ufrag_relay_redis_writes_total") >= 1)
        shown = status()
        assert "redis         asked, wrote" in shown
        assert max(map(len, shown.splitlines())) <= 80
        redis.stop()
        until(lambda: relay.total("ufrag_relay_redis_breaker_state") >= 2)
        assert re.search(r"redis +not asked by [12] of 2 workers, wrote", status())


def test_a_password_is_not_told(key_file: Path) -> None:
    with RedisServer(password="secret") as redis, relay_with(redis, key_file) as relay:
        until(lambda: bool(redis.keys("ufrag:v1:mark:*")))
        redis.stop()
        until(lambda: bool(said(relay, "redis is not asked for now")))
        assert "secret" not in relay.log()


def test_a_cluster_serves_as_well(key_file: Path) -> None:
    with RedisCluster() as cluster, relay_with(cluster, key_file) as relay, ExitStack() as stack:
        calls = [stack.enter_context(Call(relay)) for _ in range(20)]
        until(lambda: len(cluster.keys(FLOWS)) == len(calls))
        successor(relay, stack)
        for call in calls:
            assert call.up(range(3)) == [media(number) for number in range(3)]
