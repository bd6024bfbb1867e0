"""The hot loop of a worker: one thread, one slot, one set of sockets that were given to it.

A round: wait for sockets that have something; for each, one batch: receive, decide, send, commit. A socket that filled its batch is
served again without waiting, and may take a larger batch the next time, so that batches grow with load and stay short without it.
Between batches: the heart, the words of the slot (whose turn it is, stop), a few flows of the sweep. One coarse clock read a round.

Nothing in `run_loop` takes the GIL, allocates, or waits for anything but the sockets.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.atomics cimport fence_acquire, fence_release, load32, load64, store32
from _fastpath.batch cimport (
    BATCH_MAX,
    BATCH_MIN,
    SOCKET_DEAD,
    batch_attach,
    batch_detach,
    batch_receive,
)
from _fastpath.exchange cimport exchange_say
from _fastpath.flows cimport TICKS_PER_SECOND, FlowTable, flows_attach, flows_repair, flows_sweep
from _fastpath.passage cimport pass_down, pass_ready, pass_resumed, pass_up
from _fastpath.peers cimport PeerTable, peers_attach, peers_collect
from _fastpath.hold cimport hold_attach, hold_detach, hold_open
from _fastpath.inheritance cimport hold_repair
from _fastpath.rates cimport rates_free, rates_make
from _fastpath.recovery cimport recovery_hear
from _fastpath.router cimport INTERNAL, NETWORKS_MAX, TABLES_MAX, Public, Router
from _fastpath.siblings cimport Asks, asks_serve
from _fastpath.sockets cimport (
    CLOCK_MONOTONIC_COARSE,
    EINTR,
    EPOLL_CTL_ADD,
    EPOLLIN,
    clock_gettime,
    clock_time,
    close,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    errno,
    read,
)
from _fastpath.turns cimport TURN_OVER, TURN_REPAIR, turn_end, turn_take, turn_yield
from _fastpath.verdicts cimport ASKS_LOST, FLOWS_EXPIRED
from _fastpath.wire.address cimport Network
from _fastpath.wire.token cimport Keyring, TokenKeys

cdef enum:
    WAKE = 254                        # index of the eventfd where sockets are 0..15 and INTERNAL
    WAIT_MS = 250                     # an idle worker still beats its heart and sweeps
    SWEEP_WAIT_MS = 5                 # while a sweep is under way
    HOLD_WAIT_MS = 31                 # while packets are on hold: half a tick
    SWEEP_BUDGET = 1024               # flows looked at between two batches: some microseconds
    SWEEP_IDLE_BUDGET = 8192          # the same with nothing to forward
    PACKETS_WITHOUT_WAIT = 256        # busy sockets may not hide the others for longer
    NETWORK_BURST_S = 2               # what a network may open at once, in seconds of its rate ...
    NETWORK_BURST = 16                # ... and in flows, at least
    TOKEN_BURST_S = 3                 # the same of what a token may ask for: two restarts on eight paths
    TOKEN_BURST = 1
    DRAIN_SECONDS = 10                # silence that ends a flow while draining: twice the slowest client's checks

    STOPPED = 0
    SUPERSEDED = 1
    FAILED = 2


cdef uint32_t read_tick() noexcept nogil:
    cdef clock_time now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint32_t>(now.tv_sec * TICKS_PER_SECOND + now.tv_nsec // (1000000000 // TICKS_PER_SECOND))


# ------------------------------------------------------------------------------------------------------------------- batches

cdef int serve(Loop* loop, uint32_t socket) noexcept nogil:
    """One batch of one socket. 1: there may be more, 0: it is empty, SOCKET_DEAD."""
    cdef bint down = socket == INTERNAL
    cdef uint32_t* limit = &loop.limits[PUBLICS_MAX if down else socket]
    cdef int count = batch_receive(&loop.batch, loop.internal if down else loop.publics[socket], socket, limit[0])
    if count <= 0:
        return count
    loop.handled += <uint32_t>count
    if down:
        pass_down(&loop.router, &loop.batch, loop.publics)
    else:
        pass_up(&loop.router, &loop.batch, loop.internal, loop.publics, socket)
    if <uint32_t>count == limit[0]:
        limit[0] = min(2 * limit[0], <uint32_t>BATCH_MAX)
        return 1
    if <uint32_t>count * 4 < limit[0]:
        limit[0] = max(limit[0] // 2, <uint32_t>BATCH_MIN)
    return 0


# ---------------------------------------------------------------------------------------------------------------------- rounds

cdef int add_socket(int epoll, int fd, uint32_t index) noexcept nogil:
    cdef epoll_event event
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.u32 = index
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)


cdef int wait(Loop* loop, int timeout_ms, uint32_t* publics, bint* internal) noexcept nogil:
    """Adds the sockets that have something; -1 when waiting itself failed."""
    cdef epoll_event events[PUBLICS_MAX + 2]
    cdef uint64_t woken
    cdef int i
    cdef int count = epoll_wait(loop.epoll, events, PUBLICS_MAX + 2, timeout_ms)
    if count < 0:
        return 0 if errno == EINTR else -1
    for i in range(count):
        if events[i].data.u32 < <uint32_t>PUBLICS_MAX:
            publics[0] |= <uint32_t>1 << events[i].data.u32
        elif events[i].data.u32 == INTERNAL:
            internal[0] = True
        else:
            # The eventfd holds a number to be read; what it wakes us for stands in the slot.
            if read(loop.wake, &woken, sizeof(woken)) < 0:
                continue
    return 0


cdef void hear_siblings(Router* router) noexcept nogil:
    """Once a tick: makes room for tokens that others had to refuse."""
    cdef uint32_t i
    router.asked_before = router.asks.posted
    for i in range(router.siblings):
        asks_serve(router.sibling_asks[i], &router.asks_heard[i], &router.flows, router.tick)


cdef void sweep(Loop* loop, uint32_t budget) noexcept nogil:
    """Each flow is looked at about once a second, in portions; unused peers are collected at most once a tick."""
    cdef uint32_t high_water = loop.router.flows.header.high_water
    cdef uint32_t passed = loop.router.tick - loop.swept
    cdef uint32_t flow_ticks = loop.router.flow_ticks
    cdef uint32_t portion
    if passed:
        loop.swept = loop.router.tick
        hear_siblings(&loop.router)
        if loop.router.peers.header.wanted:
            peers_collect(&loop.router.peers)
        loop.sweep_due = min(<uint64_t>high_water, loop.sweep_due + <uint64_t>passed * (high_water // TICKS_PER_SECOND + 1))
    if loop.sweep_due:
        if load32(&loop.slot.steering.draining):
            flow_ticks = min(flow_ticks, <uint32_t>(DRAIN_SECONDS * TICKS_PER_SECOND))
        portion = min(loop.sweep_due, budget)
        loop.sweep_due -= portion
        loop.slot.events[FLOWS_EXPIRED] += flows_sweep(&loop.router.flows, loop.router.tick, portion, flow_ticks,
                                                       loop.router.half_open_ticks)


cdef void take_keys(Loop* loop) noexcept nogil:
    """Whole or not at all: what changes while it is copied is taken at a later round."""
    cdef uint32_t version = load32(&loop.keys_version)
    cdef TokenKeys keys
    if version == loop.keys_taken or version & 1:
        return
    keys = loop.new_keys
    fence_acquire()
    if load32(&loop.keys_version) == version:
        loop.router.keys = keys
        loop.keys_taken = version


cdef void beat(Loop* loop) noexcept nogil:
    loop.router.tick = read_tick()
    if loop.slot.steering.heart != loop.router.tick:
        store32(&loop.slot.steering.heart, loop.router.tick)
    take_keys(loop)


cdef int patience(const Loop* loop) noexcept nogil:
    """How long to wait for packets where there is nothing else to do, in milliseconds."""
    if loop.sweep_due:
        return SWEEP_WAIT_MS
    return HOLD_WAIT_MS if loop.router.hold.header.asked else WAIT_MS


cdef int failed(Loop* loop) noexcept nogil:
    """Keeps the error where Python's own calls cannot change it."""
    loop.error = errno
    return FAILED


