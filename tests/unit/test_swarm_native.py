"""The native part of the client swarm: with real libsrtp over two UDP sockets, and a server that errs on purpose.

A load generator that cannot see a loss, a stale key or a packet of the wrong call would praise a broken transceiver.
The server here is a thread with its own SRTP sessions; `Behaviour` is what it makes of each packet of media.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from _fastpath.wire import binding, envelope
from benchmarks import native_build, swarm_native
from benchmarks.swarm_native import Arrived, NativeSwarm
from transceiver.srtp import PROFILE_TABLE, SRTPKeys, SRTPPair, functions

pytestmark = [pytest.mark.native, pytest.mark.tree]

HEADER = 38
CALLS = 40
PROXY = ("127.0.0.1", 3478)
PASSWORD = b"the password of the server's end"
FULL = list(PROFILE_TABLE)[0]

# Number of the packet, the call's index, the packet in clear -> what goes back: (index of the call, packet in clear).
Behaviour = Callable[[int, int, bytes], list[tuple[int, bytes]]]


def client(index: int) -> tuple[str, int]:
    return f"198.18.{index >> 8}.{index & 255}", 40000


def keys(profile: str) -> tuple[SRTPKeys, SRTPKeys]:
    size = PROFILE_TABLE[profile].key_bytes + PROFILE_TABLE[profile].salt_bytes
    up, down = os.urandom(size), os.urandom(size)
    return SRTPKeys(profile, up, down), SRTPKeys(profile, down, up)


def faithful(_number: int, index: int, packet: bytes) -> list[tuple[int, bytes]]:
    return [(index, packet)]


def twin(packet: bytes) -> bytes:
    """The same payload in another stream: else libsrtp's replay list would hide it."""
    return packet[:8] + b"twin" + packet[12:]


@dataclass
class Server:
    """Echoes media, answers checks and reports; its thread ends when the datagram `stop` arrives."""

    sock: socket.socket
    pairs: list[SRTPPair]
    behaviour: Behaviour
    spp: bool
    media: int = 0
    all_called: threading.Event = field(default_factory=threading.Event)
    reports: list[bytes] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def serve(self) -> None:
        try:
            while (received := self.sock.recvfrom(2048))[0] != b"stop":
                self._answer(*received)
        except BaseException as error:
            self.errors.append(error)

    def _answer(self, datagram: bytes, sender: tuple[str, int]) -> None:
        header, packet = (datagram[:HEADER], datagram[HEADER:]) if self.spp else (b"", datagram)
        index = int.from_bytes(header[16:18], "big") if self.spp else 0
        if packet[0] < 4:
            _, fields = binding.parse(packet)
            assert fields is not None
            self.sock.sendto(header + binding.success(fields.transaction, client(index), PASSWORD), sender)
        elif 64 <= packet[1] & 0x7F <= 95:
            self.reports.append(self.pairs[index].unprotect_rtcp(packet))
            self.sock.sendto(header + self.pairs[index].protect_rtcp(self.reports[-1]), sender)
        else:
            self.media += 1
            for target, plain in self.behaviour(self.media, index, self.pairs[index].unprotect(packet)):
                head = header[:16] + target.to_bytes(2, "big") + header[18:]
                self.sock.sendto((head if self.spp else b"") + self.pairs[target].protect(plain), sender)
            if self.media == len(self.pairs):
                self.all_called.set()


@contextmanager
def swarm(
    behaviour: Behaviour = faithful, *, profile: str = FULL, calls: int = CALLS, spp: bool = True
) -> Iterator[tuple[NativeSwarm, Server]]:
    both = [keys(profile) for _ in range(calls)]
    pairs = [SRTPPair(theirs) for _, theirs in both]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, NativeSwarm(calls, functions(), spp=spp) as native:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.bind(("127.0.0.1", 0))
        server = Server(sock, pairs, behaviour, spp)
        own = [SRTPPair(mine) for mine, _ in both]
        for index, pair in enumerate(own):
            native.open(index, sock.getsockname(), client(index), PROXY)
            native.set_keys(index, pair.tx, pair.rx, ssrc=index + 1, payload_type=111)
            native.set_checks(index, [check(index) for _ in range(swarm_native.CHECK_VARIANTS)])
            native.go_live(index)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield native, server
        finally:
            sock.sendto(b"stop", sock.getsockname())
            thread.join()
        assert server.errors == []


