from dataclasses import dataclass

REQUEST: int
INDICATION: int
SUCCESS: int
ERROR: int
RESULTS: tuple[str, ...]
MOST_BYTES: int
MOST_ATTRIBUTES: int

@dataclass(frozen=True)
class Fields:
    kind: int
    transaction: bytes
    username: bytes | None
    integrity_at: int
    priority: int | None
    use_candidate: bool
    controlling: bool
    controlled: bool
    error_code: int

def parse(message: bytes) -> tuple[str, Fields | None]: ...
def verify(message: bytes, password: bytes) -> bool: ...
def checked(transaction: bytes) -> bytes: ...
def success(transaction: bytes, address: tuple[str, int], password: bytes) -> bytes: ...
def error(transaction: bytes, code: int, password: bytes) -> bytes: ...
def request(
    transaction: bytes,
    username: bytes,
    password: bytes,
    *,
    priority: int,
    tie_breaker: int,
    controlling: bool = False,
    use_candidate: bool = False,
) -> bytes: ...
