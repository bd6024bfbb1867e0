"""The border between HTTP and the calls: what signaling may ask, and how it is told no.

The media process implements `Calls`; everything in `transceiver.http` sees calls through it and nothing else. Rules:
  1. Offers, ids and client addresses come from the network: an implementation answers or raises `Refused`, and
     nothing else. Any other exception is our own mistake, logged, and a 500 to the client.
  2. `owner_of` verifies the route token inside an id before it names an address: whatever it returns will be
     connected to.
  3. A call id is a capability. It is compared in constant time and logged by nobody here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Owner = tuple[str, int] | Literal["self"] | None


@dataclass(frozen=True, slots=True)
class Created:
    """A call that waits for its client: the id that names it from now on, and the SDP answer."""

    call_id: str
    answer: str


class Refused(Exception):
    """The request is not granted. The message is shown to the client: it names what is wrong and how to mend it."""

    def __init__(
        self, status: int, code: str, message: str, retry_after: int | None = None, param: str | None = None
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after  # seconds
        self.param = param  # the field of the request that is to blame


def no_such_call() -> Refused:
    """One answer for ids that never were, calls that have ended, and owners that are gone."""
    return Refused(404, "call_not_found", "There is no such call; it may have ended.")


class Calls(Protocol):
    """The calls of one media process, and where all the others are."""

    async def create(self, offer_sdp: str, session: dict[str, Any] | None, client: str) -> Created:
        """A new call. `client` is the address that asks, for limits and logs."""

    async def restart(self, call_id: str, offer_sdp: str) -> str:
        """The answer to an ICE restart's offer; on `Refused` the call goes on as it was."""

    async def hangup(self, call_id: str) -> bool:
        """End a call; False when there is none of this id."""

    def owner_of(self, call_id: str) -> Owner:
        """Whose call this is: ours, that of the process at an internal address, or nobody's."""
