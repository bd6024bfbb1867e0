"""Calls over a bad line between two hosts: set-ups under loss and jitter, clients whose address changes, two relays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.support.live_peer import LivePeer, connection, run
from tests.support.peer import SLOW_S
from tests.support.relays import Relay
from tests.support.transceivers import Transceiver
from tests.support.tun import BadLine, inside

pytestmark = pytest.mark.native

SETUPS, AT_A_TIME = 50, 10
SETUP_MOST_S = 5.0
DELAY_S, JITTER_S = 0.03, 0.01
RTT_S = 2 * (DELAY_S + JITTER_S)
FRAME_S = 0.02
SLACK_S = 0.1  # a busy machine


@contextmanager
def service(line: BadLine, key_file: Path, ports: tuple[int, ...] = (3478,)) -> Iterator[Transceiver]:
    """Relays and a transceiver at the server's end."""
    with ExitStack() as stack:
        listen = [f"{line.SERVER}:{port}" for port in ports]
        for each in listen:
            stack.enter_context(Relay(key_file, listen=[each], netns=line.server))
        yield stack.enter_context(
            Transceiver(
                key_file, advertise=listen, http_host=line.SERVER, extra=("--no-auth",), netns=line.server
            )
        )


def call(stack: ExitStack, line: BadLine, program: Transceiver, count: int = 1) -> list[LivePeer]:
    """Peers at the client's end, whose calls begin now."""
    with inside(line.client):
        peers = [stack.enter_context(LivePeer(line.CLIENT)) for _ in range(count)]
        with closing(connection(program.http)) as server:
            answers = [peer.ask(server) for peer in peers]
    for peer, answer in zip(peers, answers, strict=True):
        peer.begin(answer)
    return peers


def all_heard(peers: list[LivePeer]) -> bool:
    return all(peer.peer.media.heard for peer in peers)


def test_set_ups_at_ten_percent_loss(key_file: Path) -> None:
    took: list[float] = []
    with (
        BadLine(loss=0.1, delay_s=DELAY_S, jitter_s=JITTER_S) as line,
        service(line, key_file) as program,
    ):
        for _ in range(SETUPS // AT_A_TIME):
            with ExitStack() as stack:
                peers = call(stack, line, program, AT_A_TIME)
                run(peers, lambda peers=peers: all_heard(peers), 2 * SETUP_MOST_S)
                took += [peer.setup_s() for peer in peers if peer.peer.media.heard]
        lost = line.line.lost / line.line.sent
    took.sort()
    middle, late, last = (took[int(len(took) * part)] for part in (0.5, 0.98, 0.999))
    print(
        f"\n{len(took)} of {SETUPS} set up, {100 * lost:.1f} % of {line.line.sent} packets lost: "
        f"p50 {middle:.2f} s, p98 {late:.2f} s, max {last:.2f} s"
    )
    assert len(took) == SETUPS
    assert last < SETUP_MOST_S


@pytest.mark.parametrize(
    ("knows", "bound_s"),
    [
        # Its check, our request and its answer, our audio: two round trips.
        pytest.param(True, 2 * RTT_S, id="known"),
        pytest.param(False, SLOW_S + 2 * RTT_S, id="unknown"),
    ],
)
def test_a_client_that_moves_hears_again(key_file: Path, knows: bool, bound_s: float) -> None:
    """A client that knows checks at once; one behind a NAT that re-binds when its next check is due."""
    other = "10.99.0.77"
    with (
        BadLine(delay_s=DELAY_S, jitter_s=JITTER_S) as line,
        service(line, key_file) as program,
        ExitStack() as stack,
    ):
        line.add_address(line.client, other)
        peers = call(stack, line, program)
        (peer,) = peers
        assert run(peers, lambda: len(peer.peer.media.heard) > 20, SETUP_MOST_S)
        with inside(line.client):
            moved = peer.move(other, knows=knows)
        assert run(peers, lambda: peer.heard_after(moved), 2 * SLOW_S)
        silent = peer.heard_after(moved)
        assert silent is not None
        print(f"\nmoved: heard again after {silent * 1e3:.0f} ms")
        assert silent < bound_s + FRAME_S + SLACK_S
        assert run(peers, lambda: peer.peer.media.heard[-1].at > moved + silent + 0.5, SLOW_S)
        (session,) = program.sessions()
        assert session["client"].startswith(f"{other}:")


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.full)])
def test_media_stays_where_the_client_puts_it(key_file: Path, seconds: int) -> None:
    """Two relays are checked all the time; audio comes back by the one that it was sent to, before and after the client
    changes its mind, however late packets of the other way come in."""
    with (
        BadLine(loss=0.02, delay_s=DELAY_S, jitter_s=JITTER_S, seed=2) as line,
        service(line, key_file, (3478, 3479)) as program,
        ExitStack() as stack,
    ):
        peers = call(stack, line, program)
        (live,) = peers
        peer = live.peer
        assert run(peers, lambda: peer.media.heard and all(route.answers for route in peer.routes), SETUP_MOST_S)
        for route in (*peer.routes, *reversed(peer.routes)):
            peer.selected = route
            asked = time.monotonic()
            run(peers, lambda: False, seconds / 4)
            settled = asked + RTT_S + FRAME_S + SLACK_S
            ways = Counter(heard.route.relay for heard in peer.media.heard if heard.at > settled)
            expected = (seconds / 4 - (settled - asked)) / FRAME_S
            print(f"\naudio to {route.relay}: {dict(ways)}")
            assert list(ways) == [route.relay]
            assert ways[route.relay] > 0.9 * expected
        assert all(route.answers >= 1 + seconds // 5 for route in peer.routes)
