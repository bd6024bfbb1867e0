"""The calls of one media process: made from offers, fed with what the hot thread reports, ended.

Everything here is synchronous and takes the time; `transceiver.media` drives it and gives HTTP its asynchronous view.
The order when a call is made: number, token, registration with the hot thread, and only then the answer, so that no
check can come for a session that is not known yet (it would be answered 403, which ends the call at the client).
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVarTuple

from _fastpath.media import CommandsFull, MediaEngine
from _fastpath.media_slot import MediaSlot
from _fastpath.wire.token import Keyring
from transceiver import answer, ice, sdp
from transceiver.answer import LocalDescription, Negotiated
from transceiver.apps import Application
from transceiver.dtls import DTLSTransport
from transceiver.http.calls import Created, Refused
from transceiver.identity import Identity
from transceiver.registry import Registry
from transceiver.session import Place, Session, Stages

log = logging.getLogger("ufrag.transceiver.calls")

RETRY_AFTER_S = 2
PORTION = 16  # events between two looks at the clock
LOOP_SHARE, LOOP_BURST_S = 0.1, 0.25  # of the loop's time, for the datagrams of one call
NO_AUDIO = 0xFF
SECRET_BYTES = 16
RESTARTS_MOST = 64  # of one call: each takes a token
CNAME = "ufrag"

Given = TypeVarTuple("Given")


@dataclass(frozen=True)
class Minter:
    """Makes the tokens of this process."""

    keyring: Keyring
    key_id: int
    owner: tuple[str, int]
    cluster: int
    generation: int

    def mint(self) -> str:
        return self.keyring.mint(self.key_id, self.owner, self.cluster, self.generation)


@dataclass(frozen=True)
class Manner:
    """How calls are answered."""

    identity: Identity
    ice_key: bytes
    profiles: Sequence[str]
    prefer: answer.Setup
    application: Application
    advertised: Callable[[], Sequence[tuple[str, int]]]
    max_new_per_s: float


def _no_time() -> float:
    return 0.0


_candidates = functools.lru_cache(maxsize=4)(ice.candidates)  # what is advertised hardly ever changes


def _media_of(negotiated: Negotiated) -> tuple[object, ...]:
    """What an ICE restart may not change."""
    audio = negotiated.audio
    return audio and (audio.payload_type, audio.codec, audio.direction), negotiated.data is not None


class Calls:
    def __init__(
        self,
        engine: MediaEngine,
        slot: MediaSlot,
        minter: Minter,
        manner: Manner,
        clock: Callable[[], float] = _no_time,
    ) -> None:
        """`clock` measures what calls cost; without one nothing is measured and nothing bounded by it."""
        self._engine = engine
        self._clock = clock
        self._slot = slot
        self._minter = minter
        self._manner = manner
        self.registry = Registry(slot.max_sessions)
        self._timers: list[tuple[float, int, int]] = []
        self._armed: dict[int, tuple[float, int]] = {}  # number -> when, of which call
        self._allowance, self._counted_at = manner.max_new_per_s, 0.0

    # ---------------------------------------------------------------------------------------------------- from clients

    def create(self, offer_sdp: str, now: float, unix_s: float) -> Created:
        choice, negotiated = self._read(offer_sdp, self._manner.prefer)
        self._admit(now)
        candidates = self._candidates()
        number = self.registry.take_number()
        if number is None:
            raise self._refuse("refused_full", 503, "server_full", "All sessions of this server are in use.")
        session = self._session(number, negotiated, now, unix_s)
        try:
            self._open(session)
            password = self._add_credential(session, session.token, negotiated)
        except CommandsFull:
            self._slot.end(number)
            self.registry.give_back(number)
            raise self._refuse("refused_full", 503, "server_full", "This server is overloaded.") from None
        self.registry.add(session)
        self._slot.count("sessions")
        description = self._description(session, session.token, password, candidates)
        return Created(ice.make_call_id(session.token, session.secret), answer.write_answer(choice, description))

    def restart(self, call_id: str, offer_sdp: str) -> str:
        """The answer to an ICE restart: a new token of the same session; the old one counts until the new one does."""
        session = self.registry.find(call_id)
        if session is None:
            raise Refused(404, "call_not_found", "There is no such call; it may have ended.")
        role = session.negotiated.dtls_role
        choice, negotiated = self._read(offer_sdp, "active" if role == "client" else "passive")
        if set(negotiated.fingerprints) != set(session.negotiated.fingerprints) or negotiated.dtls_role != role:
            message = "The offer has another DTLS certificate or role: that needs a new call."
            raise Refused(422, "not_a_restart", message, param="sdp")
        if _media_of(negotiated) != _media_of(session.negotiated):
            message = "The offer changes codec, direction or sections: an ICE restart changes ICE credentials only."
            raise Refused(422, "not_a_restart", message, param="sdp")
        if session.restarts >= RESTARTS_MOST:
            raise Refused(429, "too_many_restarts", "This call was restarted too often.", RETRY_AFTER_S)
        candidates = self._candidates()
        token = self._minter.mint()
        try:
            password = self._add_credential(session, token, negotiated)
        except CommandsFull:
            raise self._refuse("refused_full", 503, "server_full", "This server is overloaded.") from None
        self._slot.count("restarts")
        session.restarts += 1
        session.session_version += 1
        session.negotiated = negotiated
        self.registry.add_token(session, token)
        return answer.write_answer(choice, self._description(session, token, password, candidates))

    def rotate(self, keyring: Keyring, key_id: int) -> None:
        """Tokens are made with that key from now on; those that there are stay."""
        self._engine.rotate(keyring)
        self._minter = dataclasses.replace(self._minter, keyring=keyring, key_id=key_id)

    def hangup(self, call_id: str, now: float, reason: str = "hangup") -> bool:
        session = self.registry.find(call_id)
        if session is None:
            return False
        session.end(reason, now)
        return True

    # -------------------------------------------------------------------------------------------------- making a call

    def _admit(self, now: float) -> None:
        if self._slot.draining and not self._slot.lingering:
            raise self._refuse("refused_draining", 503, "draining", "This server takes no new calls any more.")
        most = self._manner.max_new_per_s
        self._allowance = min(max(most, 1.0), self._allowance + (now - self._counted_at) * most)
        self._counted_at = now
        if self._allowance < 1:
            raise self._refuse("refused_rate", 429, "rate_limit_exceeded", "Too many new calls; try again.")
        self._allowance -= 1

    def _refuse(self, tally: str, status: int, code: str, message: str) -> Refused:
        self._slot.count(tally)
        return Refused(status, code, message, RETRY_AFTER_S)

    def _read(self, offer_sdp: str, prefer: answer.Setup) -> tuple[answer.Choice, Negotiated]:
        try:
            choice = answer.choose(sdp.parse_offer(offer_sdp))
            return choice, answer.negotiate(choice, prefer=prefer)
        except sdp.SDPError as error:
            self._slot.count("refused_offer")
            raise Refused(400, "invalid_offer", str(error), param="sdp") from None

    def _candidates(self) -> tuple[ice.Candidate, ...]:
        candidates = _candidates(tuple(self._manner.advertised()))
        if not candidates:
            message = "No relay address is known: the names in --advertise do not resolve."
            raise Refused(503, "no_relay", message, RETRY_AFTER_S)
        return candidates

    def _session(self, number: int, negotiated: Negotiated, now: float, unix_s: float) -> Session:
        token = self._minter.mint()
        random = os.urandom(SECRET_BYTES + 4)
        ssrc = int.from_bytes(random[SECRET_BYTES:]) or 1
        return Session(
            place=Place(self._engine, self._slot, number, self._slot.begin(number, token, unix_s)),
            token=token,
            secret=random[:SECRET_BYTES],
            negotiated=negotiated,
            dtls=DTLSTransport(
                self._manner.identity,
                role=negotiated.dtls_role,
                fingerprints=negotiated.fingerprints,
                profiles=self._manner.profiles,
            ),
            application=self._manner.application,
            opened_unix_s=unix_s,
            stages=Stages(now),
            ssrc=ssrc,
        )

    def _open(self, session: Session) -> None:
        audio = session.negotiated.audio
        random = os.urandom(6)
        self._engine.open(
            session.place.index,
            session.place.serial,
            ssrc=session.ssrc,
            sequence=int.from_bytes(random[:2]),
            timestamp_offset=int.from_bytes(random[2:]),
            payload_type=audio.payload_type if audio else NO_AUDIO,
            clock_rate=audio.clock_rate if audio else 48000,
            echo=self._manner.application.audio_echo and audio is not None and audio.direction == "sendrecv",
        )

    def _add_credential(self, session: Session, token: str, negotiated: Negotiated) -> str:
        """Our password under that token."""
        password = ice.derive_pwd(self._manner.ice_key, token)
        self._engine.add_credential(
            session.place.index,
            session.place.serial,
            token=token,
            password=password,
            remote_ufrag=negotiated.remote_ufrag,
            remote_password=negotiated.remote_pwd,
        )
        return password

    def _description(
        self, session: Session, token: str, password: str, candidates: tuple[ice.Candidate, ...]
    ) -> LocalDescription:
        return LocalDescription(
            ufrag=token,
            pwd=password,
            fingerprint=self._manner.identity.fingerprint_sha256,
            candidates=candidates,
            setup=answer.SETUP[session.negotiated.dtls_role],
            session_id=session.ssrc,
            session_version=session.session_version,
            ssrc=session.ssrc,
            cname=CNAME,
        )

    # ----------------------------------------------------------------------------------------------- the hot thread

    def dispatch(self, now: float) -> bool:
        """Hands a portion of events to their calls; whether there may be more. One call's failure is no other's."""
        events = self._engine.events(PORTION)
        began = self._clock()
        for name, number, serial, path, value, datagram in events:
            session = self.registry.at(number, serial)
            if session is None:
                continue
            if name == "closed":
                self._armed.pop(number, None)
                self.registry.release(session)
                session.closed()
            elif name != "datagram" or self._affords(session, began):
                self._guarded(session, now, session.handle, name, path, value, datagram, now)
                ended = self._clock()
                session.spent_s += ended - began
                began = ended
        return bool(events)

    def _affords(self, session: Session, now: float) -> bool:
        """A call may take a part of the loop's time and no more: beyond that its datagrams are lost, as on a network.
        Small chunks, records that do not open, and whatever else costs more than it looks, are bounded by that."""
        session.spent_s = max(0.0, session.spent_s - (now - session.spent_at) * LOOP_SHARE)
        session.spent_at = now
        if session.spent_s > LOOP_BURST_S:
            self._slot.count("throttled")
            return False
        return True

    def _guarded(self, session: Session, now: float, work: Callable[[*Given], None], *given: *Given) -> None:
        """A mistake of ours ends the one call it shows in, and is logged."""
        try:
            work(*given)
        except Exception:
            log.exception("a call failed by our own fault", extra={"fields": {"call": session.token}})
            self._give_up(session, now)
        self._arm(session)

    def _give_up(self, session: Session, now: float) -> None:
        try:
            session.end("failed", now)
        except Exception:  # then at least the hot thread lets go of it, as soon as it can be told
            log.exception("a call could not be ended", extra={"fields": {"call": session.token}})
            with suppress(CommandsFull):
                self._engine.close(session.place.index, session.place.serial)

    def obey_tools(self, now: float) -> None:
        """Ends the calls that an operator's tool asked to be ended."""
        for number, serial in self._slot.hangups():
            session = self.registry.at(number, serial)
            if session is not None:
                self._guarded(session, now, session.end, "admin", now)

    def end_all(self, reason: str, now: float) -> None:
        for session in self.registry:
            self._guarded(session, now, session.end, reason, now)

    # ---------------------------------------------------------------------------------------------------------- time

    def _arm(self, session: Session) -> None:
        number, serial, due = session.place.index, session.place.serial, session.next_timer()
        if due is None:
            self._armed.pop(number, None)
        elif self._armed.get(number) != (due, serial):
            self._armed[number] = due, serial
            heapq.heappush(self._timers, (due, number, serial))

    def next_timer(self) -> float | None:
        while self._timers:
            due, number, serial = self._timers[0]
            if self._armed.get(number) == (due, serial):
                return due
            heapq.heappop(self._timers)
        return None

    def handle_timers(self, now: float) -> None:
        while (due := self.next_timer()) is not None and due <= now:
            _due, number, serial = heapq.heappop(self._timers)
            del self._armed[number]
            session = self.registry.at(number, serial)
            if session is not None:
                self._guarded(session, now, session.handle_timer, now)
