BYTES: dict[str, int]
OFFSETS: dict[str, int]
