"""What a relay says of itself in the registry, read from its slots in a child of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import relay
from relay.runtime.config import endpoint
from relay.runtime.registry import RegistryChild
from relay.settings import DRAINING, Settings
from relay.slots import WorkerSlot


def announcing(settings: Settings, slots: Sequence[WorkerSlot], leave: Callable[[], None]) -> RegistryChild:
    """The child. `leave` lets go of what the fork brings along."""
    assert settings.registry
    ways = {how: name for name, how in DRAINING.items()}
    fixed = {
        "version": relay.__version__,
        "addresses": [str(address) for address in settings.listen],
        "internal": [endpoint(*own.internal.getsockname()[:2]) for own in slots],
        "workers": len(slots),
    }

    def describe() -> Mapping[str, Any]:
        words = [own.slot for own in slots]
        load = {
            "used": sum(sum(slot.flows().values()) for slot in words),
            "capacity": sum(slot.max_flows for slot in words),
            "busy": max(slot.busy_ratio for slot in words),
        }
        return {**fixed, "draining": ways.get(max(slot.draining for slot in words), ""), "load": load}

    return RegistryChild("relay", settings.registry, settings.listen[0].port, describe, leave)
