"""What to do with packets from clients; the rules stand in router.pxd.

Three passes over a batch, so that the memory a packet needs is on its way while others are worked on: read the addresses (which writes
the envelope and so makes the key) and hash it; fetch the flow the index names; find and decide. Messages are queued in order of
arrival; bundles, one day, order them by `Packet.target`, the next hop's number.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from _fastpath.atomics cimport load32
from _fastpath.batch cimport Packet, control_of, name_of, payload_of
from _fastpath.flows cimport (
    FLOW_ESTABLISHED, FLOW_HALF_OPEN, FLOWS_PER_TOKEN, Flow, FlowSeed, flow_find, flow_open, flow_remember, key_hash, next_hop_of,
    flow_retoken, flow_tell, owner_of, prefetch_flow, prefetch_word, token_has_flow, token_make_room,
)
from _fastpath.hold cimport hold_check, hold_packet, hold_waits
from _fastpath.peers cimport NO_PEER, peer_intern
from _fastpath.rates cimport network_hash, rate_admits
from _fastpath.router cimport ANY_TOKEN, Public, allowed
from _fastpath.siblings cimport FlowCopy, asks_post, flow_copy, token_flows
from _fastpath.siphash cimport SipKey, siphash13
from _fastpath.sockets cimport AF_INET, CMSG_DATA, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, MSG_TRUNC, cmsghdr, in_pktinfo, mmsghdr
from _fastpath.steering cimport DRAINING_PUSH
from _fastpath.verdicts cimport (
    FIRST_UP_DROP, FLOWS_ADOPTED, HELD, OUTCOME_FLOW, OUTCOME_FOREIGN_OWNER, OUTCOME_FORGED, OUTCOME_MALFORMED,
    OUTCOME_OTHER_VERSION, OUTCOME_UNKNOWN_KEY, OUTCOME_VERIFIED, PENDING, TOKEN_OUTCOMES, UP_ADOPTED,
    UP_BAD_COOKIE, UP_BAD_DESTINATION, UP_BAD_SOURCE, UP_CHECK, UP_CONTENDED, UP_DRAINING, UP_FOREIGN_OWNER,
    UP_HALF_OPEN_FULL, UP_LONG_USERNAME, UP_MEDIA, UP_NO_FLOW, UP_NO_TOKEN, UP_NO_USERNAME, UP_OPENED,
    UP_PEERS_FULL, UP_PREFIX_FULL, UP_RESTART, UP_STUN_MALFORMED, UP_TABLE_FULL, UP_TOKEN_BUSY, UP_TOKEN_FORGED, UP_TOKEN_FULL, UP_TOKEN_KEY, UP_TOKEN_VERSION,
    UP_TOO_SHORT, UP_TRUNCATED, UP_UNKNOWN_KIND,
)
from _fastpath.wire.address cimport (
    ENDPOINT_BYTES, Endpoint, from_sockaddr, is_answerable, map_ipv4,
)
from _fastpath.wire.demux cimport KIND_BAD_COOKIE, KIND_STUN, KIND_TOO_SHORT, KIND_UNKNOWN, classify
from _fastpath.wire.envelope cimport (
    ENVELOPE_BYTES, KEY_BYTES, KEY_CLIENT, KEY_CLIENT_PORT, KEY_LOCAL, KEY_LOCAL_PORT, envelope_key, envelope_seal,
)
from _fastpath.wire.stun cimport (
    STUN_LONG_USERNAME, STUN_NO_USERNAME, STUN_OK, Span, StunResult, find_username, is_binding_request,
)
from _fastpath.wire.token cimport (
    TOKEN_MALFORMED, TOKEN_OTHER_VERSION, TOKEN_UNKNOWN_KEY, TOKEN_VERIFIED, Route, TokenResult, token_key_id,
    token_length, token_verify,
)


# ---------------------------------------------------------------------------------------------------------------- reading, up

cdef inline bint read_local(const Public* public, Batch* batch, uint32_t i, uint8_t* key) noexcept nogil:
    """The local address of a packet into its key; False when it was not sent to one host."""
    cdef cmsghdr* control
    cdef in_pktinfo* v4
    memcpy(key + KEY_LOCAL_PORT, public.port, 2)
    if not public.wildcard:
        memcpy(key + KEY_LOCAL, public.address, 16)
        return True
    control = <cmsghdr*>control_of(batch, i)
    if batch.received[i].msg_hdr.msg_controllen < sizeof(cmsghdr):
        return False
    if public.family == AF_INET:
        v4 = <in_pktinfo*>CMSG_DATA(control)
        map_ipv4(key + KEY_LOCAL, &v4.ipi_addr)
        # For a broadcast or multicast destination the kernel names another address to answer from.
        return control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO and v4.ipi_addr.s_addr == v4.ipi_spec_dst.s_addr
    memcpy(key + KEY_LOCAL, CMSG_DATA(control), 16)
    return control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO and key[KEY_LOCAL] != 0xff


cdef inline uint8_t read_up(Router* router, Batch* batch, uint32_t i, uint32_t socket) noexcept nogil:
    """First pass: the envelope into the headroom; a verdict for what needs no table, else PENDING."""
    cdef Packet* packet = &batch.packets[i]
    cdef mmsghdr* received = &batch.received[i]
    cdef uint8_t* key
    packet.payload = payload_of(batch, i)
    packet.length = received.msg_len
    if received.msg_hdr.msg_flags & MSG_TRUNC:
        return UP_TRUNCATED
    key = envelope_key(packet.payload)
    from_sockaddr(name_of(batch, i), key + KEY_CLIENT, key + KEY_CLIENT_PORT)
    if not is_answerable(key + KEY_CLIENT, key + KEY_CLIENT_PORT):
        return UP_BAD_SOURCE
    if not read_local(&router.publics[socket], batch, i, key):
        return UP_BAD_DESTINATION
    packet.kind = classify(packet.payload, packet.length)
    if packet.kind == KIND_TOO_SHORT:
        return UP_TOO_SHORT
    if packet.kind == KIND_UNKNOWN:
        return UP_UNKNOWN_KIND
    if packet.kind == KIND_BAD_COOKIE:
        return UP_BAD_COOKIE
    envelope_seal(packet.payload)
    packet.hash = key_hash(&router.secret, key)
    prefetch_word(&router.flows, packet.hash)
    return PENDING


cdef void decide_up(Router* router, Batch* batch, uint32_t socket) noexcept nogil:
    cdef uint8_t* verdict = batch.state.verdict
    cdef uint32_t i
    cdef uint8_t outcome
    batch.bytes = 0
    for i in range(batch.count):
        batch.bytes += batch.received[i].msg_len
        if verdict[i] == PENDING:
            verdict[i] = read_up(router, batch, i, socket)
    for i in range(batch.count):
        if verdict[i] == PENDING:
            prefetch_flow(&router.flows, batch.packets[i].hash)
    for i in range(batch.count):
        if verdict[i] == PENDING:
            outcome = route_up(router, &batch.packets[i], socket)
            if outcome >= FIRST_UP_DROP:
                verdict[i] = outcome
            else:
                batch.packets[i].plan = outcome
                queue_up(router, batch, i)


cdef inline void queue_up(Router* router, Batch* batch, uint32_t i) noexcept nogil:
    cdef Packet* packet = &batch.packets[i]
    cdef mmsghdr* message = &batch.messages[batch.queued]
    batch.send_vectors[batch.queued].iov_base = packet.payload - ENVELOPE_BYTES
    batch.send_vectors[batch.queued].iov_len = packet.length + ENVELOPE_BYTES
    message.msg_hdr.msg_iov = &batch.send_vectors[batch.queued]
    message.msg_hdr.msg_iovlen = 1
    message.msg_hdr.msg_name = router.peers.peers[packet.target].name
    message.msg_hdr.msg_namelen = router.peers.peers[packet.target].name_bytes
    message.msg_hdr.msg_control = NULL
    message.msg_hdr.msg_controllen = 0
    batch.packet_of[batch.queued] = <uint16_t>i
    batch.queued += 1


# --------------------------------------------------------------------------------------------------------------- deciding, up

cdef inline uint8_t route_up(Router* router, Packet* packet, uint32_t socket) noexcept nogil:
    cdef Flow* flow = flow_find(&router.flows, envelope_key(packet.payload), packet.hash)
    if packet.kind == KIND_STUN and is_binding_request(packet.payload):
        return route_check(router, packet, socket, flow)
    if flow == NULL:
        return route_missed(router, packet, socket)
    if flow.seen != router.tick:
        flow.seen = router.tick
    packet.target = next_hop_of(flow)
    return UP_MEDIA


cdef uint8_t route_missed(Router* router, Packet* packet, uint32_t socket) noexcept nogil:
    """We have no flow. Behind packets that wait for it this one waits, too, whatever a sibling knows by now: they stay in order."""
    cdef bint holds = router.hold.exchange != NULL and packet.fallback == PENDING
    cdef Flow* flow = NULL
    if not (holds and hold_waits(&router.hold, packet)):
        flow = adopt(router, packet, NULL, ANY_TOKEN)
    if flow != NULL:
        flow.seen = router.tick
        packet.target = next_hop_of(flow)
        return UP_ADOPTED
    if holds:
        return hold_packet(&router.hold, packet, socket, NULL, router.tick)
    return packet.fallback if packet.fallback != PENDING else UP_NO_FLOW


cdef inline void count_token(Router* router, int key_id, uint32_t outcome) noexcept nogil:
    router.tokens[<uint32_t>key_id * TOKEN_OUTCOMES + outcome] += 1


cdef uint8_t route_check(Router* router, Packet* packet, uint32_t socket, Flow* flow) noexcept nogil:
    """A Binding Request: the token in its USERNAME is read whether or not there is a flow."""
    cdef Span username
    cdef StunResult walked = find_username(packet.payload, packet.length, &username)
    cdef size_t length
    cdef uint64_t token
    if walked != STUN_OK:
        if walked == STUN_NO_USERNAME:
            return UP_NO_USERNAME
        return UP_LONG_USERNAME if walked == STUN_LONG_USERNAME else UP_STUN_MALFORMED
    length = token_length(username.start, username.length)
    if length == 0:
        count_token(router, 7, OUTCOME_MALFORMED)
        return UP_NO_TOKEN
    if load32(router.draining) == DRAINING_PUSH:
        return UP_DRAINING                        # whoever has another way takes it; media goes on meanwhile
    token = siphash13(&router.secret, username.start, length)
    if flow != NULL and flow.token == token:
        return own_check(router, packet, flow, username.start)
    return route_new_token(router, packet, socket, flow, &username, length, token)


cdef uint8_t own_check(Router* router, Packet* packet, Flow* flow, const uint8_t* text) noexcept nogil:
    """The token is the flow's own: it was verified when the flow was made, so its key may be retired by now."""
    count_token(router, token_key_id(text), OUTCOME_FLOW)
    flow.seen = router.tick
    flow.checked = <uint16_t>router.tick
    packet.target = next_hop_of(flow)
    return UP_CHECK


