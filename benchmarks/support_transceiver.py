"""The servers that the swarm measures, as context managers: the transceiver itself and aiortc's pass-through echo.

The transceiver is started as an operator would, with fresh keys, and is ready when its admin port says so. What a
process used and holds is read from /proc, per thread where that tells the packet loop from the signaling. As in
`support`: processes end by their own pid, and a log that contains a traceback fails the benchmark.
"""

import contextlib
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.support import (
    Process,
    ProcessFailed,
    RelayProcess,
    Result,
    Server,
    Words,
    free_port,
    options_of,
    write_key_file,
)

RELAY = "127.0.0.1:3478"  # the address that answers advertise; no relay runs, the swarm speaks for it
RATE_MOST = 100_000  # the most that --max-new-per-s takes: how many there are is the swarm's affair
TRANSCEIVER = (sys.executable, "-m", "transceiver", "start")

AddressPort = tuple[str, int]


class TransceiverProcess(RelayProcess):
    """The transceiver with one media process. Admin port, children, log and stop are those of any program of ours."""

    spp = True

    def __init__(
        self, folder: Path, *, max_sessions: int, cpu: int = 0, extra: Words = (), program: Words = TRANSCEIVER
    ) -> None:
        """`cpu` holds all of its processes: what cannot be read from /proc is then at least on nobody else's CPU."""
        self.route_key_file = write_key_file(folder / "route-keys")
        self.http = ("127.0.0.1", free_port(socket.SOCK_STREAM))
        self.admin = f"127.0.0.1:{free_port(socket.SOCK_STREAM)}"
        options = options_of(
            workers=1, http=f"127.0.0.1:{self.http[1]}", advertise=RELAY, admin=self.admin,
            route_key_file=self.route_key_file, max_sessions=max_sessions, cpus="none",
            # Many clients from one address: each is told from the others by what a proxy would say of it.
            trusted_proxies="127.0.0.0/8", max_new_per_s=RATE_MOST,
        )  # fmt: skip
        self.listen = [RELAY]
        Process.__init__(self, [*pinned(cpu), *program, *options, *extra])

    def media_pids(self) -> list[int]:
        """The processes that carry calls; a program without children is one itself."""
        found = self.children()
        media = sorted(pid for name, pid in found.items() if "admin" not in name)
        return media or [self.pid]

    def account(self) -> dict[str, float]:
        """What its own metrics say of what went wrong or is left over; nothing is said of what is 0."""
        names = ("drops_total", "socket_drops_total", "sessions{", "sessions_total", "refused_total", "restarts_total")
        wanted = tuple(f"ufrag_transceiver_{name}" for name in names)
        return {name: value for name, value in self.metrics().items() if value and name.startswith(wanted)}

    def stop(self) -> Result:
        result = super().stop()
        if "Traceback" in (log := self.log()):
            raise ProcessFailed(f"a traceback in its log:\n{log}")
        return result


class AiortcEcho(Server):
    """`benchmarks.aiortc_echo`: one process, one port per call, plain UDP."""

    spp = False

    def __init__(self, *, cpu: int = 0) -> None:
        super().__init__([*pinned(cpu), sys.executable, "-m", "benchmarks.aiortc_echo"])

    @property
    def http(self) -> AddressPort:
        host, _, port = self.address.partition(":")
        return host, int(port)

    def media_pids(self) -> list[int]:
        return [self.pid]

    def account(self) -> dict[str, float]:
        return {}


def pinned(cpu: int) -> list[str]:
    return ["taskset", "-c", str(cpu)] if cpu >= 0 else []


# --- what processes use and hold ---


def thread_cpu_ns(pids: list[int]) -> dict[str, int]:
    """CPU time of each thread by `name (pid/tid)`; the main thread runs the event loop and is called so."""
    found: dict[str, int] = {}
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it ended in this very moment
                name = "loop" if task.name == str(pid) else (task / "comm").read_text().strip()
                found[f"{name} ({pid}/{task.name})"] = int((task / "schedstat").read_text().split()[0])
    return found


def used_cpu_ns(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """What each thread that still lives has used in between."""
    return {name: value - before.get(name, 0) for name, value in after.items()}


@dataclass(frozen=True)
class Holdings:
    """Of some processes together. PSS shares out what several processes map, so it can be added up."""

    rss_bytes: int
    pss_bytes: int
    fds: int
    threads: int

    def __sub__(self, before: "Holdings") -> "Holdings":
        mine, other = asdict(self), asdict(before)
        return Holdings(**{name: value - other[name] for name, value in mine.items()})


def holdings(pids: list[int]) -> Holdings:
    processes = [psutil.Process(pid) for pid in pids]
    return Holdings(
        rss_bytes=sum(int(each.memory_info().rss) for each in processes),
        pss_bytes=sum(map(_pss_bytes, pids)),
        fds=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        threads=sum(int(each.num_threads()) for each in processes),
    )


def _pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
