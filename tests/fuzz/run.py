"""Runs a fuzz target for a while: `python -m tests.fuzz.run TARGET --seconds N [--steps N] [--seed S] [--keep DIR]`.

Mutations of the corpus go to the target's `one` until the time is over. Inputs that reach a line of ours that none has
reached before are mutated in their turn. Of compiled code no lines are seen, but of the plain-Python reading that these
targets compare it with. The inputs follow from the seed, the corpus and the code; how many there are, from the time, or
from the steps wanted: a target whose inputs are sequences returns how many steps an input was.

The target runs in a child process, with each input in memory that its parent sees: so the input is there even when a
sanitizer ends the process, or when the target never returns. What went wrong is saved in DIR, and the exit status is 1;
`python -m tests.fuzz.run TARGET --repeat FILE` does it once more.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import math
import mmap
import os
import random
import re
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import _fastpath

ROOT = Path(__file__).resolve().parents[2]
TRACED = tuple(f"{ROOT / part}{os.sep}" for part in ("tests", "transceiver"))
MORE_OF_THE_CORPUS = {"sdp": ROOT / "tests" / "vectors" / "offers"}
TRACED_ONE_IN = 4  # or what the target says: a traced input takes a few times as long; the others are for their number
MOST_CHANGES = 6
MOST_MINIMISE_S = 10.0
MOST_INPUT_S = 60.0  # far more than any input takes, on a slow machine and under sanitizers
NUMBERS = [0, 1, 2, 3, 4, 8, 15, 16, 32, 63, 64, 127, 128, 192, 255, 256, 0x7FFF, 0x8000, 0xFFFC, 0xFFFF, 2**31, 2**32]
TEXT = re.compile(rb"[^\0]+")  # the others have zeros in every member
Trace = Callable[[FrameType, str, Any], Any]


def tokens(member: bytes) -> list[bytes]:
    """Words of a text; of anything else the 16 and 32 bit numbers, which stand aligned in these protocols."""
    if TEXT.fullmatch(member):
        return re.findall(rb"[a-z]=|[\w.+-]+", member)
    return [member[at : at + size] for size in (2, 4) for at in range(0, len(member) - size + 1, size)]


class Mutator:
    """Changes members of a growing pool. Where all of the corpus is text, whole lines are changed as well."""

    def __init__(self, corpus: list[bytes], seed: int) -> None:
        self.pool = list(corpus)
        self.most = 2 * max(1000, *map(len, corpus))
        self._chance = random.Random(seed)
        self._tokens = sorted({token for member in corpus for token in tokens(member)} or {b"\0"})
        self._changes = [self._flip, self._number, self._insert, self._repeat, self._splice]
        if all(map(TEXT.fullmatch, corpus)):
            self._changes += 3 * [self._line]

    def next(self) -> bytes:
        data = bytearray(self._chance.choice(self.pool))
        for _ in range(self._chance.randint(1, MOST_CHANGES)):
            self._chance.choice(self._changes)(data)
        return bytes(data[: self.most])

    def _at(self, data: bytearray) -> int:
        return self._chance.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)

    def _number(self, data: bytearray) -> None:
        size, start = self._chance.choice([1, 1, 2, 4]), self._at(data)
        number = self._chance.choice([*NUMBERS, len(data), len(data) - start, self._chance.randrange(256)])
        data[start : start + size] = (number % 256**size).to_bytes(size, "big")

    def _insert(self, data: bytearray) -> None:
        """Any bytes or some of the corpus, in place of others or between them."""
        some = self._chance.choice([self._chance.choice(self._tokens), self._chance.randbytes(4)])
        start = self._at(data)
        data[start : start + self._chance.choice([0, len(some)])] = some

    def _repeat(self, data: bytearray) -> None:
        """Or delete. Mostly few bytes: without many the rest says little."""
        start = self._at(data)
        span = slice(start, start + self._chance.choice([1, 2, 4, 8, self._at(data)]))
        data[span] = data[span] * self._chance.choice([0, 0, 0, 2, 2, 20])

    def _splice(self, data: bytearray) -> None:
        other = self._chance.choice([b"", self._chance.choice(self.pool)])
        data[self._at(data) :] = other[self._chance.randrange(len(other) + 1) :]

    def _line(self, data: bytearray) -> None:
        """Any line goes, another one of this text or of another comes, or both."""
        lines = data.splitlines(keepends=True)
        source = self._chance.choice([bytes(data), self._chance.choice(self.pool)]).splitlines(keepends=True)
        at = self._chance.randrange(len(lines) + 1)
        come = self._chance.sample(source, k=min(len(source), self._chance.choice([0, 1, 1])))
        data[:] = b"".join([*lines[:at], *come, *lines[at + self._chance.randrange(2) :]])


class Lines:
    """Which lines of our Python code have not been reached. Functions with none left are no longer traced."""

    def __init__(self) -> None:
        self._missing: dict[int, tuple[CodeType, set[int]]] = {}  # by id: to hash code means to hash all its content
        self._news = False

    def reached_new(self, one: Callable[[bytes], None], data: bytes) -> bool:
        self._news = False
        before = sys.gettrace()  # that of a measurement of coverage
        sys.settrace(self._enter)
        try:
            one(data)
        finally:
            sys.settrace(before)
        return self._news

    def _enter(self, frame: FrameType, event: str, arg: object) -> Trace | None:
        code = frame.f_code
        if id(code) not in self._missing:
            ours = code.co_filename.startswith(TRACED)
            self._missing[id(code)] = code, {line for *_, line in code.co_lines() if line and ours}
        return self._line if self._missing[id(code)][1] else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Trace:
        missing = self._missing[id(frame.f_code)][1]
        if frame.f_lineno in missing:
            missing.remove(frame.f_lineno)
            self._news = True
        return self._line


class UnderTest:
    """The input that the child tries, where its parent sees it, and since when; 0 if there is none."""

    HEAD = struct.Struct("=QQ")

    def __init__(self, most: int) -> None:
        self._memory = mmap.mmap(-1, self.HEAD.size + most)

    def put(self, data: bytes) -> None:
        self._memory[self.HEAD.size : self.HEAD.size + len(data)] = data
        self.HEAD.pack_into(self._memory, 0, time.monotonic_ns(), len(data))

    def clear(self) -> None:
        self.HEAD.pack_into(self._memory, 0, 0, 0)

    def get(self) -> tuple[int, bytes]:
        since_ns, size = self.HEAD.unpack_from(self._memory)
        return since_ns, self._memory[self.HEAD.size : self.HEAD.size + size]


class Run:
    def __init__(self, name: str, seed: int, keep: Path) -> None:
        self.name, self.keep = name, keep
        self.module = importlib.import_module(f"tests.fuzz.fuzz_{name}")
        places = [Path(str(self.module.__file__)).parent / "corpus" / name, MORE_OF_THE_CORPUS.get(name)]
        self.corpus = [path.read_bytes() for place in places if place for path in sorted(place.iterdir())]
        self.mutator = Mutator(self.corpus, seed)
        self.under_test = UnderTest(self.mutator.most)
        self.traced_one_in = getattr(self.module, "TRACED_ONE_IN", TRACED_ONE_IN)
        self.steps = 0

    def one(self, data: bytes) -> None:
        steps = self.module.one(data)
        self.steps += 1 if steps is None else steps

    def loop(self, seconds: float, steps: float) -> int:
        began, inputs, lines, pool, old = time.monotonic(), 0, Lines(), self.mutator.pool, len(self.corpus)
        while inputs < old or (self.steps < steps and time.monotonic() - began < seconds):
            data = pool[inputs] if inputs < old else self.mutator.next()
            self.under_test.put(data)
            try:
                if inputs >= old and inputs % self.traced_one_in:
                    self.one(data)
                elif lines.reached_new(self.one, data) and inputs >= old:
                    pool.append(data)
            except Exception as error:
                traceback.print_exc()
                data = self.minimised(data, type(error))
                self.under_test.clear()
                return self.save(data, type(error).__name__)
            inputs += 1
        self.under_test.clear()
        took = time.monotonic() - began
        of_steps = f" of {self.steps} steps" if self.steps != inputs else ""
        print(
            f"{self.name}: {inputs} inputs{of_steps} in {took:.0f} s, {len(pool) - old} new to the corpus", flush=True
        )
        return 0

    def minimised(self, data: bytes, kind: type[Exception]) -> bytes:
        """Without the pieces, large ones first, that an exception of that kind does not need."""
        size, until = len(data), time.monotonic() + MOST_MINIMISE_S
        while (size := size // 2) and time.monotonic() < until:
            at = 0
            while at < len(data) and time.monotonic() < until:
                less = data[:at] + data[at + size :]
                data, at = (less, at) if self.raises(less, kind) else (data, at + size)
        return data

    def raises(self, data: bytes, kind: type[Exception]) -> bool:
        self.under_test.put(data)
        try:
            self.module.one(data)
        except Exception as error:
            return type(error) is kind
        return False

    def save(self, data: bytes, why: str) -> int:
        self.keep.mkdir(parents=True, exist_ok=True)
        path = self.keep / f"{self.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        print(f"{self.name}: {why}; again: python -m tests.fuzz.run {self.name} --repeat {path}", flush=True)
        return 1

    def watch(self, child: int) -> int:
        """Awaits the end of the child; its last input is saved when that ended it, or when it takes too long."""
        while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
            since_ns, _ = self.under_test.get()
            if since_ns and time.monotonic_ns() - since_ns > MOST_INPUT_S * 1e9:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.1)
        since_ns, data = self.under_test.get()
        ended = os.waitstatus_to_exitcode(status[1])
        return self.save(data, f"the process ended with {ended}") if since_ns else ended


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Runs a fuzz target for a while.")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, help="60, or without end until there were as many steps as wanted")
    parser.add_argument("--steps", type=int, help="end when there were so many, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, default=Path("build", "fuzz"), help="where inputs go that break the target"
    )
    parser.add_argument("--repeat", type=Path, help="try this input only")
    given = parser.parse_args(arguments)
    site = os.environ.get("UFRAG_EXPECT_SITE")  # as in tests/conftest.py
    if site and Path(site).resolve() != Path(_fastpath.__file__).resolve().parent.parent:
        parser.error(f"the build in {site} was to be tested, but {_fastpath.__file__} is imported")
    run = Run(given.target, given.seed, given.keep)
    if given.repeat:
        run.module.one(given.repeat.read_bytes())
        return 0
    child = os.fork()
    if child:
        return run.watch(child)
    unbounded = given.seconds is None and given.steps is not None
    return run.loop(
        math.inf if unbounded else 60 if given.seconds is None else given.seconds,
        math.inf if given.steps is None else given.steps,
    )


if __name__ == "__main__":
    sys.exit(main())
