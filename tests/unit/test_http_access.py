"""Who may ask the server, and how often: keys, pages of other origins, clients behind proxies, rates."""

from __future__ import annotations

import ipaddress

import pytest

from tests.support.signaling import CALLS, Clock, run, served
from transceiver.http.access import Bearer, Origins, Proxies, parse_ip
from transceiver.http.limits import TokenBuckets, subscriber
from transceiver.http.server import Access


def networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Keys


def test_key_is_wanted_for_everything_but_the_page() -> None:
    async def test() -> None:
        async with served(Access(auth_key="s3cret")) as server:
            for path in (CALLS, f"{CALLS}/a-0", f"{CALLS}/a-0/hangup", "/%761/realtime/calls", "//v1/realtime/calls"):
                answer = await server.ask("POST", path)
                assert (answer.status, answer.error["code"]) == (401, "missing_api_key"), path
                assert answer.headers["WWW-Authenticate"] == 'Bearer realm="ufrag"'
            assert (await server.ask("GET", "/")).status == 200
            assert (await server.ask("OPTIONS")).status == 200
            assert server.calls.offers == {}

    run(test())


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("Bearer s3cret", 201),
        ("bearer  s3cret", 201),
        ("Bearer s3cre", 401),
        ("Bearer s3cret2", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("s3cret", 401),
        ("Basic s3cret", 401),
        ("Bearer é", 401),
    ],
)
def test_key(shown: str, status: int) -> None:
    async def test() -> None:
        async with served(Access(auth_key="s3cret")) as server:
            answer = await server.post(Authorization=shown)
            assert answer.status == status
            if status == 401:
                assert answer.error["type"] == "authentication_error"
                assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]

    run(test())


def test_key_beyond_ascii() -> None:
    """A header's bytes are read as UTF-8, and what is none stays different from everything."""
    assert Bearer("schlüssel").allows("Bearer schlüssel")
    assert not Bearer("schl").allows("Bearer schl\udcff")
    assert Bearer(None).allows("")


# Origins


ORIGIN = "https://app.example"


def test_preflight() -> None:
    async def test() -> None:
        async with served(Access(auth_key="k", cors_origins=(ORIGIN,))) as server:
            asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
            answer = await server.ask("OPTIONS", f"{CALLS}/a-0", headers=asked)
            assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
            assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, PATCH, DELETE"
            assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            assert answer.headers["Vary"] == "Origin"

    run(test())


@pytest.mark.parametrize(
    ("allowed", "origin", "granted"),
    [
        ((), ORIGIN, None),
        ((ORIGIN,), ORIGIN, ORIGIN),
        ((ORIGIN + "/",), ORIGIN, ORIGIN),
        ((ORIGIN,), "https://app.example.evil", None),
        ((ORIGIN,), "http://app.example", None),
        ((ORIGIN,), "null", None),
        ((ORIGIN, "http://localhost:3000"), "http://localhost:3000", "http://localhost:3000"),
        (("*",), "https://anything", "*"),
        (("*",), "null", "*"),
    ],
)
def test_origin(allowed: tuple[str, ...], origin: str, granted: str | None) -> None:
    async def test() -> None:
        async with served(Access(auth_key="k", cors_origins=allowed)) as server:
            answer = await server.post(Origin=origin)  # errors too must be readable
            assert (answer.status, answer.headers.get("Access-Control-Allow-Origin")) == (401, granted)
            exposed = answer.headers.get("Access-Control-Expose-Headers", "")
            assert {"Location", "ETag", "Link"} <= set(exposed.split(", ")) or not granted
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            preflight = await server.ask("OPTIONS", headers=asked)
            assert ("Access-Control-Allow-Methods" in preflight.headers) == bool(granted)

    run(test())


