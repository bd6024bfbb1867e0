"""Fuzz target: what a peer sends on an established association, chunks with the checksum and tag they must have.

The input is packets, each with its length (2 bytes) before it and without the 12 bytes of the common header.
"""

from __future__ import annotations

import asyncio
import atexit
from itertools import islice

from tests.support.sctp_puppet import Puppet
from tests.support.virtual_loop import VirtualLoop
from transceiver import sctp_inbound

LOOP = VirtualLoop()
atexit.register(LOOP.close)


async def play(data: bytes) -> None:
    puppet = Puppet().join()
    association = puppet.ours.channels._association
    while len(data) >= 2 and puppet.ours.channels.state == "connected":
        size = int.from_bytes(data[:2], "big")
        puppet.say(data[2 : 2 + size], tag=0 if data[2:3] == b"\1" else None)
        data = data[2 + size :]
        assert len(association._inbound_streams) <= sctp_inbound.MAX_STREAMS
    assert puppet.ours.channels.failure in ("", "the peer never completes its messages")
    for channel in islice(puppet.ours.opened, 5):
        channel.close()
    puppet.ours.channels.close()


def one(data: bytes) -> None:
    LOOP.run_until_complete(play(data))
    LOOP.run_until_complete(asyncio.sleep(0))
    assert LOOP.timers() == 0
