"""A transceiver that drains, one that stands beside it, and one that was killed and is started again."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.support import free_port
from relay.runtime import keys
from tests.support.callers import CALLS, Callers
from tests.support.certificates import self_signed
from tests.support.faults import FULL, FULL_RUNS, kill_everything, under_load
from tests.support.live_peer import LivePeer, connection, run
from tests.support.peer import Peer
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

pytestmark = pytest.mark.native

PROXY = ("--trusted-proxies", "127.0.0.0/8")


def tool(program: Transceiver, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transceiver", *words, "--admin", program.admin]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def said(program: Transceiver, *words: str) -> list[str]:
    return [line for line in program.log().splitlines() if all(word in line for word in words)]


def post(program: Transceiver, path: str = CALLS) -> tuple[int, str | None]:
    """What an offer is answered, or a hangup, and when to try again."""
    with closing(http.client.HTTPConnection(*program.http, timeout=5)) as server:
        server.request("POST", path, Peer(("127.0.0.1", 1)).offer(), {"Content-Type": "application/sdp"})
        response = server.getresponse()
        response.read()
        return response.status, response.headers["Retry-After"]


def accepts(program: Transceiver) -> bool:
    """Whether it has a socket of --http in its loop: one more than those that are lent and kept."""
    pid = program.children()["ufrag-media-0"]
    return sum(each.laddr.port == program.http[1] for each in psutil.Process(pid).net_connections("tcp")) > 1


@contextmanager
def talking(stack: ExitStack, *programs: Transceiver) -> Iterator[list[LivePeer]]:
    """A call with each, set up."""
    peers = [stack.enter_context(LivePeer("127.0.0.1")) for _ in programs]
    for peer, program in zip(peers, programs, strict=True):
        with closing(connection(program.http)) as server:
            peer.begin(peer.ask(server), 1)
    assert run(peers, lambda: all(len(peer.peer.media.heard) > 5 for peer in peers), 5)
    yield peers


# ---- drain


def test_alone_it_refuses_calls_until_it_is_told_otherwise(key_file: Path) -> None:
    with Transceiver(key_file, advertise=["127.0.0.1:3478"], workers=2) as program:
        assert post(program)[0] == 201
        assert tool(program, "drain").returncode == 0
        assert program.status("/readyz") == 503
        status, retry_after = post(program)
        assert (status, retry_after) == (503, "2")
        assert "draining" in tool(program, "status").stdout
        assert tool(program, "undrain").returncode == 0
        assert program.status("/readyz") == 200
        assert post(program)[0] == 201
        program.process.send_signal(signal.SIGTERM)  # with calls that nobody checks
        until(lambda: program.status("/readyz") == 503)
        refused = tool(program, "undrain")
        assert (refused.returncode, "told to end" in refused.stderr) == (78, True)


def test_calls_end_at_the_end_of_the_time_and_say_so(relay: Relay) -> None:
    """With DTLS's close_notify, and a reason in the metrics."""
    with Transceiver(relay.key_file, advertise=[relay.target]) as program, ExitStack() as stack:
        with talking(stack, program) as (peer,):
            process = subprocess.Popen(
                [sys.executable, "-m", "transceiver", "drain", "--admin", program.admin, "--wait", "--timeout", "1"],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            until(lambda: program.status("/readyz") == 503)
            heard = len(peer.peer.media.heard)
            assert run([peer], lambda: peer.peer.dtls and peer.peer.dtls.state == "closed", 5)
            assert len(peer.peer.media.heard) > heard + 20  # it went on meanwhile
            assert process.communicate(timeout=10)[0] == "drained\n"
        assert program.ended() == {"drained": 1}


# ---- beside


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_change_of_transceivers_refuses_and_loses_no_request(key_file: Path, before: int, after: int) -> None:
    """A fixed internal port that the first has, and fewer or more processes afterwards."""
    internal = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    first = Transceiver(
        key_file,
        advertise=["127.0.0.1:3478"],
        workers=before,
        internal=internal,
        extra=(*PROXY, "--max-new-per-s=1000"),
    )
    with first:
        with Callers(first.http) as callers, first.beside("--workers", str(after)) as second:
            made = callers.made
            until(lambda: callers.made > made + 20)
            assert tool(first, "drain").returncode == 0
            until(lambda: callers.made > made + 60)
            first.check_books()
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(20) == 0
            until(lambda: callers.made > made + 100)
            assert said(second, "beside", f"pid={first.pid}")
            assert second.total("ufrag_transceiver_sessions_begun_total") > 40
            callers.stop()
        assert callers.failures == []
        assert set(callers.statuses) == {"call 201", "hangup 200"}, callers.statuses
        assert callers.kept > 20
        assert not said(first, "drain timed out")


def test_a_stall_of_the_other_one_is_not_its_end(key_file: Path) -> None:
    """What comes meanwhile waits for it, and is not refused by the one that drains."""
    first = Transceiver(key_file, advertise=["127.0.0.1:3478"], extra=(*PROXY, "--max-new-per-s=1000"))
    with first, Callers(first.http) as callers, first.beside() as second:
        assert tool(first, "drain", "--timeout", "1h").returncode == 0
        until(lambda: not accepts(first))
        process = psutil.Process(second.children()["ufrag-media-0"])
        process.suspend()
        time.sleep(1)
        process.resume()
        made = callers.made
        until(lambda: callers.made > made + 50)
        callers.stop()
        assert (callers.failures, set(callers.statuses)) == ([], {"call 201", "hangup 200"})


@pytest.mark.full
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_ten_changes_in_a_row(key_file: Path, tmp_path: Path, secure: bool) -> None:
    """Each by SIGTERM as soon as the next one is ready."""
    extra, context = [*PROXY, "--max-new-per-s=1000"], None
    if secure:
        cert, key = self_signed(tmp_path, "127.0.0.1")
        extra += ["--tls-cert", str(cert), "--tls-key", str(key)]
        context = ssl.create_default_context(cafile=cert)
    with ExitStack() as stack:
        program = Transceiver(key_file, advertise=["127.0.0.1:3478"], workers=2, extra=tuple(extra))
        stack.enter_context(program)
        callers = stack.enter_context(Callers(program.http, every_s=0.005, tls=context))
        for number in range(10):
            successor = stack.enter_context(program.beside("--workers", str(1 + number % 3)))
            program.process.send_signal(signal.SIGTERM)
            assert program.process.wait(20) == 0
            program = successor
        callers.stop()
        print(f"\n{callers.made} calls, {callers.kept} over a connection that was kept: {dict(callers.statuses)}")
        assert callers.failures == []
        assert set(callers.statuses) == {"call 201", "hangup 200"}


def test_a_call_of_the_one_that_drains_goes_on_and_is_hung_up_through_the_other(relay: Relay) -> None:
    """The session key, which this start has made for itself, goes with the sockets."""
    with Transceiver(relay.key_file, advertise=[relay.target]) as first, ExitStack() as stack:
        with talking(stack, first) as (peer,):
            second = stack.enter_context(first.beside())
            assert tool(first, "drain", "--timeout", "1h").returncode == 0
            until(lambda: not accepts(first))
            heard = len(peer.peer.media.heard)
            assert run([peer], lambda: len(peer.peer.media.heard) > heard + 10, 2)
            before = second.total("ufrag_transceiver_http_responses_total", status="2xx")
            assert post(first, f"{CALLS}/{peer.peer.call_id}/hangup")[0] == 200
            assert second.total("ufrag_transceiver_http_responses_total", status="2xx") == before + 1
            assert run([peer], lambda: peer.peer.dtls and peer.peer.dtls.state == "closed", 3)
        assert first.ended() == {"hangup": 1}


def test_where_the_other_one_ends_the_one_that_drains_is_asked_again(key_file: Path) -> None:
    with Transceiver(key_file, advertise=["127.0.0.1:3478"]) as first:
        with first.beside() as second:
            assert tool(first, "drain", "--timeout", "1h").returncode == 0
            begun = second.total("ufrag_transceiver_sessions_begun_total")
            assert [post(first)[0] for _ in range(5)] == [201] * 5
            assert second.total("ufrag_transceiver_sessions_begun_total") == begun + 5
        assert post(first)[0] == 503
        assert tool(first, "undrain").returncode == 0
        assert post(first)[0] == 201


def test_beside_nobody_it_starts_alone(key_file: Path) -> None:
    with Transceiver(key_file, advertise=["127.0.0.1:3478"], extra=("--beside",)) as program:
        assert said(program, "beside nobody")
        assert post(program)[0] == 201


# ---- killed


def kill_and_start_again(program: Transceiver, stack: ExitStack, *by: str) -> Transceiver:
    kill_everything(program)
    return stack.enter_context(program.again().by(*by))


def assert_gone(peer: LivePeer) -> None:
    """Its next check is answered, and by that alone."""
    (route,) = peer.peer.routes
    answers, route.next_check = route.answers, 0.0
    assert run([peer], lambda: route.errors, 3)
    assert (route.errors, route.answers) == ([403], answers)


@pytest.fixture
def edge(key_file: Path) -> Iterator[Relay]:
    with Relay(key_file, workers=2) as relay:
        yield relay


@pytest.fixture
def mortal(edge: Relay, tmp_path: Path) -> Transceiver:
    """With what it takes: a fixed --internal, and a session key."""
    session_key = tmp_path / "session.key"
    keys.create(session_key, keys.new_session_key())
    internal = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    extra = ("--session-key-file", str(session_key))
    return Transceiver(edge.key_file, advertise=[edge.target], internal=internal, extra=extra)


def test_clients_of_a_killed_transceiver_learn_it_with_their_next_check(edge: Relay, mortal: Transceiver) -> None:
    """A call with another transceiver loses nothing."""
    with ExitStack() as stack:
        other = stack.enter_context(Transceiver(edge.key_file, advertise=[edge.target]))
        stack.enter_context(mortal)
        with talking(stack, mortal, other) as (dead, living):
            heard, sent = len(living.peer.media.heard), living.peer.media.sent
            again = kill_and_start_again(mortal, stack)
            assert_gone(dead)
            with talking(stack, again) as (new,):
                assert new.peer.selected
            assert run([living], lambda: living.peer.media.sent > sent + 20, 3)
            assert run([living], lambda: len(living.peer.media.heard) == heard + living.peer.media.sent - sent, 2)
            numbers = [each.header.sequence for each in living.peer.media.heard]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.full
@pytest.mark.usefixtures("quiet_machine")
@pytest.mark.parametrize("attempt", range(FULL_RUNS))
def test_a_transceiver_is_killed_beside_a_thousand_flows(
    edge: Relay, mortal: Transceiver, tmp_path: Path, attempt: int
) -> None:
    with ExitStack() as stack:
        stack.enter_context(mortal)
        with talking(stack, mortal) as (dead,):
            with under_load("transceiver SIGKILL", edge.target, edge.key_file, FULL, tmp_path) as course:
                # Its start takes a CPU for a second, which is not what is tested here: it takes what others leave.
                again = kill_and_start_again(mortal, stack, "nice", "-n", "19")
                assert_gone(dead)
                with talking(stack, again) as (new,):
                    assert new.peer.selected
            course.assert_nothing_lost()
