"""What operators see: numbers as people read them, views that fit 80 columns, and the commands against a real admin
server that serves real slots."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import RenderableType

from relay.runtime import admin, screen
from relay.runtime.admin_client import Metrics, parse_metrics
from relay.runtime.config import parse_address, run_command
from relay.runtime.errors import RuntimeFault
from relay.runtime.sockets import listen
from tests.support.configured import configured
from transceiver import cli, views
from transceiver.admin_client import AdminClient
from transceiver.program import pages
from transceiver.slots import ProcessSlot, open_slots

pytestmark = pytest.mark.native  # real sockets, and what the kernel says of them

PATIENCE_S = 10.0
NOW = 1_000_000.0
Capture = pytest.CaptureFixture[str]


def lines(view: RenderableType, width: int = 80) -> list[str]:
    file = io.StringIO()
    screen.console(file, width).print(view)
    return [line.rstrip() for line in file.getvalue().splitlines()]


# ---- numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (12_345, "12.3k"), (4_560_000, "4.56M"), (999_999, "1M"), (7e12, "7T")],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert screen.count(number) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(0, "0 %"), (0.004, "0.4 %"), (0.0996, "10.0 %"), (0.25, "25 %"), (1, "100 %")]
)
def test_percents(ratio: float, text: str) -> None:
    assert screen.percent(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (7.9, "7 s"), (60, "1:00"), (754, "12:34"), (11_045, "3:04:05"), (442_800, "5 d 03 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert screen.duration(seconds) == text


# ---- views


def session(**changed: Any) -> dict[str, Any]:
    return {
        "id": "0-12-345", "worker": 0, "token": "A" * 32, "state": "live", "opened_unix_s": NOW - 754,
        "client": "203.0.113.254:54321", "relay": "198.51.100.1:3478", "cipher": "ECDHE-ECDSA-AES128-GCM-SHA256",
        "profile": "SRTP_AEAD_AES_256_GCM", "codec": "opus", "packets_up": 37_700, "packets_down": 37_000,
        "bytes_up": 4_000_000, "bytes_down": 4_000_000, "lost_up": 377, "lost_down": 0, "jitter_up_ms": 3.2,
        "jitter_down_ms": 12.0, "rtt_ms": 61.4, "paths": 1, "ring_drops": 0,
    } | changed  # fmt: skip


def test_a_session_is_a_line_of_80_columns() -> None:
    head, line = lines(views.sessions([session()], NOW, 80))
    assert head.split() == ["session", "state", "age", "client", "rtt", "ms", "up", "lost", "down", "lost"]
    assert line.split("  ")[0] == "0-12-345 live"
    for word in ("12:34", "203.0.113.254:54321", "61", "37.7k", "1.0 %", "37k", "0 %"):
        assert f" {word}" in line


def test_a_wide_screen_shows_more() -> None:
    head, line = lines(views.sessions([session()], NOW, 120), 120)
    assert "relay" in head
    assert "198.51.100.1:3478" in line
    assert "opus" in line


def test_long_addresses_give_way_and_nothing_else() -> None:
    client = "[2001:db8:1111:2222:3333:4444:5555:6666]:54321"
    long = session(id="255-65534-4294967295", state="handshaking", client=client)
    _, line = lines(views.sessions([long], NOW, 80))
    assert len(line) <= 80
    assert line.startswith("255-65534-4294967295 handshaking 12:34 ")
    assert "…" in line
    assert line.endswith("0 %")
    _, line = lines(views.sessions([long], NOW, 160), 160)
    assert client in line


@pytest.mark.parametrize("word", ["[red]opus[/red]", "opus\x1b[2J", ":smile:", "\u202eopus"])
def test_what_a_client_sent_does_not_steer_the_screen(word: str) -> None:
    text = "\n".join(lines(views.sessions([session(codec=word)], NOW, 160), 160))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert word in text or repr(word) in text


def test_strange_values_are_shown_as_nothing() -> None:
    strange = {"id": None, "opened_unix_s": "x", "lost_up": -5, "packets_up": "many", "rtt_ms": None}
    assert len(lines(views.sessions([strange], NOW, 120), 120)) == 2


@pytest.mark.parametrize(("order", "first"), [("id", "0-2-1"), ("age", "0-10-1"), ("loss", "1-0-1"), ("rtt", "0-2-1")])
def test_orders(order: str, first: str) -> None:
    found = [
        session(id="0-10-1", opened_unix_s=1.0),
        session(id="0-2-1", rtt_ms=500),
        session(id="1-0-1", lost_down=30_000),
    ]
    table = lines(views.sessions(found, NOW, 80, order, most=1))
    assert len(table) == 2
    assert table[1].split()[0] == first


# ---- a running one


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[list[ProcessSlot]]:
    opened = open_slots(configured(tmp_path))
    yield opened
    for own in opened:
        own.close()


Serve = Callable[[admin.Pages], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves pages; the address."""
    with contextlib.ExitStack() as stack:

        def _serve(served: admin.Pages) -> str:
            sock = listen(parse_address("127.0.0.1:0"), "--admin")
            alive_read, alive_write = os.pipe()
            thread = threading.Thread(target=admin.serve, args=(sock, served, alive_read))
            thread.start()
            stack.callback(os.close, alive_read)
            stack.callback(thread.join, PATIENCE_S)
            stack.callback(os.close, alive_write)
            return f"127.0.0.1:{sock.getsockname()[1]}"

        yield _serve


