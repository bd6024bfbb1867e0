"""The relay: a launcher, its workers and what decides for them. Packets in steady state never come here.

`relay` is a short name that another distribution may also use, so the console scripts look for `__distribution__`
(see `_fastpath.commands`) before they trust what an import found. This file holds the marker and nothing else:
`transceiver` may import `relay.runtime`, and must get nothing more of the relay by it.
"""

__distribution__ = "ufrag"
__version__ = "0.1.0"
