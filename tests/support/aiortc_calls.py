"""aiortc as the client of integration tests: calls that each send a tone of their own and a message of their own.

A call is whole when what comes back is that tone and that message: another's, or noise, would be a packet that went
astray or was decrypted with the wrong keys. Calls of one batch run at the same time, in one process.
"""

from __future__ import annotations

import asyncio
import datetime
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import aioice.ice
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCCertificate,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc import rtcpeerconnection as peer_module
from aiortc.rtcdtlstransport import SRTPProtectionProfile
from av import AudioFrame
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from tests.support.tones import loudest
from transceiver import caller_sound as sound
from transceiver.caller import Speaker
from transceiver.caller_http import Signaling
from transceiver.caller_options import CALLS

TONES = range(400, 2400, 100)  # each call of a batch of at most this many has its own
WHOLE_S = 15.0
LISTEN = sound.RATE // 2  # samples in which the tone must be

Check = Callable[[], None]


async def whole_call(url: str, hertz: int, while_live: Check | None, bundle: RTCBundlePolicy) -> None:
    """Raises when the call does not come about, or is not whole. `while_live` is run before it is hung up."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=bundle))
    signaling = Signaling(url + CALLS, key=None, timeout_s=WHOLE_S, insecure=False)
    answer = None
    try:
        peer.addTrack(Speaker(sound.tone(hertz)))
        message = _echoed(peer, f"message of {hertz} Hz")
        track: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        peer.add_listener("track", track.set_result)
        await peer.setLocalDescription(await peer.createOffer())
        answer = await signaling.offer(peer.localDescription.sdp)
        await peer.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))
        async with asyncio.timeout(WHOLE_S):
            heard = await _listen(await track)
            await message
        assert loudest(heard, TONES) == hertz
        if while_live:
            while_live()
    finally:
        if answer:
            await signaling.hangup(answer.location)
        await peer.close()
        await signaling.close()


def _echoed(peer: RTCPeerConnection, text: str) -> asyncio.Future[None]:
    """Done when the message is back; an error if another is."""
    channel = peer.createDataChannel("test")
    back: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def message(received: object) -> None:
        if received == text:
            back.set_result(None)
        else:
            back.set_exception(AssertionError(f"{received!r} came back for {text!r}"))

    channel.add_listener("open", lambda: channel.send(text))
    channel.add_listener("message", message)
    return back


async def _listen(track: MediaStreamTrack) -> array[int]:
    """What comes, from the first that is no silence on."""
    heard = array("h")
    while len(heard) < LISTEN:
        frame = await track.recv()
        assert isinstance(frame, AudioFrame)
        samples = sound.mono(frame)
        if heard or any(samples):
            heard += samples
    return heard


async def _batches(url: str, calls: int, at_once: int, *more: Any) -> None:
    for first in range(0, calls, at_once):
        batch = [whole_call(url, TONES[index], *more) for index in range(first, min(calls, first + at_once))]
        await asyncio.gather(*batch)


def make_calls(
    url: str, calls: int, *, at_once: int = 5, while_live: Check | None = None,
    bundle: RTCBundlePolicy = RTCBundlePolicy.BALANCED,
) -> None:  # fmt: skip
    """All of them must be whole."""
    with patch.object(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"]):
        asyncio.run(_batches(url, calls, at_once, while_live, bundle))


class RSACertificate(RTCCertificate):
    """As old clients have it."""

    @classmethod
    def generateCertificate(cls) -> RSACertificate:
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")])
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        builder = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
        return cls(key, builder.sign(key, hashes.SHA256()))  # type: ignore[arg-type]  # it says EC and does not mind

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
        return context


@contextmanager
def rsa_certificates() -> Iterator[None]:
    """Every peer made in here has one."""
    with patch.object(peer_module, "RTCCertificate", RSACertificate):
        yield
