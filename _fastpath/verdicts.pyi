UP: str
DOWN: str
VERDICTS_BY_NUMBER: tuple[tuple[str, bool, str], ...]
COUNTER_NAMES: tuple[str, ...]
EVENT_NAMES: tuple[str, ...]
TOKEN_OUTCOME_NAMES: tuple[str, ...]
BATCH_BOUNDS: tuple[int, ...]
CACHE_STAT_NAMES: tuple[str, ...]
CACHE_LATENCY_BOUNDS_US: tuple[int, ...]
