"""What `transceiver call` makes of sound, of what it found out, and of its options; whole calls are
tests/integration/test_call.py."""

from __future__ import annotations

import asyncio
import random
from array import array
from pathlib import Path
from typing import Any

import pytest

from relay.runtime.config import run_command
from tests.support.tones import loudest, read_wav, write_wav
from transceiver import caller_sound as sound
from transceiver.caller import command
from transceiver.caller_http import Signaling
from transceiver.caller_report import QUIET_DB, Failure, Report, Second

SECOND = Second(1.0, 50, 48, 0, 0, 0.5, 1.2, -20.0, 107.0)


def loudness(source: sound.Source, frames: int, delay_s: float = 0.0, skip: int = 0) -> sound.Loudness:
    made = sound.Loudness()
    for number in range(skip, frames):
        made.add(source(number), 100.0 + number * sound.FRAME_S + delay_s)
    return made


# Sound


def test_the_tone_is_the_tone_and_never_clipped() -> None:
    source = sound.tone(700)
    samples = array("h")
    for number in range(100):
        samples += source(number)
    assert len(samples) == 2 * sound.RATE
    assert loudest(samples[: sound.RATE], range(500, 900, 10)) == 700
    assert max(map(abs, samples)) <= sound.AMPLITUDE


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.107, 1.0, 1.95])
def test_an_echo_is_found_at_its_delay(delay_s: float) -> None:
    source = sound.tone(440)
    found = sound.find_echo(loudness(source, 250), loudness(source, 250, delay_s))
    assert found is not None
    assert abs(found.delay_s - delay_s) < 0.005
    assert found.likeness > 0.9


