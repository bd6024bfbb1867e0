"""What the associations of a process hold together is bounded: who holds much is cut off, who holds little goes on."""

from __future__ import annotations

import asyncio

from tests.support.sctp_puppet import FIRST, Puppet, sack
from tests.support.virtual_loop import run
from transceiver.sctp_budget import PROCESS, Budget

PIECE = 1000
MOST, SPARED = 100 * PIECE, 10 * PIECE
CUT_OFF = "this server holds too much for its peers"


def hoard(puppet: Puppet, pieces: int) -> None:
    """Fragments of a message that is never complete."""
    for number in range(pieces):
        puppet.tell(bytes(PIECE), sequence=1, flags=0 if number else FIRST)


async def leave(*puppets: Puppet) -> None:
    for puppet in puppets:
        puppet.ours.channels.close()
        puppet.say(sack(puppet.their_tsn + 1000))
    await asyncio.sleep(0)


def joined(budget: Budget) -> Puppet:
    puppet = Puppet(budget=budget).join()
    puppet.open()
    puppet.say(sack(puppet.their_tsn))
    return puppet


def test_beyond_the_budget_who_holds_much_is_cut_off_and_who_holds_little_goes_on() -> None:
    async def play() -> None:
        budget = Budget(MOST, SPARED)
        modest, *greedy = (joined(budget) for _ in range(4))
        hoard(modest, 9)
        hoard(greedy[0], 50)
        hoard(greedy[1], 40)
        assert budget.held_bytes == 99 * PIECE
        hoard(greedy[2], 11)  # the eleventh is one too many for the process, and more than little
        assert [each.ours.channels.failure for each in greedy] == ["", "", CUT_OFF]
        assert budget.held_bytes == 99 * PIECE  # what it held is free again
        hoard(greedy[0], 2)
        assert greedy[0].ours.channels.failure == CUT_OFF
        assert modest.is_served()
        assert modest.ours.channels.failure == ""
        await leave(modest, greedy[1])
        assert budget.held_bytes == 0

    run(play())


def test_what_waits_for_a_peer_that_acknowledges_nothing_counts_too() -> None:
    async def play() -> None:
        budget = Budget(MOST, SPARED)
        puppet = joined(budget)
        channel = puppet.ours.opened[0]
        sent = 0
        while channel.state == "open" and sent < 2 * MOST:
            channel.send(bytes(PIECE))
            sent += PIECE
        assert puppet.ours.channels.failure == CUT_OFF
        assert MOST <= sent <= MOST + 2 * PIECE
        assert budget.held_bytes == 0
        await leave(puppet)

    run(play())


def test_every_association_is_in_the_budget_of_the_process_unless_told_otherwise() -> None:
    async def play() -> None:
        before = PROCESS.held_bytes
        puppet = Puppet().join()
        hoard(puppet, 3)
        assert PROCESS.held_bytes == before + 3 * PIECE
        await leave(puppet)
        assert PROCESS.held_bytes == before

    run(play())
