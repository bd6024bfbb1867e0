"""`./scripts/chaos`: see `--help`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import click

from tests.chaos.accounts import Account, compare, holdings
from tests.chaos.faults import FAULTS
from tests.chaos.world import WORKERS, World

PAUSE_S = (0.7, 2.5)  # between two faults
QUIET_S = 18.0  # at the end, without faults
SETTLED_S = 0.7  # until what was lost by a fault is counted


def drawn(dice: Random, names: Sequence[str]) -> str:
    return dice.choice(sorted(names))


def run(folder: Path, seed: int, seconds: float, names: Sequence[str]) -> list[str]:
    """What was not as it must be."""
    dice = Random(seed)
    with World(folder, seed, seconds) as world:
        begun_s = time.monotonic()
        before = holdings(world.relay)
        account = Account(world)
        while time.monotonic() - begun_s < seconds - QUIET_S:
            step(world, account, dice, names, begun_s)
        world.undo(everything=True)
        if world.workers != WORKERS:
            world.relay_gives_way(WORKERS)
        world.settle()
        world.callers.end()
        for _ in iter(lambda: world.talkers.generator.ended_within(1.0), True):
            pass
        world.talkers.join()
        account.close()
        account.broken += compare(before, holdings(world.relay))
        calls = world.callers.reports
        good = sum(report["ok"] for report in calls)
        seen = world.talkers.result
        click.echo(f"{seen['sent']} packets, {seen['lost']} lost, {account.excused:.0f} excused")
        click.echo(f"{len(calls)} calls, {good} good; ended {dict(world.transceiver.ended())}")
    return [*account.broken, *account.leftovers()]


def step(world: World, account: Account, dice: Random, names: Sequence[str], begun_s: float) -> None:
    name = drawn(dice, names)
    at_s = time.monotonic() - begun_s
    excused_s = FAULTS[name](world, dice)
    time.sleep(max(SETTLED_S, dice.uniform(*PAUSE_S)))
    world.undo()
    lost = account.step(name, excused_s)
    excuse = f", {excused_s:.2f} s without service" if excused_s else ""
    click.echo(f"{at_s:7.1f} s  {name:22} lost {lost}{excuse}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed, the same faults.")
@click.option("--minutes", type=float, default=1.0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(sorted(FAULTS)), help="This fault; may be given again.")
@click.option("--without", multiple=True, type=click.Choice(sorted(FAULTS)), help="Not this one.")
def main(seed: int, minutes: float, only: tuple[str, ...], without: tuple[str, ...]) -> None:
    """Random faults of a relay, a transceiver and Redis, with clients that talk; and what must hold in the end."""
    names = [name for name in FAULTS if name not in without and (not only or name in only)]
    with tempfile.TemporaryDirectory(prefix="ufrag-chaos-") as folder:
        broken = run(Path(folder), seed, minutes * 60, names)
    for each in broken:
        click.echo(f"BROKEN: {each}")
    if broken:
        again = "".join(f" --only {name!r}" for name in only) + "".join(f" --without {name!r}" for name in without)
        click.echo(f"again: ./scripts/chaos --seed {seed} --minutes {minutes:g}{again}")
    else:
        click.echo("all as it must be")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
