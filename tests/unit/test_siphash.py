"""SipHash-2-4 and 1-3 against vectors and an independent implementation, and each of them against outsiders where there
is one.

tests/vectors/README.md says where the vectors come from.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath._testing import siphash_1_3, siphash_2_4
from tests.support import oracle
from tests.support.packets import load_vectors

VECTORS = load_vectors("siphash.json")
KEY = bytes.fromhex(VECTORS["key"])


@pytest.mark.parametrize(("name", "function"), [("siphash_2_4", siphash_2_4), ("siphash_1_3", siphash_1_3)])
def test_vectors_of_every_length_to_63(name: str, function: object) -> None:
    assert callable(function)
    assert [function(KEY, bytes(range(n))).to_bytes(8, "little").hex() for n in range(64)] == VECTORS[name]


@pytest.mark.parametrize("name", ["siphash_2_4", "siphash_1_3"])
def test_the_oracle_meets_the_vectors_too(name: str) -> None:
    function = getattr(oracle, name)
    assert [function(KEY, bytes(range(n))).to_bytes(8, "little").hex() for n in range(64)] == VECTORS[name]


def test_the_value_in_the_paper() -> None:
    """Appendix A of the SipHash paper: 15 bytes 00..0e."""
    assert siphash_2_4(KEY, bytes(range(15))) == oracle.siphash_2_4(KEY, bytes(range(15))) == 0xA129CA6149BE45E5


@given(key=st.binary(min_size=16, max_size=16), data=st.binary(max_size=300))
def test_agrees_with_the_oracle(key: bytes, data: bytes) -> None:
    assert siphash_2_4(key, data) == oracle.siphash_2_4(key, data)
    assert siphash_1_3(key, data) == oracle.siphash_1_3(key, data)


@pytest.mark.native
def test_1_3_is_what_this_python_hashes_bytes_with() -> None:
    """With PYTHONHASHSEED=0 CPython's key is zero; -1 is no hash there, so it would become -2."""
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(f"this Python was built to hash with {sys.hash_info.algorithm}")
    program = "print(*(hash(bytes(range(n))) for n in range(1, 64)))"
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    expected = [siphash_1_3(bytes(16), bytes(range(n))) for n in range(1, 64)]
    assert [int(each) % (1 << 64) for each in output.stdout.split()] == expected
