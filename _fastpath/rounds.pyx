"""The rounds of the hot thread; what a round is stands in rounds.pxd."""

from libc.string cimport memcpy, memset

from _fastpath.atomics cimport load32, store32
from _fastpath.batch cimport (
    BATCH_MAX, BATCH_MIN, SOCKET_DEAD, Batch, batch_commit, batch_receive, name_of, payload_of,
)
from _fastpath.engine cimport *
from _fastpath.foresight cimport FORESEEN_MOST, foresee
from _fastpath.inbound cimport take, take_held
from _fastpath.media_slot cimport AUDIO_RING_BYTES, ring_down, ring_up
from _fastpath.outbound cimport choose_path, pump, schedule, send_datagram, send_report, serve_timer
from _fastpath.outbox cimport outbox_flush
from _fastpath.rings cimport ring_commit, ring_format, ring_peek, ring_pop, ring_reserve
from _fastpath.sessions cimport NO_PATH, Credential, Session, credential_add, session_clear
from _fastpath.sockets cimport (
    CLOCK_MONOTONIC, EINTR, EPOLL_CTL_ADD, EPOLLIN, MSG_TRUNC, clock_gettime, clock_time, epoll_create1, epoll_ctl, epoll_event,
    epoll_wait, errno, nanosleep, read, write,
)
from _fastpath.verdicts cimport BYTES_UP, PACKETS_UP
from _fastpath.wire.token cimport TokenKeys
from _fastpath.wheel cimport NO_ITEM, wheel_set, wheel_take, wheel_wait_ms

cdef enum:
    WAIT_MS = 250                     # an idle process still beats its heart
    TICKS = 16                        # of the heart, a second
    CLOSE_AGAIN_US = 10_000
    FIRST_REPORT_US = 500_000
    SOCKET = 0
    WAKE = 1
    NAP_LONGEST_NS = 1_000_000
    NAP_SHORTEST_NS = 500_000
    NAP_PACKETS = 20                  # worth a wake-up
    WINDOW_US = 10_000
    NAP_FROM = 20                     # packets in a window: 2,000 a second, twice as many as there are naps


cdef uint64_t clock_us() noexcept nogil:
    cdef clock_time now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000 + <uint64_t>now.tv_nsec // 1000


# -------------------------------------------------------------------------------------------------------------------- commands

cdef void open_session(Engine* engine, const Head* head, const OpenBody* body) noexcept nogil:
    cdef Session* session = &engine.sessions.all[head.session]
    session_clear(&engine.sessions, head.session)
    session.serial = head.serial
    session.active = session.courted = NO_PATH
    session.opened_us = engine.now_us
    session.view = &engine.views[head.session]
    session.up = ring_up(engine.rings, head.session)
    session.down = ring_down(engine.rings, head.session)
    ring_format(session.up, AUDIO_RING_BYTES)
    ring_format(session.down, AUDIO_RING_BYTES)
    session.ssrc = body.ssrc
    session.sequence = body.sequence
    session.timestamp_offset = body.timestamp_offset
    session.clock_rate = body.clock_rate
    session.payload_type = body.payload_type
    session.echo = body.echo
    session.reporting = True
    schedule(engine, session)


cdef void close_session(Engine* engine, Session* session) noexcept nogil:
    """Says goodbye, forgets everything, then says so: from then on nothing here knows the SRTP contexts. If the loop is so far behind
    that it cannot be told, the session waits for its timer."""
    cdef uint32_t number = number_of(engine, session)
    cdef Head* head = <Head*>ring_reserve(engine.events, sizeof(Head))
    if head == NULL:
        session.closing = True
        wheel_set(&engine.sessions.wheel, number, engine.now_us + CLOSE_AGAIN_US)
        return
    memset(head, 0, sizeof(Head))
    head.kind = EVENT_CLOSED
    head.session = number
    head.serial = session.serial
    send_report(engine, session, True)
    session_clear(&engine.sessions, number)
    ring_commit(engine.events)
    engine.events_written += 1


cdef void obey(Engine* engine, const Head* head, const uint8_t* body, uint32_t length) noexcept nogil:
    cdef Session* session
    if head.kind == COMMAND_OPEN:
        open_session(engine, head, <const OpenBody*>body)
        return
    if head.kind == COMMAND_ROUTE_KEYS:
        memcpy(&engine.keys, body, sizeof(TokenKeys))
        return
    session = session_at(engine, head.session, head.serial)
    if session == NULL:
        return
    if head.kind == COMMAND_SEND:
        send_datagram(engine, session, head.path, body, length)
    elif head.kind == COMMAND_CREDENTIAL:
        credential_add(&engine.sessions, head.session, <const Credential*>body)
    elif head.kind == COMMAND_KEYS:
        session.tx = (<const KeysBody*>body).tx
        session.rx = (<const KeysBody*>body).rx
        session.report_us = engine.now_us + FIRST_REPORT_US
        choose_path(engine, session)
        take_held(engine, session)
        schedule(engine, session)
    elif head.kind == COMMAND_REPORTING:
        session.reporting = head.flag
    elif head.kind == COMMAND_PUMP:
        pump(engine, session)
    elif head.kind == COMMAND_CLOSE:
        close_session(engine, session)


cdef void obey_all(Engine* engine) noexcept nogil:
    cdef uint32_t length = 0
    cdef uint8_t* record = ring_peek(engine.commands, &length)
    while record != NULL:
        obey(engine, <Head*>record, record + sizeof(Head), length - <uint32_t>sizeof(Head))
        ring_pop(engine.commands)
        record = ring_peek(engine.commands, &length)


# ---------------------------------------------------------------------------------------------------------------------- rounds

