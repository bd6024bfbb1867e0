"""Names of verdicts, counters and events, for metrics, tools and tests. The enums are in verdicts.pxd, in the same order."""

UP = "up"
DOWN = "down"

# (direction, forwarded, reason). The reason is the `reason` label of `ufrag_relay_drops_total`.
VERDICTS_BY_NUMBER: tuple[tuple[str, bool, str], ...] = (
    ("", False, "pending"),
    (UP, True, "media"), (UP, True, "check"), (UP, True, "opened"), (UP, True, "restart"), (UP, True, "contended"),
    (UP, True, "adopted"), (UP, True, "recovered"),
    (UP, False, "truncated"), (UP, False, "bad_source"), (UP, False, "bad_destination"), (UP, False, "too_short"),
    (UP, False, "unknown_kind"), (UP, False, "bad_cookie"), (UP, False, "stun_malformed"), (UP, False, "no_username"),
    (UP, False, "long_username"), (UP, False, "no_token"), (UP, False, "token_version"), (UP, False, "token_key"),
    (UP, False, "token_forged"), (UP, False, "foreign_owner"), (UP, False, "peers_full"), (UP, False, "table_full"),
    (UP, False, "half_open_full"), (UP, False, "token_full"), (UP, False, "token_busy"), (UP, False, "prefix_full"),
    (UP, False, "draining"), (UP, False, "no_flow"), (UP, False, "no_route"), (UP, False, "hold_expired"),
    (UP, False, "hold_full"), (UP, False, "lookup_limited"),
    (UP, False, "abandoned"), (UP, False, "send_buffer"), (UP, False, "send_too_big"), (UP, False, "send_refused"),
    (DOWN, True, "media"), (DOWN, True, "answer"), (DOWN, True, "established"), (DOWN, True, "moved"),
    (DOWN, True, "recovered"),
    (DOWN, False, "truncated"), (DOWN, False, "bad_envelope"), (DOWN, False, "no_flow"), (DOWN, False, "no_route"),
    (DOWN, False, "hold_expired"), (DOWN, False, "hold_full"), (DOWN, False, "lookup_limited"), (DOWN, False, "not_next_hop"),
    (DOWN, False, "owner_live"), (DOWN, False, "abandoned"), (DOWN, False, "send_buffer"), (DOWN, False, "send_too_big"), (DOWN, False, "send_refused"),
    ("", False, "held"),
)

COUNTER_NAMES = (
    *(f"{direction}_{reason}" if direction else reason for direction, _, reason in VERDICTS_BY_NUMBER),
    "packets_up", "packets_down", "bytes_up", "bytes_down", "batches", *(f"batch_le_{1 << power}" for power in range(10)),
)
EVENT_NAMES = ("flows_created", "flows_expired", "flows_evicted", "flows_adopted", "flows_moved", "index_rebuilds",
               "batches_resumed", "flows_recovered", "asks_lost", "answers_refused")
CACHE_LATENCY_BOUNDS_US = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
# Of the route cache, written by whoever asks it and shown as metrics: a counter each unless it says otherwise. A latency bucket counts
# look-ups that took no longer.
CACHE_STAT_NAMES = ("lookups", "hits", "misses", "unavailable", "bad_values", "errors", "writes", "removals", "writes_dropped",
                    "writes_waiting", "breaker", "breaker_opened", "losses", "lookup_us",
                    *(f"lookup_us_le_{bound}" for bound in CACHE_LATENCY_BOUNDS_US))
TOKEN_OUTCOME_NAMES = ("verified", "flow", "malformed", "other_version", "unknown_key", "forged", "foreign_owner")
BATCH_BOUNDS = tuple(1 << power for power in range(10))

assert len(VERDICTS_BY_NUMBER) == VERDICTS and len(COUNTER_NAMES) == COUNTERS
assert VERDICTS_BY_NUMBER[<int>HELD][2] == "held" and VERDICTS_BY_NUMBER[<int>UP_NO_ROUTE + 3] == (UP, False, "lookup_limited")
assert VERDICTS_BY_NUMBER[<int>DOWN_NO_ROUTE + 3] == (DOWN, False, "lookup_limited") and len(CACHE_STAT_NAMES) <= CACHE_STATS
assert len(EVENT_NAMES) == EVENTS and len(TOKEN_OUTCOME_NAMES) == TOKEN_OUTCOMES
assert VERDICTS_BY_NUMBER[<int>FIRST_UP_DROP][2] == "truncated" and VERDICTS_BY_NUMBER[<int>FIRST_DOWN] == (DOWN, True, "media")
assert VERDICTS_BY_NUMBER[<int>FIRST_DOWN_DROP] == (DOWN, False, "truncated")
