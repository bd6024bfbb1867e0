"""The bytes of an input, read as a stream of choices."""


class Stream:
    """Zeros behind their end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def take(self, count: int) -> bytes:
        return bytes(self.byte() for _ in range(count))

    @property
    def over(self) -> bool:
        return self.at >= len(self.data)
