"""The transceiver: the WebRTC endpoint behind the relay. Not part of this version: the name is held.

It will import nothing of `relay` but `relay.runtime`. `__distribution__` is what the console scripts look for, see
`_fastpath.commands`.
"""

__distribution__ = "ufrag"
__version__ = "0.1.0"
