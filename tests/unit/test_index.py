"""The hash index against a dict of sets: also when all hashes are equal, neighbours, or at the end of the table, which
is where a removal that closes its gap wrongly loses numbers.
"""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from _fastpath._testing_media import IndexView

MOST = 24
PLACES = 64
# Few, clustered round the end of the table, and equal in their lower bits but not above.
HASHES = [0, 1, 2, PLACES - 2, PLACES - 1, PLACES, 2 * PLACES - 1, 0xFFFFFFFF, 0x80000000 + PLACES - 1]

hashes = st.one_of(st.sampled_from(HASHES), st.integers(0, 0xFFFFFFFF))


class IndexMachine(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(["any", "equal", "neighbours"]))
    def begin(self, kind: str) -> None:
        self.index = IndexView(MOST)
        assert self.index.places() == PLACES
        self.kind = kind
        self.model: dict[int, set[int]] = defaultdict(set)
        self.free = set(range(MOST))

    def hash_of(self, drawn: int) -> int:
        if self.kind == "equal":
            return 0xDEADBEEF
        return PLACES - 3 + drawn % 6 if self.kind == "neighbours" else drawn

    @precondition(lambda self: self.free)
    @rule(drawn=hashes)
    def insert(self, drawn: int) -> None:
        number, hash = self.free.pop(), self.hash_of(drawn)
        self.index.insert(hash, number)
        self.model[hash].add(number)

    @precondition(lambda self: len(self.free) < MOST)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        hash, number = data.draw(st.sampled_from(sorted((h, n) for h in self.model for n in self.model[h])))
        self.index.remove(hash, number)
        self.model[hash].discard(number)
        self.free.add(number)

    @rule(drawn=hashes, number=st.integers(0, MOST - 1))
    def remove_what_is_not_there(self, drawn: int, number: int) -> None:
        hash = self.hash_of(drawn)
        if number not in self.model[hash]:
            self.index.remove(hash, number)

    @invariant()
    def agrees(self) -> None:
        for hash, numbers in self.model.items():
            found = self.index.find(hash)
            assert len(found) == len(numbers)
            assert set(found) == numbers
        assert self.index.used() == sum(map(len, self.model.values()))


TestIndex = IndexMachine.TestCase


@given(st.lists(st.integers(0, MOST - 1), unique=True), st.permutations(range(MOST)))
def test_all_of_one_hash_come_and_go_in_any_order(come: list[int], go: list[int]) -> None:
    index = IndexView(MOST)
    for number in come:
        index.insert(PLACES - 1, number)
    left = list(come)
    for number in go:
        index.remove(PLACES - 1, number)
        if number in left:
            left.remove(number)
        assert index.find(PLACES - 1) == left
    assert index.used() == 0


@pytest.mark.parametrize(("most", "places"), [(1, 16), (8, 16), (9, 32), (24, 64), (65_535 * 8, 1 << 20)])
def test_it_is_at_most_half_full(most: int, places: int) -> None:
    assert IndexView(most).places() == places
