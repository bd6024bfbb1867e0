"""What `transceiver start` was told, checked and completed: the one place that knows defaults depending on others.

Everything here is decided before a socket is opened or a byte of shared memory allocated, so `transceiver config
check` finds every error that does not depend on the state of the machine. An error says what is wrong, where, and how
to mend it. What is safe on loopback is assumed there; beyond it, who may connect has to be said.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from _fastpath.media_slot import MOST_SESSIONS
from _fastpath.wire.token import CLUSTERS
from relay.runtime import cpus, keys, registered
from relay.runtime.config import Address, Hidden, Network
from relay.runtime.cpus import Plan
from relay.runtime.errors import ConfigError
from relay.runtime.keys import RouteKeys
from relay.runtime.limits import LOOPBACK, check_buffer, check_unicast, check_workers, is_loopback
from relay.runtime.redis_url import RedisPlace, with_password_file
from relay.runtime.sockets import is_wildcard
from transceiver.advertise import ENDPOINTS_MOST, Advertised, Endpoint

NETWORKS_MOST = 64
RATE_MOST = 100_000.0
RELAY_ON_LOOPBACK = Endpoint("127.0.0.1", 3478)

# The names of --srtp-profiles, and those of transceiver.srtp.PROFILES.
SRTP_PROFILES = {
    "gcm256": "SRTP_AEAD_AES_256_GCM",
    "gcm128": "SRTP_AEAD_AES_128_GCM",
    "cm128": "SRTP_AES128_CM_SHA1_80",
}


@dataclass(frozen=True)
class TLS:
    """Certificate chain and key, as files."""

    cert: str
    key: str

    def context(self) -> ssl.SSLContext:
        """For a server; a ConfigError says why these files make none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for option, file in (("--tls-cert", self.cert), ("--tls-key", self.key)):
            _check_readable(option, file)
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")  # never ask at the terminal
        except (OSError, ValueError) as error:  # SSLError is an OSError, as is a file that has just gone
            reason = getattr(error, "reason", None) or str(error)
            mend = "give a PEM certificate with its chain, and its own key without a passphrase"
            where = f"--tls-cert {self.cert} --tls-key {self.key}"
            raise ConfigError(f"they do not fit: {reason.lower().replace('_', ' ')}", where=where, mend=mend) from None
        return context


class ServerTLS:
    """A server's context whose certificate can be renewed: each connection takes the present one at its first message.

    A certificate loaded into a context that has one would stand beside it, if its key is of another type, or leave the
    context without any, if it fails half-way.
    """

    def __init__(self, files: TLS) -> None:
        self._files = files
        self._present = self.context = files.context()
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._present

    def renew(self) -> None:
        """What the files hold now is for connections from now on; a ConfigError changes nothing."""
        self._present = self._files.context()


@dataclass(frozen=True)
class Settings:
    """A transceiver's configuration, complete and consistent."""

    plan: Plan
    internal: Address  # worker i takes port + i, if port is not 0
    http: Address
    tls: TLS | None
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[Network, ...]
    auth_key: str | None = field(repr=False)  # None: whoever reaches --http may call
    advertise: tuple[Endpoint, ...]
    advertise_file: str | None
    relays: tuple[Network, ...]
    route_key_file: Path
    route_keys: RouteKeys
    session_key: bytes = field(repr=False)
    session_key_given: bool  # else it is this start's own, and other hosts do not have it
    max_sessions: int
    max_new_per_s: float
    answer_role: Literal["active", "passive"]
    srtp_profiles: tuple[str, ...]  # names of transceiver.srtp.PROFILES, in order of preference
    cluster: int
    drain_timeout_s: float
    recv_buffer: int
    admin: Address
    beside: bool
    registry: registered.Entry | None


