"""Sending, and the choice of the path; see outbound.pxd.

Where down packets go (`choose_path`):
  1. To a path that is proven: its sender has answered a request of ours with a random transaction id. (Copies: `court`.)
  2. `inbound` moves them to whichever proven path brings the newest authenticated media.
  3. While there is no media: to the nominated path of the highest priority among those checked lately; with media that has fallen
     silent, to the path checked last, once the present one is not checked any more.
Before a path is proven at most three bytes leave for each that came (RFC 8445 says nothing of it; QUIC's rule, RFC 9000 8.1).
"""

from libc.string cimport memcpy, memset

from _fastpath.engine cimport (
    BEST_PATH, EVENT_BYE, EVENT_CHECK, EVENT_EXPIRED, Frame, number_of,
)
from _fastpath.outbox cimport OUTBOX_PAYLOAD_MOST, outbox_open, outbox_push
from _fastpath.outcomes cimport OUT_AMPLIFIED, OUT_DTLS, OUT_NO_PATH, OUT_PROTECT, OUT_RTCP, OUT_RTP, OUT_STUN
from _fastpath.reception cimport ntp_from_us, reception_block
from _fastpath.rings cimport ring_commit, ring_peek, ring_pop, ring_reserve, ring_room
from _fastpath.sessions cimport (
    NO_PATH, PATH_CHECKED, PATH_FREE, PATH_PROVEN, PATHS_MOST, TOKEN_ROOM, UFRAG_ROOM, Credential, transaction_of,
)
from _fastpath.siphash cimport siphash24
from _fastpath.wheel cimport wheel_set
from _fastpath.wire.binding cimport binding_request
from _fastpath.wire.rtcp cimport RTCPOut, rtcp_write
from _fastpath.wire.rtp cimport RTP_HEADER_BYTES, rtp_write

cdef enum:
    PROBES_MOST = 14                  # some five seconds; a new check allows as many again
    STARVED_US = 1_000_000            # so long after a check a request that cannot be afforded is tried again
    CONSENT_US = 30_000_000           # RFC 7675 5.1
    REPEAT_US = 1_000_000             # an unanswered request of ours to a proven path
    AGAIN_US = 10_000
    FIRST_CHECK_US = 30_000_000
    REPORT_US = 2_000_000
    FRESH_US = 6_000_000              # the slowest client checks every 5 s
    SPEAKING_US = 1_000_000           # Opus in DTX sends every 400 ms
    UNCHECKED_US = 3_000_000          # Chromium checks every 2.5 s
    REQUEST_ROOM = 160                # bytes, about
    REQUEST_PRIORITY = 1862270975     # type preference 110 (peer-reflexive), local preference 65535, component 1


cdef bint path_affords(const Path* path, size_t payload_bytes) noexcept nogil:
    return path.state == PATH_PROVEN or path.bytes_out + payload_bytes <= 3 * <uint64_t>path.bytes_in


cdef inline void push(Engine* engine, Path* path, size_t payload_bytes, uint8_t kind) noexcept nogil:
    if path.state != PATH_PROVEN:
        path.bytes_out += <uint32_t>payload_bytes
    outbox_push(&engine.outbox, payload_bytes, kind)


cdef uint64_t draw(Engine* engine) noexcept nogil:
    """Unpredictable: a keyed function of a counter."""
    engine.drawn += 1
    return siphash24(&engine.sessions.secret, <uint8_t*>&engine.drawn, sizeof(engine.drawn))


cdef bint publish(Engine* engine, Session* session, uint8_t kind, uint8_t path, uint8_t flag, uint32_t value) noexcept nogil:
    """Tells the loop; False: it is too far behind. What may come often leaves room for what must come."""
    cdef Head* head
    if (kind == EVENT_CHECK or kind == EVENT_BYE) and ring_room(engine.events) < engine.events.size // 2:
        return False
    head = <Head*>ring_reserve(engine.events, sizeof(Head))
    if head == NULL:
        return False
    head.kind = kind
    head.path = path
    head.flag = flag
    head.session = number_of(engine, session)
    head.serial = session.serial
    head.value = value
    ring_commit(engine.events)
    engine.events_written += 1
    return True


# ------------------------------------------------------------------------------------------------------------------------ ICE

