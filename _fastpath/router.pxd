"""What a worker decides by: its tables and keys, its sockets' addresses, the networks tokens may point to, the time.

The decisions themselves are in `up` and `down`, which make no system call and read no clock:

Up (from clients), by first byte and flow key:
  1. A STUN Binding Request: its token is read every time. Known flow and its own token: forward. Another valid token of the same
     owner (ICE restart): forward; the flow's own from an answer of the owner on, once the old one is not used any more. Another owner: forward to it; the flow moves only when that owner
     answers and the present one has not answered a check for `owner_hold_ticks`. Unknown source: a half-open flow.
  2. Anything else that has a flow: forward by the table.
  3. Anything else: the siblings' tables; then, with a route cache, it is held and its flow asked for (`hold`, `recovery`); else no route.
Down (from the internal leg): only from the next hop of the very flow that the envelope names. Who sends down names a flow, never a
destination: the relay cannot be used to reach anybody who did not write first.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from _fastpath.batch cimport INTERNAL
from _fastpath.flows cimport FlowTable
from _fastpath.hold cimport Hold
from _fastpath.peers cimport PeerTable
from _fastpath.rates cimport RateBook
from _fastpath.siblings cimport Asks
from _fastpath.siphash cimport SipKey
from _fastpath.sockets cimport AF_INET, AF_INET6
from _fastpath.verdicts cimport TOKEN_OUTCOMES
from _fastpath.wire.address cimport Endpoint, Network, is_answerable, is_mapped, within_any
from _fastpath.wire.envelope cimport KEY_LOCAL, KEY_LOCAL_PORT
from _fastpath.wire.token cimport TokenKeys

cdef enum:
    PUBLICS_MAX = 16                  # --listen addresses
    TABLES_MAX = 512                  # of workers of one relay, those that are no more included
    NETWORKS_MAX = 64                 # --backends
    ANY_TOKEN = 0

cdef struct Public:
    int family
    bint wildcard                     # bound to no address: PKTINFO tells and sets it
    uint8_t address[16]
    uint8_t port[2]

cdef struct Router:
    FlowTable flows
    PeerTable peers
    FlowTable* sibling_flows
    PeerTable* sibling_peers
    const Asks** sibling_asks
    uint32_t* asks_heard              # of each sibling's, how many were served
    uint32_t siblings
    uint32_t tables                   # siblings', then those that have no worker any more: flows are taken out of all of them
    Asks* asks                        # our own
    uint32_t asked_before             # how many were posted before this tick
    SipKey secret                     # of the whole relay: siblings place a flow by the same hash
    TokenKeys keys
    Network backends[NETWORKS_MAX]
    uint32_t backend_count
    Public publics[PUBLICS_MAX]
    uint32_t public_count
    RateBook networks                 # new flows
    RateBook asking                   # of a token, for what it does not have
    uint32_t max_half_open
    uint32_t owner_hold_ticks         # 12 s
    uint32_t flow_ticks
    uint32_t half_open_ticks
    const uint32_t* draining
    uint64_t* events
    uint64_t* tokens                  # [8 key ids][TOKEN_OUTCOMES]
    uint32_t tick                     # now
    Hold hold

cdef inline uint32_t socket_of(const Router* router, const uint8_t* key) noexcept nogil:
    """The public socket that packets of a flow leave from, by its local address: one that is bound to it, else a wildcard of its family and
    port. `public_count`: there is none."""
    cdef uint32_t found = router.public_count
    cdef int family = AF_INET if is_mapped(key + KEY_LOCAL) else AF_INET6
    cdef const Public* public
    cdef uint32_t i
    for i in range(router.public_count):
        public = &router.publics[i]
        if public.family != family or memcmp(public.port, key + KEY_LOCAL_PORT, 2) != 0:
            continue
        if not public.wildcard and memcmp(public.address, key + KEY_LOCAL, 16) == 0:
            return i
        if public.wildcard:
            found = i
    return found

cdef inline bint allowed(const Router* router, const Endpoint* owner) noexcept nogil:
    """Whether flows may lead there: a host's address inside --backends, of a family that the internal socket can name."""
    if router.peers.family == AF_INET and not is_mapped(owner.address) or not is_answerable(owner.address, owner.port):
        return False
    return within_any(router.backends, router.backend_count, owner.address)