cdef int begin(Loop* loop) noexcept nogil:
    """Waits for the worker's turn: 0 when it is over before it came."""
    cdef int turn
    turn = turn_take(&loop.slot.turn, loop.epoch, <uint8_t*>loop.slot, loop.slot.total_bytes)
    if turn == TURN_OVER:
        return 0
    beat(loop)
    if turn == TURN_REPAIR:
        flows_repair(&loop.router.flows)
    hold_repair(&loop.router.hold, loop.batch.state, loop.router.public_count, loop.router.tick)
    pass_resumed(&loop.router, &loop.batch, loop.internal, loop.publics)
    if loop.router.hold.ready_count:
        pass_ready(&loop.router, &loop.batch, loop.internal, loop.publics)
    if loop.router.hold.exchange != NULL:
        exchange_say(loop.router.hold.exchange)
    return 1


cdef int run_loop(Loop* loop) noexcept nogil:
    cdef uint32_t publics = 0         # a bit for each public socket that may have something
    cdef bint internal = False
    cdef int more
    cdef uint32_t socket
    while True:
        if loop.handled >= PACKETS_WITHOUT_WAIT or not (publics or internal):
            loop.handled = 0
            if wait(loop, 0 if publics or internal else patience(loop), &publics, &internal) < 0:
                return failed(loop)
        if load64(&loop.slot.turn.epoch) != loop.epoch and turn_yield(&loop.slot.turn, loop.epoch) == TURN_OVER:
            return SUPERSEDED
        if load32(&loop.slot.steering.stopping):
            return STOPPED
        beat(loop)
        if loop.router.hold.exchange != NULL:
            recovery_hear(&loop.router)
            if loop.router.hold.ready_count:
                pass_ready(&loop.router, &loop.batch, loop.internal, loop.publics)
        for socket in range(loop.router.public_count):
            if publics & (<uint32_t>1 << socket):
                more = serve(loop, socket)
                if more == SOCKET_DEAD:
                    return failed(loop)
                if not more:
                    publics &= ~(<uint32_t>1 << socket)
        if internal:
            more = serve(loop, INTERNAL)
            if more == SOCKET_DEAD:
                return failed(loop)
            internal = more != 0
        sweep(loop, SWEEP_BUDGET if publics or internal else SWEEP_IDLE_BUDGET)
        if loop.router.hold.exchange != NULL:
            exchange_say(loop.router.hold.exchange)