cdef bint ask(Engine* engine, Session* session, Path* path) noexcept nogil:
    """Our Binding Request: who answers it receives what is sent there. Its id stays the same a while, so a late answer counts too.
    It goes under the names that the client's checks have there, and without an answer, in turn, under the newest that the client has
    used: a check under older ones may be a copy, and the client knows them no more. False: it cannot be afforded."""
    cdef bint newest = path.turn == 1 or not path.mirrored
    cdef Credential* ours = &session.credentials[session.current if newest else path.ours]
    cdef Credential* theirs = &session.credentials[session.current if newest else path.theirs]
    cdef uint8_t username[UFRAG_ROOM + 1 + TOKEN_ROOM]
    cdef size_t length = theirs.remote_bytes
    cdef uint8_t transaction[12]
    cdef uint8_t* out
    transaction_of(&engine.sessions, number_of(engine, session), path.key, engine.now_us, 0, transaction)
    memcpy(username, theirs.remote_ufrag, length)
    username[length] = c":"
    memcpy(username + length + 1, ours.token, ours.token_bytes)
    out = outbox_open(&engine.outbox, path.key, path.name, path.name_bytes)
    length = binding_request(out, transaction, username, length + 1 + ours.token_bytes, REQUEST_PRIORITY,
                             engine.sessions.tie_breaker, &theirs.remote)
    if not path_affords(path, length):
        engine.outbox.sent[OUT_AMPLIFIED] += 1
        return False
    push(engine, path, length, OUT_STUN)
    path.asked = path.turn
    path.turn ^= 1
    return True


cdef void send_probe(Engine* engine, Session* session, uint8_t number) noexcept nogil:
    """Asks whether a path is what its check says, again and again until it is proven or nobody checks it any more."""
    cdef Path* path = &session.paths[number]
    if not ask(engine, session, path):
        # The next handshake packet may pay for it; without any, the next check will.
        path.probe_us = engine.now_us + PROBE_US if engine.now_us < path.checked_us + STARVED_US else 0
        return
    path.asked_us = engine.now_us if path.probes == 0 else path.asked_us
    path.probes += 1
    path.probe_us = engine.now_us + (<uint64_t>PROBE_US << min(path.probes - 1, 2)) if path.probes < PROBES_MOST else 0


cdef void ask_for_consent(Engine* engine, Session* session) noexcept nogil:
    """Whether the client is still there. Its checks do not tell: whoever saw one can repeat it for ever. Without an answer the request
    is repeated (RFC 8489 6.2.1): if there were but six in 30 s, at 20 % loss two of ten calls would end within ten minutes (measured)."""
    session.ask_us = engine.now_us + REPEAT_US
    if session.active != NO_PATH:
        session.paths[session.active].asked_us = engine.now_us if session.asks == 0 else 0   # of repeated ones the round trip is not known
        session.asks += 1
        ask(engine, session, &session.paths[session.active])


cdef void use_path(Engine* engine, Session* session, uint8_t number) noexcept nogil:
    if session.active == number:
        return
    session.active = number
    memcpy(session.view.path, session.paths[number].key, sizeof(session.view.path))


cdef uint64_t rank(const Engine* engine, const Path* path) noexcept nogil:
    """Fresh before stale, nominated before not, then by the priority the client gave."""
    cdef uint64_t fresh = path.checked_us + FRESH_US > engine.now_us
    if path.state != PATH_PROVEN:
        return 0
    return fresh << 34 | <uint64_t>path.nominated << 33 | <uint64_t>1 << 32 | path.priority


cdef bint still_serves(const Engine* engine, const Session* session) noexcept nogil:
    cdef const Path* path
    if session.active == NO_PATH:
        return False
    path = &session.paths[session.active]
    return path.media_us + SPEAKING_US > engine.now_us or path.checked_us + UNCHECKED_US > engine.now_us


cdef void choose_path(Engine* engine, Session* session) noexcept nogil:
    cdef uint8_t best = NO_PATH
    cdef uint8_t i
    if session.heard and still_serves(engine, session):
        return
    for i in range(PATHS_MOST):
        if session.paths[i].state == PATH_PROVEN and (
                best == NO_PATH
                or not session.heard and rank(engine, &session.paths[i]) > rank(engine, &session.paths[best])
                or session.heard and session.paths[i].checked_us > session.paths[best].checked_us):
            best = i
    if best != NO_PATH:
        use_path(engine, session, best)


