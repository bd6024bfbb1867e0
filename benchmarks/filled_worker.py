"""One worker's forwarding with a table filled beforehand: `python -m benchmarks.filled_worker`, for benchmarks only.

The sockets, memory and loop are the relay's own; only launcher and cold thread are missing, and the flows come
through the tests' entry point instead of a million checks. Prints `listening ADDR:PORT` and forwards until it is
killed.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from socket import AF_INET

import click

from _fastpath._testing import Harness
from _fastpath.forward import Forwarder
from _fastpath.slot import SECRET_BYTES, Slot, slot_bytes
from _fastpath.wire.token import Keyring
from relay.runtime import cpus
from relay.runtime.config import Address, parse_address
from relay.runtime.memory import allocate
from relay.runtime.sockets import open_internal
from relay.slots import PublicSocket, open_public

BUFFER_BYTES = 4 << 20
LOOPBACK = Address("127.0.0.1", 0, AF_INET)
NEVER_S = 86_400.0


@click.command()
@click.option("--flows", type=int, required=True)
@click.option("--next-hop", required=True, help="ADDR:PORT that all flows lead to.")
@click.option("--client-base", default="127.16.0.0", show_default=True)
@click.option("--client-port", type=int, required=True)
@click.option("--cpu", type=int, default=0, show_default=True)
def main(flows: int, next_hop: str, client_base: str, client_port: int, cpu: int) -> None:
    """Forward for FLOWS flows from consecutive client addresses."""
    slot = Slot.create(allocate(slot_bytes(flows), "--flows"), flows, secrets.token_bytes(SECRET_BYTES))
    public = PublicSocket(LOOPBACK, open_public(LOOPBACK, BUFFER_BYTES))
    internal = open_internal(LOOPBACK, BUFFER_BYTES)
    forwarder = Forwarder(
        slot, keyring=Keyring({}), publics=[public.bound], internal=(internal.fileno(), int(AF_INET)),
        wake=os.eventfd(0), max_half_open=flows, flow_timeout_s=NEVER_S,
    )  # fmt: skip
    local = public.sock.getsockname()
    owner = parse_address(next_hop).sockaddr
    filled = Harness(forwarder).fill(flows, int(ipaddress.IPv4Address(client_base)), client_port, local, owner)
    if filled != flows:
        raise click.ClickException(f"only {filled} of {flows} flows fitted")
    cpus.pin(cpu)
    print(f"listening {local[0]}:{local[1]}", flush=True)
    forwarder.run()


if __name__ == "__main__":
    main()
