"""What the hot thread of a media process works with: sessions, receive batch, outbox, SRTP's functions, rings to the loop, the time.

`inbound` decides what a received datagram means, `outbound` makes what is sent, `media` is the loop that joins them and Python's door.
None of them reads a clock: `now_us` is set once a round. Everything here belongs to the hot thread; the loop's thread writes commands,
reads events, and touches nothing else.

Commands and events are records that begin with a Head; what follows is named there. A Head's serial is that of the call it is meant for:
a late command for a call that is gone, whose number has another one now, does nothing.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from _fastpath.batch cimport Batch
from _fastpath.media_slot cimport MediaHeader, SessionRow
from _fastpath.outbox cimport Outbox
from _fastpath.rings cimport Ring
from _fastpath.sessions cimport Credential, Session, Sessions
from _fastpath.sha1 cimport HmacKey
from _fastpath.wire.address cimport Endpoint, Network
from _fastpath.wire.token cimport TokenKeys

cdef enum:
    ALIGN_SHIFT = 2                   # datagrams are received so that RTP, behind the envelope, is 32-bit aligned
    RELAYS_MAX = 64
    FLOOD_MOST = 64                   # datagrams of one session that wait for the loop
    CNAME_ROOM = 32
    BEST_PATH = 0xfe                  # in a command: the path that packets are sent on, else any

    COMMAND_OPEN = 1                  # OpenBody
    COMMAND_CREDENTIAL                # Credential
    COMMAND_KEYS                      # KeysBody
    COMMAND_SEND                      # a datagram for Head.path
    COMMAND_REPORTING                 # Head.flag: whether the loop wants to hear of every check
    COMMAND_PUMP                      # the application wrote to the ring
    COMMAND_CLOSE                     # answered with EVENT_CLOSED: the number and the keys are free then
    COMMAND_ROUTE_KEYS                # TokenKeys, of no session: tokens are verified with these from now on

    EVENT_CHECK = 1                   # an authenticated check; Head.value: something could not be afforded before
    EVENT_PROVEN                      # a path answered; Head.value: its round trip in microseconds (0: not known), then a bit: it starved
    EVENT_DATAGRAM                    # DTLS; the datagram
    EVENT_MEDIA                       # the first authenticated media
    EVENT_BYE                         # RTCP BYE; not again until the loop has said that it wants no more of the checks
    EVENT_EXPIRED                     # Head.flag: never a check; else consent is gone
    EVENT_CLOSED

ctypedef int (*srtp_function)(void* session, void* packet, int* length) noexcept nogil

cdef struct Head:
    uint8_t kind
    uint8_t path
    uint8_t flag
    uint8_t spare
    uint32_t session
    uint32_t serial
    uint32_t value

cdef struct OpenBody:
    uint32_t ssrc
    uint32_t clock_rate
    uint32_t timestamp_offset
    uint16_t sequence
    uint8_t payload_type              # 0xff: no audio
    uint8_t echo

cdef struct KeysBody:
    void* tx
    void* rx

cdef struct Frame:                    # what the audio rings hold, then the payload
    uint64_t at_us                    # up: when it came; down: when it is due, 0 at once
    uint32_t timestamp
    uint16_t sequence                 # up only
    uint8_t marker
    uint8_t payload_type              # up only

cdef struct Arrival:                  # a datagram on its way
    const uint8_t* name               # the relay's sockaddr
    uint8_t name_bytes
    const uint8_t* key
    uint8_t* body
    uint32_t length                   # of the body

cdef struct Engine:
    MediaHeader* header
    SessionRow* views
    uint8_t* rings                    # of all sessions
    Sessions sessions
    Batch batch
    Outbox outbox
    srtp_function protect
    srtp_function unprotect
    srtp_function protect_rtcp
    srtp_function unprotect_rtcp
    bint srtp_known                   # where libsrtp keeps things was looked at and is as srtp_contexts.pxd says
    TokenKeys keys                    # to tell checks of sessions that are gone from noise
    Endpoint own
    uint16_t generation
    HmacKey passwords                 # what ice-pwds are derived with
    Network relays[RELAYS_MAX]
    uint32_t relay_count
    Ring* commands
    Ring* events
    uint32_t events_written           # in this round
    uint32_t* touched                 # sessions whose rings have something new; room for all
    uint32_t touched_count
    uint64_t now_us
    uint64_t unix_offset_us           # real time less `now_us`
    uint64_t drawn                    # how many random numbers were drawn
    uint8_t cname[CNAME_ROOM]
    uint8_t cname_bytes

cdef inline Session* session_at(Engine* engine, uint32_t number, uint32_t serial) noexcept nogil:
    """NULL when that call is over."""
    if number >= engine.sessions.capacity or engine.sessions.all[number].serial != serial or serial == 0:
        return NULL
    return &engine.sessions.all[number]

cdef inline uint32_t number_of(const Engine* engine, const Session* session) noexcept nogil:
    return <uint32_t>(session - engine.sessions.all)