cdef uint8_t refusal(Router* router, TokenResult result, const uint8_t* text) noexcept nogil:
    cdef int key_id = token_key_id(text)
    if result == TOKEN_MALFORMED:
        count_token(router, 7, OUTCOME_MALFORMED)
        return UP_NO_TOKEN
    if result == TOKEN_OTHER_VERSION:
        count_token(router, 7, OUTCOME_OTHER_VERSION)
        return UP_TOKEN_VERSION
    if result == TOKEN_UNKNOWN_KEY:
        count_token(router, key_id, OUTCOME_UNKNOWN_KEY)
        return UP_TOKEN_KEY
    count_token(router, key_id, OUTCOME_FORGED)
    return UP_TOKEN_FORGED


cdef uint8_t route_new_token(Router* router, Packet* packet, uint32_t socket, Flow* flow, const Span* username,
                             size_t length, uint64_t token) noexcept nogil:
    """A token that is not the flow's own: it must be authentic, and its owner allowed, before any state is made or touched."""
    cdef Route route
    cdef TokenResult result = token_verify(&router.keys, username.start, length, &route)
    cdef uint16_t owner
    if result == TOKEN_VERIFIED and not allowed(router, &route.owner):
        count_token(router, route.key_id, OUTCOME_FOREIGN_OWNER)
        return UP_FOREIGN_OWNER
    if flow == NULL and result == TOKEN_VERIFIED and packet.fallback == PENDING and hold_check(&router.hold, packet, socket):
        return HELD
    if flow == NULL and (result == TOKEN_VERIFIED or result == TOKEN_UNKNOWN_KEY):
        # A sibling's flow may know a token whose key is retired; it is taken over only if this is its own token.
        flow = adopt(router, packet, NULL, ANY_TOKEN if result == TOKEN_VERIFIED else token)
        if flow != NULL and flow.token == token:
            return own_check(router, packet, flow, username.start)
    if result != TOKEN_VERIFIED:
        return refusal(router, result, username.start)
    count_token(router, route.key_id, OUTCOME_VERIFIED)
    if flow != NULL and named(router, flow, &route, token):
        flow.seen = router.tick
        packet.target = next_hop_of(flow)
        return UP_CHECK
    if not rate_admits(&router.asking, token, router.tick):
        return UP_TOKEN_BUSY
    if flow == NULL and load32(router.draining) and not token_has_flow(&router.flows, token):
        return UP_DRAINING                        # a new path of a call that is here is no new session
    owner = peer_intern(&router.peers, &route.owner)
    if owner == NO_PEER:
        return UP_PEERS_FULL
    if flow == NULL:
        return open_flow(router, packet, socket, owner, token, route.nonce)
    flow.seen = router.tick
    flow_remember(&router.flows, flow, owner, token)
    if owner_of(flow) == owner:
        packet.target = next_hop_of(flow)
        return UP_RESTART
    packet.target = owner
    return UP_CONTENDED


