"""Fuzz target: the whole hot path of a media process, driven by a stream of operations over two sessions.

Bytes are operations: datagrams of every kind, good, spoilt, replayed and raw, from any of a few addresses; what the
loop commands; time. Invariants: nothing raises; every datagram has one outcome (the rig asserts it); nothing is sent to
an address that sent nothing, nor more than three times what came from one that has never answered; `closed` comes once
for each close. The corpus is corpus/media; tests/unit/test_hostile_media.py runs it, with mutations.
"""

from __future__ import annotations

from collections import Counter

from _fastpath._testing_media import RingView
from _fastpath.media import ANY_PATH
from _fastpath.wire import envelope
from tests.fuzz.stream import Stream
from tests.support.media_rig import OTHER_RELAY, RELAY, STRANGER, Address, Line, Rig, Sent
from tests.support.world import RELAYS

MOST_OPERATIONS = 200
CLIENTS: list[Address] = [("198.51.100.1", 50_000), ("198.51.100.2", 50_000), STRANGER, ("2001:db8::7", 7)]
Flow = tuple[Address, Address]


class Machine:
    def __init__(self, data: bytes) -> None:
        self.stream = Stream(data)
        self.rig = Rig(2)
        self.came: Counter[Flow] = Counter()
        self.left: Counter[Flow] = Counter()
        self.proven: set[Flow] = set()
        self.requests: list[tuple[Flow, bytes]] = []
        self.sent: list[bytes] = [b"\x80"]
        self.closes = self.closed = 0
        self.lines = [Line(self.rig, index, CLIENTS[index]) for index in range(2)]
        self.kept = list(self.lines)  # their keys live until the hot thread has let go
        for line in self.lines:
            line.open()

    # Datagrams

    def up(self, datagram: bytes, where: int) -> None:
        flow = CLIENTS[where & 3], (RELAY, OTHER_RELAY)[where >> 2 & 1]
        self.sent.append(datagram)
        self.came[flow] += len(datagram)
        outcome, sent = self.rig.up(datagram, *flow)
        if outcome == "probe_answer":
            self.proven.add(flow)
        self.check(sent)

    def check(self, sent: list[Sent]) -> None:
        for client, relay, datagram in sent:
            flow = client, relay
            assert self.came[flow]
            self.left[flow] += len(datagram)
            if datagram[:2] == b"\0\1":
                self.requests.append((flow, datagram))
            assert flow in self.proven or self.left[flow] <= 3 * self.came[flow], (flow, self.left, self.came)

    def line(self) -> Line:
        return self.lines[self.stream.byte() & 1]

    # Operations

    def pass_time(self) -> None:
        self.check(self.rig.rest(self.stream.byte() ** 2 / 10_000))

    def send_check(self) -> None:
        line, flags = self.line(), self.stream.byte()
        check = line.check(
            use_candidate=bool(flags & 1), controlling=flags & 14 != 14, ufrag="" if flags & 16 else None
        )
        self.up(check, self.stream.byte())

    def answer_request(self) -> None:
        if self.requests:
            flow, request = self.requests[-1 - self.stream.byte() % len(self.requests)]
            where = CLIENTS.index(flow[0]) | (flow[1] == OTHER_RELAY) << 2
            self.up(self.line().answer(request), where)

    def send_media(self) -> None:
        line, ssrc = self.line(), self.stream.byte()
        kind = 111 if ssrc & 64 == 0 else 8
        self.up(line.media(bytes(ssrc), ssrc=1000 + ssrc % 6, payload_type=kind), self.stream.byte())

    def send_report(self) -> None:
        flags = self.stream.byte()
        self.up(self.line().report(ssrc=1000 + flags % 6, bye=bool(flags & 64)), self.stream.byte())

    def send_record(self) -> None:
        self.up(b"\x16\xfe\xfd" + self.stream.take(10) + bytes(self.stream.byte()), self.stream.byte())

    def send_raw(self) -> None:
        self.up(self.stream.take(self.stream.byte() % 40) or b"?", self.stream.byte())

    def replay(self) -> None:
        self.up(self.sent[-1 - self.stream.byte() % len(self.sent)], self.stream.byte())

    def spoil(self) -> None:
        datagram = bytearray(self.sent[-1 - self.stream.byte() % len(self.sent)])
        datagram[self.stream.byte() % len(datagram)] ^= 1 << self.stream.byte() % 8
        self.up(bytes(datagram[: max(1, len(datagram) - self.stream.byte() % 4)]), self.stream.byte())

    def no_envelope(self) -> None:
        raw = self.stream.take(self.stream.byte() % 50)
        sender = (RELAYS[RELAY], STRANGER)[self.stream.byte() & 1]
        opened = envelope.unpack(raw)
        if opened is None:
            assert self.rig.take(raw, sender)[1] == []

    def listen(self) -> None:
        """The loop takes its events."""
        self.closed += sum(name == "closed" for name, *_ in self.rig.events())
        assert self.closed <= self.closes

    def command_send(self) -> None:
        line, path = self.line(), self.stream.byte()
        self.rig.engine.send(line.index, line.serial, ANY_PATH if path & 8 else path, bytes(1 + 4 * self.stream.byte()))
        self.check(self.rig.rest())

    def speak(self) -> None:
        line, ahead_ms = self.line(), self.stream.byte()
        at_us = self.rig.us + 1000 * ahead_ms if ahead_ms else 0
        self.rig.engine.write_frame(line.index, bytes(ahead_ms % 30), timestamp=ahead_ms, at_us=at_us)
        self.rig.engine.pump(line.index, line.serial)
        self.check(self.rig.rest())

    def begin_anew(self) -> None:
        """The call ends, the loop hears of it, and its number has another one."""
        line = self.line()
        self.closes += 1
        self.rig.engine.close(line.index, line.serial)
        self.check(self.rig.rest())
        self.listen()
        assert self.closed == self.closes
        self.rig.slot.end(line.index)
        self.lines[line.index] = Line(self.rig, line.index, CLIENTS[line.index])
        self.kept.append(self.lines[line.index])
        self.lines[line.index].open(echo=bool(self.stream.byte() & 1), keys=bool(self.stream.byte() & 3))

    def restart(self) -> None:
        line = self.line()
        fresh = Line(self.rig, line.index, line.client)
        line.add_credential(fresh.token, fresh.pwd)
        if self.stream.byte() & 1:
            line.token, line.pwd = fresh.token, fresh.pwd
        self.check(self.rig.rest())

    def run(self) -> None:
        operations = (
            self.pass_time, self.send_check, self.answer_request, self.send_media, self.send_report, self.send_record,
            self.send_raw, self.replay, self.spoil, self.no_envelope, self.listen, self.command_send, self.speak,
            self.begin_anew, self.restart,
        )  # fmt: skip
        for _ in range(MOST_OPERATIONS):
            if self.stream.over:
                break
            operations[self.stream.byte() % len(operations)]()
        for line in self.lines:
            self.closes += 1
            self.rig.engine.close(line.index, line.serial)
        self.check(self.rig.rest(1))
        self.listen()
        assert self.closed == self.closes
        assert self.rig.engine.wait_us() == -1


def one(data: bytes) -> None:
    Machine(data).run()
    ring_follows(data)


def ring_follows(data: bytes) -> None:
    """The same bytes as lengths of records: what a ring took comes out of it."""
    ring = RingView(256, 8 * (len(data) % 64))
    waiting: list[bytes] = []
    for number, byte in enumerate(data):
        record = bytes([number % 256]) * (byte % 120)
        if byte & 128 and waiting:
            assert ring.peek() == waiting.pop(0)
            ring.pop()
        elif ring.write(record):
            waiting.append(record)
        assert ring.untouched()
    for record in waiting:
        assert ring.peek() == record
        ring.pop()
