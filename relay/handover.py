"""What two launchers say to each other at a live upgrade, and what both must know of it.

    the new one                                   the old one
    hello (version, layout, checksum, workers)
                          life, pidfd   ------>
                                        <------   offer (slots)          lock, admin, control, life
    slot (index)                        ------>
                                        <------   slot (index)           memory, wake, internal, publics
    ... for each slot; then it forks its workers, which wait in turn (`_fastpath.turns`); when all are warm, slot after
    slot becomes theirs; when all hearts beat:
    done                                ------>
                                        <------   bye
    it is the relay                               it ends, touching nothing

    At any moment before `bye`                  <------>    no (why)

`life` is a pipe whose other end all processes of a relay have: end-of-file says that they are gone, every one. Until
`bye` the slots are the old one's: whatever becomes of the new one, its processes are ended and the old one's workers
go on. If the old one dies at that time, the new one waits for the end of all its processes and goes on alone.

Beside these an operator's command may speak to a launcher: `upgrade` (timeout_s); the answers are any number of `step`
(text), then `done` (pid, text) or `no` (why).
"""

from __future__ import annotations

import os
import select

from relay.runtime.errors import RuntimeFault

PROTOCOL = 1

START_S = 30.0  # from its start until a new launcher says hello: it may have to be read from a slow disk
DONE_S = 20.0  # from there until it is done; each of its steps has times of its own, which are shorter
ANSWER_S = 5.0  # what a launcher waits for an answer of the other
WARM_S = 10.0  # from the fork of the new workers until all of them stand ready
TURN_S = 2.0  # for one slot; a worker that nobody relieves takes it back in a quarter of a second
PROOF_S = 0.2  # how long the new workers must be seen to work
PROOF_MOST_S = 3.0  # and how long that may take
STALE_S = 1.0  # a heart that is older; they beat four times a second at least
LEAVE_S = 1.0  # for processes to end by themselves
GONE_S = 5.0  # for processes to end that were killed


class HandOverFailed(RuntimeFault):
    """The relay that runs goes on."""


class Life:
    """A pipe that tells whether any process of a relay is there."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


def ended(life: int) -> bool:
    """Whether all processes that have the other end are gone."""
    poll = select.poll()
    poll.register(life, 0)  # POLLHUP is told in any case
    return bool(poll.poll(0))
