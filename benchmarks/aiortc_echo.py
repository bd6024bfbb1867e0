"""What aiortc makes of the same work: an echo that passes audio through, the smallest that its parts allow.

aiortc's own ICE, DTLS and SRTP, one UDP port a call, no codec: a packet that was authenticated goes back as it is,
with a new SSRC, through the transport that it came by. Its jitter buffer, decoder, encoder and RTP parser are left
out, so the figure is the best that an application on aiortc can get, not what one gets. Started by `swarm aiortc`;
prints `listening IP:PORT` and speaks the same signaling as the transceiver.
"""

import asyncio
import itertools
import re
import signal
from dataclasses import dataclass

import aioice.ice
import uvloop
from aiohttp import web
from aiortc import RTCCertificate, RTCIceCandidate, RTCIceGatherer, RTCIceParameters, RTCIceTransport
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters, RTCDtlsTransport

HOST = "127.0.0.1"
CALLS = "/v1/realtime/calls"


class EchoTransport(RTCDtlsTransport):
    """Past RtpPacket.parse and the router, which would only be made to undo each other's work."""

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        await self._send_rtp(data[:8] + b"echo" + data[12:])

    async def _handle_rtcp_data(self, data: bytes) -> None:
        pass


@dataclass
class EchoCall:
    ice: RTCIceTransport
    dtls: EchoTransport
    starting: "asyncio.Task[None]"


class Calls:
    def __init__(self) -> None:
        self._certificate = RTCCertificate.generateCertificate()
        self._calls: dict[str, EchoCall] = {}
        self._numbers = itertools.count()

    async def create(self, request: web.Request) -> web.Response:
        offer = await request.text()
        gatherer = RTCIceGatherer(iceServers=[])
        await gatherer.gather()
        ice = RTCIceTransport(gatherer)
        dtls = EchoTransport(ice, [self._certificate])
        dtls._set_role("server" if attribute(offer, "setup") == "active" else "client")
        call_id = str(next(self._numbers))
        self._calls[call_id] = EchoCall(ice, dtls, asyncio.create_task(start(ice, dtls, offer)))
        answer = self._answer(gatherer, "passive" if dtls._role == "server" else "active")
        return web.Response(
            status=201, body=answer.encode(), content_type="application/sdp",
            headers={"Location": f"{CALLS}/{call_id}"},
        )  # fmt: skip

    async def hangup(self, request: web.Request) -> web.Response:
        call = self._calls.pop(request.match_info["call_id"], None)
        if call is None:
            return web.Response(status=404)
        call.starting.cancel()
        await call.dtls.stop()
        await call.ice.stop()
        return web.Response()

    def _answer(self, gatherer: RTCIceGatherer, setup: str) -> str:
        parameters, candidate = gatherer.getLocalParameters(), gatherer.getLocalCandidates()[0]
        fingerprint = self._certificate.getFingerprints()[0]
        lines = [
            "v=0", f"o=- 1 1 IN IP4 {HOST}", "s=-", "t=0 0", "a=group:BUNDLE 0",
            f"m=audio {candidate.port} UDP/TLS/RTP/SAVPF 111", f"c=IN IP4 {candidate.ip}",
            f"a=candidate:1 1 udp {candidate.priority} {candidate.ip} {candidate.port} typ host",
            f"a=ice-ufrag:{parameters.usernameFragment}", f"a=ice-pwd:{parameters.password}",
            f"a=fingerprint:{fingerprint.algorithm} {fingerprint.value}", f"a=setup:{setup}",
            "a=mid:0", "a=sendrecv", "a=rtcp-mux", "a=rtpmap:111 opus/48000/2",
        ]  # fmt: skip
        return "\r\n".join(lines) + "\r\n"


async def start(ice: RTCIceTransport, dtls: EchoTransport, offer: str) -> None:
    """The rest of a set-up, after the answer has left."""
    _, _, _, priority, ip, port, *_ = attribute(offer, "candidate").split()
    await ice.addRemoteCandidate(RTCIceCandidate(1, "1", ip, int(port), int(priority), "udp", "host"))
    await ice.addRemoteCandidate(None)
    await ice.start(RTCIceParameters(attribute(offer, "ice-ufrag"), attribute(offer, "ice-pwd")))
    algorithm, value = attribute(offer, "fingerprint").split()
    await dtls.start(RTCDtlsParameters([RTCDtlsFingerprint(algorithm, value)]))


def attribute(sdp: str, name: str) -> str:
    found = re.search(rf"^a={name}:(.*)$", sdp, re.MULTILINE)
    if found is None:
        raise web.HTTPBadRequest(text=f"no a={name}")
    return found.group(1).strip()


async def main() -> None:
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [HOST]
    calls, stop = Calls(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    application = web.Application()
    application.add_routes([web.post(CALLS, calls.create), web.post(CALLS + "/{call_id}/hangup", calls.hangup)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    host, port = runner.addresses[0]
    print(f"listening {host}:{port}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(main())
