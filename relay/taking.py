"""The launcher that follows another one: it is given sockets and memory, and takes over slot after slot.

What the messages are stands in `handover`. Two halves: `follow` asks for everything and may wait, as this process has
nothing to do yet; `Taking` is asked by the launcher what is next, and never waits.

    WARMING  --all workers stand ready--> TURNS  --each slot has its new writer--> PROVING  --all hearts beat-->
    ASKING   --bye--> OWNER
    any of these  --refused, too late, told to end--> FAILED: this process ends and has touched nothing that counts
    any of these  --the old relay is lost: wait until all its processes are gone, then every slot at once--> OWNER
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from _fastpath.slot import CHECKSUM, LAYOUT
from relay import __version__
from relay.estate import Estate
from relay.handover import (
    ANSWER_S,
    GONE_S,
    PROOF_MOST_S,
    PROOF_S,
    PROTOCOL,
    TURN_S,
    WARM_S,
    HandOverFailed,
    Life,
    ended,
)
from relay.runtime.control import Channel, ChannelLost, Listener, Message
from relay.runtime.errors import ConfigError, RuntimeFault
from relay.runtime.log import event
from relay.runtime.memory import mapped_again
from relay.runtime.sockets import listen
from relay.settings import Settings
from relay.slots import PublicSocket, WorkerSlot
from relay.state import State, place
from relay.state_dir import StateDir
from relay.state_record import Refused

log = logging.getLogger("ufrag.relay.taking")

_WHERE = "--takeover"
_LOOK_S, _TURN_LOOK_S = 0.005, 0.001
_HEIRLOOMS = 4


class Phase(enum.Enum):
    WARMING = "warming"
    TURNS = "turns"
    PROVING = "proving"
    ASKING = "asking"
    OWNER = "owner"
    FAILED = "failed"


# ---- being given everything


def reach(path: Path) -> Channel:
    """The launcher whose state is there."""
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ChannelLost(f"there is no such directory: {error.strerror}") from None
    try:
        return Channel.connect(directory)
    finally:
        os.close(directory)


def follow(settings: Settings) -> Taking:
    """Asks the relay that runs for all it has. HandOverFailed: it stays what it is."""
    path = place(settings)
    if path is None:
        mend = "a relay without a state directory cannot be followed; drain it"
        raise ConfigError("nothing outlives such a relay", where=f"{_WHERE} --state-dir none", mend=mend)
    try:
        channel = reach(path)
    except ChannelLost as lost:
        mend = "without --takeover it starts by itself; --state-dir, or --listen, says which relay is meant"
        raise HandOverFailed(f"{path}: {lost}", where=_WHERE, mend=mend) from None
    try:
        return _ask(settings, path, channel)
    except ChannelLost as lost:
        raise HandOverFailed(f"the relay that runs is lost: {lost}", where=_WHERE) from None
    except (KeyError, ValueError, TypeError):
        raise _gives_up(channel, HandOverFailed("the relay that runs is not understood", where=_WHERE)) from None
    except (Refused, OSError) as reason:
        mend = "it goes on; end it, and start this one afterwards"
        fault = HandOverFailed(f"cannot follow that relay: {reason}", where=_WHERE, mend=mend)
        raise _gives_up(channel, fault) from None
    except RuntimeFault as fault:
        raise _gives_up(channel, fault) from None


def _gives_up(channel: Channel, fault: RuntimeFault) -> RuntimeFault:
    """So that the other one's log, and its operator, have the reason, too."""
    with contextlib.suppress(ChannelLost):
        channel.send("no", why=str(fault))
    return fault


def _ask(settings: Settings, path: Path, channel: Channel) -> Taking:
    life = Life()
    ours = [life.read, os.pidfd_open(os.getpid())]
    channel.send("hello", ours, protocol=PROTOCOL, version=__version__, layout=LAYOUT, checksum=f"{CHECKSUM:016x}",
                 workers=settings.plan.workers)  # fmt: skip
    os.close(ours[1])
    offer = _expect(channel, "offer", _HEIRLOOMS)
    lock, admin, listener, old_life = offer.descriptors
    state = State(settings, StateDir.join(path, lock))
    given = []
    for index in range(int(offer.fields["slots"])):
        channel.send("slot", index=index)
        given.append(_expect(channel, "slot").descriptors)
    state.inherit([mapped_again(descriptors[0]) for descriptors in given])
    try:
        state.allocate()
        slots = [_slot(index, state, descriptors) for index, descriptors in enumerate(given)]
        _refuse_other_internal(settings, slots)
        admin_socket = _admin(settings, socket.socket(fileno=admin))
        estate = Estate(settings, state, slots, admin_socket, Listener(socket.socket(fileno=listener)), life,
                        ours=False, shared=True)  # fmt: skip
    except BaseException:
        state.abandon()
        raise
    return Taking(estate, channel, old_life, int(offer.fields["pid"]), offer.text("version"))


def _expect(channel: Channel, kind: str, descriptors: int | None = None) -> Message:
    message = channel.wait(ANSWER_S)
    if message.kind == "no":
        raise HandOverFailed(f"refused: {message.text('why')}", where=_WHERE)
    if message.kind != kind or descriptors not in (None, len(message.descriptors)):
        raise ChannelLost(f"it says {message.kind} with {len(message.descriptors)} descriptors where {kind} was due")
    return message


