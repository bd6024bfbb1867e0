"""The calls API: every form of an offer, every status, and bodies that are malformed in every way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.signaling import CALLS, OFFER, MemoryCalls, answer_to, run, served
from transceiver.http.body import parse_offer
from transceiver.http.calls import Refused

SESSION: dict[str, Any] = {"type": "realtime", "model": "echo", "audio": {"output": {"voice": "é"}}}
FORM = "multipart/form-data; boundary=xyz"


def part(name: str, content: str, kind: str = "") -> str:
    typed = f"Content-Type: {kind}\r\n" if kind else ""
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n{typed}\r\n{content}\r\n'


def form(*parts: str) -> bytes:
    return ("".join(parts) + "--xyz--\r\n").encode()


WHOLE = form(part("sdp", OFFER, "application/sdp"), part("session", json.dumps(SESSION), "application/json"))


def refused(content_type: str, body: bytes) -> tuple[int, str, str | None]:
    with pytest.raises(Refused) as caught:
        parse_offer(content_type, body)
    return caught.value.status, caught.value.code, caught.value.param


def read_or_refused(content_type: str, body: bytes) -> bool:
    """Any other exception ends the test."""
    try:
        return isinstance(parse_offer(content_type, body).sdp, str)
    except Refused as refusal:
        return refusal.status in {400, 415} and bool(refusal.message)


# Creating a call


def test_raw_offer_is_answered() -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.post()
            assert (answer.status, answer.body.decode()) == (201, answer_to(OFFER))
            assert answer.headers["Content-Type"] == "application/sdp"
            assert answer.headers["Location"] == f"{CALLS}/a-0"
            assert (server.calls.sessions, server.calls.clients) == ([None], ["127.0.0.1"])

    run(test())


@pytest.mark.parametrize("kind", ["application/sdp; charset=utf-8", "Application/SDP", "application/sdp;x=y"])
def test_forms_of_the_content_type(kind: str) -> None:
    assert parse_offer(kind, OFFER.encode()) == (OFFER, None)


def test_form_of_a_browser_or_client_library() -> None:
    async def test() -> None:
        async with served() as server:
            data = aiohttp.FormData()
            data.add_field("sdp", OFFER, content_type="application/sdp")
            data.add_field("session", json.dumps(SESSION), content_type="application/json")
            plain = aiohttp.FormData({"sdp": OFFER}, default_to_multipart=True)
            named = aiohttp.FormData()
            named.add_field("sdp", OFFER.encode(), filename="offer.sdp")
            for each in (data, plain, named):
                assert (await server.post(each, kind=None, Accept="application/sdp")).status == 201
            assert server.calls.sessions == [SESSION, None, None]
            assert set(server.calls.offers.values()) == {OFFER}

    run(test())


def test_json_body_of_older_clients() -> None:
    async def test() -> None:
        async with served() as server:
            assert (await server.ask("POST", json={"sdp": OFFER, "session": SESSION})).status == 201
            assert (await server.ask("POST", json={"sdp": OFFER, "session": None})).status == 201
            assert server.calls.sessions == [SESSION, None]

    run(test())


@pytest.mark.parametrize(
    ("kind", "body", "wanted"),
    [
        ("application/sdp", b"", (400, "missing_sdp", "sdp")),
        ("application/sdp", b" \r\n", (400, "missing_sdp", "sdp")),
        ("application/sdp", b"v=0\xff", (400, "invalid_sdp", "sdp")),
        ("application/sdp; charset=utf-16", OFFER.encode(), (415, "unsupported_charset", "sdp")),
        ("", OFFER.encode(), (415, "unsupported_content_type", None)),
        ("text/plain", OFFER.encode(), (415, "unsupported_content_type", None)),
        ("application/x-www-form-urlencoded", b"sdp=v%3D0", (415, "unsupported_content_type", None)),
        ("application/json", b"", (400, "bad_json", None)),
        ("application/json", b"[]", (400, "bad_json", None)),
        ("application/json", b'{"sdp": NaN}', (400, "bad_json", None)),
        ("application/json", b"[" * 60_000, (400, "bad_json", None)),
        ("application/json", b'{"sdp":' + b"9" * 5000 + b"}", (400, "bad_json", None)),
        ("application/json", b"\xff", (400, "bad_json", None)),
        ("application/json; charset=latin-1", b"{}", (415, "unsupported_charset", None)),
        ("application/json", b"{}", (400, "missing_sdp", "sdp")),
        ("application/json", b'{"sdp": 1}', (400, "invalid_sdp", "sdp")),
        ("application/json", b'{"sdp": "\\ud800"}', (400, "invalid_sdp", "sdp")),
        ("application/json", b'{"sdp": "v=0", "session": []}', (400, "invalid_session", "session")),
        ("application/json", b'{"sdp": "v=0", "model": "x"}', (400, "unknown_parameter", "model")),
        ("application/json", b'{"\\ud800": 1}', (400, "unknown_parameter", "\\ud800")),
        ("multipart/form-data", WHOLE, (400, "bad_form", None)),
        ("multipart/form-data; boundary=", WHOLE, (400, "bad_form", None)),
        ("multipart/form-data; boundary=" + "x" * 71, WHOLE, (400, "bad_form", None)),
        ("multipart/form-data; boundary=other", WHOLE, (400, "bad_form", None)),
        ("multipart/form-data; boundary*=utf-8''xyz", WHOLE, (400, "bad_form", None)),
        (FORM, b"", (400, "bad_form", None)),
        (FORM, WHOLE.replace(b"\r\n", b"\n"), (400, "bad_form", None)),
        (FORM, WHOLE.replace(b"--xyz--", b"--xyz"), (400, "bad_form", None)),
        (FORM, WHOLE.replace(b"form-data;", b"attachment;"), (400, "bad_form", None)),
        (FORM, WHOLE.replace(b'name="sdp"', b"name"), (400, "bad_form", None)),
        (FORM, WHOLE.replace(b"Content-Type", b"Content-Disposition"), (400, "bad_form", None)),
        (FORM, WHOLE.replace(b"Content-Type:", b"Content-Transfer-Encoding: base64\r\nX:"), (400, "bad_form", None)),
        (FORM, WHOLE.replace(b"application/sdp", b"text/plain; charset=utf-7"), (415, "unsupported_charset", "sdp")),
        (FORM, form(), (400, "missing_sdp", "sdp")),
        (FORM, form(part("session", "{}")), (400, "missing_sdp", "sdp")),
        (FORM, form(part("sdp", "")), (400, "missing_sdp", "sdp")),
        (FORM, form(part("sdp", OFFER), part("sdp", OFFER)), (400, "duplicate_parameter", "sdp")),
        (FORM, form(part("sdp", OFFER), part("session[type]", "x")), (400, "unknown_parameter", "session[type]")),
        (FORM, form(part("sdp", OFFER), part("session", "{")), (400, "bad_json", "session")),
        (FORM, form(part("sdp", OFFER), part("session", '"x"')), (400, "invalid_session", "session")),
        (FORM, form(part("sdp", OFFER), part("session", "null")), (400, "invalid_session", "session")),
    ],
)
def test_offer_that_cannot_be_read(kind: str, body: bytes, wanted: tuple[int, str, str | None]) -> None:
    assert refused(kind, body) == wanted


def test_preamble_epilogue_padding_and_any_order_are_allowed() -> None:
    """RFC 2046, 5.1.1."""
    parts = (part("session", "{}"), part("sdp", OFFER))
    body = b"ignored\r\n" + form(*parts).replace(b"--xyz\r\n", b"--xyz \t\r\n") + b"ignored"
    assert parse_offer('multipart/form-data; boundary="xyz"', body) == (OFFER, {})


def test_form_cut_at_every_length_is_refused() -> None:
    closed = WHOLE.rindex(b"--xyz--") + len(b"--xyz--")
    assert parse_offer(FORM, WHOLE[:closed]) == (OFFER, SESSION)
    for length in range(closed):
        assert refused(FORM, WHOLE[:length])[:2] == (400, "bad_form"), length


def test_form_with_any_one_byte_changed_is_read_or_refused() -> None:
    for at in range(len(WHOLE)):
        for byte in (0, 10, 13, 34, 45, 58, 59, 255):
            assert read_or_refused(FORM, WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]), (at, byte)


@given(st.binary(max_size=60), st.sampled_from(["xyz", "a", "'()+_,-./:=?"]))
def test_any_form_is_read_or_refused(noise: bytes, boundary: str) -> None:
    body = b"--" + boundary.encode() + b"\r\n" + noise + b"\r\n\r\n\r\n--" + boundary.encode() + b"--"
    assert read_or_refused(f'multipart/form-data; boundary="{boundary}"', body)


@given(st.text(max_size=80))
def test_any_content_type_is_read_or_refused(tail: str) -> None:
    for head in ("", "multipart/form-data; boundary", "application/sdp; charset*0*="):
        assert read_or_refused(head + tail, OFFER.encode())


def test_bad_offer_is_named_with_its_line() -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.post("hello")
            assert answer.status == 400
            assert answer.headers["Content-Type"].startswith("application/json")
            assert answer.error == {
                "message": "line 1: no v=0",
                "type": "invalid_request_error",
                "code": "invalid_sdp",
                "param": "sdp",
            }

    run(test())


def test_refusal_says_when_to_try_again() -> None:
    async def test() -> None:
        async with served() as server:
            server.calls.full = True
            answer = await server.post()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
            assert (answer.error["type"], answer.error["code"]) == ("server_error", "at_capacity")

    run(test())


def test_our_own_mistake_is_logged_and_told_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with served() as server:
            server.calls.broken = True
            answer = await server.post()
            assert (answer.status, answer.error["code"]) == (500, "internal_error")
            assert b"ZeroDivision" not in answer.body
            server.calls.broken = False
            assert (await server.post()).status == 201

    run(test())
    assert "ZeroDivisionError" in caplog.text


# A call's own URL


def test_hangup_once_and_then_never_again() -> None:
    async def test() -> None:
        async with served() as server:
            call = (await server.post()).headers["Location"]
            answer = await server.ask("POST", f"{call}/hangup")
            assert (answer.status, answer.body, server.calls.offers) == (200, b"", {})
            again = await server.ask("POST", f"{call}/hangup")
            assert (again.status, again.error["code"]) == (404, "call_not_found")

    run(test())


def test_hangup_ignores_a_body() -> None:
    """What a client library sends with an empty request, or sendBeacon."""

    async def test() -> None:
        async with served() as server:
            call = (await server.post()).headers["Location"]
            assert (await server.ask("POST", f"{call}/hangup", json={})).status == 200

    run(test())


def test_restart_is_answered_with_200() -> None:
    async def test() -> None:
        async with served() as server:
            call = (await server.post()).headers["Location"]
            offer = OFFER + "a=ice-ufrag:new\r\n"
            answer = await server.ask("POST", call, data=offer, headers={"Content-Type": "application/sdp"})
            assert (answer.status, answer.body.decode()) == (200, answer_to(offer))
            assert answer.headers["Content-Type"] == "application/sdp"
            assert server.calls.offers == {"a-0": offer}

    run(test())


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        ("a-0", "application/sdp", OFFER, 409),
        ("a-0", "application/sdp", "", 400),
        ("a-0", "application/json", '{"sdp": "v=0"}', 415),
        ("a-0", "text/plain", "v=0", 415),
        ("a-1", "application/sdp", "v=0", 404),
        ("x" * 161, "application/sdp", "v=0", 404),
        ("a.0", "application/sdp", "v=0", 404),
        ("a-0/", "application/sdp", "v=0", 404),
        ("%00", "application/sdp", "v=0", 404),
        ("a-0%2Fhangup", "application/sdp", "v=0", 404),
    ],
)
def test_restart_that_is_refused(path: str, kind: str, body: str, status: int) -> None:
    async def test() -> None:
        async with served() as server:
            await server.post()
            answer = await server.ask("POST", f"{CALLS}/{path}", data=body, headers={"Content-Type": kind})
            assert (answer.status, bool(answer.error["message"])) == (status, True)
            assert server.calls.offers == {"a-0": OFFER}

    run(test())


@pytest.mark.parametrize("path", [CALLS, f"{CALLS}/a-0", f"{CALLS}/a-0/hangup"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "TRACE"])
def test_other_methods_are_told_what_is_allowed(path: str, method: str) -> None:
    async def test() -> None:
        async with served() as server:
            await server.post()
            answer = await server.ask(method, path)
            assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
            assert {each.strip() for each in answer.headers["Allow"].split(",")} == {"POST", "OPTIONS"}

    run(test())


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/realtime", f"{CALLS}/", f"{CALLS}/a-0/refer", "/v1/realtime/calls/../x"]
)
def test_unknown_path_is_404_as_json(path: str) -> None:
    async def test() -> None:
        async with served() as server:
            answer = await server.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert (answer.status, answer.error["code"]) == (404, "not_found")

    run(test())


def test_options_says_what_can_be_posted() -> None:
    """RFC 9725, 4.2 wants Accept-Post of an endpoint; harmless, and useful, here too."""

    async def test() -> None:
        async with served() as server:
            answer = await server.ask("OPTIONS")
            assert (answer.status, answer.headers["Allow"]) == (200, "POST, OPTIONS")
            assert "application/sdp" in answer.headers["Accept-Post"]
            assert "Accept-Post" not in (await server.ask("OPTIONS", f"{CALLS}/a-0/hangup")).headers

    run(test())


def test_calls_are_independent() -> None:
    async def test() -> None:
        calls = MemoryCalls()
        async with served(calls=calls) as server:
            answers = await asyncio.gather(*(server.post() for _ in range(20)))
            places = [answer.headers["Location"] for answer in answers]
            assert len(set(places)) == 20
            assert (await server.ask("POST", f"{places[3]}/hangup")).status == 200
            assert len(calls.offers) == 19

    run(test())
