from dataclasses import dataclass

MAX_BYTES: int

@dataclass(frozen=True)
class Sender:
    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int

@dataclass(frozen=True)
class Block:
    ssrc: int
    fraction_lost: int
    lost: int
    highest: int
    jitter: int
    last_sr: int
    delay_since_sr: int

@dataclass(frozen=True)
class Report:
    from_ssrc: int
    sender: Sender | None
    block: Block | None
    bye: bool

def parse(packet: bytes, our_ssrc: int) -> Report | None: ...
def pack(
    ssrc: int, cname: bytes, sender: Sender | None = None, block: Block | None = None, bye: bool = False
) -> bytes: ...
