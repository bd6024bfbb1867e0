"""STUN from the internal leg, believed by its MESSAGE-INTEGRITY alone.

A check names its session by the token; an authenticated one makes its flow key a path of that session and is answered. It is neither
fresh nor proof that its sender receives, as whoever saw it can send it again from anywhere: so it causes a request of ours, with a
random transaction id, as long as the path is not proven by the answer.

  token of a session, integrity right    answer, path, request of ours
  ..., but in the controlled role        487: RFC 8445 7.3.1.1, an ice-lite agent is always the controlled one
  token of this address, session gone    403 under the token's own password, so that its client gives up at once
  anything else                          silence
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from _fastpath.engine cimport EVENT_CHECK, EVENT_PROVEN
from _fastpath.outbound cimport PROBE_US, choose_path, court, draw, publish, schedule, send_probe
from _fastpath.outbox cimport outbox_open, outbox_push
from _fastpath.outcomes cimport (
    IN_CHECK, IN_CONFLICT, IN_GONE, IN_PATHS_FULL, IN_PROBE_ANSWER, IN_STUN_FORGED, IN_STUN_MALFORMED, IN_STUN_UNEXPECTED,
    IN_STUN_UNKNOWN, OUT_STUN,
)
from _fastpath.sessions cimport (
    CREDENTIALS_MOST, PATH_CHECKED, PATH_PROVEN, Credential, Path, Session, Sessions, credential_find, path_index, path_of,
    path_open, token_is_retired, transaction_of,
)
from _fastpath.sha1 cimport SHA1_BYTES, HmacKey, hmac_key, hmac_sha1
from _fastpath.wire.binding cimport (
    BINDING_BAD_FINGERPRINT, BINDING_OK, Binding, binding_error, binding_parse, binding_success, binding_verify,
)
from _fastpath.wire.envelope cimport KEY_CLIENT, KEY_CLIENT_PORT
from _fastpath.wire.stun cimport BINDING_REQUEST, BINDING_SUCCESS
from _fastpath.wire.token cimport TOKEN_VERIFIED, Route, token_length, token_verify

cdef enum:
    PASSWORD_CHARS = 27               # of 20 bytes in base64
    GENERATION_MASK = 0xfff
    GENERATION_HALF = 0x800
    ROLE_CONFLICT = 487
    FORBIDDEN = 403
    ASK_US = 5_000_000                # from an answer to the next request of ours
    TELL_US = 20_000                  # the loop hears of a session's checks no more often

cdef const char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


cdef uint8_t take_stun(Engine* engine, const Arrival* arrival) noexcept nogil:
    cdef Binding binding
    cdef Credential* credential
    cdef uint32_t number = 0
    cdef size_t length
    cdef int result = binding_parse(arrival.body, arrival.length, &binding)
    if result == <int>BINDING_BAD_FINGERPRINT:
        return IN_STUN_FORGED
    if result != <int>BINDING_OK:
        return IN_STUN_MALFORMED
    if binding.kind == BINDING_SUCCESS:
        return take_answer(engine, arrival, &binding)
    if binding.kind != BINDING_REQUEST:
        return IN_STUN_UNEXPECTED
    length = token_length(binding.username.start, binding.username.length)
    if length == 0:
        return IN_STUN_UNKNOWN
    credential = credential_find(&engine.sessions, binding.username.start, length, &number)
    if credential == NULL:
        return take_gone(engine, arrival, &binding, length)
    if not binding_verify(arrival.body, &binding, &credential.local):
        return IN_STUN_FORGED
    if binding.controlled:
        answer_error(engine, arrival, &binding, ROLE_CONFLICT, &credential.local)
        return IN_CONFLICT
    return take_check(engine, arrival, &binding, number, credential)


cdef void answer_error(Engine* engine, const Arrival* arrival, const Binding* binding, int code, const HmacKey* key) noexcept nogil:
    cdef uint8_t* out = outbox_open(&engine.outbox, arrival.key, arrival.name, arrival.name_bytes)
    outbox_push(&engine.outbox, binding_error(out, binding.transaction, code, key), OUT_STUN)


cdef void derive_password(const Engine* engine, const uint8_t* token, size_t length, HmacKey* key) noexcept nogil:
    """transceiver.ice.derive_pwd: unpadded base64 of an HMAC over the token."""
    cdef uint8_t digest[SHA1_BYTES + 1]
    cdef uint8_t text[PASSWORD_CHARS + 1]
    cdef int i
    hmac_sha1(&engine.passwords, token, length, NULL, 0, digest)
    digest[SHA1_BYTES] = 0
    for i in range(7):
        text[4 * i] = BASE64[digest[3 * i] >> 2]
        text[4 * i + 1] = BASE64[(digest[3 * i] & 3) << 4 | digest[3 * i + 1] >> 4]
        text[4 * i + 2] = BASE64[(digest[3 * i + 1] & 15) << 2 | digest[3 * i + 2] >> 6]
        text[4 * i + 3] = BASE64[digest[3 * i + 2] & 63]
    hmac_key(key, text, PASSWORD_CHARS)


cdef uint8_t take_gone(Engine* engine, const Arrival* arrival, const Binding* binding, size_t length) noexcept nogil:
    """A token that names no session. If this very address minted it, in this generation or an earlier one, its session is gone and
    its client shall know; anything else is not ours to judge, and gets silence. So does a token that a living call had before: 403
    would end it."""
    cdef Route route
    cdef HmacKey key
    if token_verify(&engine.keys, binding.username.start, length, &route) != TOKEN_VERIFIED:
        return IN_STUN_UNKNOWN
    if memcmp(&route.owner, &engine.own, sizeof(engine.own)) \
            or ((engine.generation - route.generation) & GENERATION_MASK) >= GENERATION_HALF \
            or token_is_retired(&engine.sessions, binding.username.start, length):
        return IN_STUN_UNKNOWN
    derive_password(engine, binding.username.start, length, &key)
    if not binding_verify(arrival.body, binding, &key):
        return IN_STUN_FORGED
    answer_error(engine, arrival, binding, FORBIDDEN, &key)
    return IN_GONE


cdef uint8_t take_check(Engine* engine, const Arrival* arrival, const Binding* binding, uint32_t number, Credential* credential) noexcept nogil:
    cdef Session* session = &engine.sessions.all[number]
    cdef Path* path = path_of(session, arrival.key)
    cdef uint8_t place = <uint8_t>(credential - session.credentials)
    cdef bint first = session.checked_us == 0
    cdef uint8_t* out
    cdef size_t length
    if path == NULL:
        path = path_open(&engine.sessions, number, arrival.key, engine.now_us)
        if path == NULL:
            return IN_PATHS_FULL
    note_check(engine, session, path, arrival, binding)
    # The answer is queued before anything that this check causes, here or in the loop, so it also leaves first.
    out = outbox_open(&engine.outbox, arrival.key, arrival.name, arrival.name_bytes)
    length = binding_success(out, binding.transaction, arrival.key + KEY_CLIENT, arrival.key + KEY_CLIENT_PORT, &credential.local)
    if path.state != PATH_PROVEN:
        path.bytes_out += <uint32_t>length
    outbox_push(&engine.outbox, length, OUT_STUN)
    if not credential.used:
        credential.used = True
        if credential.order > session.credentials[session.current].order:
            session.current = place
    if first or session.reporting and engine.now_us >= session.told_us + TELL_US:
        session.told_us = engine.now_us
        if publish(engine, session, EVENT_CHECK, <uint8_t>(path - session.paths), 0, path.starved):
            path.starved = False
    path_index(&engine.sessions, number, path)
    mirror(session, path, binding, place)
    if path.state == PATH_CHECKED:
        prove(engine, session, path)
        court(engine, session, path)
    else:
        choose_path(engine, session)
    return IN_CHECK


cdef void mirror(Session* session, Path* path, const Binding* binding, uint8_t place) noexcept nogil:
    """Our requests bear the names of the client's checks, turned round (RFC 8445 7.2.2); libwebrtc refuses any others. After a restart
    it may pair its new candidates with our old ones, and stay with that. Its new ufrag may even come before the offer that has it."""
    cdef size_t at = session.credentials[place].token_bytes + 1
    cdef const Credential* credential
    cdef uint8_t theirs
    cdef int i
    for i in range(CREDENTIALS_MOST):
        theirs = <uint8_t>((place + i) % CREDENTIALS_MOST)
        credential = &session.credentials[theirs]
        if credential.token_bytes and binding.username.length == at + credential.remote_bytes \
                and memcmp(binding.username.start + at, credential.remote_ufrag, credential.remote_bytes) == 0:
            if not path.mirrored or path.ours != place or path.theirs != theirs:
                path.turn = 0
            path.mirrored = True
            path.ours = place
            path.theirs = theirs
            return
    path.mirrored = False


cdef void note_check(Engine* engine, Session* session, Path* path, const Arrival* arrival, const Binding* binding) noexcept nogil:
    session.checked_us = path.checked_us = engine.now_us
    memcpy(path.name, arrival.name, arrival.name_bytes)
    path.name_bytes = arrival.name_bytes
    path.bytes_in += arrival.length if path.state != PATH_PROVEN else 0
    path.nominated |= binding.use_candidate
    if binding.has_priority:
        path.priority = binding.priority


cdef inline void prove(Engine* engine, Session* session, Path* path) noexcept nogil:
    """Asks at once, and again a while; each check of the client's pays for some more, so the waits begin anew with it."""
    if path.probe_us == 0 or path.probe_us > engine.now_us + PROBE_US:
        path.probes = min(path.probes, <uint8_t>1)
        send_probe(engine, session, <uint8_t>(path - session.paths))
    schedule(engine, session)


