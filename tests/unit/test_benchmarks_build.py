"""The benchmark programs: they compile without a warning, agree on the wire format, and notice what is wrong.

A benchmark that cannot see a loss or a corrupted byte would praise a broken relay; here a forwarder of a few lines
of Python breaks packets on purpose and the generator has to say so.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import forward_report, native_build, support
from benchmarks.forward_report import Load, Segment

pytestmark = [pytest.mark.native, pytest.mark.tree]

Change = Callable[[int, bytes], list[bytes]]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return support.write_tokens(tmp_path / "tokens", ["I" + f"{i:031d}" for i in range(20)])


@contextmanager
def middle_box(backend: str, change: Change) -> Iterator[str]:
    """Between generator (with --spp) and echo backend: every reply is replaced by what `change` makes of it."""
    host, port = backend.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        loop = threading.Thread(target=_relay, args=(sock, (host, int(port)), change))
        loop.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            sock.sendto(b"stop", sock.getsockname())
            loop.join()


def _relay(sock: socket.socket, backend: tuple[str, int], change: Change) -> None:
    media = 0
    while (received := sock.recvfrom(2048))[0] != b"stop":
        packet, sender = received
        if sender != backend:
            sock.sendto(packet, backend)
            continue
        replies = [packet]
        if packet[38] == 0x80:
            replies, media = change(media, packet), media + 1
        for reply in replies:
            client = socket.inet_ntoa(reply[14:18]), int.from_bytes(reply[34:36], "big")
            sock.sendto(reply, client)


def flip(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]


@pytest.mark.parametrize("name", ["generator", "echo", "bare", "floor", "flood"])
def test_builds_once_and_is_not_built_again(name: str) -> None:
    path = native_build.build(name)
    built = path.stat().st_mtime_ns
    assert os.access(path, os.X_OK)
    assert native_build.build(name).stat().st_mtime_ns == built


def test_an_unknown_program_and_a_missing_compiler_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(native_build.BuildError, match="nonesuch"):
        native_build.build("nonesuch")
    monkeypatch.setattr(native_build, "OUTPUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(native_build.BuildError, match="no C compiler"):
        native_build.build("echo")


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
def test_the_bare_forwarder_loses_and_changes_nothing(tokens: Path, listen: str) -> None:
    with support.Echo(0) as echo, support.Bare(echo.address, listen=listen) as bare:
        result = support.Generator(bare.target, tokens, flows=100, rate=2000, seconds=0.5, size="60-1200").run()
        forwarded, answered = bare.stop(), echo.stop()
    assert result["sent"] > 900
    assert (result["lost"], result["corrupted"], result["misdirected"], result["duplicated"]) == (0, 0, 0, 0)
    assert forwarded["up"] == forwarded["down"] == answered["packets"] == result["sent"] + result["checks_sent"]
    assert (answered["misrouted"], answered["bad_headers"]) == (0, 0)


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        pytest.param(lambda n, p: [] if n % 10 == 0 else [p], "lost", id="lost"),
        pytest.param(lambda n, p: [flip(p, len(p) - 1)] if n % 10 == 0 else [p], "corrupted", id="last byte"),
        pytest.param(lambda n, p: [flip(p, 38 + 24)] if n % 10 == 0 else [p], "corrupted", id="owner"),
        pytest.param(lambda n, p: [p[:-1]] if n % 10 == 0 else [p], "corrupted", id="truncated"),
        pytest.param(lambda n, p: [p, p] if n % 10 == 0 else [p], "duplicated", id="twice"),
    ],
)
def test_the_generator_notices(tokens: Path, change: Change, counter: str) -> None:
    with support.Echo() as echo, middle_box(echo.address, change) as address:
        options = {"flows": 50, "rate": 500, "burst": 1, "seconds": 0.4, "check_interval": 0}
        result = support.Generator(address, tokens, spp=True, **options).run()
    broken = -(-result["sent"] // 10)
    assert result[counter] == broken
    others = {"corrupted", "misdirected", "duplicated"} - {counter}
    assert {result[name] for name in others} == {0}


def test_the_generator_notices_a_reply_to_the_wrong_client(tokens: Path) -> None:
    def to_the_neighbour(_number: int, packet: bytes) -> list[bytes]:
        return [flip(packet, 17)]  # the last byte of the client's address in the header

    with support.Echo() as echo, middle_box(echo.address, to_the_neighbour) as address:
        options = {"flows": 50, "rate": 500, "seconds": 0.3, "check_interval": 0}
        result = support.Generator(address, tokens, spp=True, **options).run()
    assert result["misdirected"] == result["sent"] > 0
    assert result["received"] == 0


def test_the_backend_counts_packets_of_another_owner(tokens: Path) -> None:
    with support.Echo(1) as echo, support.Bare(echo.address) as bare:
        result = support.Generator(bare.target, tokens, flows=50, rate=500, seconds=0.3, owners=2).run()
        answered = echo.stop()
    assert answered["misrouted"] == pytest.approx(result["sent"] / 2, abs=25)


def test_set_up_against_silence_fails_and_says_so(tokens: Path) -> None:
    with support.Echo(sink=True) as echo:
        generator = support.Generator(echo.address, tokens, flows=3, spp=True, setup_limit=0.5)
        with pytest.raises(support.ProcessFailed, match="3 of 3 flows had no answer"):
            generator.run()


def test_a_failing_process_shows_its_stderr() -> None:
    with pytest.raises(support.ProcessFailed, match="want a number"):
        support.Echo(cpu=99999).__enter__()


@pytest.mark.parametrize(
    ("line", "said", "options"),
    [
        pytest.param("000", "a line of 3 digits", {"source_base": "198.18.0.0"}, id="half a byte"),
        pytest.param("0x", "not hexadecimal", {"source_base": "198.18.0.0"}, id="no digits"),
        pytest.param("00" * 2049, "a line of 4098 digits", {"source_base": "198.18.0.0"}, id="too long"),
        pytest.param("00" * 55, "without a token", {"source_base": "198.18.0.0", "forge": True}, id="no token"),
        pytest.param("00", "usage: flood", {}, id="no source"),
        pytest.param("00", "nonesuch", {"sources": "nonesuch"}, id="no list of sources"),
        pytest.param("00", "not a MAC", {"source_base": "198.18.0.0", "mac": "1:2:3:4:5"}, id="no MAC address"),
        pytest.param("00", "--device nonesuch|packet socket", {"source_base": "198.18.0.0"}, id="no device"),
    ],
)
def test_the_flood_sends_nothing_by_mistake(line: str, said: str, options: dict[str, object], tmp_path: Path) -> None:
    datagrams = support.write_lines(tmp_path / "datagrams", [line])
    options = {"device": "nonesuch", "mac": "02:00:00:00:00:01"} | options
    with pytest.raises(support.ProcessFailed, match=said), support.Flood("127.0.0.1:9", datagrams, **options) as flood:
        flood.wait()


def segment(arm: str, pair: int, cost: float) -> Segment:
    rtt = {"p50": 1.0, "p99": 2.0, "p99_9": 3.0}
    return Segment(arm, pair, cost, 1.0, 0.0, 0.0, 1.0, 10, 0, 0, 0, rtt)


def test_ratios_are_taken_pair_by_pair() -> None:
    """The machine halves its speed between the pairs: the ratio of each is still 1.2."""
    costs = [("relay", 0, 120.0), ("bare", 0, 100.0), ("bare", 1, 200.0), ("relay", 1, 240.0)]
    summary = forward_report.summarise(Load(0, [segment(*each) for each in costs], []))
    assert summary["relay_over_bare"]["min"] == summary["relay_over_bare"]["max"] == pytest.approx(1.2)
