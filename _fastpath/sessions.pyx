"""Finding, opening and clearing sessions, credentials and paths; the structures stand in sessions.pxd."""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from _fastpath.index cimport NO_NUMBER, index_first, index_insert, index_make, index_next, index_remove
from _fastpath.siphash cimport siphash13, siphash24
from _fastpath.wheel cimport wheel_cancel, wheel_make

cdef enum:
    QUIET_PATH_US = 10_000_000        # a proven path without a check for so long may make room for another
    PERIOD_SHIFT = 25                 # 33 s: so long, and that of before, an answer to a request of ours counts


cdef int sessions_make(Sessions* sessions, uint32_t capacity, const uint8_t* secret, uint64_t now_us) noexcept nogil:
    memset(sessions, 0, sizeof(Sessions))
    sessions.all = <Session*>calloc(capacity, sizeof(Session))
    sessions.capacity = capacity
    memcpy(&sessions.secret, secret, 16)
    memcpy(&sessions.asking, secret + 16, 16)
    memcpy(&sessions.tie_breaker, secret + 32, 8)
    if sessions.all == NULL or index_make(&sessions.tokens, capacity * CREDENTIALS_MOST) < 0 \
            or index_make(&sessions.retired, capacity * RETIRED_MOST) < 0 \
            or index_make(&sessions.flows, capacity * PATHS_MOST) < 0 or wheel_make(&sessions.wheel, capacity, now_us) < 0:
        sessions_free(sessions)
        return -1
    return 0


cdef void sessions_free(Sessions* sessions) noexcept nogil:
    free(sessions.all)
    free(sessions.tokens.words)
    free(sessions.retired.words)
    free(sessions.flows.words)
    free(sessions.wheel.entries)
    memset(sessions, 0, sizeof(Sessions))


cdef uint32_t sessions_hash(const Sessions* sessions, const uint8_t* data, size_t length) noexcept nogil:
    """Keyed: who chooses addresses or ufrags cannot choose collisions."""
    return <uint32_t>siphash13(&sessions.secret, data, length)


# ---------------------------------------------------------------------------------------------------------------- credentials

cdef Credential* credential_find(Sessions* sessions, const uint8_t* token, size_t length, uint32_t* session) noexcept nogil:
    cdef uint32_t hash = sessions_hash(sessions, token, length)
    cdef uint32_t at
    cdef uint32_t number = index_first(&sessions.tokens, hash, &at)
    cdef Credential* credential
    while number != <uint32_t>NO_NUMBER:
        session[0] = number // CREDENTIALS_MOST
        credential = &sessions.all[session[0]].credentials[number % CREDENTIALS_MOST]
        if credential.token_bytes == length and memcmp(credential.token, token, length) == 0:
            return credential
        number = index_next(&sessions.tokens, hash, &at)
    return NULL


cdef uint8_t credential_place(const Session* session) noexcept nogil:
    """A free one; else that of the oldest which is not in use: so the newest two are always kept."""
    cdef uint8_t i
    cdef uint8_t place = NO_PATH
    for i in range(CREDENTIALS_MOST):
        if session.credentials[i].token_bytes == 0:
            return i
        if i != session.current and (place == NO_PATH or session.credentials[i].order < session.credentials[place].order):
            place = i
    return place


cdef void retire(Sessions* sessions, uint32_t number, uint32_t hash) noexcept nogil:
    cdef Session* session = &sessions.all[number]
    if session.retired_count < RETIRED_MOST:
        session.retired[session.retired_count] = hash
        session.retired_count += 1
        index_insert(&sessions.retired, hash, number)


cdef bint token_is_retired(const Sessions* sessions, const uint8_t* token, size_t length) noexcept nogil:
    cdef uint32_t at
    return index_first(&sessions.retired, sessions_hash(sessions, token, length), &at) != <uint32_t>NO_NUMBER


cdef void credential_add(Sessions* sessions, uint32_t session, const Credential* credential) noexcept nogil:
    cdef uint8_t place = credential_place(&sessions.all[session])
    cdef Credential* own = &sessions.all[session].credentials[place]
    cdef uint32_t number = session * CREDENTIALS_MOST + place
    cdef int i
    if own.token_bytes:
        index_remove(&sessions.tokens, own.hash, number)
        retire(sessions, session, own.hash)
    for i in range(PATHS_MOST):
        if sessions.all[session].paths[i].ours == place or sessions.all[session].paths[i].theirs == place:
            sessions.all[session].paths[i].mirrored = False
    own[0] = credential[0]
    own.used = 0
    own.order = sessions.all[session].given
    sessions.all[session].given += 1
    own.hash = sessions_hash(sessions, own.token, own.token_bytes)
    index_insert(&sessions.tokens, own.hash, number)


# ---------------------------------------------------------------------------------------------------------------------- paths

cdef Path* path_by_key(Sessions* sessions, const uint8_t* key, uint32_t hash, uint32_t* session) noexcept nogil:
    """The path that packets with this flow key belong to."""
    cdef uint32_t at
    cdef uint32_t number = index_first(&sessions.flows, hash, &at)
    cdef Path* path
    while number != <uint32_t>NO_NUMBER:
        session[0] = number // PATHS_MOST
        path = &sessions.all[session[0]].paths[number % PATHS_MOST]
        if memcmp(path.key, key, KEY_ROOM) == 0:
            return path
        number = index_next(&sessions.flows, hash, &at)
    return NULL


