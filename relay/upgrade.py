"""`relay upgrade`: asks the launcher of the relay that runs to start its successor, and says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from relay.handover import ANSWER_S, DONE_S
from relay.runtime.control import NAME, Channel, ChannelLost
from relay.runtime.errors import ConfigError, RuntimeFault
from relay.state import AUTO, directories
from relay.taking import reach

_WHERE = "relay upgrade"


class UpgradeFailed(RuntimeFault):
    """The relay that ran goes on."""


def find(state_dir: str) -> Path:
    """The relay that is meant: by its state directory, or because there is but one here."""
    if state_dir != AUTO:
        return Path(state_dir)
    found = [path for path in directories() if (path / NAME).exists()]
    if len(found) == 1:
        return found[0]
    if not found:
        mend = "name its --state-dir; one that runs without cannot be upgraded"
        raise ConfigError("no relay of this user runs in this network", where=_WHERE, mend=mend)
    mend = f"name one with --state-dir: {', '.join(map(str, found))}"
    raise ConfigError(f"{len(found)} relays run here", where=_WHERE, mend=mend)


def upgrade(path: Path, timeout_s: float, say: Callable[[str], None]) -> None:
    """Returns when the new one is the relay."""
    try:
        channel = reach(path)
        channel.send("upgrade", timeout_s=timeout_s)
        _follow(channel, timeout_s + DONE_S + ANSWER_S, say)
    except ChannelLost as lost:
        mend = "`relay status` and the relay's log say what runs now"
        raise UpgradeFailed(f"{path}: {lost}", where=_WHERE, mend=mend) from None


def _follow(channel: Channel, timeout_s: float, say: Callable[[str], None]) -> None:
    while True:
        message = channel.wait(timeout_s)
        if message.kind == "no":
            what, mend = f"failed: {message.text('why')}", "the relay that ran goes on"
            raise UpgradeFailed(what, where=_WHERE, mend=mend)
        say(message.text("text"))
        if message.kind == "done":
            return