cdef void pump_touched(Engine* engine) noexcept nogil:
    cdef uint32_t i
    for i in range(engine.touched_count):
        engine.sessions.all[engine.touched[i]].touched = False
        if engine.sessions.all[engine.touched[i]].serial:
            pump(engine, &engine.sessions.all[engine.touched[i]])
    engine.touched_count = 0


cdef void serve_timers(Engine* engine) noexcept nogil:
    cdef Session* session
    cdef uint32_t item = wheel_take(&engine.sessions.wheel, engine.now_us)
    while item != <uint32_t>NO_ITEM:
        session = &engine.sessions.all[item]
        if session.closing:
            close_session(engine, session)
        elif session.serial:
            serve_timer(engine, session)
        item = wheel_take(&engine.sessions.wheel, engine.now_us)


cdef void decide(Engine* engine, uint32_t first, uint32_t last) noexcept nogil:
    cdef Batch* batch = &engine.batch
    cdef uint32_t i
    for i in range(first, last):
        batch.bytes += batch.received[i].msg_len
        batch.state.verdict[i] = take(
            engine, name_of(batch, i), <uint8_t>batch.received[i].msg_hdr.msg_namelen, payload_of(batch, i) + ALIGN_SHIFT,
            batch.received[i].msg_len, batch.received[i].msg_hdr.msg_flags & MSG_TRUNC)


cdef void work(Engine* engine) noexcept nogil:
    """One round over what is in the batch, a few packets at a time: foreseen, unprotected, echoed and protected while they are near."""
    cdef uint32_t first = 0
    cdef uint32_t last
    obey_all(engine)
    pump_touched(engine)              # keys may have come for what was held
    engine.batch.bytes = 0
    while first < engine.batch.count:
        last = min(first + FORESEEN_MOST, engine.batch.count)
        foresee(engine, first, last)
        decide(engine, first, last)
        pump_touched(engine)
        first = last
    serve_timers(engine)


cdef int wait(Hot* hot, int timeout_ms, bint* readable) noexcept nogil:
    """-1 when waiting itself failed."""
    cdef epoll_event events[2]
    cdef uint64_t woken
    cdef int i
    cdef int count = epoll_wait(hot.epoll, events, 2, timeout_ms)
    if count < 0:
        return 0 if errno == EINTR else -1
    for i in range(count):
        if events[i].data.u32 == SOCKET:
            readable[0] = True
        elif read(hot.wake, &woken, sizeof(woken)) < 0:
            continue
    return 0


cdef void finish(Engine* engine, int ring) noexcept nogil:
    """Flush, count, and only then tell the loop: what it does about an event leaves after what the hot thread sent."""
    cdef uint64_t one = 1
    if engine.outbox.queued:
        outbox_flush(&engine.outbox)
    if engine.batch.count:
        batch_commit(&engine.batch, PACKETS_UP, BYTES_UP)
        engine.header.batches += 1
    if engine.events_written:
        engine.events_written = 0
        if write(ring, &one, sizeof(one)) < 0:
            return                    # the counter is full: the loop has been told often enough


cdef void beat(Engine* engine) noexcept nogil:
    cdef uint32_t tick
    engine.now_us = clock_us()
    tick = <uint32_t>(engine.now_us * TICKS // 1_000_000)
    if engine.header.steering.heart != tick:
        store32(&engine.header.steering.heart, tick)


cdef int failed(Hot* hot) noexcept nogil:
    hot.error = errno
    return HOT_FAILED


cdef int add(int epoll, int fd, uint32_t index) noexcept nogil:
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.u32 = index
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)


cdef void pace(Hot* hot, Engine* engine, int count) noexcept nogil:
    """Counts packets, and decides once a window whether the next rounds nap, and how long."""
    cdef uint64_t window_us = engine.now_us - hot.window_us
    hot.windowed += <uint64_t>count
    if window_us >= WINDOW_US:
        hot.nap_ns = 0
        if hot.windowed * WINDOW_US >= NAP_FROM * window_us:
            hot.nap_ns = max(<uint64_t>NAP_SHORTEST_NS, min(<uint64_t>NAP_LONGEST_NS, NAP_PACKETS * window_us * 1000 // hot.windowed))
        hot.window_us = engine.now_us
        hot.windowed = 0


cdef void nap(uint64_t nap_ns) noexcept nogil:
    cdef clock_time length
    length.tv_sec = 0
    length.tv_nsec = <long>nap_ns
    nanosleep(&length, NULL)


cdef int run_rounds(Hot* hot, Engine* engine) noexcept nogil:
    cdef bint readable = False
    cdef uint32_t limit = BATCH_MIN
    cdef int count
    hot.epoll = epoll_create1(0)
    if hot.epoll < 0 or add(hot.epoll, hot.socket, SOCKET) < 0 or add(hot.epoll, hot.wake, WAKE) < 0:
        return failed(hot)
    while not load32(&engine.header.halted):
        if hot.nap_ns and not readable:
            nap(hot.nap_ns)
            readable = True
        elif not readable:
            engine.now_us = clock_us()
            if wait(hot, wheel_wait_ms(&engine.sessions.wheel, engine.now_us, WAIT_MS), &readable) < 0:
                return failed(hot)
        count = 0
        if readable:
            count = batch_receive(&engine.batch, hot.socket, 0, limit)
            if count == SOCKET_DEAD:
                return failed(hot)
            readable = <uint32_t>count == limit
            if readable:
                limit = min(2 * limit, <uint32_t>BATCH_MAX)
            elif <uint32_t>count * 4 < limit:
                limit = max(limit // 2, <uint32_t>BATCH_MIN)
        beat(engine)
        pace(hot, engine, count)
        work(engine)
        finish(engine, hot.ring)
    return HOT_STOPPED