def run(capsys: Capture, *words: str) -> tuple[int, str, str]:
    status = run_command(cli.cli, words, "transceiver")
    done = capsys.readouterr()
    return status, done.out, done.err


@pytest.fixture
def beating(slots: list[ProcessSlot], monkeypatch: pytest.MonkeyPatch) -> list[ProcessSlot]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("relay.runtime.watch.heart_age_s", lambda heart, _now: float(heart))
    for own in slots:
        own.slot.heart = 0
    return slots


def test_status_is_one_screen(beating: list[ProcessSlot], serve: Serve, capsys: Capture) -> None:
    slot = beating[0].slot
    for index in range(3):
        slot.begin(index, "x", NOW)
        slot.describe(index, "live")
    for value in (0.03, 0.03, 0.15):
        slot.observe("setup_dtls_s", value)
        slot.observe("rtt_s", value)
        slot.observe("loss_ratio", 0.0)
    slot.count("ended_hangup", 1200)
    slot.count("ended_no_check", 7)
    slot.busy_ratio = 0.25
    address = serve(pages(beating))
    status, out, _ = run(capsys, "status", "--admin", address)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert len(out.splitlines()) <= 24
    for text in (
        f"at {address}: ready",
        "3 of 16 (live 3)",
        "1.21k (hangup 1.2k, no_check 7)",
        "check -, ice -, dtls 50/200 ms, media -",
        "round trip 50/200 ms, jitter -, loss 0/0 %",
    ):
        assert text in out
    assert re.search(r"^0 +ok +3 +25 % +0 % +0 +0$", out, re.M)


def test_status_says_why_it_is_not_ready(beating: list[ProcessSlot], serve: Serve, capsys: Capture) -> None:
    beating[0].slot.draining = True
    beating[1].slot.heart = 9
    status, out, _ = run(capsys, "status", "--admin", serve(pages(beating)))
    assert status == 1
    assert "NOT READY, draining and worker 1 hangs" in " ".join(out.split())
    assert re.search(r"^0 +draining ", out, re.M)
    assert re.search(r"^1 +hangs ", out, re.M)


def test_sessions_and_hangup(beating: list[ProcessSlot], serve: Serve, capsys: Capture) -> None:
    serial = beating[1].slot.begin(5, "T" * 32, NOW)
    address = serve(pages(beating))
    status, out, _ = run(capsys, "sessions", "--admin", address)
    assert (status, out.splitlines()[1].split()[:2]) == (0, [f"1-5-{serial}", "new"])
    (found,) = json.loads(run(capsys, "sessions", "--json", "--admin", address)[1])
    assert (found["id"], found["token"]) == (f"1-5-{serial}", "T" * 32)
    assert run(capsys, "hangup", found["id"], "--admin", address)[0] == 0
    assert list(beating[1].slot.hangups()) == [(5, serial)]
    beating[1].slot.end(5)
    for gone in (found["id"], "9-9-9", "../metrics", "%2e"):
        status, _, err = run(capsys, "hangup", gone, "--admin", address)
        assert (status, "there is no such session" in err) == (78, True)


