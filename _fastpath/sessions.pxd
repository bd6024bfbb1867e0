"""The hot thread's sessions: who may speak (credentials), from where (paths), with which keys, and what has been measured.

Private memory of the hot thread, allocated once; a session is a number given by the loop, which re-uses it only when the hot thread has
said that it let go. Two indexes lead to a session: the token of a check, and the flow key (client and relay address) of everything
else. A path becomes known by an authenticated check and proven by the client's answer to a request of ours with a random transaction
id; a flow key belongs to the session that first proved it last: whoever only sends checks from a spoofed address takes nothing.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.index cimport Index
from _fastpath.media_slot cimport SessionRow
from _fastpath.reception cimport Reception
from _fastpath.rings cimport Ring
from _fastpath.sha1 cimport HmacKey
from _fastpath.siphash cimport SipKey
from _fastpath.wheel cimport Wheel

cdef enum:
    PATHS_MOST = 8
    CREDENTIALS_MOST = 3              # the present one and those of before the last ICE restarts
    RETIRED_MOST = 64                 # earlier tokens of a call; more restarts than that are refused
    SOURCES_MOST = 4                  # SSRCs: thousands would make libsrtp's list slow, and each is memory
    TOKEN_ROOM = 48
    UFRAG_ROOM = 256                  # RFC 8839 5.4
    NAME_BYTES = 28                   # sockaddr_in6
    KEY_ROOM = 36
    NO_PATH = 0xff

    PATH_FREE = 0
    PATH_CHECKED = 1                  # an authenticated check came from there
    PATH_PROVEN = 2                   # and its sender receives what is sent there

cdef struct Credential:
    uint8_t token[TOKEN_ROOM]
    uint8_t token_bytes               # 0: free
    uint8_t used                      # a check with it has come
    uint16_t remote_bytes
    uint32_t order                    # of those of this session
    uint32_t hash
    HmacKey local                     # what the client's checks are authenticated with
    HmacKey remote                    # and our requests
    uint8_t remote_ufrag[UFRAG_ROOM]

cdef struct Path:
    uint8_t key[KEY_ROOM]
    uint32_t hash
    uint8_t state
    uint8_t indexed                   # the flow key leads here
    uint8_t nominated
    uint8_t probes                    # requests of ours since the last check
    uint8_t starved                   # the loop sent more than could be afforded before it was proven
    uint8_t mirrored                  # the next two are known
    uint8_t ours                      # which credentials' token the client's checks name here,
    uint8_t theirs                    # and which ones' client ufrag
    uint8_t turn                      # the next request of ours goes under 0: those names, 1: the newest ones
    uint8_t asked                     # what the last one went under
    uint8_t name_bytes
    uint8_t name[NAME_BYTES]          # the relay that last brought something authenticated
    uint32_t priority
    uint32_t rtt_us
    uint32_t bytes_in                 # until it is proven: what came from there
    uint32_t bytes_out                # and what was sent there
    uint64_t asked_us                 # when the first request of ours left
    uint64_t checked_us
    uint64_t media_us
    uint64_t probe_us                 # when the next request is due; 0: none

cdef struct Session:
    uint32_t serial                   # of the call that has this number; 0: none
    uint32_t epoch                    # grows when a path is lost to another call: answers to older requests prove nothing
    uint32_t given                    # credentials so far
    uint8_t current                   # the newest of those that the client has used
    uint8_t active                    # the path that packets are sent on
    uint8_t courted                   # one not proven yet that gets copies, because the active one is silent
    uint8_t reporting                 # the loop wants to hear of every check (a handshake is under way)
    uint8_t echo
    uint8_t touched
    uint8_t expired
    uint8_t closing                   # to be closed as soon as the loop can be told
    uint8_t heard                     # authenticated media has come
    uint8_t payload_type
    uint64_t opened_us
    uint64_t checked_us
    uint64_t media_us
    uint64_t alive_us                 # when the client last answered a request of ours, which nobody can do for it
    uint64_t told_us                  # when the loop was last told of a check
    uint64_t ask_us                   # when it is asked again
    uint32_t asks                     # since then
    uint64_t report_us                # when the next RTCP report is due
    void* tx
    void* rx
    SessionRow* view
    Ring* up
    Ring* down
    uint32_t ssrc
    uint32_t clock_rate
    uint32_t timestamp_offset
    uint32_t last_timestamp
    uint64_t last_sent_us
    uint32_t sent_packets
    uint32_t sent_octets
    uint32_t punted                   # datagrams given to the loop, and
    uint32_t taken                    # those it has taken (its word)
    uint16_t sequence
    uint8_t sources
    uint8_t main_source               # the one heard last
    Reception source[SOURCES_MOST]
    uint8_t held                      # SRTP that came before the keys, kept in `up`
    uint8_t retired_count
    uint32_t retired[RETIRED_MOST]    # hashes of tokens whose place another has taken: silence, but never `gone`
    Path paths[PATHS_MOST]
    Credential credentials[CREDENTIALS_MOST]

cdef struct Sessions:
    Session* all
    uint32_t capacity
    Index tokens                      # number: session * CREDENTIALS_MOST + credential
    Index retired                     # number: the session
    Index flows                       # number: session * PATHS_MOST + path
    SipKey secret                     # places tokens and flow keys in the indexes
    SipKey asking                     # makes the transaction ids of our requests: they are seen outside, so the key is another
    uint64_t tie_breaker              # ICE's; an ice-lite agent never compares it
    Wheel wheel

# `secret` has 40 random bytes.
cdef int sessions_make(Sessions* sessions, uint32_t capacity, const uint8_t* secret, uint64_t now_us) noexcept nogil
cdef void sessions_free(Sessions* sessions) noexcept nogil
cdef uint32_t sessions_hash(const Sessions* sessions, const uint8_t* data, size_t length) noexcept nogil
cdef Credential* credential_find(Sessions* sessions, const uint8_t* token, size_t length, uint32_t* session) noexcept nogil
cdef void credential_add(Sessions* sessions, uint32_t session, const Credential* credential) noexcept nogil
cdef bint token_is_retired(const Sessions* sessions, const uint8_t* token, size_t length) noexcept nogil
cdef Path* path_by_key(Sessions* sessions, const uint8_t* key, uint32_t hash, uint32_t* session) noexcept nogil
cdef Path* path_of(Session* session, const uint8_t* key) noexcept nogil
cdef Path* path_open(Sessions* sessions, uint32_t number, const uint8_t* key, uint64_t now_us) noexcept nogil
cdef void transaction_of(
    const Sessions* sessions, uint32_t number, const uint8_t* key, uint64_t now_us, uint32_t ago, uint8_t* out12) noexcept nogil
cdef void path_index(Sessions* sessions, uint32_t number, Path* path) noexcept nogil
cdef void session_clear(Sessions* sessions, uint32_t number) noexcept nogil