cdef uint8_t open_flow(Router* router, Packet* packet, uint32_t socket, uint16_t owner, uint64_t token,
                       uint64_t nonce) noexcept nogil:
    cdef FlowSeed seed
    if router.flows.header.half_open >= router.max_half_open:
        return UP_HALF_OPEN_FULL
    if not rate_admits(&router.networks, network_hash(&router.secret, envelope_key(packet.payload) + KEY_CLIENT), router.tick):
        return UP_PREFIX_FULL
    if not token_make_room(&router.flows, token, router.tick, room_for(router, token)):
        asks_post(router.asks, token, router.asked_before)
        return UP_TOKEN_FULL
    seed.key = envelope_key(packet.payload)
    seed.hash = packet.hash
    seed.state = FLOW_HALF_OPEN
    seed.socket = <uint8_t>socket
    seed.next_hop = owner
    seed.owner = owner
    seed.token = token
    seed.nonce = nonce
    seed.tick = router.tick
    if flow_open(&router.flows, &seed) == NULL:
        return UP_TABLE_FULL
    packet.target = owner
    return UP_OPENED


cdef bint named(Router* router, Flow* flow, const Route* route, uint64_t token) noexcept nogil:
    """Whether this is the token of a flow that came from the route cache, which knows of tokens only their nonces. It is the flow's own
    from now on."""
    if flow.nonce == 0 or flow.nonce != route.nonce \
            or flow.token != provisional_token(&router.secret, <const uint8_t*>flow.key, &route.owner, route.nonce):
        return False
    flow_retoken(&router.flows, flow, token, room_for(router, token))
    if flow.token != token:
        return False
    flow.nonce = route.nonce
    flow.checked = <uint16_t>router.tick
    return True


