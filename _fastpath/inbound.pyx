"""Deciding what a received datagram means. The order of proofs:

  1. It comes from a relay (--relays), with an envelope that names client and local address: the flow key.
  2. STUN is believed by its MESSAGE-INTEGRITY alone. A check names its session by the token; an authenticated one makes its flow key
     a path of that session, is answered, and causes a request of ours as long as the path is not proven.
  3. DTLS and SRTP belong to the session whose path their flow key is; without one they are dropped. DTLS goes to the loop, SRTP is
     authenticated here, with the number of sources bounded before.
Nothing is answered that was not authenticated. What is bounded: paths, sources, datagrams that wait for the loop, bytes to the unproven.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

from _fastpath.atomics cimport load32
from _fastpath.engine cimport (
    EVENT_BYE, EVENT_CHECK, EVENT_DATAGRAM, EVENT_MEDIA, EVENT_PROVEN, EVENT_RESTARTED, FLOOD_MOST, Frame, Head, number_of,
)
from _fastpath.outbound cimport choose_path, draw, publish, schedule, send_probe, use_path
from _fastpath.outbox cimport outbox_open, outbox_push
from _fastpath.outcomes cimport *
from _fastpath.reception cimport (
    Reception, ntp_from_us, ntp_middle_of, reception_packet, reception_sender, reception_start, round_trip_us,
)
from _fastpath.rings cimport ring_commit, ring_reserve, ring_room
from _fastpath.sessions cimport (
    KEY_ROOM, PATH_CHECKED, PATH_FREE, PATH_PROVEN, PATHS_MOST, SOURCES_MOST, Credential, Path, Session, credential_find,
    path_by_key, path_index, path_of, path_open, sessions_hash,
)
from _fastpath.sha1 cimport SHA1_BYTES, HmacKey, hmac_key, hmac_sha1
from _fastpath.wire.address cimport from_sockaddr, load_be32, within_any
from _fastpath.wire.binding cimport (
    BINDING_BAD_FINGERPRINT, BINDING_OK, Binding, binding_error, binding_parse, binding_success, binding_verify,
)
from _fastpath.wire.demux cimport KIND_DTLS, KIND_RTP, KIND_STUN, classify
from _fastpath.wire.envelope cimport ENVELOPE_BYTES, KEY_CLIENT, KEY_CLIENT_PORT, envelope_valid
from _fastpath.wire.rtcp cimport RTCPReport, rtcp_parse
from _fastpath.wire.rtp cimport RTP_HEADER_BYTES, RTPHeader, is_rtcp, rtp_parse, rtp_ssrc
from _fastpath.wire.stun cimport BINDING_REQUEST, BINDING_SUCCESS
from _fastpath.wire.token cimport TOKEN_VERIFIED, Route, token_length, token_verify

cdef enum:
    PASSWORD_CHARS = 27               # of 20 bytes in base64
    GENERATION_MASK = 0xfff
    GENERATION_HALF = 0x800
    ROLE_CONFLICT = 487
    FORBIDDEN = 403
    SRTP_REPLAY_FAIL = 9              # srtp_err_status_t
    SRTP_REPLAY_OLD = 10
    DTLS_FIRST = 20                   # content types: change cipher spec ... and the version every DTLS record begins with
    DTLS_LAST = 26
    DTLS_MAJOR = 0xfe

cdef const char* BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

# A datagram on its way through the functions below.
cdef struct Arrival:
    const uint8_t* name               # the relay's sockaddr
    uint8_t name_bytes
    const uint8_t* key
    uint8_t* body
    uint32_t length                   # of the body


cdef uint8_t take(Engine* engine, const uint8_t* name, uint8_t name_bytes, uint8_t* datagram, uint32_t length, bint truncated) noexcept nogil:
    cdef Arrival arrival
    cdef uint8_t relay[18]
    cdef int kind
    if truncated:
        return IN_TRUNCATED
    from_sockaddr(name, relay, relay + 16)
    if not within_any(engine.relays, engine.relay_count, relay):
        return IN_NOT_RELAY
    if not envelope_valid(datagram, length):
        return IN_BAD_ENVELOPE
    arrival.name = name
    arrival.name_bytes = name_bytes
    arrival.key = datagram + ENVELOPE_BYTES - KEY_ROOM
    arrival.body = datagram + ENVELOPE_BYTES
    arrival.length = length - ENVELOPE_BYTES
    kind = classify(arrival.body, arrival.length)
    if kind == KIND_RTP:
        return take_srtp(engine, &arrival)
    if kind == KIND_STUN:
        return take_stun(engine, &arrival)
    if kind == KIND_DTLS:
        return take_dtls(engine, &arrival)
    return IN_UNKNOWN_KIND


# ----------------------------------------------------------------------------------------------------------------------- STUN

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
    its client shall know; anything else is not ours to judge, and gets silence."""
    cdef Route route
    cdef HmacKey key
    if token_verify(&engine.keys, binding.username.start, length, &route) != TOKEN_VERIFIED:
        return IN_STUN_UNKNOWN
    if memcmp(&route.owner, &engine.own, sizeof(engine.own)) \
            or ((engine.generation - route.generation) & GENERATION_MASK) >= GENERATION_HALF:
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
        new_transaction(engine, session, number, path)
    note_check(engine, session, path, arrival, binding)
    path.credential = place
    # The answer is queued before anything that this check causes, here or in the loop, so it also leaves first.
    out = outbox_open(&engine.outbox, arrival.key, arrival.name, arrival.name_bytes)
    length = binding_success(out, binding.transaction, arrival.key + KEY_CLIENT, arrival.key + KEY_CLIENT_PORT, &credential.local)
    if path.state != PATH_PROVEN:
        path.bytes_out += <uint32_t>length
    outbox_push(&engine.outbox, length, OUT_STUN)
    if not credential.used:
        credential.used = True
        if not first:
            session.current = place
            publish(engine, session, EVENT_RESTARTED, <uint8_t>(path - session.paths), 0, 0)
    if first or session.reporting:
        publish(engine, session, EVENT_CHECK, <uint8_t>(path - session.paths), first, 0)
    path_index(&engine.sessions, number, path)
    if path.state == PATH_CHECKED:
        prove(engine, session, path)
    else:
        choose_path(engine, session)
    return IN_CHECK


