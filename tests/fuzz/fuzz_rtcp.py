"""Fuzz target of the RTCP walk: whatever comes out of SRTCP, the compiled parser and the oracle read the same.

Asked once about a fixed SSRC (that of the corpus) and once about one found in the data, so that mutations which hit
the SSRC of a report block still reach the code behind. Called with the corpus and mutations of it in every test run,
and by any fuzzer that hands over bytes.
"""

from dataclasses import astuple

from _fastpath.wire import rtcp
from tests.support import rtp_oracle

OUR_SSRC = 0x11223344


def one(data: bytes) -> None:
    for our_ssrc in (OUR_SSRC, int.from_bytes(data[28:32], "big")):
        report = rtcp.parse(data, our_ssrc)
        expected = rtp_oracle.rtcp(data, our_ssrc)
        assert (None if report is None else astuple(report)) == expected