def _slot(index: int, state: State, descriptors: Sequence[int]) -> WorkerSlot:
    memory, wake, internal, *publics = descriptors
    return WorkerSlot(
        index=index,
        slot=state.slots[index].slot,
        memory_fd=memory,
        publics=[
            PublicSocket(address, socket.socket(fileno=each))
            for address, each in zip(state.listen, publics, strict=True)
        ],
        internal=socket.socket(fileno=internal),
        wake=wake,
    )


def _refuse_other_internal(settings: Settings, slots: Sequence[WorkerSlot]) -> None:
    """Transceivers answer to where packets come from, so those sockets stay."""
    asked = settings.internal
    for own in slots:
        host, port = own.internal.getsockname()[:2]
        if asked.host != host or (asked.port and asked.port + own.index != port):
            mend = "give the same, or end that relay and start this one"
            raise ConfigError(f"the relay that runs has {host}:{port}", where=f"--internal {asked}", mend=mend)


def _admin(settings: Settings, given: socket.socket) -> socket.socket:
    host, port = given.getsockname()[:2]
    if (host, port) == settings.admin.sockaddr[:2]:
        return given
    given.close()
    return listen(settings.admin, "--admin")


# ---- taking over


class Taking:
    """`tend` is asked again and again; the first time when all workers have been forked."""

    def __init__(self, estate: Estate, channel: Channel, old_life: int, old_pid: int, version: str) -> None:
        self.estate = estate
        self.old_pid = old_pid
        self.phase = Phase.WARMING
        self._channel = channel
        self._old_life = old_life
        self._alone = False
        self._due_s: float | None = None  # when this phase must be over
        self._turn = 0
        self._hearts: list[int] = []
        estate.channels.append(self.close)
        event(log, logging.INFO, "takeover begins", from_pid=old_pid, from_version=version,
              slots=len(estate.slots))  # fmt: skip

    @property
    def pending(self) -> bool:
        return self.phase not in (Phase.OWNER, Phase.FAILED)

    def due_s(self, now: float) -> float:
        return now + (_TURN_LOOK_S if self.phase is Phase.TURNS else _LOOK_S)

    def tend(self, now: float) -> None:
        if not self._alone:
            self._hear(now)
        if self._alone and self.pending:
            self._go_alone(now)
        if self.phase is Phase.WARMING:
            self._warm(now)
        if self.phase is Phase.TURNS:
            self._turns(now)
        if self.phase is Phase.PROVING:
            self._prove(now)

    def _hear(self, now: float) -> None:
        try:
            message = self._channel.receive()
        except ChannelLost:
            event(log, logging.WARNING, "the old relay is lost, waiting for its processes to end")
            self._alone, self._due_s = True, now + GONE_S
            return
        if message is None:
            return
        message.close()
        if message.kind == "bye" and self.phase is Phase.ASKING:
            self.phase = Phase.OWNER
        else:
            self.fail(f"the old relay goes on: {message.text('why') or message.kind}")

    def _warm(self, now: float) -> None:
        if self._due_s is None:
            self._due_s = now + WARM_S
        if all(worker.warm for worker in self.estate.workers):
            self.phase, self._due_s = Phase.TURNS, now + TURN_S
            self.estate.workers[0].claim()
        elif now >= self._due_s:
            self.fail("the new workers do not come up")

    def _turns(self, now: float) -> None:
        while self.estate.workers[self._turn].writes:
            self.estate.workers[self._turn].taken()
            self._turn += 1
            if self._turn == len(self.estate.workers):
                self.phase, self._due_s = Phase.PROVING, now + PROOF_MOST_S
                self._proven_s = now + PROOF_S
                self._hearts = [own.slot.heart for own in self.estate.slots]
                return
            self.estate.workers[self._turn].claim()
            self._due_s = now + TURN_S
        if self._due_s is not None and now >= self._due_s:
            self.fail(f"slot {self._turn} does not become ours")
        elif self.estate.workers[self._turn].passed_over:
            self.estate.workers[self._turn].claim()

    def _prove(self, now: float) -> None:
        beats = [own.slot.heart != heart for own, heart in zip(self.estate.slots, self._hearts, strict=True)]
        if all(beats) and all(worker.writes for worker in self.estate.workers) and now >= self._proven_s:
            self.phase = Phase.ASKING
            if not self._alone:
                self._say("done")
        elif self._due_s is not None and now >= self._due_s:
            self.fail("the new workers do not work")

    def _go_alone(self, now: float) -> None:
        """Whatever the old one's processes were about is over once they are gone."""
        if ended(self._old_life):
            for worker in self.estate.workers:
                worker.inherit()
            self.phase = Phase.OWNER
        elif self._due_s is not None and now >= self._due_s:
            self.fail("the old relay is lost, but not all of its processes end")

    def fail(self, why: str) -> None:
        if self.pending:
            self.phase = Phase.FAILED
            event(log, logging.ERROR, "takeover failed", why=why)
            if not self._alone:
                self._say("no", why=why)

    def _say(self, kind: str, **fields: object) -> None:
        """What cannot be said is found out at the next look."""
        try:
            self._channel.send(kind, **fields)
        except ChannelLost:
            return

    @property
    def old_is_gone(self) -> bool:
        """Whether the old launcher, which has said bye, has closed its end."""
        try:
            return self._alone or self._channel.receive() is not None
        except ChannelLost:
            return True

    def close(self) -> None:
        self._channel.close()
        if self._old_life >= 0:
            os.close(self._old_life)
            self._old_life = -1
