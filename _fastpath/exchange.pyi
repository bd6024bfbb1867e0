from collections.abc import Iterable
from typing import NamedTuple

LOOKUP: int
ESTABLISHED: int
ENDED: int

class Route(NamedTuple):
    owner: bytes
    next_hop: bytes
    nonce: int

class Ask(NamedTuple):
    kind: int
    key: bytes
    route: Route | None
    down: bool

class Exchanger:
    @property
    def asks_fd(self) -> int: ...
    def take_asks(self, most: int) -> list[Ask]: ...
    def answer(self, key: bytes, route: Route | None) -> bool: ...
    def answer_all(self, answers: Iterable[tuple[bytes, Route | None]]) -> int: ...
    def unavailable(self, key: bytes) -> bool: ...
    def unavailable_all(self, keys: Iterable[bytes]) -> int: ...
    def wake_up(self) -> None: ...
