"""Random faults, one after the other, while clients talk; and what must be true of it all in the end.

`world` is what runs: a relay, a transceiver, Redis, and those who use them (`clients`). `faults` is what may happen to
it, drawn by a seed, so that a course can be had again; `accounts` is what must hold after each fault and in the end.
"""