cdef Path* path_of(Session* session, const uint8_t* key) noexcept nogil:
    """A session's own path of this flow key, whoever it belongs to."""
    cdef int i
    for i in range(PATHS_MOST):
        if session.paths[i].state != PATH_FREE and memcmp(session.paths[i].key, key, KEY_ROOM) == 0:
            return &session.paths[i]
    return NULL


cdef void path_unindex(Sessions* sessions, uint32_t number, Path* path) noexcept nogil:
    if path.indexed:
        index_remove(&sessions.flows, path.hash, number * PATHS_MOST + <uint32_t>(path - sessions.all[number].paths))
        path.indexed = False


cdef void path_forget(Sessions* sessions, uint32_t number, Path* path) noexcept nogil:
    cdef Session* session = &sessions.all[number]
    path_unindex(sessions, number, path)
    if &session.paths[session.active % PATHS_MOST] == path and session.active != NO_PATH:
        session.active = NO_PATH
    session.view.paths -= 1
    session.epoch += 1
    memset(path, 0, sizeof(Path))


cdef void path_index(Sessions* sessions, uint32_t number, Path* path) noexcept nogil:
    """Makes the flow key lead here, if nobody has it or this path is proven: who proved it last is who is there. Whoever had it before
    loses the path: a check alone, late or sent again by others, must not bring the packets back."""
    cdef uint32_t other_session
    cdef Path* other
    if path.indexed:
        return
    other = path_by_key(sessions, path.key, path.hash, &other_session)
    if other != NULL:
        if path.state != PATH_PROVEN:
            return
        path_forget(sessions, other_session, other)
    index_insert(&sessions.flows, path.hash, number * PATHS_MOST + <uint32_t>(path - sessions.all[number].paths))
    path.indexed = True


cdef bint may_go(const Session* session, uint8_t i, uint64_t now_us) noexcept nogil:
    cdef const Path* path = &session.paths[i]
    return i != session.active and (path.state != PATH_PROVEN or path.checked_us + QUIET_PATH_US < now_us)


cdef uint8_t path_place(const Session* session, uint64_t now_us) noexcept nogil:
    """A free place; else the one longest without a check among unproven paths, then among quiet ones."""
    cdef uint8_t place = NO_PATH
    cdef uint8_t i
    for i in range(PATHS_MOST):
        if session.paths[i].state == PATH_FREE:
            return i
        if may_go(session, i, now_us) and (place == NO_PATH or session.paths[i].state < session.paths[place].state
                                           or session.paths[i].state == session.paths[place].state
                                           and session.paths[i].checked_us < session.paths[place].checked_us):
            place = i
    return place


cdef Path* path_open(Sessions* sessions, uint32_t number, const uint8_t* key, uint64_t now_us) noexcept nogil:
    """A new path; NULL when all are in use."""
    cdef Session* session = &sessions.all[number]
    cdef uint8_t place = path_place(session, now_us)
    cdef Path* path
    if place == NO_PATH:
        return NULL
    path = &session.paths[place]
    if path.state == PATH_FREE:
        session.view.paths += 1
    path_unindex(sessions, number, path)
    memset(path, 0, sizeof(Path))
    memcpy(path.key, key, KEY_ROOM)
    path.hash = sessions_hash(sessions, key, KEY_ROOM)
    path.state = PATH_CHECKED
    path_index(sessions, number, path)
    return path


cdef void transaction_of(
    const Sessions* sessions, uint32_t number, const uint8_t* key, uint64_t now_us, uint32_t ago, uint8_t* out12,
) noexcept nogil:
    """The id of our requests to a flow in this period, or one `ago`. Unpredictable, but the same whenever it is asked for: nothing has to
    be remembered of a request, so nobody can make us forget it. Its first 32 bits are the session's number, masked."""
    cdef uint8_t data[KEY_ROOM + 16]
    cdef uint64_t period = (now_us >> PERIOD_SHIFT) - ago
    cdef uint64_t random
    memcpy(data, key, KEY_ROOM)
    memcpy(data + KEY_ROOM, &sessions.all[number].serial, 4)
    memcpy(data + KEY_ROOM + 4, &sessions.all[number].epoch, 4)
    memcpy(data + KEY_ROOM + 8, &period, 8)
    random = siphash24(&sessions.asking, data, KEY_ROOM + 16)
    number ^= <uint32_t>random
    memcpy(out12, &number, 4)
    memcpy(out12 + 4, &random, 8)


cdef void session_clear(Sessions* sessions, uint32_t number) noexcept nogil:
    """Forgets a session: nothing leads to it afterwards, and no timer is left."""
    cdef Session* session = &sessions.all[number]
    cdef uint32_t i
    for i in range(<uint32_t>PATHS_MOST):
        path_unindex(sessions, number, &session.paths[i])
    for i in range(<uint32_t>CREDENTIALS_MOST):
        if session.credentials[i].token_bytes:
            index_remove(&sessions.tokens, session.credentials[i].hash, number * CREDENTIALS_MOST + i)
    for i in range(session.retired_count):
        index_remove(&sessions.retired, session.retired[i], number)
    wheel_cancel(&sessions.wheel, number)
    memset(session, 0, sizeof(Session))
