"""A small HTTP client for many requests to one server: connections are kept and used again.

Cheap on purpose (a general client costs several times the DTLS handshake's share of a set-up), and only as much of
HTTP/1.1 as the signaling of a server under test needs: answers with a Content-Length, none without.
"""

import asyncio
from typing import NamedTuple

AddressPort = tuple[str, int]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Response(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class HTTPClient:
    def __init__(self, server: AddressPort) -> None:
        self._server = server
        self._idle: list[Connection] = []

    async def post(self, path: str, body: str = "", *, client: str, content_type: str = "application/sdp") -> Response:
        """`client` is who asks, as a proxy would say: limits for one client are not to hold for all together."""
        host, port = self._server
        data = body.encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nX-Forwarded-For: {client}\r\n"
        head += f"Content-Length: {len(data)}\r\n"
        head += f"Content-Type: {content_type}\r\n\r\n" if data else "\r\n"
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._exchange(connection, head.encode() + data)
            except (ConnectionError, asyncio.IncompleteReadError):
                connection[1].close()  # the server had closed it meanwhile, as it may
        return await self._exchange(await asyncio.open_connection(host, port), head.encode() + data)

    async def _exchange(self, connection: Connection, request: bytes) -> Response:
        reader, writer = connection
        writer.write(request)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append(connection)
        return Response(int(status.split()[1]), headers, body)

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        for _, writer in self._idle:
            await writer.wait_closed()
        self._idle.clear()
