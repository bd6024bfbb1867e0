"""Who we are and who the peer is: a certificate of our own, and the check of the peer's (RFC 8122, RFC 8827, 6.5).

Neither name nor issuer nor dates of a certificate say anything in WebRTC: signaling carries its fingerprint, and that
alone counts. An `Identity` is made when a process starts and serves all its sessions; a `PeerCheck` is made for each
session from what its offer said. Knows nothing of OpenSSL's connections, takes no time. Called by `transceiver.dtls`,
and by who writes the fingerprint into an answer.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding

# RFC 5280, 4.1.2.5: a certificate without end. Our own ends with the process.
VALID_FROM, VALID_TO = datetime.datetime(2000, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)

# Best first. RFC 8122, 5 asks every peer for SHA-256; what is weaker is not accepted.
HASHES = ("sha-512", "sha-384", "sha-256")


class Identity:
    """A key with its self-signed certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | RSAPrivateKey, certificate: x509.Certificate) -> None:
        self.key = key
        self.certificate = certificate
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
        self.fingerprint_sha256 = digest.hex(":").upper()

    @classmethod
    def generate(cls, *, rsa: bool = False) -> Identity:
        """ECDSA with P-256, which everybody has; RSA for tests."""
        key = generate_rsa_key(65537, 2048) if rsa else ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "WebRTC")])
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        certificate = builder.not_valid_before(VALID_FROM).not_valid_after(VALID_TO).sign(key, hashes.SHA256())
        return cls(key, certificate)


class PeerCheck:
    """Compares a certificate with the fingerprints that signaling brought, each a hash's name and a digest."""

    __slots__ = ("_digests", "_hash", "accepted", "refused")

    def __init__(self, fingerprints: Iterable[tuple[str, bytes]]) -> None:
        offered = [(name.lower(), digest) for name, digest in fingerprints]
        # RFC 8122, 5.1: of the offered hashes the most preferred one, and of its fingerprints any.
        self._hash = next((each for each in HASHES if each in dict(offered)), "")
        self._digests = [digest for name, digest in offered if name == self._hash]
        self.accepted = self.refused = False

    @property
    def possible(self) -> bool:
        return bool(self._digests)

    def compare(self, certificate: bytes) -> bool:
        """Of a certificate in DER; the last one that was compared decides."""
        digest = hashlib.new(self._hash.replace("-", ""), certificate).digest()
        self.accepted = any(hmac.compare_digest(digest, each) for each in self._digests)
        self.refused = not self.accepted
        return self.accepted