# ---------------------------------------------------------------------------------------------------------------- Python's side

cdef class Forwarder(Exchanger):
    """A worker's forwarding: sockets and memory given, then `run` until told to stop. `epoch` is its number, the slot's if none is given.
    With `cache`, what nobody here knows is asked for through `Exchanger`, `lookups_per_s` times a second at most (0: no bound).

    `siblings` are the slots of other workers, `orphans` those whose workers are no more: flows are taken over from both, but nobody
    answers for the latter. `publics` are (fd, family, 16 address bytes or None for a wildcard, port); `backends` (16 prefix bytes, bits of them).
    """

    def __cinit__(self) -> None:
        memset(&self.loop, 0, sizeof(Loop))
        self.loop.epoll = -1

    def __init__(self, slot: Slot, *, siblings=(), orphans=(), keyring: Keyring, backends=(), publics=(), internal=(-1, 2), wake=-1,
                 max_half_open: int, max_new_per_network_s: float = 0, max_new_per_token_s: float = 0,
                 flow_timeout_s: float = 30, half_open_timeout_s: float = 5,
                 owner_hold_s: float = 12, epoch: int = 0, cache: bool = False, lookups_per_s: float = 0):
        cdef Router* router = &self.loop.router
        self.slot = slot
        self.siblings = *siblings, *orphans
        self.loop.slot = slot.header
        self.loop.epoch = epoch or slot.epoch
        self.loop.internal, self.loop.wake = internal[0], wake
        router.secret = slot.header.secret
        router.keys = keyring.keys
        router.max_half_open = max_half_open
        rates_make(&router.networks, max_new_per_network_s, NETWORK_BURST_S, NETWORK_BURST)
        rates_make(&router.asking, max_new_per_token_s, TOKEN_BURST_S, TOKEN_BURST)
        router.flow_ticks = <uint32_t>(flow_timeout_s * TICKS_PER_SECOND)
        router.half_open_ticks = <uint32_t>(half_open_timeout_s * TICKS_PER_SECOND)
        router.owner_hold_ticks = <uint32_t>(owner_hold_s * TICKS_PER_SECOND)
        router.draining = &slot.header.steering.draining
        router.events = slot.header.events
        router.asks = &slot.header.asks
        router.tokens = slot.header.tokens
        peers_attach(&router.peers, slot.memory + slot.header.peers_at, &router.secret, internal[1])
        flows_attach(&router.flows, slot.memory + slot.header.flows_at, &router.peers, router.events)
        if batch_attach(&self.loop.batch, slot.memory + slot.header.batch_at) < 0:
            raise MemoryError("no memory for a batch")
        hold_attach(&router.hold, slot.memory + slot.header.hold_at, &self.loop.batch)
        if cache:
            self.open_exchange(&router.events[ASKS_LOST], wake)
            hold_open(&router.hold, &self.exchange, lookups_per_s)
            router.flows.exchange = &self.exchange
        self.set_backends(backends)
        self.set_publics(publics)
        self.set_siblings(len(siblings))
        for i in range(PUBLICS_MAX + 1):
            self.loop.limits[i] = BATCH_MIN

    def __dealloc__(self) -> None:
        batch_detach(&self.loop.batch)
        hold_detach(&self.loop.router.hold)
        free(self.loop.router.sibling_flows)
        free(self.loop.router.sibling_peers)
        free(self.loop.router.sibling_asks)
        free(self.loop.router.asks_heard)
        rates_free(&self.loop.router.networks)
        rates_free(&self.loop.router.asking)
        if self.loop.epoll >= 0:
            close(self.loop.epoll)

    @property
    def writes(self) -> bool:
        """Whether the slot is this worker's now. For any thread."""
        return load64(&self.loop.slot.turn.writer) == self.loop.epoch

    def set_keys(self, keyring: Keyring) -> None:
        """Tokens are verified with these from the next round on. For one thread beside the one that runs."""
        store32(&self.loop.keys_version, self.loop.keys_version + 1)
        fence_release()
        self.loop.new_keys = keyring.keys
        store32(&self.loop.keys_version, self.loop.keys_version + 1)

    cdef void set_backends(self, backends):
        cdef Network* network
        if len(backends) > NETWORKS_MAX:
            raise ValueError(f"at most {NETWORKS_MAX} backends networks")
        for prefix, bits in backends:
            network = &self.loop.router.backends[self.loop.router.backend_count]
            memcpy(network.prefix, <const uint8_t*>(<bytes>prefix), 16)
            network.bits = bits
            self.loop.router.backend_count += 1

    cdef void set_publics(self, publics):
        cdef Public* public
        if len(publics) > PUBLICS_MAX:
            raise ValueError(f"at most {PUBLICS_MAX} listen addresses")
        for fd, family, address, port in publics:
            public = &self.loop.router.publics[self.loop.router.public_count]
            self.loop.publics[self.loop.router.public_count] = fd
            public.family = family
            public.wildcard = address is None
            if address is not None:
                memcpy(public.address, <const uint8_t*>(<bytes>address), 16)
            public.port[0], public.port[1] = port >> 8, port & 255
            self.loop.router.public_count += 1

    cdef int set_siblings(self, uint32_t workers) except -1:
        """The first so many have workers."""
        cdef Router* router = &self.loop.router
        cdef Slot sibling
        if len(self.siblings) > TABLES_MAX:
            raise ValueError(f"at most {TABLES_MAX} siblings and orphans")
        router.sibling_flows = <FlowTable*>calloc(len(self.siblings) + 1, sizeof(FlowTable))
        router.sibling_peers = <PeerTable*>calloc(len(self.siblings) + 1, sizeof(PeerTable))
        router.sibling_asks = <const Asks**>calloc(len(self.siblings) + 1, sizeof(Asks*))
        router.asks_heard = <uint32_t*>calloc(len(self.siblings) + 1, sizeof(uint32_t))
        if not (router.sibling_flows and router.sibling_peers and router.sibling_asks and router.asks_heard):
            raise MemoryError("no memory for siblings")
        for i, sibling in enumerate(self.siblings):
            peers_attach(&router.sibling_peers[i], sibling.memory + sibling.header.peers_at, &router.secret, 0)
            flows_attach(&router.sibling_flows[i], sibling.memory + sibling.header.flows_at, &router.sibling_peers[i], NULL)
            router.sibling_asks[i] = &sibling.header.asks
            router.asks_heard[i] = load32(&sibling.header.asks.posted)
        router.tables = len(self.siblings)
        router.siblings = workers
        return 0

    def run(self) -> str:
        """Waits for its turn, and forwards until the slot says stop ("stopped") or has a new writer ("superseded")."""
        cdef int ending = SUPERSEDED
        self.loop.epoll = epoll_create1(0)
        if self.loop.epoll < 0 or add_socket(self.loop.epoll, self.loop.internal, INTERNAL) < 0 \
                or add_socket(self.loop.epoll, self.loop.wake, WAKE) < 0:
            raise OSError(errno, "cannot wait for the sockets")
        for i in range(self.loop.router.public_count):
            if add_socket(self.loop.epoll, self.loop.publics[i], i) < 0:
                raise OSError(errno, "cannot wait for a public socket")
        with nogil:
            if begin(&self.loop):
                ending = run_loop(&self.loop)
                turn_end(&self.loop.slot.turn, self.loop.epoch)
        if ending == FAILED:
            raise OSError(self.loop.error, "a socket failed")
        return "stopped" if ending == STOPPED else "superseded"
