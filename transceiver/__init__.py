"""The transceiver: the WebRTC endpoint behind the relay. It ends ICE, DTLS and SRTP; to its clients it is any peer.

It imports nothing of `relay` but `relay.runtime`. `__distribution__` is what the console scripts look for, see
`_fastpath.commands`. What its rooms need beyond a plain install is the extra `ufrag[transceiver]`.
"""

__distribution__ = "ufrag"
__version__ = "0.1.0"