cdef uint64_t provisional_token(const SipKey* secret, const uint8_t* key, const Endpoint* owner, uint64_t nonce) noexcept nogil:
    """In place of a token's fingerprint; the same for all flows of a session, so that it has no more of them than others. Without a
    nonce (the flow had been through an ICE restart) each flow stands for itself."""
    cdef uint8_t name[8 + ENDPOINT_BYTES + KEY_BYTES]
    memset(name, 0, sizeof(name))
    memcpy(name, &nonce, 8)
    memcpy(name + 8, owner, ENDPOINT_BYTES)
    if nonce == 0:
        memcpy(name + 8 + ENDPOINT_BYTES, key, KEY_BYTES)
    return siphash13(secret, name, sizeof(name))


cdef uint32_t room_for(const Router* router, uint64_t token) noexcept nogil:
    """How many flows of a token we may have, beside those that siblings have."""
    cdef uint32_t room = FLOWS_PER_TOKEN
    cdef uint32_t i
    for i in range(router.siblings):
        room -= min(room, token_flows(&router.sibling_flows[i], token))
    return room


cdef inline bint is_ahead(const Router* router, uint32_t tick) noexcept nogil:
    """A tick of a sibling's may be one that our round, which began before, does not know yet."""
    return <int32_t>(tick - router.tick) > 0


