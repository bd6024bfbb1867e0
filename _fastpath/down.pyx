"""What to do with packets from the internal leg; the rules stand in router.pxd. Three passes, as in up.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from _fastpath.batch cimport NAME_ROOM, CONTROL_ROOM, Packet, name_of, payload_of
from _fastpath.flows cimport (
    FLOW_ESTABLISHED, Flow, flow_remember, flow_establish, flow_find, flow_retoken, flow_route, flow_tell, key_hash,
    next_hop_of, owner_of, prefetch_flow, prefetch_word, token_takes,
)
from _fastpath.hold cimport hold_packet, hold_waits
from _fastpath.peers cimport NO_PEER
from _fastpath.router cimport ANY_TOKEN, INTERNAL, Public, allowed, socket_of
from _fastpath.sockets cimport (
    AF_INET, CMSG_DATA, CMSG_LEN, CMSG_SPACE, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, MSG_TRUNC,
    cmsghdr, in6_pktinfo, in_pktinfo, mmsghdr,
)
from _fastpath.up cimport adopt, room_for
from _fastpath.verdicts cimport (
    DOWN_ANSWER, DOWN_BAD_ENVELOPE, DOWN_ESTABLISHED, DOWN_MEDIA, DOWN_MOVED, DOWN_NOT_NEXT_HOP, DOWN_NO_FLOW,
    DOWN_NO_ROUTE,
    DOWN_OWNER_LIVE, DOWN_TRUNCATED, FIRST_DOWN_DROP, FLOWS_MOVED, PENDING,
)
from _fastpath.wire.address cimport ENDPOINT_BYTES, Endpoint, from_sockaddr, to_sockaddr
from _fastpath.wire.envelope cimport (
    ENVELOPE_BYTES, KEY_CLIENT, KEY_CLIENT_PORT, KEY_LOCAL, envelope_key, envelope_valid,
)
from _fastpath.wire.stun cimport is_binding_success


cdef inline uint8_t read_down(Router* router, Batch* batch, uint32_t i) noexcept nogil:
    """First pass. The payload begins behind the envelope, which is the key as it stands."""
    cdef Packet* packet = &batch.packets[i]
    cdef uint8_t* datagram = payload_of(batch, i)
    if batch.received[i].msg_hdr.msg_flags & MSG_TRUNC:
        return DOWN_TRUNCATED
    if not envelope_valid(datagram, batch.received[i].msg_len):
        return DOWN_BAD_ENVELOPE
    packet.payload = datagram + ENVELOPE_BYTES
    packet.length = batch.received[i].msg_len - ENVELOPE_BYTES
    packet.hash = key_hash(&router.secret, envelope_key(packet.payload))
    prefetch_word(&router.flows, packet.hash)
    return PENDING


cdef uint32_t decide_down(Router* router, Batch* batch) noexcept nogil:
    """Which public sockets have something to send, a bit each."""
    cdef uint8_t* verdict = batch.state.verdict
    cdef uint32_t sockets = 0
    cdef uint32_t i
    cdef uint8_t outcome
    batch.bytes = 0
    for i in range(batch.count):
        batch.packets[i].plan = PENDING
        if batch.received[i].msg_len > <uint32_t>ENVELOPE_BYTES:
            batch.bytes += batch.received[i].msg_len - ENVELOPE_BYTES
        if verdict[i] == PENDING:
            verdict[i] = read_down(router, batch, i)
    for i in range(batch.count):
        if verdict[i] == PENDING:
            prefetch_flow(&router.flows, batch.packets[i].hash)
    for i in range(batch.count):
        if verdict[i] == PENDING:
            outcome = route_down(router, &batch.packets[i], name_of(batch, i))
            if outcome >= FIRST_DOWN_DROP:
                verdict[i] = outcome
            else:
                batch.packets[i].plan = outcome
                sockets |= <uint32_t>1 << batch.packets[i].target
    return sockets


cdef inline uint8_t route_down(Router* router, Packet* packet, const void* sender_name) noexcept nogil:
    cdef Flow* flow = flow_find(&router.flows, envelope_key(packet.payload), packet.hash)
    cdef Endpoint sender
    cdef bint answer = is_binding_success(packet.payload, packet.length)
    from_sockaddr(sender_name, sender.address, sender.port)
    if flow == NULL:
        if not (router.hold.exchange != NULL and packet.fallback == PENDING and hold_waits(&router.hold, packet)):
            flow = adopt(router, packet, &sender, ANY_TOKEN)
        if flow == NULL:
            return missed(router, packet, &sender)
    packet.target = flow.socket
    if memcmp(&sender, &router.peers.peers[next_hop_of(flow)].endpoint, ENDPOINT_BYTES) != 0:
        return from_contender(router, flow, &sender) if answer else DOWN_NOT_NEXT_HOP
    if flow.seen != router.tick:
        flow.seen = router.tick
    return answered(router, flow) if answer else DOWN_MEDIA


cdef uint8_t missed(Router* router, const Packet* packet, const Endpoint* sender) noexcept nogil:
    """Nobody here knows the flow. It is asked for only where it can be one: from an owner there may be, by a socket there is."""
    if packet.fallback != PENDING:
        return packet.fallback
    if router.hold.exchange == NULL:
        return DOWN_NO_FLOW
    if not allowed(router, sender):
        return DOWN_NOT_NEXT_HOP
    if socket_of(router, envelope_key(packet.payload)) >= router.public_count:
        return DOWN_NO_ROUTE
    return hold_packet(&router.hold, packet, INTERNAL, sender, router.tick)


cdef uint8_t answered(Router* router, Flow* flow) noexcept nogil:
    """The owner answered a check: the flow is established.

    After an ICE restart the new token becomes the flow's own, but only when the old one has not been used for as long as an owner is
    held: an answer does not say which check it is for, and a check that only names another session must not re-name this flow.
    """
    cdef bint renamed = False
    flow.answered = router.tick
    if flow.pending_owner == owner_of(flow) and flow.pending_token \
            and <uint16_t>(router.tick - flow.checked) > router.owner_hold_ticks:
        flow_retoken(&router.flows, flow, flow.pending_token, room_for(router, flow.pending_token))
        flow_remember(&router.flows, flow, NO_PEER, 0)
        renamed = True
    if flow.state == FLOW_ESTABLISHED:
        if renamed:
            flow_tell(&router.flows, flow)
        return DOWN_ANSWER
    flow_establish(&router.flows, flow)
    flow_tell(&router.flows, flow)
    return DOWN_ESTABLISHED


cdef uint8_t from_contender(Router* router, Flow* flow, const Endpoint* sender) noexcept nogil:
    """Another owner answers a check it was sent. It gets the flow unless the present owner is alive, that is, has answered a check of
    its own lately: so a spoofed check cannot steal a live flow, and a NAT port used again still gets its new session."""
    cdef uint16_t contender = flow.pending_owner
    cdef uint32_t room
    if contender == NO_PEER or memcmp(sender, &router.peers.peers[contender].endpoint, ENDPOINT_BYTES) != 0:
        return DOWN_NOT_NEXT_HOP
    if flow.state == FLOW_ESTABLISHED and router.tick - flow.answered < router.owner_hold_ticks:
        return DOWN_OWNER_LIVE
    room = room_for(router, flow.pending_token)
    if not token_takes(&router.flows, flow, flow.pending_token, room):
        return DOWN_NOT_NEXT_HOP                  # a flow goes with its token, and that one has its flows already
    flow.seen = router.tick
    flow_route(&router.flows, flow, contender, contender)
    flow_retoken(&router.flows, flow, flow.pending_token, room)
    flow_remember(&router.flows, flow, NO_PEER, 0)
    flow_establish(&router.flows, flow)
    flow.answered = router.tick
    router.events[FLOWS_MOVED] += 1
    flow_tell(&router.flows, flow)
    return DOWN_MOVED


cdef inline size_t write_source(const Public* public, const uint8_t* key, uint8_t* control) noexcept nogil:
    """PKTINFO that makes an answer leave from the address the client used; 0 where the socket has only one. Interface 0: routing
    decides, as it does for any reply."""
    cdef cmsghdr* header = <cmsghdr*>control
    cdef in_pktinfo* v4
    cdef in6_pktinfo* v6
    if not public.wildcard:
        return 0
    if public.family == AF_INET:
        header.cmsg_len = CMSG_LEN(sizeof(in_pktinfo))
        header.cmsg_level = IPPROTO_IP
        header.cmsg_type = IP_PKTINFO
        v4 = <in_pktinfo*>CMSG_DATA(header)
        v4.ipi_ifindex = 0
        memcpy(&v4.ipi_spec_dst, key + KEY_LOCAL + 12, 4)
        return CMSG_SPACE(sizeof(in_pktinfo))
    header.cmsg_len = CMSG_LEN(sizeof(in6_pktinfo))
    header.cmsg_level = IPPROTO_IPV6
    header.cmsg_type = IPV6_PKTINFO
    v6 = <in6_pktinfo*>CMSG_DATA(header)
    v6.ipi6_ifindex = 0
    memcpy(&v6.ipi6_addr, key + KEY_LOCAL, 16)
    return CMSG_SPACE(sizeof(in6_pktinfo))


cdef void queue_down(Router* router, Batch* batch, uint32_t socket) noexcept nogil:
    """Queues the packets planned for one public socket."""
    cdef const Public* public = &router.publics[socket]
    cdef const uint8_t* key
    cdef Packet* packet
    cdef mmsghdr* message
    cdef uint8_t* name
    cdef uint32_t i
    for i in range(batch.count):
        packet = &batch.packets[i]
        if batch.state.verdict[i] != PENDING or packet.plan == PENDING or packet.target != socket:
            continue
        key = envelope_key(packet.payload)
        message = &batch.messages[batch.queued]
        name = batch.send_names + batch.queued * NAME_ROOM
        batch.send_vectors[batch.queued].iov_base = packet.payload
        batch.send_vectors[batch.queued].iov_len = packet.length
        message.msg_hdr.msg_iov = &batch.send_vectors[batch.queued]
        message.msg_hdr.msg_iovlen = 1
        message.msg_hdr.msg_name = name
        message.msg_hdr.msg_namelen = to_sockaddr(key + KEY_CLIENT, key + KEY_CLIENT_PORT, public.family, name)
        message.msg_hdr.msg_control = batch.send_controls + batch.queued * CONTROL_ROOM
        message.msg_hdr.msg_controllen = write_source(public, key, batch.send_controls + batch.queued * CONTROL_ROOM)
        batch.packet_of[batch.queued] = <uint16_t>i
        batch.queued += 1
