"""Calls over a bad line between two hosts: set-ups under loss and jitter, clients whose address changes, two relays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest

from benchmarks.support import write_key_file
from tests.support.browser import Browser, Caller
from tests.support.live_peer import LivePeer, connection, run
from tests.support.netns import inside
from tests.support.peer import SLOW_S
from tests.support.relays import Relay
from tests.support.transceivers import Transceiver
from tests.support.tun import BadLine

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

DELAY_S, JITTER_S = 0.03, 0.01
RTT_S = 2 * (DELAY_S + JITTER_S)  # at most
SETUP_LOSS = 0.1
SETUP_MOST_S = 5.0
AT_A_TIME = 25
FRAME_S = 0.02
SLACK_S = 0.1  # a busy machine
RELAYS = (3478, 3479)


class Far(NamedTuple):
    """A transceiver behind two relays, at the other end of a bad line."""

    line: BadLine
    program: Transceiver

    def call(self, stack: ExitStack, count: int = 1, relays: int = 1) -> list[LivePeer]:
        """Peers whose calls begin now."""
        with inside(self.line.client):
            peers = [stack.enter_context(LivePeer(self.line.CLIENT)) for _ in range(count)]
            with closing(connection(self.program.http)) as server:
                answers = [peer.ask(server) for peer in peers]
        for peer, answer in zip(peers, answers, strict=True):
            peer.begin(answer, relays)
        return peers


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    key_file = write_key_file(tmp_path_factory.mktemp("keys") / "route.key")
    with ExitStack() as stack:
        line = stack.enter_context(BadLine(delay_s=DELAY_S, jitter_s=JITTER_S))
        listen = [f"{line.SERVER}:{port}" for port in RELAYS]
        for each in listen:
            stack.enter_context(Relay(key_file, listen=[each], netns=line.server))
        program = Transceiver(
            key_file, advertise=listen, http_host=line.SERVER, extra=("--no-auth",), netns=line.server
        )
        yield Far(line, stack.enter_context(program))


# ---- set-ups


def tell(took: list[float], tries: int, line: BadLine) -> None:
    took.sort()
    middle, late, last = (took[int(len(took) * part)] for part in (0.5, 0.98, 0.9999))
    lost = 100 * line.line.lost / line.line.sent
    print(f"\n{len(took)} of {tries} set up, {lost:.1f} % of {line.line.sent} packets lost: "
          f"p50 {middle:.2f} s, p98 {late:.2f} s, max {last:.2f} s")  # fmt: skip


@pytest.mark.parametrize("setups", [50, pytest.param(500, marks=pytest.mark.full)])
def test_set_ups_at_ten_percent_loss(far: Far, setups: int) -> None:
    """From the offer to the first audio that came back."""
    far.line.becomes(loss=SETUP_LOSS, seed=setups)
    took: list[float] = []
    for _ in range(setups // AT_A_TIME):
        with ExitStack() as stack:
            took += set_ups(far.call(stack, AT_A_TIME))
    tell(took, setups, far.line)
    assert len(took) == setups
    assert took[-1] < SETUP_MOST_S


def set_ups(peers: list[LivePeer]) -> list[float]:
    """What those took that came about."""
    run(peers, lambda: all(peer.peer.media.heard for peer in peers), 2 * SETUP_MOST_S)
    return [peer.setup_s() for peer in peers if peer.peer.media.heard]


@pytest.mark.full
def test_set_ups_of_chromium_at_ten_percent_loss(far: Far) -> None:
    """From the offer to `connected`."""
    far.line.becomes(loss=SETUP_LOSS, seed=3)
    host, port = far.program.http
    setups = 50
    with Browser(netns=far.line.client, host=host, port=port) as browser, browser.caller(far.program.url) as caller:
        took = [seconds_to_connect(caller) for _ in range(setups)]
    tell(took, setups, far.line)
    assert took[-1] < SETUP_MOST_S


def seconds_to_connect(caller: Caller) -> float:
    call = caller.call()
    call.start()
    call.connected(2 * SETUP_MOST_S)
    call.heard()
    call.close()
    return call.event("connection", "connected") - call.event("offer")


# ---- addresses


@pytest.mark.parametrize(
    ("knows", "bound_s"),
    [
        # Its check, our request and its answer, our audio: two round trips.
        pytest.param(True, 2 * RTT_S, id="known"),
        pytest.param(False, SLOW_S + RTT_S, id="unknown"),
    ],
)
def test_a_client_that_moves_hears_again(far: Far, knows: bool, bound_s: float) -> None:
    """A client that knows checks at once; one behind a NAT that re-binds when its next check is due."""
    other = f"10.99.0.{100 + knows}"
    far.line.becomes(loss=0, seed=4)
    far.line.add_address(far.line.client, other)
    with ExitStack() as stack:
        (live,) = peers = far.call(stack)
        heard = live.peer.media.heard
        assert run(peers, lambda: len(heard) > 20, SETUP_MOST_S)
        with inside(far.line.client):
            moved = live.move(other, knows=knows)
        assert run(peers, lambda: live.heard_after(moved), 2 * SLOW_S)
        silent = live.heard_after(moved)
        assert silent is not None
        print(f"\nmoved: heard again after {silent * 1e3:.0f} ms")
        assert silent < bound_s + FRAME_S + SLACK_S
        count = len(heard)
        assert run(peers, lambda: len(heard) > count + 20, SLOW_S)
        assert [each["client"] for each in far.program.sessions() if each["client"].startswith(f"{other}:")]


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.full)])
def test_media_stays_where_the_client_puts_it(far: Far, seconds: int) -> None:
    """Two relays are checked all the time; audio comes back by the one that it was sent to, before and after the client
    changes its mind, however late packets of the other way come in."""
    far.line.becomes(loss=0.02, seed=5)
    with ExitStack() as stack:
        (live,) = peers = far.call(stack, relays=len(RELAYS))
        peer, heard = live.peer, live.peer.media.heard
        assert run(peers, lambda: heard and all(route.answers for route in peer.routes), SETUP_MOST_S)
        for route in (*peer.routes, *reversed(peer.routes)):
            peer.selected = route
            settled = time.monotonic() + RTT_S + FRAME_S + SLACK_S
            run(peers, lambda: False, seconds / 4)
            ways = Counter(each.route.relay for each in heard if each.at > settled)
            print(f"\naudio to {route.relay}: {dict(ways)}")
            assert list(ways) == [route.relay]
            assert ways[route.relay] > 0.85 * (time.monotonic() - settled) / FRAME_S
        assert all(route.answers >= 1 + seconds // 5 for route in peer.routes)
