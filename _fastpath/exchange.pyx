"""Both sides' ends of the rings; the rules stand in exchange.pxd. `Exchanger` is Python's side, and a base of `Forwarder`."""

from typing import NamedTuple

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.rings cimport Ring, ring_commit, ring_format, ring_peek, ring_pop, ring_reserve, ring_room
from _fastpath.sockets cimport EFD_CLOEXEC, EFD_NONBLOCK, close, errno, eventfd, read, write
from _fastpath.wire.address cimport ENDPOINT_BYTES, Endpoint
from _fastpath.wire.envelope cimport KEY_BYTES

LOOKUP = ASK_LOOKUP
ESTABLISHED = ASK_ESTABLISHED
ENDED = ASK_ENDED


class Route(NamedTuple):
    """Where a flow leads. Endpoints are 18 bytes as in wire.address: `pack_endpoint` and `unpack_endpoint` of wire.envelope."""

    owner: bytes
    next_hop: bytes
    nonce: int


class Ask(NamedTuple):
    """Of the hot thread: LOOKUP wants an `answer` or `unavailable`, ESTABLISHED tells a flow's route, ENDED only its key."""

    kind: int
    key: bytes
    route: Route | None
    down: bool


# ------------------------------------------------------------------------------------------------------------- the hot thread's side

cdef bint exchange_lookup(Exchange* exchange, const uint8_t* key, const Endpoint* sender) noexcept nogil:
    cdef AskRecord* record = <AskRecord*>ring_reserve(exchange.asks, sizeof(AskRecord))
    if record == NULL:
        exchange.lost[0] += 1
        return False
    memset(record, 0, sizeof(AskRecord))
    record.kind = ASK_LOOKUP
    memcpy(record.key, key, KEY_BYTES)
    if sender != NULL:
        record.down = True
        record.next_hop = sender[0]
    ring_commit(exchange.asks)
    exchange.unsaid = True
    return True


cdef void exchange_news(Exchange* exchange, const uint8_t* key, const Endpoint* owner, const Endpoint* next_hop,
                        uint64_t nonce) noexcept nogil:
    cdef AskRecord* record = NULL
    if ring_room(exchange.asks) > EXCHANGE_BYTES // 2:
        record = <AskRecord*>ring_reserve(exchange.asks, sizeof(AskRecord))
    if record == NULL:
        exchange.lost[0] += 1
        return
    memset(record, 0, sizeof(AskRecord))
    record.kind = ASK_ENDED
    memcpy(record.key, key, KEY_BYTES)
    if owner != NULL:
        record.kind = ASK_ESTABLISHED
        record.owner = owner[0]
        record.next_hop = next_hop[0]
        record.nonce = nonce
    ring_commit(exchange.asks)
    exchange.unsaid = True


cdef void exchange_say(Exchange* exchange) noexcept nogil:
    cdef uint64_t one = 1
    if exchange.unsaid:
        exchange.unsaid = False
        if exchange.fd >= 0 and write(exchange.fd, &one, sizeof(one)) < 0:
            return                    # its number is at its highest: whoever has not read it will find the asks


# -------------------------------------------------------------------------------------------------------------------- Python's side

cdef bytes endpoint_bytes(const Endpoint* endpoint):
    return (<const uint8_t*>endpoint)[:ENDPOINT_BYTES]


cdef object ask_of(const AskRecord* record):
    route = None
    if record.kind == ASK_ESTABLISHED:
        route = Route(endpoint_bytes(&record.owner), endpoint_bytes(&record.next_hop), record.nonce)
    return Ask(record.kind, record.key[:KEY_BYTES], route, record.down != 0)