def test_top_outside_a_terminal_prints_screens(
    beating: list[ProcessSlot], serve: Serve, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating[0].slot.begin(0, "x", NOW)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("transceiver.cli.time.sleep", pause)
    status, out, _ = run(capsys, "top", "--interval", "250ms", "--admin", serve(pages(beating)))
    assert (status, pauses) == (0, [0.25, 0.25])
    assert out.count("ready, 1 sessions (new 1)") == 2
    assert out.count("measuring") == 1
    assert out.count("up 0 packets/s") == 1
    assert max(map(len, out.splitlines())) <= 80


def moment(at_s: float, packets: int, sessions: Sequence[dict[str, Any]]) -> views.Moment:
    text = f'ufrag_transceiver_packets_total{{direction="up",worker="0"}} {packets}\n'
    return views.Moment(at_s, parse_metrics("# TYPE ufrag_transceiver_packets_total counter\n" + text), {}, sessions)


def test_top_counts_by_the_second_and_keeps_to_the_screen() -> None:
    found = [session(id=f"0-{n}-1", rtt_ms=n) for n in range(100)]
    screen = lines(views.top(moment(5.0, 100, []), moment(7.0, 1100, found), NOW, 80, 24, "rtt"))
    assert len(screen) <= 24
    assert "up 500 packets/s" in screen[1]
    assert screen[-1].startswith("0-8") or screen[-1].startswith("0-9")
    again = lines(views.top(moment(7.0, 1100, []), moment(8.0, 0, found), NOW, 80, 24, "rtt"))
    assert "up 0 packets/s" in again[1]


# ---- an admin port that is none


def test_nobody_there(capsys: Capture) -> None:
    with listen(parse_address("127.0.0.1:0"), "--admin") as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    for words in (["status"], ["sessions"], ["top"], ["hangup", "0-0-1"]):
        status, _, err = run(capsys, *words, "--admin", address)
        mend = "start it, or name its address with --admin"
        assert (status, err) == (1, f"Error: {address}: no transceiver answers: Connection refused; {mend}\n")


def always(status: int, body: bytes) -> admin.Pages:
    def answer() -> admin.Answer:
        return status, "text/plain", body

    def act(_word: str) -> admin.Answer:
        return answer()

    return admin.Pages(
        {"/metrics": answer, "/readyz": answer, "/sessions": answer}, actions={"/sessions/*/hangup": act}
    )


@pytest.mark.parametrize(
    ("served", "says"),
    [
        (admin.Pages({}), "status 404 for /sessions"),
        (always(500, b""), "status 500 for /sessions"),
        (always(200, b"<html>"), "no JSON"),
        (always(200, b"{}"), "no list"),
        (always(200, b"[1]"), "no list"),
        (always(200, b"[{}]"), "no list"),
        (always(403, b""), "its own machine alone"),
    ],
)
def test_another_server(serve: Serve, served: admin.Pages, says: str) -> None:
    with pytest.raises(RuntimeFault, match=says):
        AdminClient(parse_address(serve(served))).sessions()


def test_another_protocol() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        with pytest.raises(RuntimeFault, match="no transceiver answers|no HTTP"):
            AdminClient(parse_address(f"127.0.0.1:{server.getsockname()[1]}")).sessions()
        thread.join(PATIENCE_S)


def test_a_wildcard_is_asked_on_loopback() -> None:
    assert str(AdminClient(parse_address("0.0.0.0:9465")).address) == "127.0.0.1:9465"
    assert str(AdminClient(parse_address("[::]:9465")).address) == "[::1]:9465"


def test_quantiles_are_bounds() -> None:
    text = "# TYPE x histogram\n" + "".join(
        f'x_bucket{{le="{bound}",worker="{worker}"}} {count}\n'
        for worker in (0, 1)
        for bound, count in (("0.1", 5), ("1.0", 9), ("+Inf", 10))
    )
    found = parse_metrics(text)
    assert [found.quantile(share, "x") for share in (0.5, 0.51, 0.9, 0.95)] == [0.1, 1.0, 1.0, float("inf")]
    assert Metrics([]).quantile(0.5, "x") is None
