"""What may happen. Each fault happens to the world and says for how many seconds packets may have been lost by it; what
is done for a while is undone later, while others happen."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from random import Random

from tests.chaos.world import CHECK_INTERVAL_S, REDIS_WELL_AFTER_S, World
from tests.support.relays import Relay, until

LONG_FAULT_S = (0.5, 4.0)
RETURN_S = 0.1  # from a new relay's begin until each flow is served again, by memory or Redis

Fault = Callable[[World, Random], float]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__.replace("_", " ")] = function
    return function


# ---- the relay


@fault
def worker_killed(world: World, dice: Random) -> float:
    workers = sorted(name for name in world.relay.children() if name.startswith("relay-worker-"))
    world.relay.kill_worker(int(dice.choice(workers).rpartition("-")[2]))
    return 0.0


@fault
def relay_killed(world: World, dice: Random) -> float:
    """Memory outlives it."""
    silence_s = world.relay_dies() + RETURN_S
    world.excuse_calls(silence_s + 1, 0)
    return silence_s


@fault
def relay_replaced(world: World, dice: Random) -> float:
    """By one that has no memory, but Redis."""
    known = world.redis_knows
    silence_s = world.relay_dies(forgets=True) + RETURN_S + (0.0 if known else CHECK_INTERVAL_S)
    world.excuse_calls(silence_s + 1, CHECK_INTERVAL_S)
    return silence_s


@fault
def relay_upgraded(world: World, dice: Random) -> float:
    world.relay.upgrade()
    return 0.0


@fault
def upgrade_fails(world: World, dice: Random) -> float:
    """The new one finds no keys; the one that runs goes on."""
    hidden = world.key_file.rename(world.key_file.with_suffix(".hidden"))
    with contextlib.suppress(subprocess.CalledProcessError):
        world.relay.upgrade()
        raise AssertionError("an upgrade without keys succeeded")
    hidden.rename(world.key_file)
    return 0.0


@fault
def workers_changed(world: World, dice: Random) -> float:
    """By a relay that takes over."""
    world.relay_gives_way(dice.choice([number for number in (1, 2, 3, 4) if number != world.workers]))
    return 0.0


@fault
def keys_replaced(world: World, dice: Random) -> float:
    """A new one mints; the one before still verifies, and so does that of the flows, which never get new tokens."""
    keys = world.key_file.read_text().splitlines()
    new = int(keys[0][0]) % 6 + 1
    kept = dict.fromkeys((keys[0], keys[-1]))
    replacing = world.key_file.with_suffix(".new")
    replacing.write_text("".join(f"{key}\n" for key in (f"{new}:{secrets.token_hex(32)}", *kept)))
    replacing.chmod(0o600)
    # The relay has it before anybody mints with it.
    old = world.transceiver.pid
    replacing.rename(world.key_file)
    os.kill(world.relay.pid, signal.SIGHUP)
    workers = sum(name.startswith("relay-worker-") for name in world.relay.children())
    until(lambda: world.relay.total("ufrag_relay_route_key_present", key_id=str(new)) == workers)
    os.kill(old, signal.SIGHUP)
    world.excuse_calls(1.5, 0)  # a transceiver looks by itself, and may have been the first to see it
    return 0.0


@fault
def relay_drained(world: World, dice: Random) -> float:
    """For a while: nobody new comes in, and if it is to push, no check is answered."""
    world.undo_now("drain")
    lasts_s = dice.uniform(*LONG_FAULT_S)
    mode = dice.choice(["wait", "push"])
    ask("relay", world.relay, "drain", "--mode", mode)

    def end() -> None:
        ask("relay", world.relay, "undrain")
        world.excuse_calls(lasts_s + 3, 1)

    world.later("drain", lasts_s, end)
    return 0.0


def ask(name: str, program: Relay, *words: str) -> None:
    command = [sys.executable, "-m", name, *words, "--admin", program.admin]
    subprocess.run(command, check=True, capture_output=True, timeout=20)


# ---- Redis


def redis_fault(function: Callable[[World], Callable[[], None] | None]) -> None:
    """One illness at a time. What is returned heals it, later."""

    def happens(world: World, dice: Random) -> float:
        world.undo_now("redis")
        lasts_s = dice.uniform(*LONG_FAULT_S)
        heal = function(world)
        world.redis_ill_until = time.monotonic() + REDIS_WELL_AFTER_S
        if heal is None:
            return 0.0

        def end() -> None:
            heal()
            world.redis_ill_until = time.monotonic() + REDIS_WELL_AFTER_S

        world.redis_ill_until = math.inf
        world.later("redis", lasts_s, end)
        return 0.0

    happens.__name__ = function.__name__
    fault(happens)


@redis_fault
def redis_stopped(world: World) -> Callable[[], None]:
    world.redis.stop()
    return world.redis.start


@redis_fault
def redis_frozen(world: World) -> Callable[[], None]:
    world.redis.freeze()
    return world.redis.thaw


@redis_fault
def redis_out_of_memory(world: World) -> Callable[[], None]:
    world.redis.run_out_of_memory()
    return world.redis.have_memory


@redis_fault
def redis_restarted(world: World) -> None:
    world.redis.kill()
    world.redis.start()


@redis_fault
def redis_flushed(world: World) -> None:
    """Nothing tells the relay; what was flushed is there again when it is refreshed, a third of its time later."""
    world.redis.flush()


# ---- the transceiver


@fault
def media_process_killed(world: World, dice: Random) -> float:
    os.kill(world.transceiver.children()["ufrag-media-0"], signal.SIGKILL)
    world.excuse_calls(10, 3)
    return 0.0


@fault
def transceiver_restarted(world: World, dice: Random) -> float:
    world.excuse_calls(10, 0)
    world.transceiver_begins_again()
    world.excuse_calls(3, 1)
    return 0.0


@fault
def transceiver_changed(world: World, dice: Random) -> float:
    """For one beside it, while its calls go on to their ends. No call is excused."""
    world.undo_now("transceiver")
    world.transceiver_gives_way()
    return 0.0


@fault
def transceiver_drained(world: World, dice: Random) -> float:
    """For a while; calls that are on go on."""
    world.undo_now("transceiver")
    lasts_s = dice.uniform(*LONG_FAULT_S)
    draining = world.transceiver
    ask("transceiver", draining, "drain", "--timeout", "1h")

    def end() -> None:
        if world.transceiver is draining:
            ask("transceiver", draining, "undrain")
        world.excuse_calls(lasts_s + 3, 1)

    world.later("transceiver", lasts_s, end)
    return 0.0
