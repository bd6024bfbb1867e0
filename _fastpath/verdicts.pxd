"""What became of a packet: every packet that is taken from a socket ends in exactly one verdict, and each verdict has one counter.

So *packets in = sum of verdicts*, per direction, at any moment between two batches; a test asserts it after every integration test.
Dropping is a verdict, not an error. The names, the metric label and the meaning for operators are in verdicts.pyx; the two lists must
have the same order (checked at import). Numbers are part of the shared-memory layout: one that renumbers others raises SLOT_LAYOUT.
"""

cdef enum:
    PENDING = 0                       # not decided yet; never counted

    # Up, forwarded.
    UP_MEDIA                          # by the flow table
    UP_CHECK                          # a check that carries its flow's own token
    UP_OPENED                         # a check with a valid token from a new address: a half-open flow was made
    UP_RESTART                        # another valid token of the flow's owner (ICE restart)
    UP_CONTENDED                      # a valid token of another owner: sent there, the flow stays
    UP_ADOPTED                        # the flow was found in a sibling's table
    UP_RECOVERED                      # held until the route cache knew its flow, or until a check or sibling made it known

    # Up, dropped.
    UP_TRUNCATED                      # longer than any WebRTC datagram
    UP_BAD_SOURCE                     # port 0, broadcast, multicast, link-local
    UP_BAD_DESTINATION                # sent to a broadcast or multicast address, or the local address is unknown
    UP_TOO_SHORT
    UP_UNKNOWN_KIND
    UP_BAD_COOKIE
    UP_STUN_MALFORMED
    UP_NO_USERNAME
    UP_LONG_USERNAME
    UP_NO_TOKEN                       # USERNAME does not start with something of a token's form
    UP_TOKEN_VERSION
    UP_TOKEN_KEY
    UP_TOKEN_FORGED
    UP_FOREIGN_OWNER                  # an authentic token whose owner is outside --backends or of a family we cannot send to
    UP_PEERS_FULL
    UP_TABLE_FULL
    UP_HALF_OPEN_FULL
    UP_TOKEN_FULL                     # the token has as many flows as it may, here and in sibling workers, and none of ours may go
    UP_TOKEN_BUSY                     # its token asks for new flows, or another session's, faster than it may
    UP_PREFIX_FULL                    # its network opens flows faster than it may
    UP_DRAINING                       # a new session while the relay drains; any check while it pushes its clients away
    UP_NO_FLOW                        # nobody knows the flow, and there is no route cache to ask
    UP_NO_ROUTE                       # the route cache does not know it either, or did not a moment ago
    UP_HOLD_EXPIRED                   # the route cache did not answer in time, or cannot be asked
    UP_HOLD_FULL                      # too much is on hold already: of this flow, or in all
    UP_LOOKUP_LIMITED                 # more look-ups than there may be
    UP_ABANDONED                      # in a batch that killed its worker again and again
    UP_SEND_BUFFER                    # the kernel had no room (EAGAIN, ENOBUFS)
    UP_SEND_TOO_BIG                   # EMSGSIZE
    UP_SEND_REFUSED                   # any other error on send (EPERM, ENETUNREACH, ...)

    # Down, forwarded.
    DOWN_MEDIA
    DOWN_ANSWER                       # the owner answered a check
    DOWN_ESTABLISHED                  # the owner's first answer: the flow is established
    DOWN_MOVED                        # the contending owner answered: the flow is its own now
    DOWN_RECOVERED

    # Down, dropped.
    DOWN_TRUNCATED
    DOWN_BAD_ENVELOPE
    DOWN_NO_FLOW
    DOWN_NO_ROUTE                     # the four of the hold, in the same order as up
    DOWN_HOLD_EXPIRED
    DOWN_HOLD_FULL
    DOWN_LOOKUP_LIMITED
    DOWN_NOT_NEXT_HOP                 # the sender is not this flow's next hop
    DOWN_OWNER_LIVE                   # a contender answered while the present owner is alive
    DOWN_ABANDONED
    DOWN_SEND_BUFFER
    DOWN_SEND_TOO_BIG
    DOWN_SEND_REFUSED

    # Put on hold: it belongs to no batch's sums until it leaves the hold and ends in one of the above. How many ever.
    HELD

    VERDICTS

cdef enum:
    FIRST_UP_DROP = UP_TRUNCATED
    FIRST_DOWN = DOWN_MEDIA
    FIRST_DOWN_DROP = DOWN_TRUNCATED

# Counters that are committed together with their batch, so that a worker's death in the middle of one neither loses nor doubles
# them: the verdicts come first, indexed by their number.
cdef enum:
    PACKETS_UP = VERDICTS
    PACKETS_DOWN
    BYTES_UP                          # UDP payload as the client sends and gets it, without the envelope
    BYTES_DOWN
    BATCHES                           # then one per power of two: 1, 2, 3-4, 5-8, ... 257-512
    BATCH_BUCKETS = BATCHES + 1
    COUNTERS = BATCH_BUCKETS + 10

# Rare things and token outcomes are counted where they happen: those of a batch that its worker died in may be counted twice.
cdef enum:
    FLOWS_CREATED
    FLOWS_EXPIRED
    FLOWS_EVICTED                     # pushed out by a newer flow of the same token
    FLOWS_ADOPTED
    FLOWS_MOVED
    INDEX_REBUILDS
    BATCHES_RESUMED                   # a batch that a dead predecessor had begun
    FLOWS_RECOVERED                   # the route cache knew them
    ASKS_LOST                         # look-ups and news for which the ring to the route cache had no room
    ANSWERS_REFUSED                   # the route cache knew the flow, but it may not or cannot be opened here
    EVENTS

cdef enum:
    OUTCOME_VERIFIED
    OUTCOME_FLOW                      # equal to its flow's own: accepted without its key
    OUTCOME_MALFORMED
    OUTCOME_OTHER_VERSION
    OUTCOME_UNKNOWN_KEY
    OUTCOME_FORGED
    OUTCOME_FOREIGN_OWNER
    TOKEN_OUTCOMES

cdef enum:
    CACHE_STATS = 32                  # words for what the route cache's keeper tells of itself; named in verdicts.pyx