@pytest.mark.parametrize(
    ("site", "origin", "status"),
    [
        ("cross-site", "https://evil.example", 403),
        ("same-site", "https://evil.example", 403),
        ("cross-site", "null", 403),
        ("cross-site", ORIGIN, 201),
        ("same-origin", "https://evil.example", 201),
        ("none", "", 201),
    ],
)
def test_page_of_another_site_cannot_even_start_a_call(site: str, origin: str, status: int) -> None:
    """A form of another site needs no preflight; it could not read the answer, but it could take up sessions."""

    async def test() -> None:
        async with served(Access(cors_origins=(ORIGIN,))) as server:
            answer = await server.post(Sec_Fetch_Site=site, Origin=origin)
            assert answer.status == status
            assert len(server.calls.offers) == (status == 201)
            assert (await server.ask("GET", "/", headers={"Sec-Fetch-Site": site})).status == 200

    run(test())


def test_no_cors_header_unless_asked_for() -> None:
    assert Origins().headers(ORIGIN) == {}
    assert Origins((ORIGIN,)).headers("") == {"Vary": "Origin"}


# Proxies


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", [",".join(["10.0.0.2"] * 100)], "10.0.0.2"),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_client_behind_proxies(peer: str, forwarded: list[str], client: str) -> None:
    assert Proxies(networks("10.0.0.0/8", "fd00::/8")).client_of(peer, forwarded) == client


@pytest.mark.parametrize(
    "text", ["", "[", "unknown", "1.2.3", "1.2.3.4.5", "::1::", "[::1", "1.2.3.4:", "fe80::1%eth0"]
)
def test_addresses_as_proxies_write_them(text: str) -> None:
    assert parse_ip(text) in {None, "::1", "1.2.3.4", "fe80::1"}


def test_calls_know_the_client_behind_a_trusted_proxy_only() -> None:
    async def test() -> None:
        async with served(Access(trusted_proxies=networks("127.0.0.0/8"))) as server:
            await server.post(X_Forwarded_For="6.6.6.6, 203.0.113.9")
            assert server.calls.clients == ["203.0.113.9"]
        async with served() as server:
            await server.post(X_Forwarded_For="203.0.113.9")
            assert server.calls.clients == ["127.0.0.1"]

    run(test())


# Rates


def test_rate_of_a_client() -> None:
    async def test() -> None:
        access = Access(trusted_proxies=networks("127.0.0.0/8"))
        async with served(access, rate_per_s=0.5, burst=2) as server:
            assert [(await server.post()).status for _ in range(3)] == [201, 201, 429]
            answer = await server.ask("GET", "/")  # it is one bucket for everything
            assert (answer.status, answer.headers["Retry-After"]) == (429, "2")
            assert answer.error["type"] == "rate_limit_error"
            assert (await server.post(X_Forwarded_For="203.0.113.9")).status == 201
            server.clock.now += 2.0
            assert [(await server.post()).status for _ in range(2)] == [201, 429]

    run(test())


def test_bucket_fills_to_its_burst_and_no_further() -> None:
    clock = Clock()
    buckets = TokenBuckets(1.0, 3, 10, clock)
    assert [buckets.take("a") for _ in range(4)] == [None, None, None, 1]
    clock.now += 1000.0
    assert [buckets.take("a") for _ in range(4)] == [None, None, None, 1]
    clock.now -= 500.0  # a clock that steps back costs nothing and gives nothing
    assert buckets.take("a") == 1


def test_clients_remembered_are_bounded() -> None:
    clock = Clock()
    buckets = TokenBuckets(1.0, 1, 3, clock)
    for number in range(100):
        assert buckets.take(f"10.0.0.{number}") is None
        assert len(buckets) <= 3
    assert buckets.take("10.0.0.99") == 1
    assert buckets.take("10.0.0.0") is None  # forgotten long ago


def test_rate_of_zero_is_no_limit() -> None:
    buckets = TokenBuckets(0.0, 0, 3, Clock())
    assert [buckets.take("a") for _ in range(100)] == [None] * 100
    assert len(buckets) == 0


def test_subscriber_is_an_ipv4_address_or_a_64() -> None:
    assert subscriber("192.0.2.1") == "192.0.2.1"
    assert subscriber("2001:db8:1:2:3::4") == subscriber("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert subscriber("") == ""