cdef void court(Engine* engine, Session* session, const Path* path) noexcept nogil:
    """A check from elsewhere, and the path in use has fallen silent: the client may have moved, perhaps without knowing. Until the new
    path is proven what is sent goes there too, as far as three for one allow: a client that moved hears again a round trip sooner,
    and who sent a copy of a check gets copies of what he could read already."""
    if session.active != NO_PATH and session.paths[session.active].media_us + SPEAKING_US <= engine.now_us:
        session.courted = <uint8_t>(path - session.paths)


cdef void send_copy(Engine* engine, Session* session, const uint8_t* packet, uint32_t length) noexcept nogil:
    cdef Path* path = &session.paths[session.courted]
    if path.state != PATH_CHECKED:
        session.courted = NO_PATH
    elif path_affords(path, length + REQUEST_ROOM):   # our next request goes before
        memcpy(outbox_open(&engine.outbox, path.key, path.name, path.name_bytes), packet, length)
        push(engine, path, length, OUT_RTP)


# ----------------------------------------------------------------------------------------------------------------------- DTLS

cdef void send_datagram(Engine* engine, Session* session, uint8_t number, const uint8_t* datagram, uint32_t length) noexcept nogil:
    """What the loop made: to the path it names, else to the one in use."""
    cdef Path* path
    cdef uint8_t* out
    if number == BEST_PATH:
        number = session.active
    if number >= PATHS_MOST or session.paths[number].state == PATH_FREE or length > OUTBOX_PAYLOAD_MOST:
        engine.outbox.sent[OUT_NO_PATH] += 1
        return
    path = &session.paths[number]
    if not path_affords(path, length):
        path.starved = True
        engine.outbox.sent[OUT_AMPLIFIED] += 1
        return
    out = outbox_open(&engine.outbox, path.key, path.name, path.name_bytes)
    memcpy(out, datagram, length)
    push(engine, path, length, OUT_DTLS)


# ---------------------------------------------------------------------------------------------------------------------- media

cdef inline void send_frame(Engine* engine, Session* session, const Frame* frame, const uint8_t* payload, uint32_t length) noexcept nogil:
    cdef Path* path
    cdef uint8_t* out
    cdef int total = RTP_HEADER_BYTES + <int>length
    if session.active == NO_PATH or session.tx == NULL or length > OUTBOX_PAYLOAD_MOST - RTP_HEADER_BYTES:
        engine.outbox.sent[OUT_NO_PATH] += 1
        return
    path = &session.paths[session.active]
    out = outbox_open(&engine.outbox, path.key, path.name, path.name_bytes)
    rtp_write(out, session.payload_type, frame.marker, session.sequence, frame.timestamp + session.timestamp_offset, session.ssrc)
    memcpy(out + RTP_HEADER_BYTES, payload, length)
    session.sequence += 1
    if engine.protect(session.tx, out, &total):
        engine.outbox.sent[OUT_PROTECT] += 1
        return
    push(engine, path, <size_t>total, OUT_RTP)
    if session.courted != NO_PATH:
        send_copy(engine, session, out, <uint32_t>total)
    session.last_timestamp = frame.timestamp + session.timestamp_offset
    session.last_sent_us = engine.now_us
    session.sent_packets += 1
    session.sent_octets += length
    session.view.packets_down += 1
    session.view.bytes_down += <uint64_t>total


cdef inline void echo(Engine* engine, Session* session) noexcept nogil:
    """The built-in application, which does what any other does: takes frames from one ring and puts frames into the other."""
    cdef uint32_t length = 0
    cdef uint8_t* heard = ring_peek(session.up, &length)
    cdef uint8_t* spoken
    while heard != NULL:
        spoken = ring_reserve(session.down, length)
        if spoken == NULL:
            session.view.ring_drops += 1
        else:
            memcpy(spoken, heard, length)
            (<Frame*>spoken).at_us = 0
            ring_commit(session.down)
        ring_pop(session.up)
        heard = ring_peek(session.up, &length)


cdef uint64_t drain(Engine* engine, Session* session) noexcept nogil:
    """Sends what is due; when the next frame is, 0 if none waits."""
    cdef uint32_t length = 0
    cdef Frame* frame = <Frame*>ring_peek(session.down, &length)
    while frame != NULL:
        if frame.at_us > engine.now_us:
            return frame.at_us
        if length >= sizeof(Frame):
            send_frame(engine, session, frame, <uint8_t*>frame + sizeof(Frame), length - <uint32_t>sizeof(Frame))
        ring_pop(session.down)
        frame = <Frame*>ring_peek(session.down, &length)
    return 0


