"""User-space instructions per packet, counted by callgrind (`python -m benchmarks.instructions`): repeatable on any
machine.

A worker's loop runs under valgrind with real sockets and real packets; what is counted is everything inside
`Forwarder.run`, libc's system-call stubs included, the kernel not. The generator's bursts make the batches: 64
shows the cost of a packet, 1 that of a wake-up.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from socket import SOCK_DGRAM

import click

from benchmarks import support

TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
COUNTED = "__pyx_pw_*Forwarder*run"  # the function in the method table: the one that cannot be inlined


class CountedWorker(support.Server):
    """A filled worker under callgrind; the count is complete when it has ended."""

    def __init__(self, flows: int, next_hop: str, client_port: int, out: Path) -> None:
        options = support.options_of(flows=flows, next_hop=next_hop, client_port=client_port)
        valgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}", "--collect-atstart=no",
                    f"--toggle-collect={COUNTED}"]  # fmt: skip
        super().__init__([*valgrind, sys.executable, "-m", "benchmarks.filled_worker", *options])
        self.out = out

    def stop(self) -> support.Result:
        self.process.terminate()
        self.process.wait(support.STOP_TIMEOUT_S)
        return {}

    def instructions(self) -> int:
        found = TOTAL.findall(self.out.read_text())
        if not found:
            raise click.ClickException(f"callgrind counted nothing inside {COUNTED}")
        return int(found[-1])


def count(burst: int, packets: int, flows: int) -> float:
    """Instructions per forwarded packet."""
    rate = 2000
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        echo = stack.enter_context(support.Echo(0))
        tokens = support.write_tokens(folder / "tokens", ["x" * 32])
        port = support.free_port(SOCK_DGRAM)
        with CountedWorker(flows, echo.address, port, folder / "callgrind.out") as worker:
            result = support.Generator(
                worker.address, tokens, flows=flows, port=port, rate=rate, burst=burst, seconds=packets / rate,
                size=160, skip_setup=True, check_interval=0,
            ).run()  # fmt: skip
        if result["lost"]:
            raise click.ClickException(f"{result['lost']} packets were lost; a slower rate is needed")
        return float(worker.instructions() / (2 * result["received"]))


@click.command()
@click.option("--packets", default=10_000, show_default=True)
@click.option("--flows", default=1000, show_default=True)
@click.option("--bursts", default="1,8,64", show_default=True)
def main(packets: int, flows: int, bursts: str) -> None:
    """Count for several burst sizes."""
    if shutil.which("valgrind") is None:
        raise click.ClickException("valgrind is missing: apt-get install valgrind")
    for burst in map(int, bursts.split(",")):
        click.echo(f"bursts of {burst}: {count(burst, packets, flows):.0f} instructions per forwarded packet")


if __name__ == "__main__":
    main()
