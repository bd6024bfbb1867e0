"""Our client against real servers of every kind that a URL can name, well and unwell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.runtime.redis_client import RedisClient, RedisDown, Refused
from relay.runtime.redis_url import parse_redis_url
from tests.support.redis_groups import RedisCluster, Sentinels
from tests.support.redis_servers import RedisServer
from tests.support.relays import until

pytestmark = pytest.mark.native

KEYS = [f"key:{number}" for number in range(64)]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def client_of(url: str) -> RedisClient:
    return RedisClient(parse_redis_url(url))


def use(client: RedisClient) -> None:
    """What both programs do with Redis."""
    assert client.run([]) == []
    assert client.get_many([]) == []
    assert client.run([("SET", key, key.encode(), "PX", 60_000) for key in KEYS]) == [b"OK"] * len(KEYS)
    assert client.get_many([*KEYS, "key:absent"]) == [*map(str.encode, KEYS), None]
    assert client.run([("EVAL", "return redis.call('DEL', KEYS[1])", 1, key) for key in KEYS[:8]]) == [1] * 8
    assert sorted(client.scan("key:*")) == sorted(key.encode() for key in KEYS[8:])
    assert all("redis_version" in each for each in client.info())
    (answer, after) = client.run([("SET", "key:9", 1, "PX", "never"), ("GET", "key:9")])
    assert isinstance(answer, Refused)
    assert (answer.full, after) == (False, b"key:9")


def test_one_server(server: RedisServer) -> None:
    for url in (server.url, server.unix_url, f"{server.url.replace('redis', 'valkey', 1)}/3"):
        use(client_of(url))


def test_password_and_tls() -> None:
    with RedisServer(password="se/cret", tls=True) as server:
        url = server.url.replace("se/cret", "se%2Fcret")
        use(client_of(url))
        with pytest.raises(RedisDown, match="WRONGPASS|invalid"):
            client_of(url.replace("cret", "cre")).run([("PING",)])
        with pytest.raises(RedisDown, match="certificate"):
            client_of(url.partition("?")[0]).run([("PING",)])


def test_a_user_that_may_do_no_more_than_we_need(server: RedisServer) -> None:
    document = Path(__file__).parents[2] / "docs" / "redis.md"
    lines = re.findall(r"ACL SETUSER ufrag [^#\n]*", document.read_text())
    assert len(lines) == 2
    for line in lines:
        server.ask(*line.replace("~ufrag:v1:*", "~key:*").split())
    use(client_of(server.url.replace("redis://", "redis://ufrag:PASSWORD@") + "/1"))
    (answer,) = client_of(server.url.replace("redis://", "redis://ufrag:PASSWORD@")).run([("KEYS", "*")])
    assert isinstance(answer, Refused)


def test_a_cluster() -> None:
    with RedisCluster() as cluster:
        client = client_of(cluster.url)
        use(client)
        # A slot goes to another server while the client knows nothing of it.
        name = "key:20"
        slot = cluster.nodes[0].ask("CLUSTER", "KEYSLOT", name)
        owner = next(node for node in cluster.nodes if node.keys(name))
        other = next(node for node in cluster.nodes if node is not owner)
        owner.ask("DEL", name)
        for node in (other, owner):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", other.ask("CLUSTER", "MYID"))
        assert client.run([("SET", name, "moved"), ("GET", name)]) == [b"OK", b"moved"]
        assert other.keys(name) == [name]
        with pytest.raises(RedisDown, match=r"redis\+cluster"):
            use(client_of(other.url))
        # One of three is enough to find the others; one that is gone is a reason to say so.
        use(client_of(f"redis+cluster://{other.address}"))
        owner.kill()
        assert not works(client)


@pytest.mark.full
def test_a_cluster_fails_over() -> None:
    with RedisCluster(replicas=True) as cluster:
        client = client_of(cluster.url)
        use(client)
        cluster.fail_over()
        until(lambda: works(client))
        use(client)


@pytest.mark.full
def test_sentinels_fail_over() -> None:
    with Sentinels() as sentinels:
        client = client_of(sentinels.url)
        use(client)
        sentinels.fail_over()
        until(lambda: works(client))
        use(client)


def works(client: RedisClient) -> bool:
    try:
        return bool(client.run([("SET", key, 1) for key in KEYS]) == [b"OK"] * len(KEYS))
    except RedisDown:
        return False


def test_a_server_that_is_gone_frozen_or_full(server: RedisServer) -> None:
    client = client_of(server.url)
    assert works(client)
    with server.frozen(), pytest.raises(RedisDown, match="[Tt]imeout"):
        client.run([("PING",)])
    # What the frozen one says later is not taken for the answer to something else.
    assert client.run([("GET", "absent")]) == [None]
    server.stop()
    for _ in range(2):
        with pytest.raises(RedisDown):
            client.run([("PING",)])
    server.start()
    assert works(client)
    server.run_out_of_memory()
    assert client.run([("SET", "a", 1), ("GET", "key:1")])[0].full
    assert client.get_many(["key:1"]) == [b"1"]
    client.close()
    assert client.get_many(["key:1"]) == [b"1"]


def test_sentinels_that_know_no_such_service(server: RedisServer) -> None:
    with RedisServer(sentinel=True) as sentinel:
        client = client_of(f"redis+sentinel://{sentinel.address}/main")
        with pytest.raises(RedisDown, match="main"):
            client.run([("PING",)])
        sentinel.ask("SENTINEL", "MONITOR", "main", server.host, server.port, 1)
        use(client)
