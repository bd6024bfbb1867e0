from collections.abc import Callable, Sequence

from _fastpath.media_slot import MediaSlot
from _fastpath.wire.token import Keyring

ANY_PATH: int
EVENT_NAMES: tuple[str, ...]

Event = tuple[str, int, int, int, int, bytes]
Datagram = tuple[bytes, tuple[str, int]]

class CommandsFull(Exception): ...

class MediaEngine:
    defer: Callable[[Callable[[], None]], object] | None
    def __init__(
        self,
        slot: MediaSlot,
        *,
        secret: bytes,
        keyring: Keyring,
        ice_key: bytes,
        own: tuple[str, int],
        generation: int,
        relays: Sequence[tuple[bytes, int]],
        srtp: tuple[int, int, int, int],
        srtp_known: bool = False,
        socket: int = -1,
        wake: int = -1,
        ring: int = -1,
        now_us: int = 0,
        unix_us: int = 0,
        cname: str = "ufrag",
    ) -> None: ...
    def open(
        self,
        index: int,
        serial: int,
        *,
        ssrc: int,
        sequence: int,
        timestamp_offset: int,
        payload_type: int = 0xFF,
        clock_rate: int = 48000,
        echo: bool = False,
    ) -> None: ...
    def add_credential(
        self, index: int, serial: int, *, token: str, password: str, remote_ufrag: str, remote_password: str
    ) -> None: ...
    def set_keys(self, index: int, serial: int, tx: int, rx: int) -> None: ...
    def send(self, index: int, serial: int, path: int, datagram: bytes) -> None: ...
    def set_reporting(self, index: int, serial: int, reporting: bool) -> None: ...
    def pump(self, index: int, serial: int) -> None: ...
    def close(self, index: int, serial: int) -> None: ...
    def wake(self) -> None: ...
    def rotate(self, keyring: Keyring) -> None: ...
    def events(self, most: int = 256) -> list[Event]: ...
    def run(self) -> str: ...
    def step(self, now_us: int, datagrams: Sequence[Datagram] = ()) -> list[Datagram]: ...
    def wait_us(self) -> int: ...
    def debug(self, index: int) -> dict[str, object]: ...
    def read_frames(self, index: int, most: int = 64) -> list[tuple[int, int, int, bool, int, bytes]]: ...
    def write_frame(
        self, index: int, payload: bytes, *, timestamp: int, marker: bool = False, at_us: int = 0
    ) -> bool: ...
