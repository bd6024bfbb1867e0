"""Names of verdicts, counters and events, for metrics, tools and tests. The enums are in verdicts.pxd, in the same order."""

UP = "up"
DOWN = "down"

# (direction, forwarded, reason). The reason is the `reason` label of `ufrag_relay_drops_total`.
VERDICTS_BY_NUMBER: tuple[tuple[str, bool, str], ...] = (
    ("", False, "pending"),
    (UP, True, "media"), (UP, True, "check"), (UP, True, "opened"), (UP, True, "restart"), (UP, True, "contended"),
    (UP, True, "adopted"),
    (UP, False, "truncated"), (UP, False, "bad_source"), (UP, False, "bad_destination"), (UP, False, "too_short"),
    (UP, False, "unknown_kind"), (UP, False, "bad_cookie"), (UP, False, "stun_malformed"), (UP, False, "no_username"),
    (UP, False, "long_username"), (UP, False, "no_token"), (UP, False, "token_version"), (UP, False, "token_key"),
    (UP, False, "token_forged"), (UP, False, "foreign_owner"), (UP, False, "peers_full"), (UP, False, "table_full"),
    (UP, False, "half_open_full"), (UP, False, "token_full"), (UP, False, "token_busy"), (UP, False, "prefix_full"),
    (UP, False, "draining"), (UP, False, "no_flow"),
    (UP, False, "abandoned"), (UP, False, "send_buffer"), (UP, False, "send_too_big"), (UP, False, "send_refused"),
    (DOWN, True, "media"), (DOWN, True, "answer"), (DOWN, True, "established"), (DOWN, True, "moved"),
    (DOWN, False, "truncated"), (DOWN, False, "bad_envelope"), (DOWN, False, "no_flow"), (DOWN, False, "not_next_hop"),
    (DOWN, False, "owner_live"), (DOWN, False, "abandoned"), (DOWN, False, "send_buffer"), (DOWN, False, "send_too_big"), (DOWN, False, "send_refused"),
)

COUNTER_NAMES = (
    *(f"{direction}_{reason}" if direction else reason for direction, _, reason in VERDICTS_BY_NUMBER),
    "packets_up", "packets_down", "bytes_up", "bytes_down", "batches", *(f"batch_le_{1 << power}" for power in range(10)),
)
EVENT_NAMES = ("flows_created", "flows_expired", "flows_evicted", "flows_adopted", "flows_moved", "index_rebuilds",
               "batches_resumed")
TOKEN_OUTCOME_NAMES = ("verified", "flow", "malformed", "other_version", "unknown_key", "forged", "foreign_owner")
BATCH_BOUNDS = tuple(1 << power for power in range(10))

assert len(VERDICTS_BY_NUMBER) == VERDICTS and len(COUNTER_NAMES) == COUNTERS
assert len(EVENT_NAMES) == EVENTS and len(TOKEN_OUTCOME_NAMES) == TOKEN_OUTCOMES
assert VERDICTS_BY_NUMBER[<int>FIRST_UP_DROP][2] == "truncated" and VERDICTS_BY_NUMBER[<int>FIRST_DOWN] == (DOWN, True, "media")
assert VERDICTS_BY_NUMBER[<int>FIRST_DOWN_DROP] == (DOWN, False, "truncated")
