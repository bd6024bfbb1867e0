"""Deciding what a received datagram means. The order of proofs:

  1. It comes from a relay (--relays), with an envelope that names client and local address: the flow key.
  2. STUN is `checks`' affair: an authenticated check makes its flow key a path of its session.
  3. DTLS and SRTP belong to the session whose path their flow key is; without one they are dropped. DTLS goes to the loop, SRTP is
     authenticated here, with the number of sources bounded before.
Nothing is answered that was not authenticated. What is bounded: paths, sources, datagrams that wait for the loop, bytes to the unproven.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from _fastpath.atomics cimport load32
from _fastpath.checks cimport take_stun
from _fastpath.engine cimport Arrival, EVENT_BYE, EVENT_DATAGRAM, EVENT_MEDIA, FLOOD_MOST, Frame, Head, number_of
from _fastpath.outbound cimport publish, use_path
from _fastpath.outcomes cimport *
from _fastpath.reception cimport (
    Reception, ntp_from_us, ntp_middle_of, reception_jitter_us, reception_lost, reception_packet, reception_sender, reception_start,
    round_trip_us,
)
from _fastpath.rings cimport ring_commit, ring_peek, ring_pop, ring_reserve, ring_room
from _fastpath.sessions cimport KEY_ROOM, PATH_PROVEN, SOURCES_MOST, Path, Session, path_by_key, sessions_hash
from _fastpath.wire.address cimport from_sockaddr, within_any
from _fastpath.wire.demux cimport KIND_DTLS, KIND_RTP, KIND_STUN, classify
from _fastpath.wire.envelope cimport ENVELOPE_BYTES, envelope_valid
from _fastpath.wire.rtcp cimport RTCPReport, rtcp_parse, rtcp_ssrc
from _fastpath.wire.rtp cimport RTP_HEADER_BYTES, RTPHeader, is_rtcp, rtp_parse, rtp_ssrc

cdef enum:
    SHOW_EVERY = 16                   # packets
    HELD_MOST = 4
    HELD_ROOM = 440                   # bytes of one; audio is smaller
    HELD_PREFIX = 72                  # flow key, length of the sender's address, the address; so that what follows is aligned
    HELD_STRIDE = HELD_PREFIX + HELD_ROOM
    SRTP_REPLAY_FAIL = 9              # srtp_err_status_t
    SRTP_REPLAY_OLD = 10
    DTLS_FIRST = 20                   # content types: change cipher spec ... and the version every DTLS record begins with
    DTLS_LAST = 26
    DTLS_MAJOR = 0xfe

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
        return hold(session, arrival)
    if is_rtcp(arrival.body):
        return take_srtcp(engine, session, arrival)
    if length < RTP_HEADER_BYTES:
        return IN_RTP_MALFORMED
    source = source_of(session, rtp_ssrc(arrival.body))
    if source == SOURCES_MOST:
        return IN_SSRC_FULL
    status = engine.unprotect(session.rx, arrival.body, &length)
    if status:
        return refusal(status)
    return take_rtp(engine, session, path, arrival, <uint32_t>length, source)


cdef uint8_t hold(Session* session, const Arrival* arrival) noexcept nogil:
    """The client's first media comes right behind the end of its handshake, while the loop still makes the keys: a few packets wait in
    the ring up, which nobody else uses yet. Key and sender stand before each."""
    cdef uint8_t* record
    if session.held >= HELD_MOST or arrival.length > HELD_ROOM:
        return IN_NO_KEYS
    record = ring_reserve(session.up, HELD_PREFIX + arrival.length)
    if record == NULL:
        return IN_NO_KEYS
    memcpy(record, arrival.key, KEY_ROOM)
    record[KEY_ROOM] = arrival.name_bytes
    memcpy(record + KEY_ROOM + 1, arrival.name, arrival.name_bytes)
    memcpy(record + HELD_PREFIX, arrival.body, arrival.length)
    ring_commit(session.up)
    session.held += 1
    return IN_HELD


cdef void take_held(Engine* engine, Session* session) noexcept nogil:
    """The keys are there: what was held is media now. It was counted when it came."""
    cdef uint8_t copies[HELD_MOST * HELD_STRIDE]
    cdef uint32_t lengths[HELD_MOST]
    cdef uint32_t length = 0
    cdef uint32_t i
    cdef uint32_t count = session.held
    cdef Arrival arrival
    cdef uint8_t* record
    session.held = 0
    for i in range(count):
        record = ring_peek(session.up, &length)
        if record == NULL or not HELD_PREFIX < length <= HELD_STRIDE:   # an application reads this ring: nothing is taken on trust
            count = i
            break
        memcpy(copies + i * HELD_STRIDE, record, length)
        lengths[i] = length
        ring_pop(session.up)
    for i in range(count):
        record = copies + i * HELD_STRIDE
        arrival.key = record
        arrival.name_bytes = record[KEY_ROOM]
        arrival.name = record + KEY_ROOM + 1
        arrival.body = record + HELD_PREFIX
        arrival.length = lengths[i] - HELD_PREFIX
        take_srtp(engine, &arrival)


cdef inline uint8_t take_rtp(Engine* engine, Session* session, Path* path, const Arrival* arrival, uint32_t length, uint8_t source) noexcept nogil:
    """Authentic: its sender is the client, wherever it comes from."""
    cdef RTPHeader header
    cdef Reception* reception = &session.source[source]
    cdef uint64_t highest = reception.highest
    if source == session.sources:     # whatever follows: libsrtp has a stream for it from now on
        reception.ssrc = rtp_ssrc(arrival.body)
        session.sources += 1
    if not rtp_parse(arrival.body, length, &header):
        return IN_RTP_MALFORMED
    if reception.clock_rate == 0:
        reception_start(reception, header.ssrc, header.sequence, session.clock_rate)
        highest = 0
    reception_packet(reception, header.sequence, header.timestamp, engine.now_us)
    session.main_source = source
    session.view.packets_up += 1
    session.view.bytes_up += arrival.length
    if session.view.packets_up % SHOW_EVERY == 1:
        note_reception(session)
    follow(engine, session, path, arrival, reception.highest > highest)
    if header.payload_type != session.payload_type:
        return IN_RTP_UNWANTED
    return hand_over(engine, session, &header, arrival.body)


cdef void note_reception(Session* session) noexcept nogil:
    """How the client is heard, for who looks at the session."""
    cdef const Reception* reception = &session.source[session.main_source]
    session.view.lost_up = <uint32_t>max(0, reception_lost(reception))
    session.view.jitter_up_us = reception_jitter_us(reception)


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
    if not session.touched and engine.touched_count < engine.sessions.capacity:
        session.touched = True
        engine.touched[engine.touched_count] = number_of(engine, session)
        engine.touched_count += 1
    return IN_RTP


cdef uint8_t take_srtcp(Engine* engine, Session* session, const Arrival* arrival) noexcept nogil:
    """libsrtp makes a stream for every SSRC of RTCP as well: they count among the sources, though nothing is received of them."""
    cdef int length = <int>arrival.length
    cdef uint32_t ssrc = rtcp_ssrc(arrival.body)
    cdef uint8_t source = source_of(session, ssrc)
    cdef int status
    if source == SOURCES_MOST:
        return IN_SSRC_FULL
    status = engine.unprotect_rtcp(session.rx, arrival.body, &length)
    if status:
        return refusal(status)
    if source == session.sources:
        session.source[source].ssrc = ssrc
        session.sources += 1
    return take_rtcp(engine, session, arrival, <uint32_t>length)


cdef uint8_t take_rtcp(Engine* engine, Session* session, const Arrival* arrival, uint32_t length) noexcept nogil:
    cdef RTCPReport report
    cdef uint8_t source
    if not rtcp_parse(arrival.body, length, session.ssrc, &report):
        return IN_RTCP_MALFORMED
    if report.has_sender:
        source = source_of(session, report.sender_ssrc)
        if source < session.sources and session.source[source].clock_rate:
            reception_sender(&session.source[source], report.ntp_middle, engine.now_us)
    if report.has_block:
        note_report(engine, session, &report)
    if report.bye and not session.reporting:
        session.reporting = publish(engine, session, EVENT_BYE, 0, 0, 0)
    return IN_RTCP


cdef void note_report(Engine* engine, Session* session, const RTCPReport* report) noexcept nogil:
    """How we are heard, as the client says."""
    cdef uint64_t now_ntp = ntp_from_us(engine.now_us + engine.unix_offset_us)
    cdef uint64_t rtt_us = round_trip_us(ntp_middle_of(now_ntp), report.last_sr, report.delay_since_sr)
    if rtt_us:
        session.view.rtt_us = <uint32_t>rtt_us
    session.view.lost_down = <uint32_t>max(0, report.lost)
    session.view.jitter_down_us = <uint32_t>min(<uint64_t>report.jitter * 1_000_000 // session.clock_rate, <uint64_t>0xffffffff)
