"""SRTP sessions: libsrtp's C functions, called at the given addresses, do what pylibsrtp's Python way does."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
from types import SimpleNamespace

import pylibsrtp
import pytest

from relay.runtime.errors import ConfigError
from transceiver.srtp import FUNCTIONS, PROFILE_TABLE, PROFILES, REPLAY_WINDOW, SRTPKeys, SRTPPair, functions

OK, AUTH_FAIL, REPLAY_FAIL, REPLAY_OLD = 0, 7, 9, 10
TRAILER = 144 + 4
Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))


def call(address: int, session: int, packet: bytes) -> tuple[int, bytes]:
    """Status and what became of the packet, as the hot thread calls it: in place, with room behind."""
    buffer = ctypes.create_string_buffer(packet, len(packet) + TRAILER)
    length = ctypes.c_int(len(packet))
    status = Function(address)(session, ctypes.addressof(buffer), ctypes.byref(length))
    return status, buffer.raw[: length.value]


def key_pair(profile: str) -> tuple[SRTPKeys, SRTPKeys]:
    """Of one side and of the other."""
    size = PROFILE_TABLE[profile].key_bytes + PROFILE_TABLE[profile].salt_bytes
    one, other = os.urandom(size), os.urandom(size)
    return SRTPKeys(profile, one, other), SRTPKeys(profile, other, one)


def rtp(sequence: int, ssrc: int = 0x1234, payload: bytes = b"audio" * 20) -> bytes:
    return b"\x80\x6f" + sequence.to_bytes(2, "big") + bytes(4) + ssrc.to_bytes(4, "big") + payload


def rtcp(ssrc: int = 0x1234) -> bytes:
    return b"\x80\xc9\x00\x01" + ssrc.to_bytes(4, "big")


@pytest.mark.parametrize("profile", PROFILES)
def test_both_ways_agree_on_every_profile(profile: str) -> None:
    c, (ours, theirs) = functions(), key_pair(profile)
    by_address, by_python = SRTPPair(ours), SRTPPair(ours)
    peer_by_address, peer_by_python = SRTPPair(theirs), SRTPPair(theirs)
    for number in range(20):
        packet = rtp(100 + number, ssrc=1 + number % 3, payload=os.urandom(number * 60))
        status, protected = call(c.protect, by_address.tx, packet)
        assert (status, protected) == (OK, by_python.protect(packet))
        assert call(c.unprotect, peer_by_address.rx, protected) == (OK, packet)
        assert peer_by_python.unprotect(protected) == packet

        status, protected = call(c.protect_rtcp, by_address.tx, rtcp(1 + number % 3))
        assert (status, protected) == (OK, by_python.protect_rtcp(rtcp(1 + number % 3)))
        assert call(c.unprotect_rtcp, peer_by_address.rx, protected) == (OK, rtcp(1 + number % 3))
        assert peer_by_python.unprotect_rtcp(protected) == rtcp(1 + number % 3)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_packet_counts_once_and_unchanged_only(profile: str) -> None:
    c, (ours, theirs) = functions(), key_pair(profile)
    us, them = SRTPPair(ours), SRTPPair(theirs)
    for protect, unprotect, packet in [(c.protect, c.unprotect, rtp(7)), (c.protect_rtcp, c.unprotect_rtcp, rtcp())]:
        _, protected = call(protect, us.tx, packet)
        for position in range(len(protected)):
            changed = bytearray(protected)
            changed[position] ^= 0x10
            assert call(unprotect, them.rx, bytes(changed))[0] != OK
        assert call(unprotect, them.rx, protected) == (OK, packet)
        assert call(unprotect, them.rx, protected)[0] == REPLAY_FAIL
        assert call(unprotect, us.rx, protected)[0] == AUTH_FAIL  # the key of the other direction
        for length in range(len(packet)):
            assert call(unprotect, them.rx, protected[:length])[0] != OK


def test_late_packets_are_taken_as_far_as_the_window_goes() -> None:
    c, (ours, theirs) = functions(), key_pair(PROFILES[0])
    us, them = SRTPPair(ours), SRTPPair(theirs)
    protected = [call(c.protect, us.tx, rtp(number))[1] for number in range(1, REPLAY_WINDOW + 2)]
    assert call(c.unprotect, them.rx, protected[-1])[0] == OK
    assert call(c.unprotect, them.rx, protected[1]) == (OK, rtp(2))
    assert call(c.unprotect, them.rx, protected[0])[0] == REPLAY_OLD


def test_the_pointers_live_as_long_as_the_pair() -> None:
    c = functions()
    pairs = [[SRTPPair(keys) for keys in key_pair(profile)] for profile in PROFILES * 20]
    gc.collect()  # the keys, the policies and whatever else was made on the way
    pointers = {pointer for us, them in pairs for pointer in (us.tx, us.rx, them.tx, them.rx)}
    assert len(pointers) == 4 * len(pairs)
    for us, them in pairs:
        _, protected = call(c.protect, us.tx, rtp(1))
        assert call(c.unprotect, them.rx, protected) == (OK, rtp(1))


def test_keys_are_never_shown() -> None:
    ours, _ = key_pair(PROFILES[0])
    assert repr(ours) == f"SRTPKeys({PROFILES[0]})"


@pytest.mark.parametrize("version", ["0.12.0", "1.1.0", "2.0.0"])
def test_another_version_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(pylibsrtp, "__version__", version)
    with pytest.raises(ConfigError, match=rf"pylibsrtp: .*{version}; install pylibsrtp 1\.0") as caught:
        functions()
    assert caught.value.exit_status == 78


@pytest.mark.parametrize(
    "signature",
    [
        "int (*)(struct srtp_ctx_t_ *, void *, int *)",
        "enum srtp_status (*)(struct srtp_ctx_t_ *, void *, int *, ...)",
        "enum srtp_status (*)(struct srtp_ctx_t_ *, void *, size_t *)",
        "enum srtp_status (*)(struct srtp_ctx_t_ *, void *, size_t, void *, size_t *)",  # as in libsrtp 3
    ],
)
def test_another_signature_is_refused(monkeypatch: pytest.MonkeyPatch, signature: str) -> None:
    ffi = importlib.import_module("cffi").FFI()
    ffi.cdef("enum srtp_status { OK, FAIL };")
    pointer = ffi.cast(signature, 0)
    fake = SimpleNamespace(addressof=lambda _library, _name: pointer, typeof=ffi.typeof, cast=ffi.cast)
    monkeypatch.setattr(pylibsrtp, "ffi", fake)
    with pytest.raises(ConfigError, match="its srtp_protect is"):
        functions()


def test_a_missing_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pylibsrtp, "lib", SimpleNamespace())
    monkeypatch.setattr(pylibsrtp, "ffi", SimpleNamespace(addressof=getattr))
    with pytest.raises(ConfigError, match=f"it has no {FUNCTIONS[0]}"):
        functions()
