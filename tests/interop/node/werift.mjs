// One call of a werift client: ../README.md says what it is asked, what it does and what it prints.
import { MediaStreamTrack, RTCPeerConnection, RTCRtpCodecParameters, RtpHeader, RtpPacket } from "werift";
import { Call, version } from "./call.mjs";

const call = new Call();
call.facts.client = `werift ${version("werift")}`;

// On loopback alone; otherwise as werift has it.
const peer = new RTCPeerConnection({
  iceServers: [],
  iceUseIpv6: false,
  iceInterfaceAddresses: { udp4: "127.0.0.1" },
  iceAdditionalHostAddresses: ["127.0.0.1"],
  codecs: { audio: [new RTCRtpCodecParameters({ mimeType: "audio/opus", clockRate: 48000, channels: 2 })] },
});
peer.connectionStateChange.subscribe(state => {
  if (state === "connected") call.connected();
  if (["closed", "failed", "disconnected"].includes(state)) call.ended(state);
});

const track = new MediaStreamTrack({ kind: "audio" });
peer.addTransceiver(track, { direction: "sendrecv" });
peer.onTrack.subscribe(heard => heard.onReceiveRtp.subscribe(packet => call.heard(packet.payload)));

const channel = peer.createDataChannel("oai-events");
channel.stateChanged.subscribe(state => {
  if (state === "open") call.opened();
  if (state === "closed") call.ended("channel closed");
});
channel.onMessage.subscribe(message => call.read(message));

await peer.setLocalDescription(await peer.createOffer());
await peer.setRemoteDescription({ type: "answer", sdp: await call.signal(peer.localDescription.sdp) });

let number = 0;
const speak = payload => {
  number = (number + 1) & 0xffff;
  const header = new RtpHeader({ payloadType: 96, sequenceNumber: number, timestamp: number * 960, marker: number === 1 });
  track.writeRtp(new RtpPacket(header, payload));
};
// It takes messages of at most 64 KiB, and says so in its offer.
await call.run({ speak, send: message => channel.send(message), close: () => peer.close(), bytes: 65_536 });
