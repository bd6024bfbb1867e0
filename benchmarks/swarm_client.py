"""The clients: sets calls up and hangs them up, many at a time, over the sockets of the native part.

A set-up is real in each step: HTTP POST of an offer, an authenticated check, the server's own check answered, DTLS
with the fingerprint compared, and one packet of media that comes back decrypted. Between set-ups the native part sends
consent checks for the calls that stand; once all stand, `run` hands it the sockets for good.

Where packets go is what a relay would make of the answer: the owner that the route token names, which takes the key
that minted it (`TokenRoute`); or, of a server that is no transceiver, its candidate (`CandidateRoute`).
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from _fastpath.wire.token import Keyring
from benchmarks.support import read_key_file
from benchmarks.swarm_call import PAYLOAD_TYPE, AddressPort, Answer, Call, CallFailed, Times
from benchmarks.swarm_http import HTTPClient, Response
from benchmarks.swarm_native import Arrived, NativeSwarm
from transceiver.dtls import Identity

CALLS = "/v1/realtime/calls"
SETUP_LIMIT_S = 15.0
TICK_S = 0.01
MEDIA_S = 0.02
TURN_S = 0.1  # how long the native part runs before Python looks at what arrived for it
CLIENT_NETWORK = 0xC6120000  # 198.18.0.0/15, RFC 2544: 131,072 addresses
CLIENT_PORT = 40000


def client_address(number: int) -> AddressPort:
    """Invented; no two calls at a time have the same."""
    host = (CLIENT_NETWORK | number & 0x1FFFF).to_bytes(4, "big")
    return socket.inet_ntoa(host), CLIENT_PORT + (number >> 17)


class Route(Protocol):
    spp: bool

    def server(self, answer: Answer) -> AddressPort:
        """Where to send a call's packets."""


class TokenRoute:
    """As a relay: by the token. Key and token are real, only the relay itself is not in the figure."""

    spp = True

    def __init__(self, key_file: Path) -> None:
        key_id, key = read_key_file(key_file)
        self._keyring = Keyring({key_id: key})

    def server(self, answer: Answer) -> AddressPort:
        result, fields = self._keyring.verify(answer.ufrag.encode())
        if fields is None:
            raise CallFailed(f"the ufrag {answer.ufrag} is no route token: {result}")
        return fields.owner


class CandidateRoute:
    spp = False

    def server(self, answer: Answer) -> AddressPort:
        return answer.candidates[0]


@dataclass
class Client:
    """A call in its slot, and what its set-up waits for."""

    call: Call
    slot: int
    address: AddressPort
    heard: asyncio.Future[int]
    has_keys: bool = False


