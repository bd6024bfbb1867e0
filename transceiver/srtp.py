"""SRTP sessions of libsrtp, for a loop that calls its C functions without the GIL (RFC 3711, RFC 7714).

pylibsrtp makes the sessions and their policies; packets never go through it, for that costs several times the work
itself. The hot thread gets the addresses of four C functions out of pylibsrtp's own module and the pointers of two
sessions. `functions` compares version and signatures first: a call through a wrong signature would be memory written
where it should not be. A test compares both ways on every profile.

Rules: an `SRTPPair` owns its sessions' memory, and a freed address is used again at once: keep the pair until the
hot thread has acknowledged that it forgot the pointers. libsrtp has no locks: one thread per pair. Also the names
and key lengths of the profiles, which `transceiver.dtls` negotiates. Called by the session; knows nothing of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pylibsrtp
from pylibsrtp import Policy, Session

from relay.runtime.errors import ConfigError

# Packets this far behind the newest are still taken: 20 s of audio at 50 packets/s.
REPLAY_WINDOW = 1024

SRTPError = pylibsrtp.Error

KNOWN_VERSION = "1.0"
FUNCTIONS = ("srtp_protect", "srtp_unprotect", "srtp_protect_rtcp", "srtp_unprotect_rtcp")
ARGUMENTS = ["struct srtp_ctx_t_ *", "void *", "int *"]


class Profile(NamedTuple):
    """Lengths as RFC 5764, 4.1.2 and RFC 7714, 14.2 have them; `policy` is libsrtp's number."""

    key_bytes: int
    salt_bytes: int
    policy: int


# By OpenSSL's names, best first: the strongest is also the cheapest here.
PROFILE_TABLE = {
    "SRTP_AEAD_AES_256_GCM": Profile(32, 12, Policy.SRTP_PROFILE_AEAD_AES_256_GCM),
    "SRTP_AEAD_AES_128_GCM": Profile(16, 12, Policy.SRTP_PROFILE_AEAD_AES_128_GCM),
    "SRTP_AES128_CM_SHA1_80": Profile(16, 14, Policy.SRTP_PROFILE_AES128_CM_SHA1_80),
}
PROFILES = tuple(PROFILE_TABLE)


class SRTPKeys(NamedTuple):
    """Master key and salt, joined, of each direction."""

    profile: str
    tx_key: bytes
    rx_key: bytes

    def __repr__(self) -> str:
        return f"SRTPKeys({self.profile})"


class SRTPFunctions(NamedTuple):
    """Addresses of C functions: int f(session, void *packet, int *length), 0 for success, in place."""

    protect: int
    unprotect: int
    protect_rtcp: int
    unprotect_rtcp: int


def functions() -> SRTPFunctions:
    """The addresses, of a pylibsrtp that was seen to fit; any other is refused."""
    library: Any = pylibsrtp
    if library.__version__.rpartition(".")[0] != KNOWN_VERSION:
        raise _unknown(f"this is version {library.__version__}")
    return SRTPFunctions(*(_address(library, name) for name in FUNCTIONS))


def _address(library: Any, name: str) -> int:
    try:
        pointer = library.ffi.addressof(library.lib, name)
    except AttributeError:
        raise _unknown(f"it has no {name}") from None
    function = library.ffi.typeof(pointer)
    fits = [each.cname for each in function.args] == ARGUMENTS and function.result.kind == "enum"
    if not fits or function.ellipsis:
        raise _unknown(f"its {name} is {function.cname}")
    return int(library.ffi.cast("uintptr_t", pointer))


def _unknown(what: str) -> ConfigError:
    reason = f"SRTP is called past Python, which is known to work with version {KNOWN_VERSION} only; {what}"
    return ConfigError(reason, where="pylibsrtp", mend=f"install pylibsrtp {KNOWN_VERSION}")


class SRTPPair:
    """The two sessions of a call: `tx` protects what leaves, `rx` unprotects what comes; both are C pointers."""

    __slots__ = ("_rx", "_tx", "rx", "tx")

    def __init__(self, keys: SRTPKeys) -> None:
        number = PROFILE_TABLE[keys.profile].policy
        outbound = Policy(key=keys.tx_key, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=number)
        inbound = Policy(key=keys.rx_key, ssrc_type=Policy.SSRC_ANY_INBOUND, srtp_profile=number)
        inbound.window_size = REPLAY_WINDOW
        self._tx, self._rx = Session(outbound), Session(inbound)
        self.tx, self.rx = _pointer(self._tx), _pointer(self._rx)

    # The same sessions through Python, for tests: never on a pair that the hot thread has.

    def protect(self, packet: bytes) -> bytes:
        return self._tx.protect(packet)

    def unprotect(self, packet: bytes) -> bytes:
        return self._rx.unprotect(packet)

    def protect_rtcp(self, packet: bytes) -> bytes:
        return self._tx.protect_rtcp(packet)

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        return self._rx.unprotect_rtcp(packet)


def _pointer(session: Any) -> int:
    library: Any = pylibsrtp
    return int(library.ffi.cast("uintptr_t", session._srtp[0]))
