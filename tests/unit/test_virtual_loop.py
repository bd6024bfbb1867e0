"""The loop in virtual time: timers run in their order and at their time, and a test that waits in vain fails."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.support import virtual_loop
from tests.support.virtual_loop import Stuck, VirtualLoop, run


def test_an_hour_passes_at_once_and_in_order() -> None:
    async def scene() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str, float]] = []

        async def wait(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            seen.append((name, round(loop.time(), 6)))

        await asyncio.gather(wait("late", 3600), wait("early", 0.001), wait("middle", 59.9))
        return seen

    before = time.monotonic()
    assert run(scene()) == [("early", 0.001), ("middle", 59.9), ("late", 3600.0)]
    assert time.monotonic() - before < 5


def test_the_clock_stands_still_while_there_is_work() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1, lambda: None)
        for _ in range(100):
            await asyncio.sleep(0)
        assert loop.time() == 0

    run(scene())


def test_sockets_work() -> None:
    async def scene() -> bytes:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            left.send(b"hello")
            return await asyncio.get_running_loop().sock_recv(right, 10)

    assert run(scene()) == b"hello"


def test_cancelled_timers_are_not_counted() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        kept, dropped = loop.call_later(5, print), loop.call_later(5, print)
        dropped.cancel()
        assert loop.timers() == 1
        kept.cancel()

    run(scene())


def test_waiting_for_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(virtual_loop, "STUCK_S", 0.05)
    loop = VirtualLoop()
    task = loop.create_task(scene())
    with pytest.raises(Stuck):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