def build(
    *,
    workers: int | None,
    internal: Address,
    http: Address,
    tls_cert: str | None,
    tls_key: str | None,
    cors_origins: Sequence[str],
    trusted_proxies: Sequence[Network],
    auth_key_file: str | None,
    auth_key: Hidden | None,
    no_auth: bool,
    advertise: Sequence[Endpoint],
    advertise_file: str | None,
    relays: Sequence[Network],
    route_key_file: str | None,
    session_key_file: str | None,
    cpus_spec: str,
    max_sessions: int,
    max_new_per_s: float,
    answer_role: Literal["active", "passive"],
    srtp_profiles: str,
    cluster: int,
    drain_timeout_s: float,
    recv_buffer: int,
    admin: Address,
    beside: bool = False,
    redis: RedisPlace | None = None,
    redis_password_file: str | None = None,
    own_id: str | None = None,
    region: str | None = None,
    location: registered.Location | None = None,
) -> Settings:
    plan = cpus.plan(cpus_spec, workers)
    check_workers(plan, internal)
    _check_addresses(internal, http)
    _check_beside(beside, http)
    _check_numbers(max_sessions, max_new_per_s, cluster)
    check_buffer(recv_buffer)
    return Settings(
        plan=plan,
        internal=internal,
        http=http,
        tls=_tls(tls_cert, tls_key),
        cors_origins=tuple(map(_origin, cors_origins)),
        trusted_proxies=_networks("--trusted-proxies", trusted_proxies),
        auth_key=_auth_key(auth_key_file, auth_key, no_auth, http),
        advertise=_advertise(advertise, advertise_file, internal),
        advertise_file=advertise_file,
        relays=_relays(relays, internal),
        route_key_file=(key_file := _key_file(route_key_file)),
        route_keys=keys.load(key_file),
        session_key=_session_key(session_key_file),
        session_key_given=session_key_file is not None,
        max_sessions=max_sessions,
        max_new_per_s=max_new_per_s,
        answer_role=answer_role,
        srtp_profiles=_srtp_profiles(srtp_profiles),
        cluster=cluster,
        drain_timeout_s=drain_timeout_s,
        recv_buffer=recv_buffer,
        admin=admin,
        beside=beside,
        registry=registered.entry(with_password_file(redis, redis_password_file), own_id, region, location),
    )


# Addresses


def _check_addresses(internal: Address, http: Address) -> None:
    if is_wildcard(internal):
        mend = "name this host's address towards the relays, such as --internal 10.0.0.7:0"
        raise ConfigError("a wildcard: tokens must name an address", where=f"--internal {internal}", mend=mend)
    check_unicast(internal, "--internal", "the relays reach")
    check_unicast(http, "--http", "clients reach, or a wildcard")


def _check_beside(beside: bool, http: Address) -> None:
    if beside and not http.port:
        mend = "name the --http of the one that runs"
        raise ConfigError("any port is nobody's", where=f"--beside --http {http}", mend=mend)


def _networks(option: str, networks: Sequence[Network]) -> tuple[Network, ...]:
    if len(networks) > NETWORKS_MOST:
        raise ConfigError(f"{len(networks)} networks", where=option, mend=f"{NETWORKS_MOST} is the most")
    return tuple(networks)


def _relays(relays: Sequence[Network], internal: Address) -> tuple[Network, ...]:
    """Who may send to the internal address. The envelope says who a client is and nothing proves it, so beyond
    loopback nothing is assumed."""
    if not relays and is_loopback(internal):
        return LOOPBACK
    if not relays:
        mend = "name where the relays are, such as --relays 10.0.0.0/8"
        what = "who may send to the internal address is not said, and it is not loopback"
        raise ConfigError(what, where="--relays", mend=mend)
    for network in _networks("--relays", relays):
        same_family = network.version == ipaddress.ip_address(internal.host).version
        if not same_family or (is_loopback(internal) and not network.is_loopback):
            mend = "give --internal an address that those relays reach"
            raise ConfigError(f"{network} cannot reach {internal}", where="--relays", mend=mend)
    return tuple(relays)


