// One call of a libdatachannel client: ../README.md says what it is asked, what it does and what it prints.
import libdatachannel from "node-datachannel";
import { Call, later, version, within } from "./call.mjs";

const SSRC = 42, PAYLOAD_TYPE = 111;

const call = new Call();
call.facts.client = `libdatachannel ${libdatachannel.getLibraryVersion()} (node-datachannel ${version("node-datachannel")})`;

// On loopback alone; otherwise as libdatachannel has it.
const peer = new libdatachannel.PeerConnection("interop", {
  iceServers: [], bindAddress: "127.0.0.1", disableAutoNegotiation: true, maxMessageSize: 262_144,
});
peer.onStateChange(state => {
  if (state === "connected") call.connected();
  if (["closed", "failed", "disconnected"].includes(state)) call.ended(state);
});
const gathered = later();
peer.onGatheringStateChange(state => { if (state === "complete") gathered.resolve(); });

const audio = new libdatachannel.Audio("audio", "SendRecv");
audio.addOpusCodec(PAYLOAD_TYPE);
audio.addSSRC(SSRC, "interop");
const track = peer.addTrack(audio);
track.onMessage(packet => { if (packet[1] < 192 || packet[1] > 223) call.heard(packet.subarray(12)); });

const channel = peer.createDataChannel("oai-events");
channel.onOpen(() => call.opened());
channel.onClosed(() => call.ended("channel closed"));
channel.onMessage(message => call.read(message));

peer.setLocalDescription("offer");
await within("candidates", gathered.promise);
const answer = await call.signal(peer.localDescription().sdp);
peer.setRemoteDescription(answer, "answer");

// It leaves the RTP header to the application.
let number = 0;
const speak = payload => {
  const header = Buffer.alloc(12);
  header[0] = 0x80;
  header[1] = PAYLOAD_TYPE;
  header.writeUInt16BE(++number & 0xffff, 2);
  header.writeUInt32BE(number * 960, 4);
  header.writeUInt32BE(SSRC, 8);
  track.sendMessageBinary(Buffer.concat([header, payload]));
};
const send = message => (typeof message === "string" ? channel.sendMessage(message) : channel.sendMessageBinary(message));
await call.run({ speak, send, close: () => peer.close() });
