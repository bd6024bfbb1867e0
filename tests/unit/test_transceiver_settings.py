"""What `transceiver start` makes of its options: defaults that depend on others, and mistakes that can be seen
beforehand; and its command line, as far as it opens nothing."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.runtime import keys
from relay.runtime.config import Hidden, parse_address, run_command
from relay.runtime.errors import ConfigError
from relay.runtime.limits import LOOPBACK
from tests.support.configured import configured, key_file
from transceiver import cli, srtp
from transceiver.advertise import parse
from transceiver.settings import SRTP_PROFILES

Capture = pytest.CaptureFixture[str]

KEY = "k3y-of.the_clients~0"
WILDCARD = parse_address("0.0.0.0:8080")
BEYOND: dict[str, Any] = {
    "internal": parse_address("10.0.0.7:0"),
    "relays": [ipaddress.ip_network("10.0.0.0/8")],
    "advertise": [parse("relay.example.com:3478")],
}


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_loopback_needs_nothing_but_a_key(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    assert settings.relays == LOOPBACK
    assert settings.advertise == (parse("127.0.0.1:3478"),)
    assert settings.auth_key is None
    assert settings.tls is None
    assert configured(tmp_path, internal=parse_address("[::1]:0")).relays == LOOPBACK


def test_beyond_loopback_all_must_be_said(tmp_path: Path) -> None:
    assert configured(tmp_path, **BEYOND).relays == tuple(BEYOND["relays"])
    for left_out in ("relays", "advertise"):
        with pytest.raises(ConfigError, match=f"^--{left_out}: "):
            configured(tmp_path, **(BEYOND | {left_out: []}))


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"internal": parse_address("0.0.0.0:0")}, "--internal"),
        ({"internal": parse_address("[::]:0")}, "--internal"),
        ({"internal": parse_address("239.1.1.1:0")}, "--internal"),
        ({"internal": parse_address("127.0.0.1:65535")}, "--internal"),
        ({"http": parse_address("169.254.0.1:80")}, "--http"),
        ({"relays": [ipaddress.ip_network("10.0.0.0/8")]}, "--relays"),
        (BEYOND | {"relays": [ipaddress.ip_network("fd00::/8")]}, "--relays"),
        (BEYOND | {"relays": [ipaddress.ip_network(f"10.{n}.0.0/16") for n in range(65)]}, "--relays"),
        ({"trusted_proxies": [ipaddress.ip_network(f"10.{n}.0.0/16") for n in range(65)]}, "--trusted-proxies"),
        ({"advertise": [parse(f"192.0.2.{n}:1") for n in range(17)]}, "--advertise"),
        ({"workers": 257}, "--workers"),
        ({"max_sessions": 0}, "--max-sessions"),
        ({"max_sessions": 65_536}, "--max-sessions"),
        ({"max_new_per_s": 0.0}, "--max-new-per-s"),
        ({"max_new_per_s": float("nan")}, "--max-new-per-s"),
        ({"cluster": -1}, "--cluster"),
        ({"cluster": 1 << 20}, "--cluster"),
        ({"recv_buffer": 1}, "--recv-buffer"),
        ({"srtp_profiles": "gcm256,rot13"}, "--srtp-profiles"),
        ({"srtp_profiles": " , "}, "--srtp-profiles"),
        ({"tls_cert": "c.pem"}, "--tls-key"),
        ({"tls_key": "k.pem"}, "--tls-cert"),
        ({"tls_cert": "/nonexistent/c.pem", "tls_key": "k.pem"}, "--tls-cert /nonexistent/c.pem"),
        ({"cors_origins": ["app.example.com"]}, "--cors-origin app.example.com"),
        ({"route_key_file": None}, "--route-key-file"),
        ({"http": WILDCARD}, "--http 0.0.0.0:8080"),
        ({"no_auth": True, "auth_key": Hidden(KEY)}, "--no-auth"),
        ({"auth_key_file": "f", "auth_key": Hidden(KEY)}, "--auth-key-file"),
        ({"auth_key": Hidden("short")}, "--auth-key: "),
        ({"auth_key": Hidden("(hidden) as config show has it")}, "--auth-key: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, changed: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, **changed)
    assert str(caught.value).startswith(where)
    assert caught.value.mend


# ---- who may call


def test_a_key_comes_from_a_file_or_the_option(tmp_path: Path) -> None:
    file = write(tmp_path / "auth", f"{KEY} # all clients\n")
    for given in ({"auth_key_file": file}, {"auth_key": Hidden(KEY)}):
        settings = configured(tmp_path, http=WILDCARD, **given)
        assert settings.auth_key == KEY
        assert KEY not in repr(settings)


def test_no_key_is_said_or_on_loopback(tmp_path: Path) -> None:
    assert configured(tmp_path, http=WILDCARD, no_auth=True).auth_key is None
    assert configured(tmp_path, no_auth=True).auth_key is None


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("*", "*"),
        ("https://App.example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_origins_as_browsers_write_them(tmp_path: Path, given: str, sent: str) -> None:
    assert configured(tmp_path, cors_origins=[given]).cors_origins == (sent,)


@pytest.mark.parametrize(
    "given", ["", "null", "https://", "ftp://x", "https://x/path", "https://x?q", "https://[x", "https://x:99999"]
)
def test_what_is_no_origin(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match="this is no origin"):
        configured(tmp_path, cors_origins=[given])


# ---- TLS


def certificate(directory: Path, name: str, passphrase: bytes | None = None) -> tuple[str, str]:
    """A self-signed one and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    dated = builder.not_valid_before(day).not_valid_after(day + datetime.timedelta(days=36_500))
    signed = dated.sign(key, hashes.SHA256())
    locked = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / f"{name}.crt").write_bytes(signed.public_bytes(pem))
    (directory / f"{name}.key").write_bytes(key.private_bytes(pem, pkcs8, locked))
    return str(directory / f"{name}.crt"), str(directory / f"{name}.key")