cdef void pump(Engine* engine, Session* session) noexcept nogil:
    if session.echo and session.rx != NULL:   # before there are keys, what waits in `up` is not frames: inbound's `hold`
        echo(engine, session)
    if drain(engine, session):
        schedule(engine, session)


# ----------------------------------------------------------------------------------------------------------------------- RTCP

cdef void fill_sender(const Engine* engine, const Session* session, RTCPOut* what) noexcept nogil:
    what.has_sender = session.sent_packets > 0
    what.ntp = ntp_from_us(engine.now_us + engine.unix_offset_us)
    what.rtp_timestamp = session.last_timestamp \
        + <uint32_t>((engine.now_us - session.last_sent_us) * session.clock_rate // 1_000_000)
    what.packets = session.sent_packets
    what.octets = session.sent_octets


cdef void send_report(Engine* engine, Session* session, bint bye) noexcept nogil:
    """SR or RR about the source heard last, CNAME, and a BYE if it is the end."""
    cdef RTCPOut what
    cdef Path* path
    cdef uint8_t* out
    cdef int length
    if session.tx == NULL or session.active == NO_PATH:
        return
    memset(&what, 0, sizeof(RTCPOut))
    what.ssrc = session.ssrc
    what.cname = engine.cname
    what.cname_bytes = engine.cname_bytes
    what.bye = bye
    fill_sender(engine, session, &what)
    if session.heard:
        what.has_block = True
        reception_block(&session.source[session.main_source], engine.now_us, &what.block)
    path = &session.paths[session.active]
    out = outbox_open(&engine.outbox, path.key, path.name, path.name_bytes)
    length = <int>rtcp_write(out, &what)
    if engine.protect_rtcp(session.tx, out, &length):
        engine.outbox.sent[OUT_PROTECT] += 1
        return
    push(engine, path, <size_t>length, OUT_RTCP)


# --------------------------------------------------------------------------------------------------------------------- timers

cdef inline uint64_t expiry(const Session* session) noexcept nogil:
    """From the last answer to a request of ours: a check may be a copy, and media is no consent. Who never answered has its checks only."""
    if session.alive_us:
        return session.alive_us + CONSENT_US
    return session.checked_us + CONSENT_US if session.checked_us else session.opened_us + FIRST_CHECK_US


cdef void schedule(Engine* engine, Session* session) noexcept nogil:
    """Sets the session's timer to what is due first; one that only waits to be closed has its own."""
    # What could not be told, or was told and not obeyed, is told again; never at once, which would go round for ever.
    cdef uint64_t due_us = engine.now_us + CONSENT_US if session.expired else max(expiry(session), engine.now_us + AGAIN_US)
    cdef uint32_t length = 0
    cdef Frame* frame = <Frame*>ring_peek(session.down, &length)
    cdef uint32_t i
    if session.closing:
        return
    if frame != NULL and frame.at_us < due_us:
        due_us = frame.at_us
    if session.report_us and session.report_us < due_us:
        due_us = session.report_us
    if session.ask_us and session.ask_us < due_us:
        due_us = session.ask_us
    for i in range(<uint32_t>PATHS_MOST):
        if session.paths[i].state == PATH_CHECKED and session.paths[i].probe_us and session.paths[i].probe_us < due_us:
            due_us = session.paths[i].probe_us
    wheel_set(&engine.sessions.wheel, number_of(engine, session), due_us)


cdef void serve_timer(Engine* engine, Session* session) noexcept nogil:
    cdef uint8_t i
    if expiry(session) <= engine.now_us:
        session.expired = publish(engine, session, EVENT_EXPIRED, NO_PATH, session.checked_us == 0, 0)
    for i in range(PATHS_MOST):
        if session.paths[i].state == PATH_CHECKED and session.paths[i].probe_us and session.paths[i].probe_us <= engine.now_us:
            send_probe(engine, session, i)
    if session.ask_us and session.ask_us <= engine.now_us:
        ask_for_consent(engine, session)
    if session.report_us and session.report_us <= engine.now_us:
        session.report_us = engine.now_us + REPORT_US + draw(engine) % (REPORT_US // 4)
        send_report(engine, session, False)
    pump(engine, session)
    schedule(engine, session)