@dataclass
class SetUps:
    """What a number of set-ups amounted to."""

    done: list[Times] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Fleet:
    """All clients of one server."""

    def __init__(
        self, native: NativeSwarm, http: AddressPort, route: Route, *, role: str = "passive", data: bool = False
    ) -> None:
        self.native, self._route = native, route
        self._http = HTTPClient(http)
        self._identity = Identity.generate()
        self._role, self._data = role, data
        self.clients: dict[int, Client] = {}
        self._in_progress: dict[int, Client] = {}
        self._free = list(range(native.capacity - 1, -1, -1))
        self._serial = 0
        self.late_failures: list[str] = []

    # --- the loop ---

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Fleet"]:
        """Reads the sockets and keeps time while set-ups go on."""
        loop = asyncio.get_running_loop()
        descriptors = self.native.descriptors()
        for descriptor in descriptors:
            loop.add_reader(descriptor, self._receive)
        ticker = asyncio.create_task(self._tick())
        try:
            yield self
        finally:
            ticker.cancel()
            await asyncio.gather(ticker, return_exceptions=True)
            for descriptor in descriptors:
                loop.remove_reader(descriptor)
            await self._http.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.native.tend()
            for client in list(self._in_progress.values()):
                self._tend(client)

    def _receive(self) -> None:
        for arrived in self.native.receive():
            self._dispatch(arrived)

    def run(self, seconds: float, *, media: bool = True) -> None:
        """The steady state: the native part has the sockets, and hands over what it does not know."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.native.run(min(TURN_S, left), media=media)
            for arrived in self.native.arrived():
                self._dispatch(arrived)

    def _dispatch(self, arrived: Arrived) -> None:
        client = self.clients.get(arrived.slot)
        if client is None:
            return
        if not arrived.data:
            if not client.heard.done():
                client.heard.set_result(arrived.wall_ns)
            return
        try:
            client.call.receive(arrived.data, time.monotonic(), time.time_ns())
        except CallFailed as error:
            self._fail(client, error)
        self._flush(client)

    def _tend(self, client: Client) -> None:
        try:
            client.call.tick(time.monotonic(), time.time_ns())
        except CallFailed as error:
            self._fail(client, error)
        self._flush(client)

    def _fail(self, client: Client, error: CallFailed) -> None:
        if client.heard.done():
            self.late_failures.append(str(error))
        else:
            client.heard.set_exception(error)

    def _flush(self, client: Client) -> None:
        """Sends what the call has to say; with keys its first packet of media follows at once, as from a browser."""
        call = client.call
        for datagram in call.outbox:
            self.native.send(client.slot, datagram)
        call.outbox.clear()
        if call.pair is not None and not client.has_keys:
            client.has_keys = True
            self.native.set_keys(client.slot, call.pair.tx, call.pair.rx, call.ssrc, PAYLOAD_TYPE)
            self._speak(client)

    def _speak(self, client: Client) -> None:
        """A packet every 20 ms, until one has come back."""
        if not client.heard.done():
            self.native.send_media(client.slot)
            asyncio.get_running_loop().call_later(MEDIA_S, self._speak, client)

    # --- one call ---

    async def set_up(self) -> Client:
        """Returns when the first packet has come back; a call that fails leaves nothing behind here."""
        self._serial += 1
        call, future = Call(self._identity, self._role, self._data), asyncio.get_running_loop().create_future()
        client = Client(call, self._free.pop(), client_address(self._serial), future)
        try:
            await self._connect(client)
        except BaseException:
            self._forget(client)
            raise
        return client

    async def _connect(self, client: Client) -> None:
        call, slot = client.call, client.slot
        offer = call.offer(client.address if self._route.spp else self.native.address(slot))
        call.times.asked = time.time_ns()
        response = await self._http.post(CALLS, offer, client=client.address[0])
        call.times.answered = time.time_ns()
        if response.status != 201:
            raise CallFailed(f"POST {CALLS} -> {response.status} {response.body.decode(errors='replace')[:200]}")
        call.call_id = response.headers["location"].rpartition("/")[2]
        answer = call.accept(response.body.decode())
        if not answer.candidates:
            raise CallFailed("an answer without a UDP candidate")
        self.native.open(slot, self._route.server(answer), client.address, answer.candidates[0])
        self.native.set_checks(slot, call.checks())
        self.clients[slot] = self._in_progress[slot] = client
        call.start(time.monotonic(), answer.candidates[0])
        self._flush(client)
        try:
            async with asyncio.timeout(SETUP_LIMIT_S):
                call.times.heard = await client.heard
        except TimeoutError:
            raise CallFailed(f"{call.stage()} within {SETUP_LIMIT_S:.0f} s") from None
        finally:
            del self._in_progress[slot]
        self.native.go_live(slot)

    def _forget(self, client: Client) -> None:
        if self.clients.pop(client.slot, None) is not None:
            self.native.close(client.slot)
        self._free.append(client.slot)

    async def hang_up(self, client: Client) -> Response:
        response = await self._http.post(f"{CALLS}/{client.call.call_id}/hangup", client=client.address[0])
        self._forget(client)
        if response.status != 200:
            raise CallFailed(f"hang-up -> {response.status} {response.body.decode(errors='replace')[:200]}")
        return response

    # --- many ---

    async def set_up_many(
        self, count: int, *, rate: float = 0.0, concurrency: int = 32, hang_up: bool = False
    ) -> SetUps:
        """`rate` a second, 0: as fast as `concurrency` at a time go. With `hang_up` each call ends at once."""
        result = SetUps()
        began = time.monotonic()
        numbers = iter(range(count))
        await asyncio.gather(
            *(self._work(numbers, began, rate, hang_up, result) for _ in range(min(concurrency, count)))
        )
        result.seconds = time.monotonic() - began
        return result

    async def _work(self, numbers: Iterator[int], began: float, rate: float, hang_up: bool, result: SetUps) -> None:
        for number in numbers:
            if rate:
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            try:
                client = await self.set_up()
                result.done.append(client.call.times)
                if hang_up:
                    await self.hang_up(client)
            except (CallFailed, OSError) as error:
                result.failures.append(str(error) or repr(error))

    async def hang_up_all(self, concurrency: int = 32) -> list[str]:
        """Returns what went wrong."""
        clients = iter(list(self.clients.values()))
        failures: list[str] = []
        await asyncio.gather(*(self._hang_up_some(clients, failures) for _ in range(concurrency)))
        return failures

    async def _hang_up_some(self, clients: Iterable[Client], failures: list[str]) -> None:
        for client in clients:
            try:
                await self.hang_up(client)
            except (CallFailed, OSError) as error:
                failures.append(str(error))
