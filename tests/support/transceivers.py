"""Real transceivers for integration tests, beside the relays of `relays`: started as an operator starts them, read
through their admin port, ended by their pid.

Every transceiver ends with its books checked, whatever the test did: each datagram taken from the socket has exactly
one outcome, per worker and direction; and a traceback in its log fails the test. Whether all that a relay sent has
come in is `arrived`: true of any relay and transceiver that serve each other alone, as soon as they are quiet.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.support import Process, Words, free_port, options_of
from benchmarks.support_transceiver import TransceiverProcess
from tests.support.relays import Relay


class Transceiver(Relay, TransceiverProcess):
    """A transceiver, in the namespace `netns` if that is given. `advertise` are relays as clients reach them."""

    def __init__(
        self, key_file: Path, *, advertise: Sequence[str], workers: int = 1, internal: str = "127.0.0.1:0",
        http_host: str = "127.0.0.1", extra: Words = (), netns: str = "",
    ) -> None:  # fmt: skip
        self.enter, self.netns = (("ip", "netns", "exec", netns) if netns else ()), netns
        self.key_file = self.route_key_file = key_file
        self.http = (http_host, free_port(socket.SOCK_STREAM))
        self.admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        self.listen, self.internal = list(advertise), internal
        self.checked = False
        options = options_of(
            workers=workers, internal=internal, http=f"{http_host}:{self.http[1]}", route_key_file=key_file,
            cpus="none", admin=self.admin,
        )  # fmt: skip
        options += [word for relay in advertise for word in ("--advertise", relay)]
        Process.__init__(self, [*self.enter, sys.executable, "-m", "transceiver", "start", *options, *extra])

    def again(self, *extra: str) -> Transceiver:
        """One with the same options and addresses, for when this one is gone; and what is different."""
        other = Transceiver(self.key_file, advertise=self.listen, netns=self.netns)
        other.http, other.admin, other.command = self.http, self.admin, [*self.command, *extra]
        return other

    def beside(self, *extra: str) -> Transceiver:
        """One that shares its --http; an option that is given again counts the last time."""
        other = self.again("--beside", *extra)
        other.admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        other.command += ["--admin", other.admin]
        return other

    @property
    def url(self) -> str:
        return f"http://{self.http[0]}:{self.http[1]}"

    def sessions(self) -> list[dict[str, Any]]:
        """The calls at this moment, as `transceiver sessions --json` has them."""
        status, text = self.fetch("/sessions")
        assert status == 200, text
        return list(json.loads(text))

    def ended(self) -> Counter[str]:
        """How many calls have ended, by reason."""
        found: Counter[str] = Counter()
        for (name, labels), value in self.samples().items():
            if name == "ufrag_transceiver_sessions_total":
                found[dict(labels)["end_reason"]] += int(value)
        return +found

    def check_books(self) -> None:
        """Packets taken = sum of outcomes, per worker; what is counted as sent are outcomes too."""
        self.checked = True
        taken: Counter[tuple[str, str]] = Counter()
        ended: Counter[tuple[str, str]] = Counter()
        for (name, labels), value in self.samples().items():
            has = dict(labels)
            if name == "ufrag_transceiver_packets_total":
                taken[has["direction"], has["worker"]] += int(value)
            elif name == "ufrag_transceiver_accepted_total":
                ended[has["direction"], has["worker"]] += int(value)
            elif name == "ufrag_transceiver_drops_total" and has["direction"] == "up":  # down, drops were not sent
                ended["up", has["worker"]] += int(value)
        assert taken
        assert taken == ended

    def arrived(self, relay: Relay) -> bool:
        """Whether all that the relay has forwarded up was taken from the sockets here."""
        sent = relay.total("ufrag_relay_forwarded_total", direction="up")
        lost = self.total("ufrag_transceiver_socket_drops_total")
        return sent == self.total("ufrag_transceiver_packets_total", direction="up") + lost
