"""The flows of a running relay, as tools see them: pages of the table, made in the admin process, asked for by clients.

A table can hold millions, so it is told in pages of table numbers, `/flows/<worker>-<first number>`: each costs the
admin process a bounded time, and who asks goes on until there is no next one. Flows come and go meanwhile: one may
show twice or not at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from _fastpath.slot import TICKS_PER_SECOND
from relay.runtime import admin_client
from relay.runtime.admin import Answer, as_json
from relay.runtime.config import Network, endpoint
from relay.slots import WorkerSlot

PAGE = 8192  # table numbers looked at for one answer: some 50 ms when all are in use
ENDPOINTS = ("client", "local", "owner", "next_hop", "pending_owner")
Flow = dict[str, Any]

_PAGE_NAME = re.compile(r"(\d{1,3})-(\d{1,8})", re.ASCII)


def page(slots: Sequence[WorkerSlot], name: str) -> Answer:
    """The answer to `/flows/<name>`."""
    match = _PAGE_NAME.fullmatch(name)
    worker, first = map(int, match.groups()) if match else (len(slots), 0)
    if worker >= len(slots):
        return as_json(404, {"error": "there is no such worker"})
    slot = slots[worker].slot
    flows = [_shown(worker, each, slot.heart) for each in slot.flow_list(first, PAGE)]
    following = first + PAGE if first + PAGE < slot.flows_used else None
    return as_json(200, {"flows": flows, "next": following, "workers": len(slots)})


def _shown(worker: int, flow: Flow, tick: int) -> Flow:
    """With ages instead of ticks, which count from the hot thread's last beat."""

    def ago(then: int) -> float:
        ticks = (tick - then) & 0xFFFFFFFF
        return ticks / TICKS_PER_SECOND if ticks < 1 << 31 else 0.0

    return {
        "worker": worker,
        "state": flow["state"],
        **{name: flow[name] and endpoint(*flow[name]) for name in ENDPOINTS},
        "age_s": ago(flow["opened"]),
        "silent_s": ago(flow["seen"]),
        "answered_s": ago(flow["answered"]),
        "session": f"{flow['nonce']:012x}",
    }


class AdminClient(admin_client.AdminClient):
    """One running relay, by the address of its admin port."""

    program = "relay"

    def flows(self, worker: int | None = None) -> Iterator[Flow]:
        """All of them, or those of one worker, page by page."""
        at = worker or 0
        workers = at + 1
        while at < workers:
            first: int | None = 0
            while first is not None:
                found = self._json(self._read(f"/flows/{at}-{first}"))
                if not isinstance(found, dict) or not isinstance(found.get("flows"), list):
                    raise self._strange("/flows is no page of flows")
                yield from found["flows"]
                first = found.get("next")
                workers = found["workers"] if worker is None else workers
            at += 1


@dataclass(frozen=True)
class Filter:
    """Which flows are wanted: whatever is None does not matter."""

    state: str | None = None
    client: Network | None = None
    owner: Network | None = None
    session: str | None = None

    def admits(self, flow: Flow) -> bool:
        return (
            self.state in (None, flow["state"])
            and self.session in (None, flow["session"])
            and _within(flow["client"], self.client)
            and _within(flow["owner"], self.owner)
        )


def _within(shown: str, network: Network | None) -> bool:
    return network is None or ipaddress.ip_address(shown.rpartition(":")[0].strip("[]")) in network