cdef void note_check(Engine* engine, Session* session, Path* path, const Arrival* arrival, const Binding* binding) noexcept nogil:
    session.checked_us = path.checked_us = engine.now_us
    memcpy(path.name, arrival.name, arrival.name_bytes)
    path.name_bytes = arrival.name_bytes
    path.bytes_in += arrival.length if path.state != PATH_PROVEN else 0
    path.nominated |= binding.use_candidate
    if binding.has_priority:
        path.priority = binding.priority


cdef void new_transaction(Engine* engine, const Session* session, uint32_t number, Path* path) noexcept nogil:
    """96 random bits; the first 32 are masked with which path it is, so that an answer is found by them."""
    cdef uint64_t random = draw(engine)
    cdef uint32_t where = (number * PATHS_MOST + <uint32_t>(path - session.paths)) ^ <uint32_t>random
    memcpy(path.transaction, &where, 4)
    memcpy(path.transaction + 4, &random, 8)


cdef inline void prove(Engine* engine, Session* session, Path* path) noexcept nogil:
    """Asks at once, and again a while; each check of the client's pays for some more."""
    if path.probe_us == 0 or path.probe_us <= engine.now_us:
        if path.probe_us == 0:
            path.probes = 0
        send_probe(engine, session, <uint8_t>(path - session.paths))
    schedule(engine, session)


