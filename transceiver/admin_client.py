"""What `transceiver status`, `sessions`, `top` and `hangup` ask a running one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from relay.runtime import admin_client
from relay.runtime.errors import ConfigError


class AdminClient(admin_client.AdminClient):
    """One running transceiver, by the address of its admin port."""

    program = "transceiver"

    def sessions(self) -> list[dict[str, Any]]:
        found = self._json(self._read("/sessions"))
        if not isinstance(found, list) or not all(isinstance(each, dict) and "id" in each for each in found):
            raise self._strange("/sessions is no list of sessions")
        return found

    def hangup(self, session: str) -> None:
        status = self.act(f"/sessions/{quote(session, safe='')}/hangup")
        if status == 404:
            raise ConfigError("there is no such session", where=session, mend="`transceiver sessions` lists them")
        self.expect(status, "hangup")