def test_a_weak_echo_with_noise_and_gaps_is_found_all_the_same() -> None:
    source, dice = sound.tone(440), random.Random(1)
    heard = sound.Loudness()
    for number in range(250):
        if dice.random() < 0.9:
            noisy = array("h", [each // 20 + dice.randrange(-50, 51) for each in source(number)])
            heard.add(noisy, 100.3 + number * sound.FRAME_S)
    found = sound.find_echo(loudness(source, 250), heard)
    assert found is not None
    assert abs(found.delay_s - 0.3) < 0.01


def test_what_is_no_echo_is_not_taken_for_one() -> None:
    dice = random.Random(2)
    spoken = loudness(sound.tone(440), 250)
    steady = loudness(lambda _: array("h", [1000, -1000] * (sound.FRAME // 2)), 250)
    noise = loudness(lambda _: array("h", [dice.randrange(-4000, 4000)] * sound.FRAME), 250)
    silent = loudness(lambda _: array("h", bytes(2 * sound.FRAME)), 250)
    assert [sound.find_echo(spoken, other) for other in (steady, noise, silent, sound.Loudness())] == [None] * 4


def test_too_little_to_tell() -> None:
    source = sound.tone(440)
    assert sound.find_echo(loudness(source, 250), loudness(source, 250, skip=230)) is None


def test_an_audio_file_is_resampled_and_repeated(tmp_path: Path) -> None:
    dice = random.Random(3)
    short = write_wav(tmp_path / "a.wav", [dice.randrange(-9000, 9000) for _ in range(8000)], 8000)
    source = sound.file(short, 5)
    assert source(0) == source(50)
    assert source(0) != source(1)
    assert all(len(source(number)) == sound.FRAME for number in range(100))


@pytest.mark.parametrize("content", [b"", b"no audio", b"RIFF\x24\0\0\0WAVE"])
def test_a_file_that_is_no_audio_is_said_to_be_none(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    status = run_command(command, ["http://127.0.0.1:1", "--wav", str(tmp_path / "x.wav")], "transceiver call")
    assert (status, "x.wav" in capsys.readouterr().err) == (2, True)


def test_what_was_lost_is_silence_in_the_recording(tmp_path: Path) -> None:
    recording = sound.Recording(tmp_path / "out.wav")
    frame = array("h", [7] * sound.FRAME)
    recording.add(frame, 0.0)
    recording.add(frame, 0.06)
    recording.close()
    samples = read_wav(tmp_path / "out.wav")
    assert (len(samples), set(samples[sound.FRAME : 3 * sound.FRAME])) == (4 * sound.FRAME, {0})


def test_levels() -> None:
    loud, quiet = (sound.power(array("h", [value] * 480)) for value in (-32768, 328))
    assert sound.decibels(loud) == pytest.approx(0)
    assert sound.decibels(quiet) == pytest.approx(-40, abs=0.1)
    assert sound.decibels(0) == sound.SILENT_DB


# Verdicts


def judged(**changes: Any) -> Report:
    second = Second(**vars(SECOND) | {name: value for name, value in changes.items() if hasattr(SECOND, name)})
    others = {name: value for name, value in changes.items() if not hasattr(SECOND, name)}
    report = Report("http://x", stages_ms={"dtls": 40.0, "audio": 130.0}, seconds=[second], data_ms=3.0)
    for name, value in others.items():
        setattr(report, name, value)
    report.judge()
    return report


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "GOOD: connected in 40 ms"),
        ({"echo_ms": None}, "GOOD"),
        ({"lost_up": 2}, "2 lost"),
        ({"data_ms": None, "data_wanted": False}, "GOOD"),
        ({"level_db": QUIET_DB, "spoken_db": QUIET_DB}, "GOOD"),
        ({"back": 0}, "BAD: no audio came back"),
        ({"seconds": []}, "BAD: no audio came back"),
        ({"lost_up": 5}, "BAD: too much is lost: 10.0% up, 0.0% down"),
        ({"lost_down": 12}, "BAD: too much is lost: 0.0% up, 20.0% down"),
        ({"level_db": QUIET_DB}, "BAD: only silence came back"),
        ({"data_ms": None}, "BAD: the message on the data channel did not come back"),
        ({"failure": "ICE failed", "mend": "look", "back": 0}, "BAD: ICE failed; look"),
    ],
)
def test_the_verdict(changes: dict[str, Any], says: str) -> None:
    report = judged(**changes)
    assert says in report.verdict()
    assert report.good == report.as_json()["ok"] == (not says.startswith("BAD"))


def test_numbers_that_are_not_known_are_dashes() -> None:
    line = Second(2.0, 100, 98, 0, 0, 0.5, None, -20.0, None).line()
    assert line.split() == ["2", "s", "100", "98", "0", "0", "0.5", "ms", "-", "-20", "dB", "-"]


# Signaling


def served(answer: bytes, *locations: str) -> tuple[str, list[bytes]]:
    """Makes an offer to a server that answers just that, then hangs up at each of `locations`, in which % is the
    server's port. Returns the answer's SDP or what the failure says, and the first line of each request."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readline())
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def run() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        signaling = Signaling(f"http://127.0.0.1:{port}/calls", key="secret", timeout_s=5, insecure=False)
        try:
            return (await signaling.offer("v=0")).sdp
        except Failure as failure:
            return failure.what
        finally:
            for location in locations:
                await signaling.hangup(location.replace("%", str(port), 1))
            await signaling.close()
            server.close()
            await server.wait_closed()

    return asyncio.run(run()), requests


def http(status: str, body: str = "", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", "Connection: close", *headers]
    return "\r\n".join([*head, "", body]).encode()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (http("201 Created", "v=0"), "v=0"),
        (http("200 OK"), ""),
        (http("302 Found", "", "Location: http://127.0.0.1:1/"), "HTTP 302: Found"),
        (http("400 Bad", '{"error": {"code": "a", "message": "b"}}'), "HTTP 400, a: b"),
        (http("400 Bad", '{"error": {"code": 1, "message": null}}'), "HTTP 400, 1: None"),
        (http("400 Bad", '{"error": {"code": "\\u001b[2J", "message": "b"}}'), "HTTP 400, '\\x1b[2J': b"),
        (http("500 Oh", '{"error": "text"}'), "HTTP 500: Oh"),
        (http("500 Oh", "[]"), "HTTP 500: Oh"),
        (http("500 Oh", "\xff" * 200_000), "HTTP 500: Oh"),
        (b"SSH-2.0-server\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\nv=0", "does not speak HTTP"),
    ],
)
def test_whatever_a_server_answers(answer: bytes, says: str) -> None:
    said, requests = served(answer)
    assert says in said
    assert requests[:1] == [b"POST /calls HTTP/1.1\r\n"]


def test_the_key_is_shown_to_no_other_server() -> None:
    """Nor does any other hear of the call: a Location elsewhere is not followed, one here is."""
    elsewhere = ("http://localhost:%/a", "//localhost:%/b", "https://127.0.0.1:%/c", "http://[", "")
    _, requests = served(http("200 OK"), *elsewhere, "/calls/d", "http://127.0.0.1:%/e")
    assert [each.split()[1] for each in requests] == [b"/calls", b"/calls/d/hangup", b"/e/hangup"]


# Options


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ftp://x"], "no http"),
        (["http://"], "no http"),
        (["http://[x"], "no http"),
        (["http://x:0"], "no http"),
        (["http://x", "--seconds", "0"], "--seconds"),
        (["http://x", "--tone", "5"], "--tone"),
        (["http://x", "--wav", "/nonexistent"], "No such file"),
        (["http://x", "--record", "/nonexistent/x"], "No such file"),
        (["http://x", "--auth-key", "a", "--auth-key-file", "b"], "one of the two"),
    ],
)
def test_wrong_options(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = run_command(command, words, "transceiver call")
    assert (status, says in capsys.readouterr().err) == (2, True)
