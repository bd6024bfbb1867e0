// A call as a page makes it, for tests: window.TestCall. Every wait is bounded, because nothing bounds the one who asks.
// Times of events are milliseconds since the epoch, by the clock that the test's own process reads too.
() => {
  const CALLS = "/v1/realtime/calls";
  const now = () => performance.timeOrigin + performance.now();
  const within = (ms, what, promise) => {
    let timer;
    const late = new Promise((_, refuse) => { timer = setTimeout(() => refuse(new Error(`${what}: not within ${ms} ms`)), ms); });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
  };

  window.TestCall = class {
    constructor(options) {
      this.options = {audio: true, video: false, data: true, rsa: false, watched: false, ...options};
      this.frames = [];
      this.events = [];
      this.watchers = [];
      this.messages = [];
    }

    mark(name, value) {
      this.events.push({at: now(), name, value: value ?? null});
      this.watchers = this.watchers.filter(look => !look());
    }

    // Resolves with what `find` finds in what has happened, now or later.
    until(what, ms, find) {
      return within(ms, what, new Promise(resolve => {
        const look = () => { const found = find(); if (found) resolve(found); return found; };
        if (!look()) this.watchers.push(look);
      }));
    }

    event(name, value, ms, after = 0) {
      const find = () => this.events.find(each => each.at > after && each.name === name && (value === null || each.value === value));
      return this.until(`${name} ${value}`, ms, find);
    }

    // ---- setting up

    async start() {
      const pc = this.pc = new RTCPeerConnection(await this.configuration());
      pc.onconnectionstatechange = () => this.mark("connection", pc.connectionState);
      pc.oniceconnectionstatechange = () => this.mark("ice", pc.iceConnectionState);
      pc.ontrack = event => {
        if (this.options.watched) this.pass(event.receiver, () => this.frames.push(now()));
        this.play(event.streams[0] ?? new MediaStream([event.track]));
      };
      if (this.options.audio) await this.speak();
      if (this.options.video) pc.addTransceiver("video");
      if (this.options.data) this.listen(pc.createDataChannel("oai-events"));
      const answer = await this.signal(CALLS, await pc.createOffer());
      this.location = answer.location;
      return answer;
    }

    async configuration() {
      if (this.options.watched) return {encodedInsertableStreams: true};
      if (!this.options.rsa) return {};
      const algorithm = {name: "RSASSA-PKCS1-v1_5", hash: "SHA-256", modulusLength: 2048, publicExponent: new Uint8Array([1, 0, 1])};
      return {certificates: [await RTCPeerConnection.generateCertificate(algorithm)]};
    }

    // One microphone for all calls of the page: Chromium opens the fake device some fifteen times and then no more.
    async speak() {
      TestCall.microphone ??= navigator.mediaDevices.getUserMedia({audio: {echoCancellation: false}});
      const stream = await within(10000, "microphone", TestCall.microphone);
      const senders = stream.getTracks().map(track => this.pc.addTrack(track, stream));
      if (this.options.watched) senders.forEach(sender => this.pass(sender, () => {}));
    }

    // Every encoded frame goes by `see`: at the receiver as it comes from the network, before any jitter buffer.
    pass(end, see) {
      const {readable, writable} = end.createEncodedStreams();
      const transform = (frame, next) => { see(); next.enqueue(frame); };
      readable.pipeThrough(new TransformStream({transform})).pipeTo(writable);
    }

    // The energy of a stream is counted only while somebody plays it.
    play(stream) {
      this.player = new Audio();
      this.player.srcObject = stream;
      this.player.play();
    }

    listen(channel) {
      this.channel = channel;
      channel.binaryType = "arraybuffer";
      channel.onopen = () => this.mark("channel", "open");
      channel.onclose = () => this.mark("channel", "closed");
      channel.onmessage = event => { this.messages.push(event.data); this.mark("message"); };
    }

    async signal(url, offer) {
      this.mark("offer");
      await this.pc.setLocalDescription(offer);
      const request = {method: "POST", headers: {"Content-Type": "application/sdp"}, body: offer.sdp};
      const response = await within(5000, url, fetch(url, request));
      const sdp = await response.text();
      this.mark("answer", response.status);
      if (response.ok) await this.pc.setRemoteDescription({type: "answer", sdp});
      return {status: response.status, sdp, location: response.headers.get("Location"), offer: offer.sdp};
    }

    // ---- in the call

    connected(ms) { return this.event("connection", "connected", ms); }

    async restart() {
      return this.signal(this.location, await this.pc.createOffer({iceRestart: true}));
    }

    async hangup() {
      return (await within(5000, "hangup", fetch(`${this.location}/hangup`, {method: "POST"}))).status;
    }

    close() { this.pc?.close(); }

    // Sends a text or as many random bytes as said, and compares what comes back.
    async echo(text, size) {
      await this.event("channel", "open", 5000);
      let sent = text;
      if (text === null) {
        sent = new Uint8Array(size);
        for (let at = 0; at < size; at += 65536) crypto.getRandomValues(sent.subarray(at, at + 65536));
      }
      this.messages.length = 0;
      this.channel.send(sent);
      const got = (await this.until("echo", 10000, () => this.messages.length && [this.messages[0]]))[0];
      if (typeof got === "string") return got === sent;
      const bytes = new Uint8Array(got);
      return text === null && bytes.length === size && bytes.every((byte, at) => byte === sent[at]);
    }

    // Since then: how many frames came, the longest time between two of them, the last until now too, and when it began.
    silence(after) {
      const times = [after, ...this.frames.filter(at => at > after), now()];
      const gaps = times.slice(1).map((at, index) => ({ms: at - times[index], at: times[index]}));
      return {frames: times.length - 2, ...gaps.reduce((one, other) => other.ms > one.ms ? other : one)};
    }

    // Waits until audio was sent and heard again: at least this much energy more than at `before`, both ways.
    async heard(ms, energy, before) {
      const end = now() + ms;
      for (;;) {
        const stats = await this.stats();
        const grown = ["sent_energy", "heard_energy"].every(name => stats[name] - (before?.[name] ?? 0) >= energy);
        if (grown) return stats;
        if (now() > end) throw new Error(`no audio within ${ms} ms: ${JSON.stringify(stats)}`);
        await new Promise(resolve => setTimeout(resolve, 40));
      }
    }

    async stats() {
      const all = [...(await this.pc.getStats()).values()];
      const one = (type, more = () => true) => all.find(each => each.type === type && more(each)) ?? {};
      const audio = each => each.kind === "audio";
      const transport = one("transport"), pair = all.find(each => each.id === transport.selectedCandidatePairId) ?? {};
      const remote = all.find(each => each.id === pair.remoteCandidateId) ?? {};
      const local = all.find(each => each.id === pair.localCandidateId) ?? {};
      const inbound = one("inbound-rtp", audio), outbound = one("outbound-rtp", audio), reports = one("remote-inbound-rtp", audio);
      return {
        at: now(), connection: this.pc.connectionState, ice: this.pc.iceConnectionState,
        sent_energy: one("media-source", audio).totalAudioEnergy ?? 0, heard_energy: inbound.totalAudioEnergy ?? 0,
        packets_sent: outbound.packetsSent ?? 0, packets_heard: inbound.packetsReceived ?? 0, lost: inbound.packetsLost ?? 0,
        srtp: transport.srtpCipher, dtls: transport.dtlsCipher, role: transport.dtlsRole, tls: transport.tlsVersion,
        local_ufrag: transport.iceLocalUsernameFragment, remote_ufrag: remote.usernameFragment,
        remote: `${remote.address}:${remote.port}`, local: `${local.address}:${local.port}`, pair_rtt: pair.currentRoundTripTime,
        reported_rtt: reports.roundTripTime, reported_lost: reports.packetsLost, requests: pair.requestsSent, responses: pair.responsesReceived,
        pair_ufrag: local.usernameFragment, pair_bytes: pair.bytesReceived ?? 0,
      };
    }
  };
}
