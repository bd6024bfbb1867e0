"""Fuzz target: SDP offers.

Invariant: any bytes are an offer with an answer that the strict reader takes, or an SDPError; never anything else.
The corpus is corpus/sdp and tests/vectors/offers; tests/unit/test_sdp_peers.py runs both, and mutations.
"""

from tests.support.sdp_reader import write
from transceiver.sdp import SDPError


def one(data: bytes) -> None:
    try:
        negotiated, _ = write(data.decode("utf-8", "surrogateescape"))
    except SDPError:
        return
    assert negotiated.audio or negotiated.data
    assert negotiated.fingerprints
