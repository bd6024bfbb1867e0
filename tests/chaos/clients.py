"""Who talks in the meantime: flows of the generator, each packet of which is counted, and whole calls one after the
other, each of which must come to an end that is explained."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random
from types import TracebackType
from typing import Self

from benchmarks.support import Generator, Result

LINE_S = 0.1
CALL_LIMIT_S = 90.0
BETWEEN_CALLS_S = 0.5


class Talkers:
    """Reads what the generator says while it runs."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self._missing = deque([0], maxlen=round(0.5 / LINE_S))
        self._unanswered = 0
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self.generator.__enter__()
        self._thread.start()
        self._begun.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.generator.process.poll() is None:
            self.generator.process.terminate()
        self.join()
        self.generator.__exit__(kind, error, trace)

    def join(self) -> None:
        """Returns when they have all said what they had to say."""
        self._thread.join()

    def _read(self) -> None:
        missing = 0
        for line in self.generator.seconds():
            missing += line["sent"] - line["received"]
            self._unanswered += line["checks_sent"] - line["checks_answered"]
            self._missing.append(missing)
            self._begun.set()
        self._begun.set()

    @property
    def lost(self) -> int:
        """Packets so far. What was under way just now may be among them."""
        return min(self._missing)

    @property
    def unanswered(self) -> int:
        """Checks."""
        return self._unanswered

    @property
    def result(self) -> Result:
        return self.generator.result


class Callers:
    """So many who call, again and again, for some seconds each."""

    def __init__(self, url: Callable[[], str], many: int, seed: int) -> None:
        self._url, self._many, self._seed = url, many, seed
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(many)
        self._lives: list[Future[list[Result]]] = []
        self.reports: list[Result] = []

    def __enter__(self) -> Self:
        dice = Random(self._seed)
        self._lives = [self._pool.submit(self._live, Random(dice.random())) for _ in range(self._many)]
        return self

    def end(self) -> None:
        """Takes no new calls, awaits those there are."""
        self._over.set()
        for life in self._lives:
            self.reports += life.result()
        self._lives = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pool.shutdown()

    def _live(self, dice: Random) -> list[Result]:
        reports = []
        while not self._over.wait(BETWEEN_CALLS_S * dice.random()):
            reports.append(call(self._url(), dice.uniform(1.0, 8.0)))
        return reports


def call(url: str, seconds: float) -> Result:
    """How `transceiver call` says it went. It always ends by itself, and says why."""
    words = [sys.executable, "-m", "transceiver", "call", url, "--seconds", f"{seconds:.1f}", "--json"]
    begun_s = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=CALL_LIMIT_S, check=False)
    assert not done.stderr, done.stderr
    return {"begun": begun_s, "ended": time.monotonic(), **json.loads(done.stdout)}
