from dataclasses import dataclass

VERSION: int
KEY_IDS: int
CLUSTERS: int
GENERATIONS: int
ROUTE_KEY_BYTES: int
RESULTS: tuple[str, ...]
SUBKEY_INFO: bytes

@dataclass(frozen=True)
class TokenFields:
    key_id: int
    owner: tuple[str, int]
    cluster: int
    generation: int
    nonce: int

class Keyring:
    def __init__(self, keys: dict[int, bytes]) -> None: ...
    def verify(self, token: bytes) -> tuple[str, TokenFields | None]: ...
    def mint(
        self, key_id: int, owner: tuple[str, int], cluster: int = 0, generation: int = 0, random: bytes | None = None
    ) -> str: ...

def derive_subkeys(route_key: bytes) -> bytes: ...
def plain_payload(owner: tuple[str, int], cluster: int, generation: int, random: bytes) -> bytes: ...
def encode(head: int, body: bytes) -> str: ...
def mint(key_id: int, route_key: bytes, owner: tuple[str, int], cluster: int = 0, generation: int = 0) -> str: ...
