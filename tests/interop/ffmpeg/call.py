"""One call of FFmpeg's WHIP muxer (libavformat, through PyAV): ../README.md says what it is asked and what it prints.

It only sends, so it cannot tell what came back: the transceiver's own words on the call do. The muxer is told to use a
certificate made here: built with GnuTLS it makes itself one with a key on P-224, which no DTLS peer has to take.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

CALLS = "/v1/realtime/calls"
FRAMES = 50
FRAME_S, RATE, SAMPLES = 0.02, 48_000, 960
SETUP = {"passive": {}, "active": {"whip_flags": "dtls_active"}}  # it never leaves it open


def certificate(folder: Path) -> dict[str, str]:
    """The options that name its files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "interop")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())
    files = {"cert_file": folder / "cert.pem", "key_file": folder / "key.pem"}
    files["cert_file"].write_bytes(made.public_bytes(Encoding.PEM))
    files["key_file"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {option: str(path) for option, path in files.items()}


def noise(number: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="s16", layout="stereo", samples=SAMPLES)
    frame.planes[0].update(random.randbytes(4 * SAMPLES))
    frame.sample_rate, frame.pts = RATE, number * SAMPLES
    return frame


def call(url: str, options: dict[str, str]) -> dict[str, object]:
    began = time.monotonic()
    sent = 0
    with av.open(url, mode="w", format="whip", options=options) as muxer:
        stream = muxer.add_stream("libopus", rate=RATE, layout="stereo")
        muxer.start_encoding()  # the whole set-up
        setup_ms = (time.monotonic() - began) * 1e3
        for number in range(FRAMES):
            for packet in stream.encode(noise(number)):
                muxer.mux(packet)
                sent += 1
            time.sleep(FRAME_S)
        for packet in stream.encode(None):
            muxer.mux(packet)
            sent += 1
    return {"client": f"FFmpeg {av.ffmpeg_version_info}", "setup_ms": setup_ms, "sent": sent, "ended": "closed"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--setup", default="passive", choices=SETUP)
    words = parser.parse_args()
    with TemporaryDirectory() as folder:
        facts = call(words.url + CALLS, SETUP[words.setup] | certificate(Path(folder)))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
