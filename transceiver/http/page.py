"""The page at `/`: one file without anything from elsewhere, under a policy that allows it just that.

Script and style stand in the file and are allowed by their hashes, so the page is the same for everybody and nothing
that finds its way into it would run. It may connect to this origin only. The microphone is granted to it alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from aiohttp import web

_INLINE = r"<{0}>(.*?)</{0}>"
_PERMISSIONS = "microphone=(self), autoplay=(self), camera=(), geolocation=(), display-capture=()"


class Page:
    def __init__(self) -> None:
        text = resources.files(__package__).joinpath("page.html").read_text("utf-8")
        self._body = text.encode()
        self._headers = {
            "Content-Security-Policy": policy(text),
            "Permissions-Policy": _PERMISSIONS,
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    async def get(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._body, content_type="text/html", charset="utf-8", headers=self._headers)


def policy(page: str) -> str:
    script, style = (" ".join(_hashes(page, tag)) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(page: str, tag: str) -> list[str]:
    found = re.findall(_INLINE.format(tag), page, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found]
