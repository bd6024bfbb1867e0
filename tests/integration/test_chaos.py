"""Faults of all kinds, one after the other, as `./scripts/chaos` has them: a minute of each of three seeds, or ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.__main__ import run
from tests.chaos.faults import FAULTS

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("quiet_machine")]

SECONDS = [pytest.param(60.0, marks=pytest.mark.full), pytest.param(600.0, marks=pytest.mark.soak)]


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_all_is_as_it_must_be_in_the_end(seed: int, seconds: float, tmp_path: Path) -> None:
    assert run(tmp_path, seed, seconds, list(FAULTS)) == []
