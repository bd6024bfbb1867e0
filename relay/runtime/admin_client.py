"""The admin port from the other side: what `status`, `top` and their like ask a running program.

Plain HTTP to the address of `--admin`, past any proxy. Whoever answers is believed to be that program, but not to be
well: an answer is bounded in size and time, and whatever is wrong with it is a RuntimeFault in one line. What one
program alone can be asked stands in a class of its own, with it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from relay.runtime.config import Address
from relay.runtime.errors import RuntimeFault
from relay.runtime.sockets import is_wildcard

TIMEOUT_S = 5.0
ANSWER_MOST = 256 << 20


@dataclass(frozen=True)
class Sample:
    """One line of the metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


class Metrics:
    """What /metrics said at one moment."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            self._by_name.setdefault(sample.name, []).append(sample)

    def samples(self, name: str, **labels: str) -> list[Sample]:
        wanted = labels.items()
        return [each for each in self._by_name.get(name, ()) if wanted <= each.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        return sum(each.value for each in self.samples(name, **labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Totals for each value of `label`, in the order of the page."""
        found: dict[str, float] = {}
        for each in self.samples(name, **labels):
            found[each.labels[label]] = found.get(each.labels[label], 0.0) + each.value
        return found

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """The bound of the bucket in which the quantile lies (infinite above the last); None without values."""
        buckets = self.by("le", f"{name}_bucket", **labels)
        most = max(buckets.values(), default=0.0)
        return next((float(bound) for bound, count in buckets.items() if most and count >= share * most), None)


def parse_metrics(text: str) -> Metrics:
    families = text_string_to_metric_families(text)
    return Metrics(Sample(each.name, each.labels, each.value) for family in families for each in family.samples)


class AdminClient:
    """One running program, by the address of its admin port."""

    program = "program"

    def __init__(self, admin: Address) -> None:
        loopback = "127.0.0.1" if ipaddress.ip_address(admin.host).version == 4 else "::1"
        self.address = Address(loopback if is_wildcard(admin) else admin.host, admin.port, admin.family)

    def metrics(self) -> Metrics:
        return parse_metrics(self._read("/metrics").decode("utf-8", "replace"))

    def ready(self) -> dict[str, Any]:
        found = self._json(self._ask("GET", "/readyz")[1])
        if not isinstance(found, dict):
            raise self._strange("/readyz is no object")
        return found

    def act(self, path: str) -> int:
        """POST; the status of the answer."""
        return self._ask("POST", path)[0]

    def _read(self, path: str) -> bytes:
        status, body = self._ask("GET", path)
        self.expect(status, path)
        return body

    def expect(self, status: int, what: str) -> None:
        """A RuntimeFault unless that is the status of a good answer."""
        if status == 403:
            mend = "ask on the machine that it runs on"
            raise RuntimeFault("it tells that to its own machine alone", where=str(self.address), mend=mend)
        if not 200 <= status < 300:
            raise self._strange(f"status {status} for {what}")

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read(ANSWER_MOST)
        except OSError as error:
            mend = "start it, or name its address with --admin"
            what = f"no {self.program} answers: {error.strerror or 'it takes too long'}"
            raise RuntimeFault(what, where=str(self.address), mend=mend) from None
        except http.client.HTTPException as error:
            raise self._strange(f"no HTTP ({type(error).__name__})") from None
        finally:
            connection.close()

    def _json(self, body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError:
            raise self._strange("no JSON") from None

    def _strange(self, what: str) -> RuntimeFault:
        mend = f"is it a {self.program}'s --admin?"
        return RuntimeFault(f"a strange answer: {what}", where=str(self.address), mend=mend)
