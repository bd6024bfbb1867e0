"""The Redis servers that other tests use: each kind of fault does to a server what its name says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.redis_groups import RedisCluster, Sentinels
from tests.support.redis_servers import RedisError, RedisServer
from tests.support.relays import until

pytestmark = pytest.mark.native


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_each_life_begins_empty_at_the_same_place(server: RedisServer) -> None:
    url = server.url
    for end in (server.stop, server.kill):
        server.ask("SET", "key", "value")
        assert server.keys("k*") == ["key"]
        assert server.calls("set") == 1
        end()
        assert not server.answers()
        server.start()
        assert (server.keys(), server.url) == ([], url)


def test_what_happens_to_a_server(server: RedisServer) -> None:
    server.ask("SET", "key", "value", "PX", 100_000)
    server.run_out_of_memory()
    with pytest.raises(RedisError, match="OOM"):
        server.ask("SET", "other", "value")
    assert server.ask("GET", "key") == "value"
    server.have_memory()
    assert server.ask("SET", "other", "value") == "OK"
    assert 0 < server.ask("PTTL", "key") <= 100_000
    server.flush()
    assert server.ask("MGET", "key", "other") == [None, None]
    assert server.socket_path.is_socket()


def test_a_frozen_server_can_be_thawed_and_ended(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.redis_servers.ASK_TIMEOUT_S", 0.2)
    with server.frozen():
        assert not server.answers()
    assert server.answers()
    server.freeze()
    server.stop()


def test_password_and_tls() -> None:
    with RedisServer(password="secret", tls=True) as server:
        assert server.url.startswith("rediss://:secret@127.0.0.1:")
        assert server.ask("SET", "key", "value") == "OK"
        server.password = ""
        with pytest.raises(RedisError, match="NOAUTH"):
            server.ask("GET", "key")


def test_a_cluster_shares_slots() -> None:
    with RedisCluster() as cluster:
        taken = 0
        for number in range(30):
            try:
                cluster.nodes[0].ask("SET", number, "value")
                taken += 1
            except RedisError as error:
                assert str(error).startswith("MOVED")  # noqa: PT017
        assert 0 < taken == len(cluster.keys()) < 30


@pytest.mark.full
def test_a_cluster_fails_over() -> None:
    with RedisCluster(replicas=True) as cluster:
        cluster.masters[0].ask("SET", "3", "value")
        cluster.masters[0].ask("WAIT", 1, 1000)
        cluster.fail_over()
        assert cluster.keys() == ["3"]
        until(lambda: cluster.replicas[0].ask("GET", "3") == "value")


@pytest.mark.full
def test_sentinels_fail_over() -> None:
    with Sentinels() as sentinels:
        sentinels.master.ask("SET", "key", "value")
        sentinels.master.ask("WAIT", 1, 1000)
        assert sentinels.leader is sentinels.master
        sentinels.fail_over()
        assert sentinels.leader.ask("GET", "key") == "value"