cdef uint8_t take_answer(Engine* engine, const Arrival* arrival, const Binding* binding) noexcept nogil:
    cdef uint32_t where, mask
    cdef Session* session
    cdef Path* path
    memcpy(&where, binding.transaction, 4)
    memcpy(&mask, binding.transaction + 4, 4)
    where ^= mask
    if where // PATHS_MOST >= engine.sessions.capacity:
        return IN_STUN_UNEXPECTED
    session = &engine.sessions.all[where // PATHS_MOST]
    path = &session.paths[where % PATHS_MOST]
    if path.state == PATH_FREE or memcmp(path.transaction, binding.transaction, 12) or memcmp(path.key, arrival.key, KEY_ROOM):
        return IN_STUN_UNEXPECTED
    if not binding_verify(arrival.body, binding, &session.credentials[path.credential].remote):
        return IN_STUN_FORGED
    if path.state == PATH_CHECKED:
        proven(engine, session, where // PATHS_MOST, path)
    return IN_PROBE_ANSWER


cdef void proven(Engine* engine, Session* session, uint32_t number, Path* path) noexcept nogil:
    """The round trip is told where it is certain which request was answered: the first (Karn's rule)."""
    if path.probes == 1:
        path.rtt_us = <uint32_t>(engine.now_us - path.opened_us)
        session.view.rtt_us = path.rtt_us
    path.state = PATH_PROVEN
    path.probe_us = 0
    path_index(&engine.sessions, number, path)
    choose_path(engine, session)
    publish(engine, session, EVENT_PROVEN, <uint8_t>(path - session.paths), 0, path.rtt_us << 1 | path.starved)


# ----------------------------------------------------------------------------------------------------------------------- DTLS

cdef inline Path* find_path(Engine* engine, const Arrival* arrival, uint32_t* number) noexcept nogil:
    return path_by_key(&engine.sessions, arrival.key, sessions_hash(&engine.sessions, arrival.key, KEY_ROOM), number)


cdef uint8_t take_dtls(Engine* engine, const Arrival* arrival) noexcept nogil:
    cdef uint32_t number = 0
    cdef Path* path
    cdef Session* session
    cdef Head* head
    if not DTLS_FIRST <= arrival.body[0] <= DTLS_LAST or arrival.body[1] != DTLS_MAJOR:
        return IN_UNKNOWN_KIND
    path = find_path(engine, arrival, &number)
    if path == NULL:
        return IN_NO_PATH
    session = &engine.sessions.all[number]
    # The events of all sessions share a ring: none may fill it, and all datagrams together leave room for what must be told.
    if session.punted - load32(&session.taken) >= FLOOD_MOST or ring_room(engine.events) < engine.events.size // 4:
        return IN_DTLS_FLOOD
    head = <Head*>ring_reserve(engine.events, <uint32_t>sizeof(Head) + arrival.length)
    if head == NULL:
        return IN_DTLS_FLOOD
    if path.state != PATH_PROVEN:
        path.bytes_in += arrival.length
    session.punted += 1
    head.kind = EVENT_DATAGRAM
    head.path = <uint8_t>(path - session.paths)
    head.flag = 0
    head.session = number
    head.serial = session.serial
    head.value = arrival.length
    memcpy(<uint8_t*>head + sizeof(Head), arrival.body, arrival.length)
    ring_commit(engine.events)
    engine.events_written += 1
    return IN_DTLS


# ----------------------------------------------------------------------------------------------------------------------- SRTP

cdef inline uint8_t refusal(int status) noexcept nogil:
    return IN_SRTP_REPLAYED if status == SRTP_REPLAY_FAIL or status == SRTP_REPLAY_OLD else IN_SRTP_FORGED


cdef inline uint8_t source_of(const Session* session, uint32_t ssrc) noexcept nogil:
    """Its place; the first free one for a new source; SOURCES_MOST when there is none."""
    cdef uint8_t i
    for i in range(session.sources):
        if session.source[i].ssrc == ssrc:
            return i
    return session.sources


cdef inline uint8_t take_srtp(Engine* engine, const Arrival* arrival) noexcept nogil:
    cdef uint32_t number = 0
    cdef int length = <int>arrival.length
    cdef Path* path = find_path(engine, arrival, &number)
    cdef Session* session
    cdef uint8_t source
    cdef int status
    if path == NULL:
        return IN_NO_PATH
    session = &engine.sessions.all[number]
    if session.rx == NULL:
        return IN_NO_KEYS
    if is_rtcp(arrival.body):
        status = engine.unprotect_rtcp(session.rx, arrival.body, &length)
        return refusal(status) if status else take_rtcp(engine, session, arrival, <uint32_t>length)
    if length < RTP_HEADER_BYTES:
        return IN_RTP_MALFORMED
    source = source_of(session, rtp_ssrc(arrival.body))
    if source == SOURCES_MOST:
        return IN_SSRC_FULL
    status = engine.unprotect(session.rx, arrival.body, &length)
    if status:
        return refusal(status)
    return take_rtp(engine, session, path, arrival, <uint32_t>length, source)


cdef inline uint8_t take_rtp(Engine* engine, Session* session, Path* path, const Arrival* arrival, uint32_t length, uint8_t source) noexcept nogil:
    """Authentic: its sender is the client, wherever it comes from."""
    cdef RTPHeader header
    cdef Reception* reception = &session.source[source]
    cdef uint64_t highest = reception.highest
    if not rtp_parse(arrival.body, length, &header):
        return IN_RTP_MALFORMED
    if source == session.sources:
        reception_start(reception, header.ssrc, header.sequence, session.clock_rate)
        session.sources += 1
        highest = 0
    reception_packet(reception, header.sequence, header.timestamp, engine.now_us)
    session.main_source = source
    session.view.packets_up += 1
    session.view.bytes_up += arrival.length
    follow(engine, session, path, arrival, reception.highest > highest)
    if header.payload_type != session.payload_type:
        return IN_RTP_UNWANTED
    return hand_over(engine, session, &header, arrival.body)


cdef inline void follow(Engine* engine, Session* session, Path* path, const Arrival* arrival, bint newest) noexcept nogil:
    """Down packets take the proven path of the newest media; late packets of an old path do not bring it back."""
    session.media_us = session.view.media_us = path.media_us = engine.now_us
    memcpy(path.name, arrival.name, arrival.name_bytes)   # the same flow may come by another worker of the relay now
    if path.state != PATH_PROVEN:
        path.bytes_in += arrival.length
    elif newest:
        use_path(engine, session, <uint8_t>(path - session.paths))
    if not session.heard:
        session.heard = True
        publish(engine, session, EVENT_MEDIA, <uint8_t>(path - session.paths), 0, 0)


cdef inline uint8_t hand_over(Engine* engine, Session* session, const RTPHeader* header, const uint8_t* body) noexcept nogil:
    cdef Frame* frame
    if header.payload_bytes == 0:
        return IN_RTP                 # probing and keep-alive packets are padding only
    frame = <Frame*>ring_reserve(session.up, <uint32_t>sizeof(Frame) + header.payload_bytes)
    if frame == NULL:
        session.view.ring_drops += 1
        return IN_RING_FULL
    frame.at_us = engine.now_us
    frame.timestamp = header.timestamp
    frame.sequence = header.sequence
    frame.marker = header.marker
    frame.payload_type = header.payload_type
    memcpy(<uint8_t*>frame + sizeof(Frame), body + header.payload_at, header.payload_bytes)
    ring_commit(session.up)
    if not session.touched:
        session.touched = True
        engine.touched[engine.touched_count] = number_of(engine, session)
        engine.touched_count += 1
    return IN_RTP


cdef uint8_t take_rtcp(Engine* engine, Session* session, const Arrival* arrival, uint32_t length) noexcept nogil:
    cdef RTCPReport report
    cdef uint64_t rtt_us
    cdef uint8_t source
    if not rtcp_parse(arrival.body, length, session.ssrc, &report):
        return IN_RTCP_MALFORMED
    if report.has_sender:
        source = source_of(session, report.sender_ssrc)
        if source < session.sources:
            reception_sender(&session.source[source], report.ntp_middle, engine.now_us)
    if report.has_block:
        rtt_us = round_trip_us(ntp_middle_of(ntp_from_us(engine.now_us + engine.unix_offset_us)), report.last_sr, report.delay_since_sr)
        if rtt_us:
            session.view.rtt_us = <uint32_t>rtt_us
        session.view.lost_down = <uint32_t>max(0, report.lost)
        session.view.jitter_down_us = <uint32_t>(<uint64_t>report.jitter * 1_000_000 // session.clock_rate)
    if report.bye:
        publish(engine, session, EVENT_BYE, 0, 0, 0)
    return IN_RTCP
