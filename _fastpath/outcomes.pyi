from typing import NamedTuple

UP: str
DOWN: str

class Outcome(NamedTuple):
    name: str
    direction: str
    kind: str
    dropped: bool
    meaning: str

IN: tuple[Outcome, ...]
OUT: tuple[Outcome, ...]
OUTCOMES: tuple[Outcome, ...]
