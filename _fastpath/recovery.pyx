"""Answers of the route cache, and the way out of the hold; see recovery.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from _fastpath.atomics cimport store32
from _fastpath.batch cimport (
    Batch, Packet, BATCH_MAX, INTERNAL, RELEASED, STAGE_OPEN, control_of, name_of, payload_of,
)
from _fastpath.exchange cimport ANSWER_FOUND, ANSWER_NONE, AnswerRecord
from _fastpath.flows cimport (
    FLOW_ESTABLISHED, Flow, FlowSeed, flow_find, flow_open, flow_tell, key_hash, token_make_room,
)
from _fastpath.hold cimport (
    DROP_EXPIRED, DROP_NO_ROUTE, NO_BLOCK, WAIT_NEGATIVE, HeldPacket, Waiting, held_at, hold_expire, hold_find, hold_left, hold_read,
    hold_refuse, hold_release, source_bit,
)
from _fastpath.peers cimport NO_PEER, peer_intern
from _fastpath.rings cimport ring_peek, ring_pop
from _fastpath.router cimport Public, allowed, socket_of
from _fastpath.sockets cimport (
    AF_INET, CMSG_DATA, CMSG_LEN, CMSG_SPACE, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, cmsghdr, in6_pktinfo, in_pktinfo,
)
from _fastpath.up cimport provisional_token, room_for
from _fastpath.verdicts cimport (
    ANSWERS_REFUSED, DOWN_ANSWER, DOWN_HOLD_EXPIRED, DOWN_MEDIA, DOWN_NO_ROUTE, DOWN_RECOVERED, FLOWS_RECOVERED, PENDING, UP_ADOPTED,
    UP_HOLD_EXPIRED, UP_MEDIA, UP_NO_ROUTE, UP_RECOVERED,
)
from _fastpath.wire.address cimport to_sockaddr
from _fastpath.wire.envelope cimport (
    ENVELOPE_BYTES, KEY_BYTES, KEY_CLIENT, KEY_CLIENT_PORT, KEY_LOCAL, envelope_key, envelope_seal,
)

__all__: list[str] = []

cdef enum:
    ANSWERS_A_ROUND = 1024            # packets that have just come are not to wait for longer


# --------------------------------------------------------------------------------------------------------------------- answers

cdef void recovery_hear(Router* router) noexcept nogil:
    cdef uint32_t length, heard
    cdef AnswerRecord* answer
    for heard in range(<uint32_t>ANSWERS_A_ROUND):
        answer = <AnswerRecord*>ring_peek(router.hold.exchange.answers, &length)
        if answer == NULL:
            break
        hear(router, answer)
        ring_pop(router.hold.exchange.answers)
    hold_expire(&router.hold, router.tick)


cdef void hear(Router* router, const AnswerRecord* answer) noexcept nogil:
    cdef const uint8_t* key = <const uint8_t*>answer.key
    cdef uint32_t hash = key_hash(&router.secret, key)
    cdef Waiting* entry
    if flow_find(&router.flows, key, hash) == NULL:
        if answer.kind == ANSWER_FOUND and not open_recovered(router, answer, hash):
            router.events[ANSWERS_REFUSED] += 1
            hold_refuse(&router.hold, key, hash, router.tick)
        elif answer.kind == ANSWER_NONE:
            hold_refuse(&router.hold, key, hash, router.tick)
    entry = hold_find(&router.hold, key, hash)
    if entry != NULL and entry.state != WAIT_NEGATIVE:
        hold_release(&router.hold, entry, DROP_NO_ROUTE if answer.kind == ANSWER_FOUND else DROP_EXPIRED)


cdef bint open_recovered(Router* router, const AnswerRecord* answer, uint32_t hash) noexcept nogil:
    """An established flow, whose owner counts as alive: it must be silent for as long as any other before a contender has the flow."""
    cdef FlowSeed seed
    cdef Flow* flow
    seed.key = <const uint8_t*>answer.key
    seed.hash = hash
    seed.state = FLOW_ESTABLISHED
    seed.socket = <uint8_t>socket_of(router, seed.key)
    if seed.socket >= router.public_count or not allowed(router, &answer.owner) or not allowed(router, &answer.next_hop):
        return False
    seed.next_hop = peer_intern(&router.peers, &answer.next_hop)
    seed.owner = peer_intern(&router.peers, &answer.owner)
    seed.token = provisional_token(&router.secret, seed.key, &answer.owner, answer.nonce)
    seed.nonce = answer.nonce
    seed.tick = router.tick
    if seed.next_hop == NO_PEER or seed.owner == NO_PEER \
            or not token_make_room(&router.flows, seed.token, seed.tick, room_for(router, seed.token)):
        return False
    flow = flow_open(&router.flows, &seed)
    if flow == NULL:
        return False
    router.events[FLOWS_RECOVERED] += 1
    flow_tell(&router.flows, flow)
    return True


# ----------------------------------------------------------------------------------------------------------------- the way out

cdef size_t write_destination(const Public* public, const uint8_t* key, uint8_t* control) noexcept nogil:
    """PKTINFO as the kernel gave it: the address that the client wrote to."""
    cdef cmsghdr* header = <cmsghdr*>control
    cdef in_pktinfo* v4
    if not public.wildcard:
        return 0
    if public.family == AF_INET:
        header.cmsg_len, header.cmsg_level, header.cmsg_type = CMSG_LEN(sizeof(in_pktinfo)), IPPROTO_IP, IP_PKTINFO
        v4 = <in_pktinfo*>CMSG_DATA(header)
        memcpy(&v4.ipi_addr, key + KEY_LOCAL + 12, 4)
        v4.ipi_spec_dst = v4.ipi_addr
        return CMSG_SPACE(sizeof(in_pktinfo))
    header.cmsg_len, header.cmsg_level, header.cmsg_type = CMSG_LEN(sizeof(in6_pktinfo)), IPPROTO_IPV6, IPV6_PKTINFO
    memcpy(CMSG_DATA(header), key + KEY_LOCAL, 16)
    return CMSG_SPACE(sizeof(in6_pktinfo))


cdef void put_up(Router* router, Batch* batch, uint32_t i, const Waiting* entry, const HeldPacket* held) noexcept nogil:
    cdef const Public* public = &router.publics[held.source]
    cdef const uint8_t* key = <const uint8_t*>entry.key
    batch.received[i].msg_hdr.msg_namelen = to_sockaddr(key + KEY_CLIENT, key + KEY_CLIENT_PORT, public.family, name_of(batch, i))
    batch.received[i].msg_hdr.msg_controllen = write_destination(public, key, control_of(batch, i))
    batch.packets[i].fallback = <uint8_t>(UP_NO_ROUTE + entry.drop)


cdef void put_down(Router* router, Batch* batch, uint32_t i, const Waiting* entry, const HeldPacket* held) noexcept nogil:
    cdef uint8_t* payload = payload_of(batch, i) + ENVELOPE_BYTES
    memcpy(envelope_key(payload), <const uint8_t*>entry.key, KEY_BYTES)
    envelope_seal(payload)
    batch.received[i].msg_hdr.msg_namelen = to_sockaddr(held.sender.address, held.sender.port, router.peers.family, name_of(batch, i))
    batch.received[i].msg_hdr.msg_controllen = 0
    batch.packets[i].fallback = <uint8_t>(DOWN_NO_ROUTE + entry.drop)


cdef void put(Router* router, Batch* batch, uint32_t i, const Waiting* entry, uint32_t block) noexcept nogil:
    """A packet back into the arena, as if it had just been received."""
    cdef const HeldPacket* held = held_at(&router.hold, block)
    cdef uint32_t ahead = 0
    if held.source == INTERNAL:
        ahead = ENVELOPE_BYTES
        put_down(router, batch, i, entry, held)
    else:
        put_up(router, batch, i, entry, held)
    hold_read(&router.hold, block, payload_of(batch, i) + ahead)
    batch.received[i].msg_hdr.msg_flags = 0
    batch.received[i].msg_len = held.length + ahead


cdef uint32_t recovery_fill(Router* router, Batch* batch, uint32_t source) noexcept nogil:
    cdef const Waiting* entry
    cdef HeldPacket* held
    cdef uint32_t count = 0
    cdef uint32_t i, block
    for i in range(router.hold.ready_count):
        entry = &router.hold.entries[router.hold.ready[i]]
        block = entry.first if entry.sources & source_bit(source) else NO_BLOCK
        while block != NO_BLOCK and count < BATCH_MAX:
            held = held_at(&router.hold, block)
            if held.source == source and held.taken_in == 0:
                put(router, batch, count, entry, block)
                held.taken_in = batch.state.number + 1
                count += 1
            block = held.follows
    if count:
        begin(batch, count, source)
    return count


cdef void begin(Batch* batch, uint32_t count, uint32_t source) noexcept nogil:
    """The number before the stage: only an open batch has its packets (`hold.was_taken`)."""
    batch.state.source = source | RELEASED
    batch.state.resumes = 0
    batch.state.number += 1
    store32(&batch.state.stage, STAGE_OPEN)
    batch.count = count
    batch.queued = 0


cdef void recovery_label(Batch* batch) noexcept nogil:
    cdef Packet* packet
    cdef uint32_t i
    for i in range(batch.count):
        packet = &batch.packets[i]
        packet.fallback = PENDING
        if packet.plan == UP_MEDIA or packet.plan == UP_ADOPTED:
            packet.plan = UP_RECOVERED
        elif packet.plan == DOWN_MEDIA or packet.plan == DOWN_ANSWER:
            packet.plan = DOWN_RECOVERED


cdef void recovery_resume(Batch* batch) noexcept nogil:
    """What is still without a verdict had a flow, or was to end for a reason that died with the predecessor."""
    cdef uint32_t i
    for i in range(batch.count):
        batch.packets[i].fallback = DOWN_HOLD_EXPIRED if batch.state.source & 0xff == INTERNAL else UP_HOLD_EXPIRED


cdef void recovery_left(Router* router) noexcept nogil:
    hold_left(&router.hold, router.tick)
