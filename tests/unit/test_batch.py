"""Batches and their successor: a worker killed anywhere in a batch loses nothing, and counts each packet once.

`take_up` stops where a worker is killed after receiving, `mark_sent` in the middle of sending; a second Relay on the
same slot is the successor. The last tests give a Forwarder real sockets on loopback: resumption as a worker does it,
and errors of sending.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from _fastpath._testing import Harness
from _fastpath.slot import Slot
from tests.support.harness import (
    BOUND,
    CLIENT,
    LOCAL,
    MOST,
    OWNER,
    SECRET,
    STRANGER,
    WILDCARD,
    Relay,
    Settings,
    Sockets,
    UpPacket,
    assert_books_balance,
    memory_of,
    token,
)
from tests.support.oracle import Address
from tests.support.packets import RTP, answer, check, framed

MAX_FLOWS = 1000


def clients(count: int) -> list[Address]:
    return [("198.51.100.7", 1000 + number) for number in range(count)]


def checks(count: int) -> list[UpPacket]:
    return [(each, LOCAL, check(token(serial=each[1]))) for each in clients(count)]


def relay_with_flows(count: int) -> Relay:
    relay = Relay(Settings(max_flows=MAX_FLOWS))
    assert all(verdict == "opened" for verdict, _ in relay.up_all(checks(count)))
    return relay


def successor_of(relay: Relay) -> Relay:
    return Relay(relay.settings, relay.slot)


def gained(relay: Relay, before: dict[str, int]) -> dict[str, int]:
    return {
        name: value - before.get(name, 0) for name, value in relay.counted().items() if value != before.get(name, 0)
    }


# --- sizes ---


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 511, 512])
def test_a_batch_is_counted_by_its_size(count: int) -> None:
    relay = relay_with_flows(1)
    before = relay.slot.counters()
    relay.up_all([(clients(1)[0], LOCAL, RTP)] * count)
    after = relay.slot.counters()
    bound = next(1 << power for power in range(10) if count <= 1 << power)
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {
        "up_media": count,
        "packets_up": count,
        "bytes_up": 172 * count,
        "batches": 1,
        f"batch_le_{bound}": 1,
    }


def test_bytes_are_payload_bytes_in_both_directions() -> None:
    """Dropped packets count too; the envelope does not; of a truncated one counts what was kept."""
    relay = relay_with_flows(1)
    before = relay.counted()
    who = clients(1)[0]
    relay.up_all([(who, LOCAL, RTP), (who, LOCAL, b""), (STRANGER, LOCAL, RTP), (who, LOCAL, bytes(MOST + 100))])
    frames = [framed(who, LOCAL, RTP), framed(who, LOCAL, b""), b"", b"x" * 37, bytes(MOST + 100)]
    relay.down_all([(OWNER, frame) for frame in frames])
    grown = gained(relay, before)
    assert grown["bytes_up"] == 172 + 0 + 172 + MOST
    assert grown["bytes_down"] == 172 + 0 + 0 + 0 + MOST - 38


def test_order_is_kept_within_a_batch() -> None:
    relay = relay_with_flows(3)
    packets = [(clients(3)[n % 3], LOCAL, b"\x80" + bytes([n]) * 11) for n in range(100)]
    results = relay.up_all(packets)
    assert [sent and sent[1] for _, sent in results] == [framed(who, local, data) for who, local, data in packets]


# --- killed after receiving ---


@pytest.mark.parametrize("count", [1, 2, 100, 512])
def test_killed_after_receiving_the_successor_forwards_all(count: int) -> None:
    relay = relay_with_flows(count)
    before = relay.counted()
    packets = [(who, LOCAL, RTP) for who in clients(count)]
    relay.harness.take_up(packets)
    successor = successor_of(relay)
    assert successor.harness.resumed() == count
    assert successor.harness.step_up(WILDCARD) == [
        ("media", (OWNER, framed(who, local, data))) for who, local, data in packets
    ]
    assert gained(successor, before) == {"up_media": count, "packets_up": count, "bytes_up": 172 * count}
    assert_books_balance(successor.slot)
    assert successor_of(successor).harness.resumed() == 0


def test_killed_after_receiving_checks_the_successor_opens_their_flows() -> None:
    relay = Relay()
    relay.harness.take_up([(CLIENT, LOCAL, check(token()))], WILDCARD)
    successor = successor_of(relay)
    assert [verdict for verdict, _ in successor.harness.step_up(WILDCARD)] == ["opened"]
    assert successor.flow() is not None


def test_killed_after_receiving_down() -> None:
    relay = relay_with_flows(3)
    before = relay.counted()
    relay.harness.take_down([(OWNER, framed(who, LOCAL, answer())) for who in clients(3)] + [(OWNER, b"junk")])
    successor = successor_of(relay)
    assert successor.harness.resumed() == 4
    expected = [("established", (WILDCARD, who, LOCAL[0], answer())) for who in clients(3)]
    assert successor.harness.step_down() == [*expected, ("bad_envelope", None)]
    assert gained(successor, before)["packets_down"] == 4
    assert_books_balance(successor.slot)


def test_the_bound_sockets_batch_is_resumed_as_its_own() -> None:
    relay = Relay()
    relay.harness.take_up([(CLIENT, LOCAL, check(token()))], BOUND)
    [(verdict, sent)] = successor_of(relay).harness.step_up(BOUND)
    assert sent is not None
    assert (verdict, sent[1][:38]) == ("opened", framed(CLIENT, ("192.0.2.9", 3479), b""))


# --- killed while sending ---


@pytest.mark.parametrize("sent", [0, 1, 7, 9, 10])
def test_killed_while_sending_the_successor_sends_exactly_the_rest(sent: int) -> None:
    relay = relay_with_flows(10)
    before = relay.counted()
    packets = [(who, LOCAL, RTP) for who in clients(10)]
    relay.harness.take_up(packets)
    relay.harness.mark_sent(sent)
    assert gained(relay, before) == {}
    successor = successor_of(relay)
    assert successor.harness.resumed() == 10
    results = successor.harness.step_up(WILDCARD)
    rest = [("media", (OWNER, framed(who, local, data))) for who, local, data in packets[sent:]]
    assert results == [("media", None)] * sent + rest
    assert gained(successor, before) == {"up_media": 10, "packets_up": 10, "bytes_up": 1720}


def test_what_was_dropped_before_the_kill_stays_dropped() -> None:
    relay = relay_with_flows(2)
    before = relay.counted()
    first, second = clients(2)
    relay.harness.take_up([(first, LOCAL, RTP), (STRANGER, LOCAL, RTP), (second, LOCAL, b""), (second, LOCAL, RTP)])
    relay.harness.mark_sent(1)
    results = successor_of(relay).harness.step_up(WILDCARD)
    assert [verdict for verdict, _ in results] == ["media", "no_flow", "too_short", "media"]
    assert [sent is not None for _, sent in results] == [False, False, False, True]
    expected = {"up_media": 2, "up_no_flow": 1, "up_too_short": 1, "packets_up": 4, "bytes_up": 172 * 3}
    assert gained(relay, before) == expected


def test_killed_again_and_again_in_one_batch() -> None:
    relay = relay_with_flows(10)
    before = relay.counted()
    relay.harness.take_up([(who, LOCAL, RTP) for who in clients(10)])
    for _ in range(3):
        relay.harness.mark_sent(2)
        relay = successor_of(relay)
        assert relay.harness.resumed() == 10
    results = relay.harness.step_up(WILDCARD)
    assert [sent is not None for _, sent in results] == [False] * 6 + [True] * 4
    assert gained(relay, before) == {"up_media": 10, "packets_up": 10, "bytes_up": 1720}


# --- killed around the commit ---


def test_killed_after_the_commit_nothing_is_sent_again() -> None:
    relay = relay_with_flows(5)
    before = relay.counted()
    successor = successor_of(relay)
    assert successor.harness.resumed() == 0
    assert successor.harness.step_up(WILDCARD) == []
    assert gained(successor, before) == {}


def test_killed_within_the_commit_after_counting() -> None:
    """The counters are switched but the arena is not cleared yet: the batch is over all the same."""
    memory = memory_of(64)
    relay = Relay(slot=Slot.create(memory, 64, SECRET))
    relay.up(check(token()))
    batch_at = int.from_bytes(memory[48:56], "little")
    memory[batch_at + 8] = 1  # stage: open
    received_at = batch_at + 4096
    memory[received_at + 56 : received_at + 60] = (72).to_bytes(4, "little")  # msg_len of the first
    before = relay.counted()
    successor = successor_of(relay)
    assert successor.harness.resumed() == 0
    assert successor.up(RTP)[0] == "media"
    assert gained(successor, before) == {"up_media": 1, "packets_up": 1, "bytes_up": 172}


def test_killed_before_anything_was_received() -> None:
    memory = memory_of(64)
    relay = Relay(slot=Slot.create(memory, 64, SECRET))
    relay.up(check(token()))
    batch_at = int.from_bytes(memory[48:56], "little")
    memory[batch_at] += 1  # the number of a new batch
    memory[batch_at + 8] = 1
    successor = successor_of(relay)
    assert successor.harness.resumed() == 0
    assert successor.up(RTP)[0] == "media"


# --- with real sockets ---


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.mark.native
def test_a_worker_finishes_its_predecessors_batch_and_stops(sockets: Sockets) -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    owner = sockets.owner.getsockname()
    packets = [(who, LOCAL, check(token(owner, who[1]))) for who in clients(5)]
    Harness(sockets.worker(slot)).take_up(packets)
    slot.stopping = True
    assert sockets.worker(slot).run() == "stopped"
    assert sockets.arrived() == [framed(who, sockets.local, data) for who, _, data in packets]
    assert slot.events()["batches_resumed"] == 1
    assert slot.counters()["up_opened"] == 5
    assert_books_balance(slot)
    assert sockets.worker(slot).run() == "stopped"
    assert sockets.arrived() == []
    assert slot.events()["batches_resumed"] == 1


def resumes_of(memory: mmap.mmap) -> memoryview:
    """The word in the batch state."""
    at = int.from_bytes(memory[48:56], "little") + 20
    return memoryview(memory)[at : at + 4]


@pytest.mark.native
@pytest.mark.parametrize("killed", [0, 1, 2, 3])
def test_a_batch_that_kills_workers_is_given_up_by_the_third_successor(sockets: Sockets, killed: int) -> None:
    """What has a verdict keeps it, the others are abandoned; both are counted."""
    slot = Slot.create(memory_of(64), 64, SECRET)
    packets = [(who, LOCAL, check(token(sockets.owner.getsockname(), who[1]))) for who in clients(5)]
    worker = Harness(sockets.worker(slot))
    worker.take_up(packets)
    worker.mark_sent(2)
    for _ in range(killed):
        Harness(sockets.worker(slot))
    slot.stopping = True
    assert sockets.worker(slot).run() == "stopped"
    sent = packets[2:] if killed < 2 else []
    assert sockets.arrived() == [framed(who, sockets.local, data) for who, _, data in sent]
    counters = slot.counters()
    assert counters["up_opened"] + counters["up_check"] == 2 + len(sent)
    assert (counters["up_abandoned"], counters["packets_up"]) == (3 - len(sent), 5)
    assert counters["bytes_up"] == sum(len(data) for _, _, data in packets)
    assert_books_balance(slot)


@pytest.mark.native
def test_a_batch_down_that_kills_workers_is_given_up_too(sockets: Sockets) -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    relay = Harness(sockets.worker(slot))
    here = sockets.owner.getsockname()
    assert relay.open(here, sockets.local, OWNER, 1)
    relay.take_down([(OWNER, framed(here, sockets.local, RTP)), (OWNER, b"junk")])
    for _ in range(2):
        Harness(sockets.worker(slot))
    slot.stopping = True
    sockets.worker(slot).run()
    assert sockets.arrived() == []
    expected = {"down_abandoned": 2, "packets_down": 2, "bytes_down": len(RTP)}
    assert {name: slot.counters()[name] for name in expected} == expected
    assert_books_balance(slot)


@pytest.mark.native
def test_a_batch_received_anew_has_killed_nobody(sockets: Sockets) -> None:
    slot = Slot.create(memory := memory_of(64), 64, SECRET)
    for _ in range(5):
        Harness(sockets.worker(slot))
    worker = threading.Thread(target=sockets.worker(slot).run)
    sockets.owner.sendto(b"x", sockets.local)
    worker.start()
    while slot.counters()["packets_up"] == 0:
        assert worker.is_alive()
    slot.stopping = True
    os.eventfd_write(sockets.wake, 1)
    worker.join()
    assert slot.counters()["up_abandoned"] == 0
    assert bytes(resumes_of(memory)) == bytes(4)


@pytest.mark.native
def test_a_worker_of_an_earlier_epoch_stops(sockets: Sockets) -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    worker = sockets.worker(slot)
    assert slot.next_epoch() == 2
    assert worker.run() == "superseded"
    slot.stopping = True
    assert sockets.worker(slot).run() == "stopped"


@pytest.mark.native
def test_a_send_that_fails_costs_its_own_packet_only(sockets: Sockets) -> None:
    """An owner at the broadcast address is refused by the kernel (EACCES); those before and behind it are sent."""
    slot = Slot.create(memory_of(64), 64, SECRET)
    owner, nobody = sockets.owner.getsockname(), ("127.255.255.255", 9)
    owners = [owner, nobody, owner, nobody, nobody, owner]
    packets = [(who, LOCAL, check(token(to, who[1]))) for who, to in zip(clients(6), owners, strict=True)]
    Harness(sockets.worker(slot)).take_up(packets)
    slot.stopping = True
    sockets.worker(slot).run()
    assert sockets.arrived() == [framed(packets[n][0], sockets.local, packets[n][2]) for n in (0, 2, 5)]
    counters = slot.counters()
    assert (counters["up_opened"], counters["up_send_refused"]) == (3, 3)
    assert_books_balance(slot)


@pytest.mark.native
def test_a_send_down_that_fails_costs_its_own_packet_only(sockets: Sockets) -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    relay = Harness(sockets.worker(slot))
    here, nobody = sockets.owner.getsockname(), ("127.255.255.255", 9)
    for client in (here, nobody):
        assert relay.open(client, sockets.local, OWNER, client[1])
    relay.take_down([(OWNER, framed(client, sockets.local, RTP)) for client in (here, nobody, here)])
    slot.stopping = True
    sockets.worker(slot).run()
    assert sockets.arrived() == [RTP, RTP]
    counters = slot.counters()
    assert (counters["down_media"], counters["down_send_refused"]) == (2, 1)
    assert_books_balance(slot)


FLOOD = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(("127.0.0.1", int(sys.argv[1])))
while True:
    sender.send(b"x")
"""


@pytest.mark.native
def test_counters_read_while_a_worker_counts_are_of_one_batch(sockets: Sockets) -> None:
    """A reader may be slower than two commits: the block it reads is then written again under it."""
    slot = Slot.create(memory_of(64), 64, SECRET)
    worker = threading.Thread(target=sockets.worker(slot).run)
    worker.start()
    flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(sockets.local[1])])
    try:
        while slot.counters()["packets_up"] == 0:
            assert flood.poll() is None
        for _ in range(60_000):
            assert_books_balance(slot)
    finally:
        flood.kill()
        flood.wait()
        slot.stopping = True
        os.eventfd_write(sockets.wake, 1)
        worker.join()
