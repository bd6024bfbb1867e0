"""What the relay is for: every packet to its owner and back to its client, unchanged; and nothing lost when a
worker dies."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.support import Echo, Generator, Result, mint_tokens, write_tokens
from tests.support.relays import Relay, until

pytestmark = pytest.mark.usefixtures("quiet_machine")

LOSS_ALLOWED = 0.0001


def assert_whole(result: Result) -> None:
    """Nothing damaged, doubled or sent to another client."""
    assert result["received"] + result["lost"] == result["sent"]
    assert (result["corrupted"], result["misdirected"], result["foreign"]) == (0, 0, 0)


def test_a_thousand_flows_to_three_owners(key_file: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        owners = [stack.enter_context(Echo(index)) for index in range(3)]
        relay = stack.enter_context(Relay(key_file, workers=2, cpus="auto"))
        tokens = write_tokens(tmp_path / "tokens", mint_tokens(key_file, [owner.address for owner in owners], 999))
        result = Generator(relay.target, tokens, flows=1000, rate=50_000, seconds=4, size=160, owners=3).run()
        assert_whole(result)
        assert result["sent"] >= 190_000
        assert result["lost"] <= LOSS_ALLOWED * result["sent"]
        assert relay.total("ufrag_relay_flows", state="established") == 1000
        assert relay.total("ufrag_relay_tokens_total", result="verified", key_id="0") == 1000
        relay.check_books()
    for owner in owners:
        counted = owner.result
        assert counted["packets"] > 50_000
        assert counted["misrouted"] == 0
        assert counted["bad_headers"] == 0


def test_killed_workers_lose_nothing(key_file: Path, tmp_path: Path) -> None:
    """SIGKILL ten times at 20,000 packets/s, on whichever worker carries flows: sockets, table and the batch under
    way outlive it."""
    with ExitStack() as stack:
        owner = stack.enter_context(Echo(0))
        relay = stack.enter_context(Relay(key_file, workers=2, cpus="auto"))
        tokens = write_tokens(tmp_path / "tokens", mint_tokens(key_file, [owner.address], 500))
        # A life below a second counts as a crash: after two in a row the next worker comes later, and buffers overflow.
        generator = Generator(relay.target, tokens, flows=500, rate=20_000, seconds=8, live=True, live_every=1.25)
        killed = []
        with generator:
            for line, _ in enumerate(generator.seconds()):
                if line < 5:
                    killed += [kill_and_wait(relay, index) for index in (0, 1)]
            result = generator.result
        assert len(killed) == 10
        assert_whole(result)
        assert result["lost"] == 0
        assert relay.total("ufrag_relay_worker_restarts_total") == 10
        assert relay.total("ufrag_relay_flows_moved_total") == 0
        assert relay.total("ufrag_relay_flows", state="established") == 500
        assert relay.total("ufrag_relay_socket_drops_total") == 0
        # The books: each packet was counted once or, killed between send and commit, sent twice; none is missing.
        assert relay.total("ufrag_relay_packets_total", direction="up") >= result["sent"]
    assert owner.result["misrouted"] == 0


def kill_and_wait(relay: Relay, index: int) -> int:
    """Kills a worker and waits until its successor is there."""
    pid = relay.kill_worker(index)
    until(lambda: pid not in relay.worker_pids() and len(relay.worker_pids()) == 2)
    return pid
