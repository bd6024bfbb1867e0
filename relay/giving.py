"""The launcher that is to be followed: it hears who asks, gives sockets and memory away, and goes on if that fails.

What the messages are, and why, stands in `handover`. Of the old relay's own work nothing waits for any of this: its
workers go on until their slot's turn is over, one slot after the other, and the launcher only answers.

    LISTENING  --upgrade: another process is started--> STARTING  --hello--> GIVING
    LISTENING  --hello--> GIVING  --done--> GONE
    STARTING, GIVING  --it ends, hangs, takes too long; or this relay is told to end--> ENDING  --all its processes
               are gone--> LISTENING

In ENDING its processes get SIGKILL, unless they end by themselves; when the last one is gone, the slots it had taken
are this relay's again: a worker that lingers goes on, one that ended is forked again by the launcher, as after any
death.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from _fastpath.slot import CHECKSUM, LAYOUT
from relay import __version__
from relay.estate import Estate
from relay.handover import ANSWER_S, DONE_S, GONE_S, LEAVE_S, PROTOCOL, STALE_S, START_S, ended
from relay.runtime import watch
from relay.runtime.children import describe_exit
from relay.runtime.control import Channel, ChannelLost, Message, tell_by_signal
from relay.runtime.log import event

log = logging.getLogger("ufrag.relay.giving")

_LOOK_S = 0.02  # between two looks while something is under way
_GUESTS_MOST = 8
OPTION = "--takeover"


class Phase(enum.Enum):
    LISTENING = "listening"
    STARTING = "starting"
    GIVING = "giving"
    ENDING = "ending"
    GONE = "gone"


class Heir:
    """The new relay, as far as it is known: the process we started, its channel, its processes."""

    def __init__(self, due_s: float) -> None:
        self.due_s = due_s  # when it must be done with what it does now
        self.spawned = 0  # our child, until it is reaped
        self.channel: Channel | None = None
        self.version = ""
        self.life = self.pidfd = -1
        self.taken = 0  # slots

    @property
    def pid(self) -> int:
        return self.channel.pid if self.channel else self.spawned

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        if self.spawned:
            os.kill(self.spawned, signal.SIGKILL)  # not yet reaped, so the number is still its own

    def reap(self) -> int | None:
        """Its exit code, once, if it was ours to start."""
        if not self.spawned:
            return None
        pid, status = os.waitpid(self.spawned, os.WNOHANG)
        if not pid:
            return None
        self.spawned = 0
        return os.waitstatus_to_exitcode(status)

    @property
    def gone(self) -> bool:
        """Every process of it."""
        return not self.spawned and (self.life < 0 or ended(self.life))

    def close(self) -> None:
        if self.channel:
            self.channel.close()
        for descriptor in (self.life, self.pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self.life = self.pidfd = -1


class Giving:
    """`introduce` tells the service manager who the main process is, before we end."""

    def __init__(self, estate: Estate, introduce: Callable[[int], None]) -> None:
        self._estate = estate
        self._introduce = introduce
        self.phase = Phase.LISTENING
        self._guests: dict[Channel, float] = {}  # who has said nothing yet, and when it is shown out for that
        self._operator: Channel | None = None
        self._heir: Heir | None = None
        if estate.listener:
            tell_by_signal(estate.listener.sock)

    @property
    def under_way(self) -> bool:
        return self.phase in (Phase.STARTING, Phase.GIVING, Phase.ENDING)

    def due_s(self, now: float) -> float | None:
        return now + _LOOK_S if self.under_way else min(self._guests.values(), default=None)

    def tend(self, now: float, closed: str) -> None:
        """Whatever came, and whatever is late. `closed`: why this relay cannot be followed now."""
        if self.phase is Phase.GONE or self._estate.listener is None:
            return
        while len(self._guests) < _GUESTS_MOST and (guest := self._estate.listener.accept()):
            self._guests[guest] = now + ANSWER_S
        for guest, until_s in list(self._guests.items()):
            self._hear(guest, now, closed)
            if now >= until_s and guest in self._guests:
                del self._guests[guest]
                guest.close()
        self._mind_operator()
        if self._heir:
            self._mind(self._heir, now)

    # ---- who comes

    def _hear(self, guest: Channel, now: float, closed: str) -> None:
        try:
            message = guest.receive()
            if message is None:
                return
            if message.kind == "upgrade":
                del self._guests[guest]
                self._upgrade(guest, message, closed, now)
            elif message.kind == "hello":
                del self._guests[guest]
                self._welcome(guest, message, closed, now)
            else:
                raise ChannelLost("it wants something that is not known here")
        except (ChannelLost, ValueError, TypeError):
            self._guests.pop(guest, None)
            guest.close()

    def _upgrade(self, operator: Channel, message: Message, why: str, now: float) -> None:
        why = why or self._refusal(os.getpid())
        if why:
            _say(operator, "no", why=why)
            operator.close()
            return
        heir = Heir(now + float(message.fields.get("timeout_s", START_S)))
        command = successor_command()
        event(log, logging.INFO, "upgrade", command=command)
        try:
            # Its signals are as they were for us when we began; it inherits standard streams and nothing else.
            heir.spawned = os.posix_spawn(command[0], command, os.environ, setsigmask=())
        except OSError as error:
            _say(operator, "no", why=f"cannot start {command[0]}: {error.strerror}")
            operator.close()
            return
        self._operator, self._heir, self.phase = operator, heir, Phase.STARTING
        self._tell(f"process {heir.spawned} starts")

    def _refusal(self, peer: int) -> str:
        if self.under_way:
            return "a hand-over is under way"
        if os.getpid() == 1 and peer:
            what = "this relay is process 1 of its container, which ends with it"
            return f"{what}: start the new one in a container of its own that shares network and state directory"
        return ""

    def _welcome(self, channel: Channel, message: Message, why: str, now: float) -> None:
        """`hello`: whoever it is, it may be the one that was started, or one that somebody started by hand."""
        expected = self._heir if self.phase is Phase.STARTING and self._heir else None
        if expected and expected.spawned != channel.pid:
            expected = None
            why = why or "another one is starting"
        elif not expected:
            why = why or self._refusal(channel.pid)
        why = why or _unfit(message)
        if why:
            message.close()
            _say(channel, "no", why=why)
            channel.close()
            event(log, logging.WARNING, "hand-over refused", pid=channel.pid, version=message.text("version"), why=why)
            return
        heir = self._heir = expected or Heir(now)
        heir.life, heir.pidfd = message.descriptors
        heir.channel, heir.version, heir.due_s = channel, message.text("version"), now + DONE_S
        self.phase = Phase.GIVING
        event(log, logging.INFO, "hand-over begins", pid=channel.pid, version=heir.version)
        self._tell(f"version {heir.version} is there, process {channel.pid}")
        self._answer(heir, "offer", self._estate.heirlooms(), slots=len(self._estate.slots), version=__version__,
                     pid=os.getpid())  # fmt: skip

    # ---- the heir

    def _mind(self, heir: Heir, now: float) -> None:
        if (code := heir.reap()) is not None and self.phase is not Phase.ENDING:
            self.fail(f"the new relay ended with {describe_exit(code)}; its log says why", now)
        if self.phase is Phase.GIVING:
            self._serve(heir, now)
        if self.phase in (Phase.STARTING, Phase.GIVING):
            self._judge(heir, now)
        if self.phase is Phase.ENDING:
            self._finish_off(heir, now)

    def _serve(self, heir: Heir, now: float) -> None:
        assert heir.channel
        try:
            while message := heir.channel.receive():
                message.close()
                if message.kind == "slot":
                    own = self._estate.slots[int(message.fields["index"])]
                    heir.channel.send("slot", own.descriptors(), index=own.index)
                elif message.kind == "done":
                    return self._hand_over(heir, now)
                elif message.kind == "no":
                    return self.fail(message.text("why"), now, ends=True)
                else:
                    raise ChannelLost("it wants something that is not known here")
        except ChannelLost as lost:
            self.fail(f"the new relay is lost: {lost}", now, ends=True)
        except (KeyError, ValueError, IndexError, TypeError):
            self.fail("the new relay asked for a slot that there is not", now)

    def _judge(self, heir: Heir, now: float) -> None:
        superseded = [worker for worker in self._estate.workers if worker.superseded]
        while heir.taken < len(superseded):
            heir.taken += 1
            self._tell(f"{heir.taken} of {len(self._estate.slots)} slots are its own")
        late = [own.index for own in self._estate.slots if watch.heart_age_s(own.slot.heart, now) > STALE_S]
        if superseded and late:
            self.fail(f"slot {late[0]} has had no worker at work for {STALE_S:g} s", now)
        elif now >= heir.due_s:
            self.fail("the new relay takes too long", now)

    def _hand_over(self, heir: Heir, now: float) -> None:
        """The last moment in which it can fail. From `bye` on everything is the new one's."""
        if not all(worker.superseded and own.slot.writer for worker, own in self._estate.pairs()):
            return self.fail("the new relay has not taken all slots", now)
        try:
            assert heir.channel
            heir.channel.send("bye")
        except ChannelLost as lost:
            return self.fail(f"the new relay is lost: {lost}", now)
        self.phase = Phase.GONE
        event(log, logging.INFO, "handed over", pid=heir.pid, version=heir.version)
        self._introduce(heir.pid)
        self._dismiss("done", pid=heir.pid, text=f"version {heir.version} is the relay now, process {heir.pid}")

    # ---- when it fails

    def abort(self, why: str, now: float) -> None:
        if self.phase in (Phase.STARTING, Phase.GIVING):
            self.fail(why, now)

    def fail(self, why: str, now: float, *, ends: bool = False) -> None:
        """`ends`: it ends by itself, and has a moment for that."""
        assert self._heir
        event(log, logging.WARNING, "hand-over failed, this relay goes on", pid=self._heir.pid, why=why)
        self.phase = Phase.ENDING
        self._heir.due_s = now + LEAVE_S
        if not ends:
            self._heir.kill()
        self._dismiss("no", why=why)

    def _finish_off(self, heir: Heir, now: float) -> None:
        if not heir.gone:
            if now >= heir.due_s:
                heir.due_s = now + GONE_S
                event(log, logging.ERROR, "the new relay does not end by itself, it is killed", pid=heir.pid)
                heir.kill()
            return
        for worker in self._estate.workers:
            worker.take_back()
        self._estate.state.tidy()
        heir.close()
        self._heir, self.phase = None, Phase.LISTENING
        event(log, logging.INFO, "the new relay is gone, nothing of it is left")

    # ---- who asked for it

    def _mind_operator(self) -> None:
        """An operator who does not wait any more changes nothing."""
        if self._operator is None:
            return
        try:
            if message := self._operator.receive():
                message.close()
        except ChannelLost:
            self._operator.close()
            self._operator = None

    def _tell(self, text: str) -> None:
        if self._operator:
            _say(self._operator, "step", text=text)

    def _dismiss(self, kind: str, **fields: object) -> None:
        if self._operator:
            _say(self._operator, kind, **fields)
            self._operator.close()
            self._operator = None

    def _answer(self, heir: Heir, kind: str, descriptors: Sequence[int], **fields: object) -> None:
        """What cannot be said is found out at the next look."""
        with contextlib.suppress(ChannelLost):
            assert heir.channel
            heir.channel.send(kind, descriptors, **fields)

    def close(self) -> None:
        """In a child: what would keep the other ends from seeing that this launcher is gone."""
        for channel in [*self._guests, self._operator]:
            if channel:
                channel.close()
        if self._heir:
            self._heir.close()


def successor_command() -> list[str]:
    """This very command again, with whatever stands there by that name now."""
    words = [sys.executable, *sys.orig_argv[1:]]
    return words if OPTION in words else [*words, OPTION]


def _unfit(message: Message) -> str:
    fields = message.fields
    if fields.get("protocol") != PROTOCOL or len(message.descriptors) != 2:
        return f"it speaks protocol {fields.get('protocol')}, this relay {PROTOCOL}: drain, and start it afterwards"
    if (fields.get("layout"), fields.get("checksum")) != (LAYOUT, f"{CHECKSUM:016x}"):
        what = f"version {message.text('version')} lays its memory out differently than version {__version__}"
        return f"{what}: drain, and start it afterwards"
    return ""


def _say(channel: Channel, kind: str, **fields: object) -> None:
    with contextlib.suppress(ChannelLost):
        channel.send(kind, **fields)
