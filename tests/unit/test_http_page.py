"""The page at `/` as it is served, and what a browser is told about it and about every other answer."""

from __future__ import annotations

from tests.support.signaling import run, served
from transceiver.http.page import Page, policy


def test_page() -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.ask("GET", "/")
            assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert answer.headers["Content-Security-Policy"] == policy(answer.body.decode())
            assert "microphone=(self)" in answer.headers["Permissions-Policy"]
            assert (await server.ask("POST", "/")).status == 405

    run(test())


def test_policy_allows_what_stands_in_the_page_and_nothing_else() -> None:
    made = policy("<style>a{}</style><script>1</script><script src=x></script>")
    assert made.count("'sha256-") == 2
    assert "unsafe" not in made
    text = Page()._body.decode()
    assert len(policy(text).split("'sha256-")) == 3
    for foreign in ('src="http', "url(", "@import", " style=", " onclick=", "<link rel=stylesheet"):
        assert foreign not in text


def test_security_headers_are_on_every_answer() -> None:
    async def test() -> None:
        async with served() as server:
            for answer in (await server.post(), await server.post(""), await server.ask("GET", "/nothing")):
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert answer.headers["Server"] == "ufrag"
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")

    run(test())
