"""Fuzz target: Binding messages.

Invariant: any bytes get the result, the fields and the verdict on MESSAGE-INTEGRITY that the plain-Python reading of
the RFCs gives them, and nothing raises. Each input is tried as it is and with cookie, length and FINGERPRINT made
right, which no mutation would find by itself. The corpus is corpus/binding; tests/unit/test_wire_binding.py runs it.
"""

from dataclasses import astuple

from _fastpath.wire import binding
from tests.support import bindings

PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"


def one(data: bytes) -> None:
    for message in (data, bindings.plausible(data)):
        result, fields = binding.parse(message)
        assert (result, fields and astuple(fields)) == bindings.parse(message)
        assert binding.verify(message, PASSWORD) == bindings.verify(message, PASSWORD)