cdef bint fits(const Router* router, const FlowCopy* copy, const Endpoint* sender, uint64_t token) noexcept nogil:
    """A copy is taken over only if it is not silent too long, and names the sender or token asked for."""
    if router.tick - copy.flow.seen > router.flow_ticks and not is_ahead(router, copy.flow.seen):
        return False
    if token != ANY_TOKEN and copy.flow.token != token:
        return False
    return sender == NULL or memcmp(sender, &copy.next_hop, ENDPOINT_BYTES) == 0


cdef Flow* adopt(Router* router, Packet* packet, const Endpoint* sender, uint64_t token) noexcept nogil:
    """A flow that another table has: the kernel hands its packets to us now (the set of sockets changed). Its copy there expires. More
    than one may have it, when they changed more than once: the one heard of last counts."""
    cdef FlowCopy copies[2]
    cdef FlowCopy* found = NULL
    cdef FlowCopy* copy = &copies[0]
    cdef uint32_t i
    for i in range(router.tables):
        if flow_copy(&router.sibling_flows[i], envelope_key(packet.payload), packet.hash, copy) and fits(router, copy, sender, token) \
                and (found == NULL or <int32_t>(copy.flow.seen - found.flow.seen) > 0):
            found = copy
            copy = &copies[1] if copy == &copies[0] else &copies[0]
    return take_over(router, packet, found) if found != NULL else NULL


cdef Flow* take_over(Router* router, Packet* packet, const FlowCopy* copy) noexcept nogil:
    """Our own flow like the copy; NULL without room."""
    cdef FlowSeed seed
    cdef Flow* flow
    seed.key = <const uint8_t*>copy.flow.key
    seed.hash = packet.hash
    seed.state = FLOW_ESTABLISHED
    seed.socket = copy.flow.socket
    seed.next_hop = peer_intern(&router.peers, &copy.next_hop)
    seed.owner = peer_intern(&router.peers, &copy.owner)
    seed.token = copy.flow.token
    seed.nonce = copy.flow.nonce
    seed.tick = router.tick
    if seed.next_hop == NO_PEER or seed.owner == NO_PEER or seed.socket >= router.public_count:
        return NULL
    if not token_make_room(&router.flows, seed.token, seed.tick, FLOWS_PER_TOKEN):
        return NULL
    flow = flow_open(&router.flows, &seed)
    if flow != NULL:
        flow.answered = router.tick if is_ahead(router, copy.flow.answered) else copy.flow.answered
        router.events[FLOWS_ADOPTED] += 1
        flow_tell(&router.flows, flow)
    return flow
