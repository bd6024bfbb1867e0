// What the clients of Node.js share: the signaling, the frames, the messages, and what is printed in the end.
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

const CALLS = "/v1/realtime/calls";
const FRAMES = 50;
const PATIENCE_MS = 15_000;
const BINARY_BYTES = 100_000;
const TEXT = "grüß dich, 世界";
const MARK = Buffer.from([0xf8, 0x69, 0x6f]); // Opus's TOC byte first

export const version = name => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;

export function within(what, promise) {
  let timer;
  const late = new Promise((_, refuse) => {
    timer = setTimeout(() => refuse(new Error(`${what}: not within ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A promise and what settles it.
export function later() {
  const made = {};
  made.promise = new Promise((resolve, refuse) => Object.assign(made, { resolve, refuse }));
  return made;
}

// One call. Its client tells it `connected`, `opened`, `ended`, `heard(payload)`, `read(message)`.
export class Call {
  constructor() {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        setup: { type: "string", default: "actpass" },
        end: { type: "string", default: "close" },
        "without-channel": { type: "boolean", default: false },
      },
    });
    this.options = values;
    this.url = positionals[0];
    this.facts = { sent: 0, back: 0, foreign: 0 };
    this.last = 0n;
    this.messages = [];
    Object.assign(this, { isConnected: later(), isOpen: later(), isEnded: later(), isHeard: later() });
    this.began = performance.now();
  }

  // The answer to an offer.
  async signal(offer) {
    const sdp = offer.replaceAll("a=setup:actpass", `a=setup:${this.options.setup}`);
    this.began = performance.now();
    const response = await this.post(CALLS, sdp);
    const answer = await response.text();
    if (response.status !== 201) throw new Error(`offer: status ${response.status}, ${answer}\n${sdp}`);
    this.facts.location = response.headers.get("Location");
    this.facts.setup = /^a=setup:(\w+)/m.exec(answer)[1];
    return answer;
  }

  post(path, body) {
    return fetch(this.url + path, { method: "POST", headers: { "Content-Type": "application/sdp" }, body });
  }

  connected() {
    this.facts.setup_ms ??= performance.now() - this.began;
    this.isConnected.resolve();
  }

  opened() { this.isOpen.resolve(); }

  ended(how) { this.isEnded.resolve(how); }

  // The next frame, unlike all others.
  frame() {
    const count = Buffer.alloc(8);
    count.writeBigUInt64BE(BigInt(++this.facts.sent));
    return Buffer.concat([MARK, count]);
  }

  // Frames come back in order and as they were.
  heard(payload) {
    const ours = payload.length === 11 && MARK.equals(payload.subarray(0, 3));
    const count = ours ? payload.readBigUInt64BE(3) : 0n;
    if (count <= this.last) {
      this.facts.foreign++;
      return;
    }
    this.last = count;
    if (++this.facts.back === FRAMES) this.isHeard.resolve();
  }

  read(message) { this.messages.shift()?.resolve(message); }

  async echoed(send, message) {
    const answer = later();
    this.messages.push(answer);
    send(message);
    const back = await within("message", answer.promise);
    return typeof message === "string" ? back === message : typeof back !== "string" && message.equals(Buffer.from(back));
  }

  // `speak` sends a frame, `send` a message, `close` says goodbye; `bytes`: the size of the larger message.
  async run({ speak, send, close, bytes = BINARY_BYTES }) {
    await within("connected", this.isConnected.promise);
    const ticker = setInterval(() => speak(this.frame()), 20);
    if (!this.options["without-channel"]) {
      await within("open channel", this.isOpen.promise);
      this.facts.text = await this.echoed(send, TEXT);
      this.facts.binary = await this.echoed(send, randomBytes(bytes));
    }
    await within("audio", this.isHeard.promise);
    clearInterval(ticker);
    if (this.options.end === "hangup") {
      const { status } = await this.post(`${this.facts.location}/hangup`, "");
      if (status !== 200) throw new Error(`hangup: status ${status}`);
      this.facts.ended = await within("end", this.isEnded.promise);
    } else {
      this.facts.ended = "closed";
    }
    await close();
    console.log(JSON.stringify(this.facts));
    setTimeout(() => process.exit(0), 300); // for what the goodbye still has to send
  }
}