def test_a_certificate_and_its_key(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "a")
    tls = configured(tmp_path, tls_cert=cert, tls_key=key).tls
    assert tls is not None
    assert tls.context().minimum_version == ssl.TLSVersion.TLSv1_2


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "a")
    other = certificate(tmp_path, "b")[1]
    locked = certificate(tmp_path, "c", b"secret")
    for pair in ((cert, other), (key, key), (cert, write(tmp_path / "empty", "")), locked):
        with pytest.raises(ConfigError, match="they do not fit: .* without a passphrase"):
            configured(tmp_path, tls_cert=pair[0], tls_key=pair[1])


# ---- keys, profiles, the advertise file


def test_a_session_key_is_shared_or_of_this_start(tmp_path: Path) -> None:
    first, second = configured(tmp_path), configured(tmp_path)
    assert len(first.session_key) == keys.SESSION_KEY_BYTES
    assert first.session_key != second.session_key
    assert not first.session_key_given
    keys.create(tmp_path / "s", keys.new_session_key())
    shared = [configured(tmp_path, session_key_file=str(tmp_path / "s")) for _ in range(2)]
    assert shared[0].session_key == shared[1].session_key
    assert shared[0].session_key_given
    assert repr(shared[0].session_key) not in repr(shared[0])


def test_profiles_in_the_order_given(tmp_path: Path) -> None:
    assert tuple(SRTP_PROFILES.values()) == srtp.PROFILES
    settings = configured(tmp_path, srtp_profiles="cm128, gcm256 cm128")
    assert settings.srtp_profiles == (SRTP_PROFILES["cm128"], SRTP_PROFILES["gcm256"])


def test_an_advertise_file_stands_for_the_default(tmp_path: Path) -> None:
    file = write(tmp_path / "relays", "relay.example.com:3478\n")
    settings = configured(tmp_path, advertise_file=file)
    assert (settings.advertise, settings.advertise_file) == ((), file)
    assert configured(tmp_path, **(BEYOND | {"advertise": [], "advertise_file": file})).advertise == ()
    with pytest.raises(ConfigError, match="relays:1"):
        configured(tmp_path, advertise_file=write(tmp_path / "relays", "nonsense\n"))


# ---- the command line


def run(capsys: Capture, *words: str) -> tuple[int, str, str]:
    status = run_command(cli.cli, words, "transceiver")
    done = capsys.readouterr()
    return status, done.out, done.err


def test_check_says_what_would_run(tmp_path: Path, capsys: Capture) -> None:
    words = ["config", "check", "--route-key-file", key_file(tmp_path), "--workers", "3", "--cpus", "none"]
    status, out, _ = run(capsys, *words)
    assert (status, out.startswith("ok: 3 workers, not pinned")) == (0, True)
    status, _, err = run(capsys, *words, "--http", "[::]:8080")
    assert (status, "--no-auth" in err) == (78, True)
    assert run(capsys, *words, "--advertise", "nowhere")[0] == 2


def test_show_has_everything_but_the_key(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UFRAG_TRANSCEIVER_AUTH_KEY", KEY)
    monkeypatch.setenv("UFRAG_TRANSCEIVER_ADVERTISE", "relay.example.com:3478, [2001:db8::1]:3478")
    file = write(tmp_path / "t.toml", "[transceiver]\nmax-sessions = 77\nno-auth = false\n[relay]\nx = 1\n")
    status, out, _ = run(capsys, "config", "show", "--config", file)
    assert status == 0
    assert KEY not in out
    assert "# auth-key is set, and not shown" in out
    assert 'advertise = ["relay.example.com:3478", "[2001:db8::1]:3478"]' in out
    assert "max-sessions = 77" in out


def test_keys_new_makes_a_file(tmp_path: Path, capsys: Capture) -> None:
    status, out, _ = run(capsys, "keys", "new")
    assert (status, len(out.strip())) == (0, 64)
    assert run(capsys, "keys", "new", "--out", str(tmp_path / "s"))[0] == 0
    assert len(keys.load_session_key(tmp_path / "s")) == keys.SESSION_KEY_BYTES
    status, _, err = run(capsys, "keys", "new", "--out", str(tmp_path / "s"))
    assert (status, "exists" in err) == (78, True)


@pytest.mark.parametrize("module", cli.EXTRA)
def test_a_missing_library_says_how_to_get_it(
    module: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for words in (["config", "check", "--route-key-file", key_file(tmp_path)], ["call", "http://127.0.0.1:1"]):
        status, _, err = run(capsys, *words)
        assert status == 78
        assert f"{cli.EXTRA[module]} must be installed; pip install 'ufrag[transceiver]'" in err


def test_help_names_every_command(capsys: Capture) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for name in ("start", "config", "keys", "status", "sessions", "top", "hangup", "call"):
        assert f"\n  {name} " in out
