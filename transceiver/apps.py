"""What a call is connected to: the application's side of a session.

The audio of a call is in two rings per session (`_fastpath.rings`), which the hot thread fills and empties; an
application takes frames from one and puts frames into the other. Data channels are Python's. The only application yet
is the echo: its audio goes from ring to ring in the hot thread itself, its messages come back here. Applications in
processes of their own will map the same rings.
"""

from __future__ import annotations

import logging
from typing import Protocol

from relay.runtime.log import event
from transceiver.sctp import Channel, ChannelError

log = logging.getLogger("ufrag.transceiver.apps")


class Application(Protocol):
    """One for all calls of a media process."""

    @property
    def audio_echo(self) -> bool:
        """Whether the hot thread is to send back what it hears."""

    def opened(self, channel: Channel) -> None:
        """A data channel is open, whoever opened it."""

    def message(self, channel: Channel, message: str | bytes) -> None:
        """A message has come, whole."""

    def closed(self, channel: Channel) -> None:
        """A data channel is gone."""


class Echo:
    """Sends back what it hears and reads."""

    audio_echo = True

    def opened(self, channel: Channel) -> None:
        """Nothing to say first."""

    def message(self, channel: Channel, message: str | bytes) -> None:
        try:
            channel.send(message)
        except ChannelError as error:  # the client takes less than it sends: its own affair, said once a message
            event(log, logging.DEBUG, "message not echoed", reason=str(error))

    def closed(self, channel: Channel) -> None:
        """Nothing is kept."""
