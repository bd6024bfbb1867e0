from collections.abc import Sequence

from _fastpath.exchange import Exchanger
from _fastpath.slot import Slot
from _fastpath.wire.token import Keyring

class Forwarder(Exchanger):
    def __init__(
        self,
        slot: Slot,
        *,
        siblings: Sequence[Slot] = (),
        orphans: Sequence[Slot] = (),
        keyring: Keyring,
        backends: Sequence[tuple[bytes, int]] = (),
        publics: Sequence[tuple[int, int, bytes | None, int]] = (),
        internal: tuple[int, int] = (-1, 2),
        wake: int = -1,
        max_half_open: int,
        max_new_per_network_s: float = 0,
        max_new_per_token_s: float = 0,
        flow_timeout_s: float = 30,
        half_open_timeout_s: float = 5,
        owner_hold_s: float = 12,
        epoch: int = 0,
        cache: bool = False,
        lookups_per_s: float = 0,
    ) -> None: ...
    @property
    def writes(self) -> bool: ...
    def set_keys(self, keyring: Keyring) -> None: ...
    def run(self) -> str: ...
