"""Settings of a transceiver as `transceiver start` would have them without options, on loopback, with ports of its
own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relay.runtime import keys
from relay.runtime.config import parse_address
from transceiver.settings import Settings, build


def key_file(directory: Path) -> str:
    path = directory / "route.key"
    if not path.exists():
        keys.create(path, keys.new_route_key(0))
    return str(path)


def configured(directory: Path, **changed: Any) -> Settings:
    options: dict[str, Any] = {
        "workers": 2, "internal": parse_address("127.0.0.1:0"), "http": parse_address("127.0.0.1:0"), "tls_cert": None,
        "tls_key": None, "cors_origins": [], "trusted_proxies": [], "auth_key_file": None, "auth_key": None,
        "no_auth": False, "advertise": [], "advertise_file": None, "relays": [], "route_key_file": key_file(directory),
        "session_key_file": None, "cpus_spec": "none", "max_sessions": 8, "max_new_per_s": 100.0,
        "answer_role": "active", "srtp_profiles": "gcm256,gcm128,cm128", "cluster": 0, "drain_timeout_s": 20.0,
        "recv_buffer": 64 << 10, "admin": parse_address("127.0.0.1:0"),
    }  # fmt: skip
    return build(**(options | changed))
