"""Packets on hold in a worker that runs: what is to leave or to be asked does not wait for something else to happen."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from _fastpath.forward import Forwarder
from _fastpath.slot import Slot
from tests.support.harness import SECRET, Sockets, memory_of, token
from tests.support.packets import RTP, check
from tests.support.relays import until

pytestmark = pytest.mark.native

TRIES = 5  # of which the quickest counts: the machine may be busy
SOON_S = 0.008  # a worker with packets on hold sleeps for 31 ms where nothing comes


@contextmanager
def running(slot: Slot, sockets: Sockets) -> Iterator[Forwarder]:
    forwarder = sockets.worker(slot, cache=True)
    thread = threading.Thread(target=forwarder.run, daemon=True)
    thread.start()
    until(lambda: forwarder.writes)
    yield forwarder
    slot.stopping = True
    os.eventfd_write(sockets.wake, 1)
    thread.join(5)
    slot.stopping = False


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


def hold_one(forwarder: Forwarder, sockets: Sockets, client: socket.socket) -> None:
    """A packet of a flow that nobody knows, and it was asked for."""
    client.sendto(RTP, sockets.local)
    assert select.select([forwarder.asks_fd], [], [], 5)[0]
    assert len(forwarder.take_asks(9)) == 1


def test_a_check_leaves_at_once_with_what_it_has_waited_for(sockets: Sockets) -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    times = []
    with running(slot, sockets) as forwarder:
        for serial in range(1, TRIES + 1):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                hold_one(forwarder, sockets, client)
                began_s = time.monotonic()
                client.sendto(check(token(sockets.owner.getsockname(), serial)), sockets.local)
                assert select.select([sockets.owner], [], [], 5)[0]
                times.append(time.monotonic() - began_s)
                until(lambda serial=serial: slot.counters()["packets_up"] == 2 * serial)  # type: ignore[misc]
                assert len(sockets.arrived()) == 2
    assert min(times) < SOON_S, times


def test_a_successor_asks_at_once_for_what_waits(sockets: Sockets) -> None:
    slot = Slot.create(memory_of(64), 64, SECRET)
    times = []
    for _ in range(TRIES):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            with running(slot, sockets) as forwarder:
                hold_one(forwarder, sockets, client)
            slot.next_epoch()
            with running(slot, sockets) as forwarder:
                began_s = time.monotonic()
                assert select.select([forwarder.asks_fd], [], [], 5)[0]
                times.append(time.monotonic() - began_s)
                (ask,) = forwarder.take_asks(9)
                assert forwarder.answer(ask.key, None)
                until(lambda: slot.held()["packets"] == 0)
            slot.next_epoch()
    assert min(times) < SOON_S, times
