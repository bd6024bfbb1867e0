"""What the screens of both programs have in common: where they are printed, and numbers and words as people read them.

What comes from outside is shown as text: no markup of `rich` in it is obeyed, and nothing of it steers the terminal.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

WIDE = 120  # columns from which on more is shown

Moment = TypeVar("Moment")


def console(file: Any = None, width: int | None = None) -> Console:
    """Where views are printed: a terminal, or 80 columns of a file or pipe."""
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


# Numbers as people read them


def count(number: float) -> str:
    """At most five characters: 999, 12.3k, 4.56M."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:.3g}T"


def percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %" if ratio in (0, 1) or ratio >= 0.1 else f"{100 * ratio:.1f} %"


def duration(seconds: float) -> str:
    """`7 s`, `12:34`, `3:04:05`, `5 d 03 h`."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if days:
        return f"{days} d {hours % 24:02} h"
    if hours:
        return f"{hours}:{minutes % 60:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


def milliseconds(seconds: float | None) -> str:
    """A bound of a histogram."""
    if seconds is None:
        return "-"
    return "more" if seconds == float("inf") else f"{seconds * 1e3:g} ms"


def share(lost: float, received: float) -> str:
    return percent(lost / (lost + received)) if lost > 0 and lost + received > 0 else "0 %"


def readiness(ready: Mapping[str, Any]) -> str:
    """What /readyz said."""
    if ready.get("ready"):
        return "ready"
    stale = ready.get("stale_workers") or []
    reasons = ["draining"] if ready.get("draining") else []
    reasons += [f"worker {', '.join(map(str, stale))} hangs"] if stale else []
    return f"NOT READY, {' and '.join(reasons) or 'it does not say why'}"


def listed(numbers: Mapping[str, float]) -> str:
    """` (live 3, new 1)`, the largest first, without zeros."""
    found = sorted(((-number, name) for name, number in numbers.items() if number), key=lambda pair: pair)
    return f" ({', '.join(f'{name} {count(-number)}' for number, name in found)})" if found else ""


def facts(lines: Iterable[tuple[str, str]], below: RenderableType) -> RenderableType:
    """Named lines, and a table under them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(name, Text(text))
    return Group(table, Text(), below)


def word(value: object) -> str:
    """What came from a client, an SDP's word say, must not steer the terminal."""
    text = str(value or "-")
    return text if text.isprintable() else repr(text)


def watch(
    look: Callable[[], Moment],
    draw: Callable[[Moment | None, Moment, Console], RenderableType],
    interval_s: float,
) -> None:
    """One screen after the other, of each look and the one before it, until Ctrl-C."""
    shown = console()
    then, moment = None, look()
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        terminal = shown.is_terminal  # else one screen after the other goes to the file or pipe
        live = stack.enter_context(Live(console=shown, screen=True, auto_refresh=False)) if terminal else None
        while True:
            drawn = draw(then, moment, shown)
            if live:
                live.update(drawn, refresh=True)
            else:
                shown.print(drawn)
            time.sleep(max(0.1, interval_s))
            then, moment = moment, look()
