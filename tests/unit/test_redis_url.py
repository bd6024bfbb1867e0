"""URLs of `--redis`: what they mean, what is wrong with one, and that no password is shown again."""

from __future__ import annotations

import re
from dataclasses import replace

import click
import pytest

from relay.runtime.config import program_options, render_show, run_command
from relay.runtime.redis_url import RedisPlace, RedisURL, parse_redis_url

PLAIN = RedisPlace(text="")


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://cache", replace(PLAIN, hosts=(("cache", 6379),))),
        ("valkey://10.0.0.1:7000/3", replace(PLAIN, hosts=(("10.0.0.1", 7000),), db=3)),
        ("redis://u:p%40%2F@[fd00::1]", replace(PLAIN, hosts=(("fd00::1", 6379),), user="u", password="p@/")),
        (
            "rediss://:p@h/0?ca=/etc/ca.pem&cert=c&key=k",
            replace(PLAIN, hosts=(("h", 6379),), password="p", tls=True, ca="/etc/ca.pem", cert="c", key="k"),
        ),
        ("unix:///run/redis.sock", replace(PLAIN, kind="unix", path="/run/redis.sock")),
        ("unix://u:p@/run/a%20b?db=2", replace(PLAIN, kind="unix", path="/run/a b", db=2, user="u", password="p")),
        (
            "redis+sentinel://a,b:1,[::1]/main/4?sentinel_password=s",
            replace(
                PLAIN, kind="sentinel", hosts=(("a", 26379), ("b", 1), ("::1", 26379)), service="main", db=4,
                sentinel_password="s",
            ),
        ),
        ("redis+sentinel+tls://a/m", replace(PLAIN, kind="sentinel", hosts=(("a", 26379),), service="m", tls=True)),
        ("redis+cluster://a:1,b/", replace(PLAIN, kind="cluster", hosts=(("a", 1), ("b", 6379)))),
        ("redis+cluster+tls://a", replace(PLAIN, kind="cluster", hosts=(("a", 6379),), tls=True)),
    ],
)  # fmt: skip
def test_what_a_url_means(url: str, meant: RedisPlace) -> None:
    assert replace(parse_redis_url(url), text="") == meant


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("cache:6379", "cache is none of redis, rediss"),
        ("//cache", "no scheme is none of"),
        ("http://cache", "http is none of"),
        ("redis://[::1", "no URL"),
        ("redis://", "a host is missing"),
        ("redis://:secret#more@cache", "written %23"),
        ("redis://secret@cache", "user:password"),
        ("redis://:secret/more@cache", "a host is missing"),
        ("redis://u:secret/more@cache", "the port of u is no number"),
        ("redis://cache/:secret/more", "a number"),
        ("redis://cache/secret", "written %2F"),
        ("redis://cache?secret", "pairs such as"),
        ("redis://cache?secret=1", "none of ca, cert"),
        ("redis://cache?db=1", "none of ca, cert"),
        ("rediss://cache?ca=a&ca=b", "twice"),
        ("rediss://cache?ca=", "empty"),
        ("redis://cache?ca=a", "belong to TLS"),
        ("rediss://cache?cert=a", "belong together"),
        ("redis://cache:0", "1 to 65535"),
        ("redis://cache:70000", "1 to 65535"),
        ("redis://a,b", "redis+cluster://"),
        ("redis://a b", "a host is missing, or is none"),
        ("redis+cluster://a/1", "no databases"),
        ("redis+cluster://" + ",".join("abcdefghijklmnopqrstuvwxyzABCDEFGH"), "the most"),
        ("redis+cluster://a,", "a host is missing"),
        ("redis+sentinel://a", "the service they watch"),
        ("redis+sentinel://a/main/x", "no number"),
        ("redis://a?sentinel_password=secret", "belong to redis+sentinel"),
        ("unix://run/redis.sock", "begins with a /"),
        ("unix://", "path is missing"),
        ("unix:///a?db=x", "no number"),
    ],
)
def test_what_is_wrong_with_a_url(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)) as caught:
        parse_redis_url(url)
    assert "secret" not in str(caught.value)


def shown(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    @click.command()
    @program_options("relay", [click.option("--redis", type=RedisURL())])
    @click.pass_context
    def show(ctx: click.Context, /, **_options: object) -> None:
        click.echo(render_show(ctx), nl=False)

    status = run_command(show, args, "show")
    taken = capsys.readouterr()
    return status, taken.out + taken.err


def test_passwords_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for url, left in (
        ("redis://u:secret@h/1", "redis://u@h/1"),
        ("redis://:secret@h", "redis://h"),
        ("redis+sentinel://h/main?sentinel_user=s&sentinel_password=secret", "redis+sentinel://h/main?sentinel_user=s"),
    ):
        place = parse_redis_url(url)
        assert (str(place), place.secret) == (left, True)
        assert "secret" not in repr(place)
        assert shown("--redis", url, capsys=capsys)[1].splitlines()[1] == (
            f"# redis is set, and not shown whole: {left}  # flag"
        )
    place = parse_redis_url("redis://h").with_password("secret")
    assert (place.password, place.secret, "secret" in repr(place)) == ("secret", True, False)


def test_a_url_without_a_password_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    url = "rediss://u:@h:1/2?ca=/ca.pem"
    assert not parse_redis_url(url).secret
    assert shown("--redis", url, capsys=capsys)[1] == '[relay]\nredis = "rediss://u@h:1/2?ca=/ca.pem"  # flag\n'


def test_a_bad_url_is_refused_without_being_repeated(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UFRAG_RELAY_REDIS", "redis://u:secret@h:x")
    status, text = shown(capsys=capsys)
    assert (status, "secret" in text) == (2, False)
    assert "the port of h is no number" in text