def _advertise(fixed: Sequence[Endpoint], file: str | None, internal: Address) -> tuple[Endpoint, ...]:
    if not fixed and file is None:
        if is_loopback(internal):
            return (RELAY_ON_LOOPBACK,)
        mend = "name the relays as clients reach them, such as --advertise relay.example.com:3478"
        raise ConfigError("what clients are to send to is not said", where="--advertise", mend=mend)
    if len(fixed) > ENDPOINTS_MOST:
        raise ConfigError(f"{len(fixed)} endpoints", where="--advertise", mend=f"{ENDPOINTS_MOST} is the most")
    Advertised(fixed, file)  # reads the file, which must be right at the start
    return tuple(fixed)


# HTTP


def _tls(cert: str | None, key: str | None) -> TLS | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = ("--tls-key", "--tls-cert") if cert is None else ("--tls-cert", "--tls-key")
        raise ConfigError(f"there is {given} without it", where=missing, mend="give both, or none behind a proxy")
    tls = TLS(cert, key)
    tls.context()
    return tls


def _check_readable(option: str, file: str) -> None:
    try:
        with open(file, "rb") as stream:
            stream.read(1)
    except OSError as error:
        where = f"{option} {file}"
        raise ConfigError(f"cannot read it: {error.strerror}", where=where, mend="name a readable PEM file") from None


def _origin(text: str) -> str:
    """As browsers send it in Origin: scheme, host, and a port that is not the scheme's own."""
    if text == "*":
        return text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        mend = "write one like https://app.example.com, or * for all"
        raise ConfigError("this is no origin", where=f"--cors-origin {text}", mend=mend)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, usual) else "")


def _auth_key(file: str | None, given: Hidden | None, no_auth: bool, http: Address) -> str | None:
    if no_auth and (file or given):
        raise ConfigError("there is a key as well", where="--no-auth", mend="give one of the two")
    if file and given:
        raise ConfigError("there is --auth-key as well", where="--auth-key-file", mend="give one of the two")
    if file:
        return keys.load_auth_key(Path(file))
    if given:
        return keys.checked_auth_key(given.text, "--auth-key")
    if not no_auth and not is_loopback(http):
        mend = "give --auth-key-file FILE, or say --no-auth if whoever reaches it may call"
        raise ConfigError("it is not loopback, and no key is asked for there", where=f"--http {http}", mend=mend)
    return None


# Keys and numbers


def _key_file(file: str | None) -> Path:
    if file is None:
        mend = "make one with `relay keys new --out route.key`, and give the same file to the relays"
        raise ConfigError("no route keys are given", where="--route-key-file", mend=mend)
    return Path(file)


def _session_key(file: str | None) -> bytes:
    return secrets.token_bytes(keys.SESSION_KEY_BYTES) if file is None else keys.load_session_key(Path(file))


def _srtp_profiles(text: str) -> tuple[str, ...]:
    names = [name for name in re.split(r"[,\s]+", text) if name]
    unknown = [name for name in names if name not in SRTP_PROFILES]
    if unknown or not names:
        what = f"unknown: {', '.join(unknown)}" if unknown else "none is left"
        raise ConfigError(what, where="--srtp-profiles", mend=f"choose of {','.join(SRTP_PROFILES)}")
    return tuple(dict.fromkeys(SRTP_PROFILES[name] for name in names))


def _check_numbers(max_sessions: int, max_new_per_s: float, cluster: int) -> None:
    if not 1 <= max_sessions <= MOST_SESSIONS:
        raise ConfigError(f"{max_sessions} sessions", where="--max-sessions", mend=f"write 1 to {MOST_SESSIONS}")
    if not 0 < max_new_per_s <= RATE_MOST:
        raise ConfigError(f"{max_new_per_s:g} a second", where="--max-new-per-s", mend=f"write up to {RATE_MOST:g}")
    if not 0 <= cluster < CLUSTERS:
        raise ConfigError(f"{cluster}", where="--cluster", mend=f"write 0 to {CLUSTERS - 1}")
