"""One call of a GStreamer client (webrtcbin): ../README.md says what it is asked, what it does and what it prints.

Run by the system's own Python, which has GStreamer's bindings; of this repository it uses nothing. Everything happens
in GLib's main loop. Frames are Opus that GStreamer encodes; one has come back when its payload was sent before.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import urllib.request
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

CALLS = "/v1/realtime/calls"
FRAMES = 50
PATIENCE_S = 15
BINARY_BYTES = 65_536  # its offer names no size, so this is the most it takes (RFC 8841, 6)
TEXT = "grüß dich, 世界"
PIPELINE = """
    audiotestsrc is-live=true freq=700 ! audioconvert ! audioresample ! opusenc ! rtpopuspay pt=97 name=payer
    ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! webrtcbin name=peer bundle-policy=max-bundle
"""


def payload_of(buffer: Gst.Buffer) -> bytes:
    """Of an RTP packet: without header, contributors, extension."""
    packet: bytes = buffer.extract_dup(0, buffer.get_size())
    at = 12 + 4 * (packet[0] & 0x0F)
    if packet[0] & 0x10:
        at += 4 + 4 * int.from_bytes(packet[at + 2 : at + 4], "big")
    return packet[at:]


def post(url: str, body: str) -> tuple[int, str, str]:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/sdp"}, method="POST")
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return response.status, response.read().decode(), response.headers.get("Location", "")


class Call:
    def __init__(self, url: str, setup: str, end: str) -> None:
        self.url, self.setup, self.end = url, setup, end
        self.facts: dict[str, Any] = {"client": Gst.version_string(), "sent": 0, "back": 0, "foreign": 0}
        self.spoken: set[bytes] = set()
        self.binary = os.urandom(BINARY_BYTES)
        self.loop = GLib.MainLoop()
        self.pipeline = Gst.parse_launch(PIPELINE)
        self.peer = self.pipeline.get_by_name("peer")
        self.failure = ""
        self.began = 0.0
        self.hung_up = False

    def run(self) -> None:
        self.agent = self.peer.get_property("ice-agent")  # its only reference, as far as Python knows: kept
        self.agent.emit("add-local-ip-address", "127.0.0.1")
        self.peer.connect("on-negotiation-needed", self.offer)
        self.peer.connect("notify::ice-gathering-state", self.gathered)
        self.peer.connect("notify::connection-state", self.connection)
        self.peer.connect("pad-added", self.added)
        self.pipeline.get_by_name("payer").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self.speak)
        self.pipeline.set_state(Gst.State.READY)
        self.channel = self.peer.emit("create-data-channel", "oai-events", None)
        self.channel.connect("on-open", lambda _: self.channel.emit("send-string", TEXT))
        self.channel.connect("on-message-string", self.text)
        self.channel.connect("on-message-data", self.data)
        self.channel.connect("on-close", lambda _: self.ended("channel closed"))
        self.pipeline.set_state(Gst.State.PLAYING)
        GLib.timeout_add_seconds(PATIENCE_S, self.late)
        self.loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        if self.failure:
            sys.exit(f"{self.failure}: {self.facts}")
        print(json.dumps(self.facts))

    # ---- signaling

    def offer(self, _peer: Gst.Element) -> None:
        self.peer.emit("create-offer", None, Gst.Promise.new_with_change_func(self.offered))

    def offered(self, promise: Gst.Promise) -> None:
        reply = promise.get_reply()  # kept, or the offer is freed while it is used
        self.peer.emit("set-local-description", reply.get_value("offer"), Gst.Promise.new())

    def gathered(self, peer: Gst.Element, _property: object) -> None:
        if peer.get_property("ice-gathering-state") == GstWebRTC.WebRTCICEGatheringState.COMPLETE:
            GLib.idle_add(self.signal)

    def signal(self) -> bool:
        offer = self.peer.get_property("local-description").sdp.as_text()
        self.began = time.monotonic()
        _, answer, self.facts["location"] = post(
            self.url + CALLS, offer.replace("a=setup:actpass", f"a=setup:{self.setup}")
        )
        found = re.search(r"a=setup:(\w+)", answer)
        self.facts["setup"] = found[1] if found else ""
        _, sdp = GstSdp.SDPMessage.new_from_text(answer)
        said = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, sdp)
        self.peer.emit("set-remote-description", said, Gst.Promise.new())
        return False

    def connection(self, peer: Gst.Element, _property: object) -> None:
        state = peer.get_property("connection-state").value_nick
        if state == "connected":
            self.facts.setdefault("setup_ms", (time.monotonic() - self.began) * 1e3)
        elif state in ("closed", "failed", "disconnected"):
            self.ended(state)

    # ---- sound

    def speak(self, _pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        if "setup_ms" in self.facts:  # what comes before, webrtcbin keeps to itself
            self.facts["sent"] += 1
        self.spoken.add(payload_of(info.get_buffer()))
        return Gst.PadProbeReturn.OK

    def added(self, _peer: Gst.Element, pad: Gst.Pad) -> None:
        if pad.get_direction() == Gst.PadDirection.SRC:
            pad.add_probe(Gst.PadProbeType.BUFFER, self.hear)
            sink = Gst.ElementFactory.make("fakesink")
            sink.set_property("async", False)
            self.pipeline.add(sink)
            sink.sync_state_with_parent()
            pad.link(sink.get_static_pad("sink"))

    def hear(self, _pad: Gst.Pad, info: Gst.PadProbeInfo) -> Gst.PadProbeReturn:
        known = payload_of(info.get_buffer()) in self.spoken
        self.facts["back" if known else "foreign"] += 1
        GLib.idle_add(self.look)
        return Gst.PadProbeReturn.OK

    # ---- messages

    def text(self, channel: Any, message: str) -> None:
        self.facts["text"] = message == TEXT
        channel.emit("send-data", GLib.Bytes.new(self.binary))

    def data(self, _channel: Any, message: GLib.Bytes) -> None:
        self.facts["binary"] = message.get_data() == self.binary
        GLib.idle_add(self.look)

    # ---- the end

    def look(self) -> bool:
        if self.facts["back"] < FRAMES or "binary" not in self.facts or self.hung_up:
            return False
        if self.end == "hangup":
            self.hung_up = True
            post(f"{self.url}{self.facts['location']}/hangup", "")
        else:
            self.ended("closed")
        return False

    def ended(self, how: str) -> None:
        self.facts.setdefault("ended", how)
        GLib.idle_add(self.loop.quit)

    def late(self) -> bool:
        self.failure = f"not within {PATIENCE_S} s"
        self.loop.quit()
        return False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--setup", default="actpass")
    parser.add_argument("--end", default="close")
    words = parser.parse_args()
    Gst.init(None)
    Call(words.url, words.setup, words.end).run()


if __name__ == "__main__":
    main()