cdef class Exchanger:
    """What a route cache sees of a `Forwarder`. All methods are for one thread beside the one that runs."""

    def __cinit__(self) -> None:
        memset(&self.exchange, 0, sizeof(Exchange))
        self.exchange.fd = self.wake_fd = -1

    cdef int open_exchange(self, uint64_t* lost, int wake_fd) except -1:
        cdef Exchange* exchange = &self.exchange
        exchange.asks = <Ring*>calloc(1, sizeof(Ring) + EXCHANGE_BYTES)
        exchange.answers = <Ring*>calloc(1, sizeof(Ring) + EXCHANGE_BYTES)
        if exchange.asks == NULL or exchange.answers == NULL:
            raise MemoryError("no memory for the exchange with the route cache")
        ring_format(exchange.asks, EXCHANGE_BYTES)
        ring_format(exchange.answers, EXCHANGE_BYTES)
        exchange.lost = lost
        self.wake_fd = wake_fd
        exchange.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if exchange.fd < 0:
            raise OSError(errno, "no eventfd for the route cache")
        return 0

    def __dealloc__(self) -> None:
        free(self.exchange.asks)
        free(self.exchange.answers)
        if self.exchange.fd >= 0:
            close(self.exchange.fd)

    @property
    def asks_fd(self) -> int:
        """Readable when there are asks to take; -1: this forwarder has no cache."""
        return self.exchange.fd

    def take_asks(self, most: int) -> list:
        """Up to `most` asks, oldest first. While some are left `asks_fd` stays readable."""
        cdef uint64_t said = 1
        cdef uint32_t length
        cdef uint8_t* record
        found = []
        if self.exchange.asks == NULL:
            return found
        if read(self.exchange.fd, &said, sizeof(said)) < 0:
            said = 1                      # nothing was said; there may be asks for all that
        record = ring_peek(self.exchange.asks, &length)
        while record != NULL and len(found) < most:
            found.append(ask_of(<AskRecord*>record))
            ring_pop(self.exchange.asks)
            record = ring_peek(self.exchange.asks, &length)
        said = 1
        if record != NULL and write(self.exchange.fd, &said, sizeof(said)) < 0:
            return found                  # as full as it can be: it is readable
        return found

    def answer(self, key: bytes, route: Route | None) -> bool:
        """The route of a flow that was asked for, or that nobody knows it. False: the hot thread has too many answers waiting."""
        return self.answer_all([(key, route)]) == 1

    def answer_all(self, answers) -> int:
        """Many at once: (key, route or None). How many were taken; the rest is to be given up, as its packets have waited too long."""
        taken = 0
        for key, route in answers:
            if not self.put_answer(key, ANSWER_NONE if route is None else ANSWER_FOUND, route):
                break
            taken += 1
        self.wake_up()
        return taken

    def unavailable(self, key: bytes) -> bool:
        """The cache cannot be asked: what waits for that flow is given up, and nothing is remembered."""
        return self.unavailable_all([key]) == 1

    def unavailable_all(self, keys) -> int:
        taken = 0
        for key in keys:
            if not self.put_answer(key, ANSWER_UNAVAILABLE, None):
                break
            taken += 1
        self.wake_up()
        return taken

    cdef int put_answer(self, bytes key, int kind, object route) except -1:
        """1 when it was taken."""
        cdef AnswerRecord* record
        if len(key) != KEY_BYTES or route is not None and (len(route[0]), len(route[1])) != (ENDPOINT_BYTES, ENDPOINT_BYTES):
            raise ValueError("a key has 36 bytes, an endpoint 18")
        if self.exchange.answers == NULL:
            return 0
        record = <AnswerRecord*>ring_reserve(self.exchange.answers, sizeof(AnswerRecord))
        if record == NULL:
            return 0
        memset(record, 0, sizeof(AnswerRecord))
        record.kind = <uint8_t>kind
        memcpy(record.key, <const uint8_t*>key, KEY_BYTES)
        if route is not None:
            owner, next_hop, nonce = route
            memcpy(&record.owner, <const uint8_t*>(<bytes>owner), ENDPOINT_BYTES)
            memcpy(&record.next_hop, <const uint8_t*>(<bytes>next_hop), ENDPOINT_BYTES)
            record.nonce = nonce
        ring_commit(self.exchange.answers)
        return 1

    def wake_up(self) -> None:
        """Makes the hot thread look for answers now."""
        cdef uint64_t one = 1
        if self.wake_fd >= 0 and write(self.wake_fd, &one, sizeof(one)) < 0:
            return                    # as full as it can be: it wakes