cdef bint was_asked(const Sessions* sessions, uint32_t number, const Arrival* arrival, const Binding* binding, uint64_t now_us) noexcept nogil:
    cdef uint8_t own[12]
    cdef uint32_t ago
    for ago in range(2):
        transaction_of(sessions, number, arrival.key, now_us, ago, own)
        if memcmp(own, binding.transaction, 12) == 0:
            return True
    return False


cdef bint is_the_clients(const Session* session, const Arrival* arrival, const Binding* binding) noexcept nogil:
    """Under any of its passwords: in the midst of a restart either may be."""
    cdef uint8_t i
    for i in range(CREDENTIALS_MOST):
        if session.credentials[i].token_bytes and binding_verify(arrival.body, binding, &session.credentials[i].remote):
            return True
    return False


cdef uint8_t take_answer(Engine* engine, const Arrival* arrival, const Binding* binding) noexcept nogil:
    """Its path is proven, and made anew if copies of a check from many addresses have pushed it out meanwhile."""
    cdef uint32_t number, mask
    cdef Session* session
    cdef Path* path
    memcpy(&number, binding.transaction, 4)
    memcpy(&mask, binding.transaction + 4, 4)
    number ^= mask
    if number >= engine.sessions.capacity or engine.sessions.all[number].serial == 0 \
            or not was_asked(&engine.sessions, number, arrival, binding, engine.now_us):
        return IN_STUN_UNEXPECTED
    session = &engine.sessions.all[number]
    if not is_the_clients(session, arrival, binding):
        return IN_STUN_FORGED
    path = path_of(session, arrival.key)
    if path == NULL:
        path = path_open(&engine.sessions, number, arrival.key, engine.now_us)
        if path == NULL:
            return IN_PATHS_FULL
        path.checked_us = engine.now_us
        memcpy(path.name, arrival.name, arrival.name_bytes)
        path.name_bytes = arrival.name_bytes
    path.turn = path.asked
    session.alive_us = engine.now_us
    session.asks = 0
    session.ask_us = engine.now_us + ASK_US + draw(engine) % (ASK_US // 10)
    if path.state == PATH_CHECKED:
        proven(engine, session, number, path)
    elif path.asked_us:
        session.view.rtt_us = path.rtt_us = <uint32_t>min(engine.now_us - path.asked_us, <uint64_t>0x7fffffff)
    path.asked_us = 0
    schedule(engine, session)
    return IN_PROBE_ANSWER


cdef void proven(Engine* engine, Session* session, uint32_t number, Path* path) noexcept nogil:
    """The round trip is told where it is certain which request was answered: the first (Karn's rule)."""
    if path.probes == 1:
        path.rtt_us = <uint32_t>(engine.now_us - path.asked_us)
        session.view.rtt_us = path.rtt_us
    path.state = PATH_PROVEN
    path.probe_us = 0
    path_index(&engine.sessions, number, path)
    choose_path(engine, session)
    publish(engine, session, EVENT_PROVEN, <uint8_t>(path - session.paths), 0, path.rtt_us << 1 | path.starved)
