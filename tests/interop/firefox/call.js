// One call of a page in Firefox: ../README.md says what it is asked and what it finds. The body of a function whose last
// argument takes the result; what goes wrong is the result's `error`.
const [url, setup, end, restart, finished] = arguments;
const CALLS = `${url}/v1/realtime/calls`, FRAMES = 50, PATIENCE_MS = 15000, BINARY_BYTES = 100000, TEXT = "grüß dich, 世界";

const within = (what, promise) => {
  let timer;
  const late = new Promise((_, refuse) => { timer = setTimeout(() => refuse(new Error(`${what}: not within ${PATIENCE_MS} ms`)), PATIENCE_MS); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};
const later = () => { const made = {}; made.promise = new Promise(resolve => { made.resolve = resolve; }); return made; };
const post = (to, body) => fetch(to, {method: "POST", headers: {"Content-Type": "application/sdp"}, body});
const one = (stats, type) => [...stats.values()].find(each => each.type === type) ?? {};

async function call() {
  const facts = {}, connected = later(), opened = later(), over = later(), messages = [];
  const pc = new RTCPeerConnection();
  pc.onconnectionstatechange = () => {
    if (pc.connectionState === "connected") connected.resolve();
    if (["closed", "failed", "disconnected"].includes(pc.connectionState)) over.resolve(pc.connectionState);
  };
  pc.ontrack = event => { const player = new Audio(); player.srcObject = new MediaStream([event.track]); player.play(); };
  const microphone = await navigator.mediaDevices.getUserMedia({audio: true});
  pc.addTrack(microphone.getTracks()[0], microphone);
  const channel = pc.createDataChannel("oai-events");
  channel.binaryType = "arraybuffer";
  channel.onopen = opened.resolve;
  channel.onclose = () => over.resolve("channel closed");
  channel.onmessage = event => messages.shift()?.resolve(event.data);
  const echo = message => { const answer = later(); messages.push(answer); channel.send(message); return within("message", answer.promise); };

  const offer = await pc.createOffer();
  await pc.setLocalDescription(offer);
  const began = performance.now();
  const response = await post(CALLS, offer.sdp.replaceAll("a=setup:actpass", `a=setup:${setup}`));
  const answer = await response.text();
  if (response.status !== 201) throw new Error(`offer: status ${response.status}, ${answer}`);
  facts.location = response.headers.get("Location");
  facts.setup = /^a=setup:(\w+)/m.exec(answer)[1];
  await pc.setRemoteDescription({type: "answer", sdp: answer});
  await within("connected", connected.promise);
  facts.setup_ms = performance.now() - began;
  await within("open channel", opened.promise);
  facts.text = await echo(TEXT) === TEXT;
  const sent = crypto.getRandomValues(new Uint8Array(65536));
  const bytes = new Uint8Array(BINARY_BYTES);
  bytes.set(sent); bytes.set(sent.subarray(0, BINARY_BYTES - 65536), 65536);
  const got = new Uint8Array(await echo(bytes));
  facts.binary = got.length === bytes.length && got.every((byte, at) => byte === bytes[at]);

  const heard = async before => {
    const until = performance.now() + PATIENCE_MS;
    for (;;) {
      const stats = await pc.getStats(), inbound = one(stats, "inbound-rtp");
      facts.sent = one(stats, "outbound-rtp").packetsSent ?? 0;
      facts.back = inbound.packetsReceived ?? 0;
      facts.energy = inbound.totalAudioEnergy ?? 0;
      if (facts.back >= (before.back ?? 0) + FRAMES && facts.energy > (before.energy ?? 0) + 1e-3) break;
      if (performance.now() > until) throw new Error(`audio: ${JSON.stringify(facts)} ${JSON.stringify(inbound)}`);
      await new Promise(resolve => setTimeout(resolve, 50));
    }
  };
  await heard({});
  if (restart) {
    const again = await pc.createOffer({iceRestart: true});
    await pc.setLocalDescription(again);
    const response = await post(`${url}${facts.location}`, again.sdp);
    const sdp = await response.text();
    if (response.status !== 200) throw new Error(`restart: status ${response.status}, ${sdp}`);
    await pc.setRemoteDescription({type: "answer", sdp});
    await heard({...facts});
    facts.text &&= await echo(TEXT) === TEXT;
  }
  facts.foreign = 0;
  if (end === "hangup") {
    const {status} = await post(`${url}${facts.location}/hangup`, "");
    if (status !== 200) throw new Error(`hangup: status ${status}`);
    facts.ended = await within("end", over.promise);
  } else facts.ended = "closed";
  pc.close();
  return facts;
}

call().then(finished, error => finished({error: String(error)}));