def check(index: int) -> bytes:
    return binding.request(
        os.urandom(12), b"server:client%d" % index, PASSWORD, priority=1, tie_breaker=1,
        controlling=True, use_candidate=True,
    )  # fmt: skip


def run(native: NativeSwarm, settled: Callable[[dict[str, int]], bool] | None = None) -> dict[str, int]:
    """Load, then as long as it takes until all is accounted for."""
    native.run(0.3)
    return wait(
        native, lambda totals: totals["checks_answered"] == totals["checks_sent"] and (settled or whole)(totals)
    )


def wait(native: NativeSwarm, settled: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    for _ in range(200):
        if settled(native.totals()):
            break
        native.run(0.02, media=False)
    return native.totals()


def answered(totals: dict[str, int]) -> bool:
    return totals["checks_answered"] == totals["checks_sent"]


def whole(totals: dict[str, int]) -> bool:
    return totals["received"] == totals["sent"]


def test_the_library_is_built_once() -> None:
    path = native_build.build_library("swarm")
    built = path.stat().st_mtime_ns
    assert native_build.build_library("swarm").stat().st_mtime_ns == built


@pytest.mark.parametrize("profile", PROFILE_TABLE)
def test_every_packet_comes_back_and_nothing_is_wrong(profile: str) -> None:
    with swarm(profile=profile) as (native, server):
        totals = run(native)
        first = [each.slot for each in native.arrived() if not each.data]
        each = [native.received(index) for index in range(CALLS)]
    assert totals["sent"] == totals["received"] == server.media > CALLS
    assert {name: totals[name] for name in ("duplicated", "corrupted", "misdirected", "unauthentic", "unknown")} == {
        "duplicated": 0, "corrupted": 0, "misdirected": 0, "unauthentic": 0, "unknown": 0,
    }  # fmt: skip
    assert sorted(first) == list(range(CALLS))  # the news of each call's first packet, once
    assert max(each) - min(each) <= 1  # all take their turns


def test_latency_is_that_of_the_network_not_of_when_the_swarm_looks() -> None:
    with swarm() as (native, server):
        began = time.monotonic()
        for index in range(CALLS):
            native.send_media(index)
        assert server.all_called.wait(30)
        most = (time.monotonic() - began) * 1e6
        threading.Event().wait(0.3)  # what a swarm that is busy with something else does
        assert whole(wait(native, whole))
        half, last = native.latency_us(0.5), native.latency_us(1.0)
    assert 0 < half <= last <= most


def test_what_a_stall_kept_back_does_not_leave_at_once() -> None:
    """80 ms missed are 400 packets of 100 calls; they leave over the next half second."""
    with swarm(calls=100) as (native, _server):
        native.run(0.1)
        began, before = time.monotonic(), native.totals()["sent"]
        threading.Event().wait(0.08)
        native.run(0.004)
        assert native.totals()["sent"] - before < 100
        native.run(0.8)
        due = (time.monotonic() - began) * 100 / 0.02
        assert native.totals()["sent"] - before > 0.9 * due
        assert native.totals()["stalls"] == 0
        assert whole(wait(native, whole))


@pytest.mark.parametrize(
    ("wrong", "counter"),
    [
        pytest.param(lambda i, p: [], "", id="lost"),
        pytest.param(lambda i, p: [(i, p), (i, twin(p))], "duplicated", id="twice"),
        pytest.param(lambda i, p: [(i, p[:-1])], "corrupted", id="shortened"),
        pytest.param(lambda i, p: [(i, p[:12] + b"?" + p[13:])], "corrupted", id="changed"),
        pytest.param(lambda i, p: [((i + 1) % CALLS, twin(p))], "misdirected", id="other call"),
    ],
)
def test_what_the_server_does_wrong_is_counted(
    wrong: Callable[[int, bytes], list[tuple[int, bytes]]], counter: str
) -> None:
    def every_tenth(number: int, index: int, packet: bytes) -> list[tuple[int, bytes]]:
        return wrong(index, packet) if number % 10 == 0 else [(index, packet)]

    def settled(totals: dict[str, int]) -> bool:
        tenth = totals["sent"] // 10
        right = totals["sent"] - (0 if counter == "duplicated" else tenth)
        return totals["received"] == right and (not counter or totals[counter] == tenth)

    with swarm(every_tenth) as (native, server):
        totals = run(native, settled)
    assert totals["sent"] == server.media > CALLS
    assert settled(totals)
    others = {"duplicated", "corrupted", "misdirected", "unauthentic", "unknown"} - {counter}
    assert {totals[name] for name in others} == {0}


def test_a_packet_that_does_not_authenticate_or_belongs_to_nobody() -> None:
    with swarm(calls=1) as (native, server):
        header = envelope.pack(client(0), PROXY)
        stranger = envelope.pack(client(7), PROXY)
        target = native.address(0)
        for head in (header, stranger):
            server.sock.sendto(head + b"\x80\x6f" + bytes(60), target)
        server.sock.sendto(b"no header", target)
        native.run(0.05, media=False)
        totals = native.totals()
    assert (totals["unauthentic"], totals["unknown"]) == (1, 2)


def test_without_keys_media_is_early_and_the_rest_is_for_python() -> None:
    with swarm(calls=1) as (native, server):
        native.close(0)
        native.open(0, server.sock.getsockname(), client(0), PROXY)
        native.send(0, check(0))
        for _ in range(100):
            if found := list(native.receive()):
                break
            native.run(0.02, media=False)
        totals = native.totals()
    assert [(each.slot, each.data[:2]) for each in found] == [(0, b"\x01\x01")]
    assert binding.verify(found[0].data, PASSWORD)
    assert totals["sent"] == 0


def test_reports_are_whole_compounds_and_answers_are_taken() -> None:
    with swarm() as (native, server):
        run(native)
        totals = wait(native, lambda totals: totals["reports_received"] == totals["reports_sent"])
    assert totals["reports_received"] == totals["reports_sent"] == len(server.reports) > 0
    for report in server.reports:
        words = [int.from_bytes(report[at + 2 : at + 4], "big") + 1 for at in (0, 52)]
        assert [report[1], report[53]] == [200, 202]
        assert sum(words) * 4 == len(report) == 68


def test_plain_udp_without_the_internal_leg() -> None:
    with swarm(calls=1, spp=False) as (native, server):
        totals = run(native)
    assert totals["received"] == totals["sent"] == server.media > 5
    assert totals["checks_answered"] == totals["checks_sent"] > 0


def test_a_reset_counts_anew_and_tells_what_was_under_way() -> None:
    held: list[tuple[int, bytes]] = []

    def late(number: int, index: int, packet: bytes) -> list[tuple[int, bytes]]:
        held.append((index, packet))
        return held if number == 5 else []

    with swarm(late, calls=1) as (native, _server):
        for _ in range(4):
            native.send_media(0)
        native.reset()
        native.send_media(0)
        totals = wait(native, lambda totals: totals["stale"] == 4 and whole(totals))
    assert (totals["sent"], totals["received"], totals["stale"]) == (1, 1, 4)


def test_a_slot_in_use_and_an_ambiguous_address_are_refused() -> None:
    with NativeSwarm(2, functions()) as native:
        native.open(0, ("127.0.0.1", 9), client(0), PROXY)
        with pytest.raises(ValueError, match="slot 0 is in use"):
            native.open(0, ("127.0.0.1", 9), client(1), PROXY)
        with pytest.raises(ValueError, match="another call has the address"):
            native.open(1, ("127.0.0.1", 9), client(0), PROXY)
        with pytest.raises(ValueError, match="slot 1 is not open"):
            native.send(1, b"\x16")
        native.close(0)
        native.open(1, ("127.0.0.1", 9), client(0), PROXY)


def test_what_is_for_python_is_handed_over_whole() -> None:
    with swarm(calls=1) as (native, server):
        native.run(0.05, media=False)
        list(native.arrived())
        header = envelope.pack(client(0), PROXY)
        hello, request = b"\x16\xfe\xfd" + bytes(1197), check(0)
        for message in (hello, request):
            server.sock.sendto(header + message, native.address(0))
        native.run(0.05, media=False)
        found = [each for each in native.arrived() if each.data]
    assert [(each.slot, each.data) for each in found] == [(0, hello), (0, request)]
    assert isinstance(found[0], Arrived)
