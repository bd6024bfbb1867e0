"""aiortc, a client that shares no line with ours below HTTP, through a real relay and transceiver: every call is whole,
in either DTLS role, with each SRTP profile, and with an RSA certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiortc import RTCBundlePolicy

from tests.support.aiortc_calls import make_calls, rsa_certificates
from tests.support.relays import Relay, until
from tests.support.transceivers import Transceiver

ROLES = pytest.mark.parametrize("role", ["active", "passive"])
USUAL_ROLE = pytest.mark.parametrize("role", ["active", pytest.param("passive", marks=pytest.mark.full)])


@contextmanager
def edge(key_file: Path, calls: int, *extra: str) -> Iterator[Transceiver]:
    """A relay and a transceiver that are to see so many calls, none of which may leave anything undone."""
    with Relay(key_file) as relay, Transceiver(key_file, advertise=relay.listen, extra=extra) as transceiver:
        yield transceiver
        until(lambda: transceiver.ended() == {"hangup": calls})
        assert transceiver.sessions() == []
        until(lambda: transceiver.arrived(relay))
        assert relay.total("ufrag_relay_tokens_total", result="verified") == calls
        assert transceiver.total("ufrag_transceiver_sessions_begun_total") == calls
        assert transceiver.total("ufrag_transceiver_refused_total") == 0


@ROLES
def test_twenty_of_twenty(role: str, key_file: Path) -> None:
    with edge(key_file, 20, "--answer-role", role) as transceiver:
        make_calls(transceiver.url, 20)


@USUAL_ROLE
@pytest.mark.parametrize(
    ("option", "profile"),
    [
        ("gcm256", "SRTP_AEAD_AES_256_GCM"),
        ("gcm128", "SRTP_AEAD_AES_128_GCM"),
        ("cm128", "SRTP_AES128_CM_SHA1_80"),
    ],
)
def test_each_profile_where_it_is_the_only_one(option: str, profile: str, role: str, key_file: Path) -> None:
    seen: set[str] = set()
    with edge(key_file, 3, "--answer-role", role, "--srtp-profiles", option) as transceiver:
        make_calls(
            transceiver.url, 3, while_live=lambda: seen.update(each["profile"] for each in transceiver.sessions())
        )
    assert seen == {profile}


@ROLES
def test_an_rsa_certificate_of_the_client(role: str, key_file: Path) -> None:
    """As DTLS server it cannot but sign by RSA, as client it shows the certificate when asked."""
    seen: set[str] = set()
    with edge(key_file, 3, "--answer-role", role) as transceiver, rsa_certificates():
        make_calls(
            transceiver.url, 3, while_live=lambda: seen.update(each["cipher"] for each in transceiver.sessions())
        )
    signature = {"active": "RSA", "passive": "ECDSA"}[role]
    assert seen == {f"ECDHE-{signature}-AES128-GCM-SHA256"}


def test_the_policy_max_bundle(key_file: Path) -> None:
    """With it aiortc takes the candidates of the last section."""
    with edge(key_file, 3) as transceiver:
        make_calls(transceiver.url, 3, bundle=RTCBundlePolicy.MAX_BUNDLE)
