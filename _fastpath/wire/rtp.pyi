from dataclasses import dataclass

@dataclass(frozen=True)
class Header:
    ssrc: int
    timestamp: int
    sequence: int
    payload_type: int
    marker: bool
    payload: bytes

def clear(packet: bytes) -> tuple[str, int, int] | None: ...
def parse(packet: bytes) -> Header | None: ...
def pack(payload_type: int, marker: bool, sequence: int, timestamp: int, ssrc: int) -> bytes: ...
