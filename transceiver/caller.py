"""`transceiver call`: a client to try a transceiver with, built on aiortc as an application would be.

A real call: offer over HTTP, ICE, DTLS, Opus, a data channel; then some seconds of sound, and what comes back of it is
measured. What happens is said as it happens. Whatever keeps a call from coming about is a `Failure`, in words that
tell where to look, and nothing else leaves `place`: answers come from the network.

`caller_http` signals, `caller_sound` has what is said and heard, `caller_report` what is found. Times are the loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import aioice.ice
import av
import click
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.stats import RTCInboundRtpStreamStats, RTCOutboundRtpStreamStats, RTCRemoteInboundRtpStreamStats
from rich.text import Text

from relay.runtime import screen
from transceiver import caller_sound as sound
from transceiver.caller_http import Answer, Signaling, plain
from transceiver.caller_options import Wishes, call_options, wishes_of
from transceiver.caller_report import HEAD, Failure, Report, Second

SETTLE_S = 2.0  # for the message, where the call is too short for it
CHANNEL = "oai-events"  # as clients of OpenAI's API call theirs

Tell = Callable[[str], None]


class Speaker(MediaStreamTrack):
    """What is said, in time."""

    kind = "audio"

    def __init__(self, source: sound.Source) -> None:
        super().__init__()
        self._source = source
        self._number = 0
        self._start: float | None = None
        self.loudness = sound.Loudness()
        self.loudest = 0.0

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._start is None:
            self._start = loop.time()
        due = self._start + self._number * sound.FRAME_S
        await asyncio.sleep(due - loop.time())
        samples = self._source(self._number)
        # Said in the 20 ms before: a microphone, too, has a frame when it is complete.
        self.loudest = max(self.loudest, self.loudness.add(samples, due - sound.FRAME_S))
        frame = av.AudioFrame(format="s16", layout="mono", samples=len(samples))
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.time_base = sound.RATE, Fraction(1, sound.RATE)
        frame.pts = self._number * sound.FRAME
        self._number += 1
        return frame


class Ear:
    """What is heard: its loudness on the clock of what is said, and a recording."""

    def __init__(self, record: Path | None) -> None:
        self.loudness = sound.Loudness()
        self._recording = sound.Recording(record) if record else None
        self._powers: list[float] = []
        self._behind = math.inf  # the stream's clock behind ours, by the frame that was fastest

    async def listen(self, track: MediaStreamTrack, first: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                first()
                at_s = (frame.pts or 0) / frame.sample_rate
                self._behind = min(self._behind, loop.time() - at_s)
                samples = sound.mono(frame)
                self._powers.append(self.loudness.add(samples, self._behind + at_s))
                if self._recording:
                    self._recording.add(samples, at_s)

    def level_db(self) -> float:
        """Since asked last."""
        powers, self._powers = self._powers, []
        return sound.decibels(sum(powers) / len(powers)) if powers else sound.SILENT_DB

    def close(self) -> None:
        if self._recording:
            self._recording.close()


class Call:
    """One call, from its offer to its end. `place` makes it, `stop` ends it early."""

    def __init__(self, wishes: Wishes, tell: Tell) -> None:
        self._wishes = wishes
        self._tell = tell
        self.report = Report(wishes.url, data_wanted=bool(wishes.data))
        self._loop = asyncio.get_running_loop()
        self._speaker, self._ear = Speaker(wishes.source), Ear(wishes.record)
        self._reached = {name: asyncio.Event() for name in ("ice", "dtls", "audio", "message")}
        self._over = asyncio.Event()
        self._stopped = False
        self._offered = self._loop.time()
        self._answer = Answer("", "")
        self._tasks: list[asyncio.Task[None]] = []
        # The usual bundle policy: under max-bundle aiortc forgets candidates that stand in the first section alone.
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))

    def stop(self) -> None:
        self._stopped = True
        self._over.set()

    async def place(self) -> Report:
        """Makes the call, measures it, hangs up."""
        wishes = self._wishes
        signaling = Signaling(wishes.url, key=wishes.key, timeout_s=wishes.timeout_s, insecure=wishes.insecure)
        try:
            await self._signal(signaling)
            await self._set_up()
            await self._measure()
        except Failure as failure:
            self.report.failure, self.report.mend = failure.what, failure.mend
        finally:
            self._over.set()
            await signaling.hangup(self._answer.location)
            await self._peer.close()
            await signaling.close()
            self._stop_listening()
        self.report.spoken_db = sound.decibels(self._speaker.loudest)
        self.report.judge()
        return self.report

    # -------------------------------------------------------------------------------------------------------- set-up

    async def _signal(self, signaling: Signaling) -> None:
        peer = self._peer
        peer.add_listener("connectionstatechange", self._connection_changed)
        peer.add_listener("iceconnectionstatechange", self._ice_changed)
        peer.add_listener("track", self._listen)
        peer.addTrack(self._speaker)
        if self._wishes.data:
            self._open_channel()
        await peer.setLocalDescription(await peer.createOffer())
        offer = peer.localDescription.sdp
        self._offered = self._loop.time()
        self._say(0, f"offer to {self._wishes.url}")
        asked = asyncio.ensure_future(signaling.offer(offer))
        await self._first(asked, None)
        if not asked.done():
            asked.cancel()
            raise Failure("interrupted")
        answer = self._answer = asked.result()
        self.report.relays = list(map(plain, answer.relays))
        self._stage("answer", f"answer: media goes to UDP {', '.join(self.report.relays) or 'nowhere'}")
        try:
            await peer.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        except Exception as error:  # aiortc trusts its peers: whatever it raises, it is the answer's fault
            raise Failure(f"the answer is no use: {plain(error) or type(error).__name__}") from None

    def _open_channel(self) -> None:
        channel = self._peer.createDataChannel(CHANNEL)
        sent = 0.0

        def opened() -> None:
            nonlocal sent
            sent = self._loop.time()
            self._stage("data", "data channel open")
            channel.send(self._wishes.data)

        def message(text: str | bytes) -> None:
            if text == self._wishes.data and self.report.data_ms is None:
                self.report.data_ms = 1000 * (self._loop.time() - sent)
                self._stage("message", "the message is back")

        channel.add_listener("open", opened)
        channel.add_listener("message", message)

    def _ice_changed(self) -> None:
        if self._peer.iceConnectionState == "completed":
            self._stage("ice", "ICE connected")

    def _connection_changed(self) -> None:
        if self._peer.connectionState == "connected":
            self._stage("dtls", "DTLS connected")
        elif self._peer.connectionState in ("failed", "closed"):
            self._over.set()

    def _listen(self, track: MediaStreamTrack) -> None:
        heard = self._ear.listen(track, lambda: self._stage("audio", "first audio"))
        self._tasks.append(asyncio.ensure_future(heard))

    def _stop_listening(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._ear.close()

    def _stage(self, name: str, words: str) -> None:
        """Says, the first time only, that this is reached, and when."""
        if name in self.report.stages_ms:
            return
        after_ms = self.report.stages_ms[name] = 1000 * (self._loop.time() - self._offered)
        self._say(after_ms, words)
        if name in self._reached:
            self._reached[name].set()

    def _say(self, after_ms: float, words: str) -> None:
        self._tell(f"{after_ms:>6.0f} ms  {words}")

    async def _set_up(self) -> None:
        deadline = self._loop.time() + self._wishes.timeout_s
        relays = ", ".join(self.report.relays) or "no address at all"
        within = f"within {self._wishes.timeout_s:g} s"
        if not await self._until("ice", deadline):
            mend = "UDP to there is blocked, no relay listens, or it has another route key or other --backends"
            raise self._failure(f"ICE failed: no reply from UDP {relays} {within}", mend)
        if not await self._until("dtls", deadline):
            raise self._failure(f"DTLS failed, although UDP {relays} replies", "the transceiver's log says why")
        if not await self._until("audio", self._loop.time() + self._wishes.timeout_s):
            mend = "does the application behind the transceiver send any?"
            raise self._failure(f"connected, but no audio came back {within}", mend)

    async def _until(self, name: str, deadline: float) -> bool:
        """Waits for a stage, the end of the call, or the deadline; whether the stage is reached."""
        waiting = asyncio.ensure_future(self._reached[name].wait())
        await self._first(waiting, deadline - self._loop.time())
        waiting.cancel()
        return self._reached[name].is_set()

    async def _first(self, waiting: asyncio.Future[Any], timeout_s: float | None) -> None:
        """Waits for that or the end of the call, whatever comes first."""
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait([waiting, over], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()

    def _failure(self, what: str, mend: str) -> Failure:
        return Failure("interrupted") if self._stopped else Failure(what, mend)

    # ------------------------------------------------------------------------------------------------------- measuring

    async def _measure(self) -> None:
        self._tell(HEAD)
        begun = self._loop.time()
        for second in range(1, math.ceil(self._wishes.seconds) + 1):
            over = await self._over_by(begun + min(second, self._wishes.seconds))
            at_s = self._loop.time() - begun
            if over:
                return self._check_end(at_s)
            self._look(at_s, await self._peer.getStats())
        if self._wishes.data:
            await self._until("message", self._loop.time() + SETTLE_S)

    def _check_end(self, at_s: float) -> None:
        """An end before its time is one of ours, or a failure."""
        if not self._stopped:
            raise Failure(f"the other end ended the call after {at_s:.1f} s", "the transceiver's log says why")
        if not self.report.seconds:
            raise Failure("interrupted")

    async def _over_by(self, until: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), until - self._loop.time())
        return self._over.is_set()

    def _look(self, at_s: float, stats: dict[str, Any]) -> None:
        sent = back = lost_up = lost_down = 0
        jitter_ms, rtt_ms = 0.0, None
        for each in stats.values():
            match each:
                case RTCOutboundRtpStreamStats():
                    sent = each.packetsSent
                case RTCInboundRtpStreamStats():
                    back, lost_down = each.packetsReceived, max(0, each.packetsLost)
                    jitter_ms = 1000 * each.jitter / sound.RATE
                case RTCRemoteInboundRtpStreamStats():
                    lost_up = max(0, each.packetsLost)
                    rtt_ms = 1000 * each.roundTripTime if each.roundTripTime is not None else None
        echo = sound.find_echo(self._speaker.loudness, self._ear.loudness)
        second = Second(
            at_s, sent, back, lost_up, lost_down, jitter_ms, rtt_ms, self._ear.level_db(),
            1000 * echo.delay_s if echo else None,
        )  # fmt: skip
        self.report.seconds.append(second)
        self._tell(second.line())


# The command


def offer_loopback() -> None:
    """aioice leaves loopback out of what it offers; a call to this very machine may have nothing else."""
    usual = aioice.ice.get_host_addresses

    def addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        own = [host for host, wanted in (("127.0.0.1", use_ipv4), ("::1", use_ipv6)) if wanted]
        return [*own, *usual(use_ipv4, use_ipv6)]

    aioice.ice.get_host_addresses = addresses


async def run(wishes: Wishes, tell: Tell) -> Report:
    call, loop = Call(wishes, tell), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, call.stop)
    return await call.place()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@call_options
def command(as_json: bool, **options: Any) -> int:
    """Call a transceiver at URL, http(s)://HOST:PORT, and say how it went.

    Ends with 0 when the call was good: connected, audio and message back, little lost; else with 1.
    """
    wishes, console = wishes_of(options), screen.console()
    if wishes.on_loopback:
        offer_loopback()

    def tell(line: str) -> None:
        if not as_json:
            console.print(Text(line), soft_wrap=True)

    report = asyncio.run(run(wishes, tell))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        console.print(Text(report.verdict(), style="bold green" if report.good else "bold red"), soft_wrap=True)
    return 0 if report.good else 1
