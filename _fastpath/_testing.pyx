"""The hot path without sockets, for tests, `explain` tools and benchmarks: packets in, verdicts and packets out, by the real code.

`Harness` puts datagrams into the arena as the kernel would, runs the deciding passes, and reads the messages that would be sent. It is
part of the package so that tests run against the very modules that are shipped; of production, `relay.explain` alone imports it.
"""

from functools import lru_cache

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _fastpath.batch cimport (
    BATCH_MAX, PAYLOAD_ROOM, RELEASED, RESUMES_MOST, STAGE_OPEN, Batch, BatchState, batch_abandon, batch_commit, batch_resume,
    control_of, name_of, payload_of,
)
from _fastpath.down cimport decide_down, queue_down
from _fastpath.flows cimport (
    FLOW_ESTABLISHED, FLOW_HALF_OPEN, FLOWS_PER_TOKEN, Flow, FlowSeed, FlowsHeader, flow_find, flow_open, token_make_room,
    flows_repair, flows_sweep, key_hash,
)
from _fastpath.forward cimport Forwarder, Loop, hear_siblings, take_keys
from _fastpath.hold cimport HeldPacket, HoldHeader, Waiting
from _fastpath.inheritance cimport hold_repair
from _fastpath.passage cimport pass_down, pass_up
from _fastpath.peers cimport Peer, PeersHeader, peer_intern, peers_collect
from _fastpath.recovery cimport recovery_fill, recovery_hear, recovery_label, recovery_left, recovery_resume
from _fastpath.router cimport INTERNAL, Router
from _fastpath.siphash cimport SipKey, siphash13, siphash24
from _fastpath.slot cimport SlotHeader
from _fastpath.sockets cimport (
    AF_INET, CMSG_DATA, CMSG_LEN, CMSG_SPACE, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, MSG_TRUNC, cmsghdr, in6_pktinfo,
    in_pktinfo, mmsghdr,
)
from _fastpath.up cimport decide_up
from _fastpath.verdicts cimport BYTES_DOWN, BYTES_UP, DOWN_ABANDONED, PACKETS_DOWN, PACKETS_UP, PENDING, UP_ABANDONED
from _fastpath.wire.address cimport Endpoint, from_sockaddr, is_answerable, to_sockaddr

from _fastpath.verdicts import VERDICTS_BY_NUMBER
from _fastpath.wire import envelope
from _fastpath.wire.envelope import key_of

Address = tuple[str, int]
UpSent = tuple[Address, bytes]
DownSent = tuple[int, Address, str | None, bytes]

# Reading an address takes longer than deciding about a packet, and a test uses the same few all the time.
mapped = lru_cache(4096)(envelope.mapped)
unmapped = lru_cache(4096)(envelope.unmapped)

SIZES = {"Flow": sizeof(Flow), "FlowsHeader": sizeof(FlowsHeader), "Peer": sizeof(Peer), "PeersHeader": sizeof(PeersHeader),
         "BatchState": sizeof(BatchState), "SlotHeader": sizeof(SlotHeader), "HoldHeader": sizeof(HoldHeader), "Waiting": sizeof(Waiting),
         "HeldPacket": sizeof(HeldPacket), "mmsghdr": sizeof(mmsghdr)}
OFFSETS = {"epoch": <size_t>&(<SlotHeader*>0).turn.epoch, "heart": <size_t>&(<SlotHeader*>0).steering.heart,
           "state": <size_t>&(<Flow*>0).state, "route": <size_t>&(<Flow*>0).route, "token": <size_t>&(<Flow*>0).token,
           "seen": <size_t>&(<Flow*>0).seen, "nonce": <size_t>&(<Flow*>0).nonce, "generation": <size_t>&(<Flow*>0).generation}
MOST_PAYLOAD = PAYLOAD_ROOM


def siphash_2_4(key: bytes, data: bytes) -> int:
    cdef SipKey words
    memcpy(&words, <const uint8_t*>key, 16)
    return siphash24(&words, data, len(data))


def siphash_1_3(key: bytes, data: bytes) -> int:
    cdef SipKey words
    memcpy(&words, <const uint8_t*>key, 16)
    return siphash13(&words, data, len(data))


def answerable(address: str, port: int) -> bool:
    packed, port_bytes = mapped(address), port.to_bytes(2, "big")
    return is_answerable(packed, port_bytes)


cdef Endpoint to_endpoint(tuple endpoint):
    cdef Endpoint result
    packed, port = mapped(endpoint[0]), endpoint[1].to_bytes(2, "big")
    memcpy(result.address, <const uint8_t*>packed, 16)
    memcpy(result.port, <const uint8_t*>port, 2)
    return result


cdef tuple from_name(const void* name):
    cdef Endpoint endpoint
    from_sockaddr(name, endpoint.address, endpoint.port)
    return unmapped(bytes(endpoint.address[:16])), endpoint.port[0] << 8 | endpoint.port[1]


cdef tuple flow_of(const Batch* batch, uint32_t i, bint down):
    """(client, local) of a packet that was decided about: its envelope stands before the payload, or is where that would be."""
    cdef uint8_t* key = payload_of(batch, i) + 2 if down else payload_of(batch, i) - 36
    return envelope.unpack_key(key[:36])


cdef class Harness:
    """Drives a Forwarder's passes; `tick` is the time."""

    cdef readonly Forwarder forwarder
    cdef list left                    # what left the hold and was not looked at yet

    def __init__(self, forwarder: Forwarder, tick: int = 0) -> None:
        self.forwarder = forwarder
        self.tick = tick
        self.left = []
        flows_repair(&forwarder.loop.router.flows)
        hold_repair(&forwarder.loop.router.hold, forwarder.loop.batch.state, forwarder.loop.router.public_count,
                    forwarder.loop.router.tick)
        batch_resume(&forwarder.loop.batch)

    @property
    def tick(self) -> int:
        return self.forwarder.loop.router.tick

    @tick.setter
    def tick(self, value: int) -> None:
        self.forwarder.loop.router.tick = value & 0xffffffff

    # ---------------------------------------------------------------------------------------------------------------- feeding

    cdef void put(self, uint32_t i, tuple source, bytes datagram, int family):
        """As recvmmsg leaves it: cut at the room there is, MSG_TRUNC if cut."""
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef Endpoint endpoint = to_endpoint(source)
        cdef size_t kept = min(len(datagram), PAYLOAD_ROOM)
        memcpy(payload_of(batch, i), <const uint8_t*>datagram, kept)
        batch.received[i].msg_len = <uint32_t>kept
        batch.received[i].msg_hdr.msg_flags = MSG_TRUNC if len(datagram) > PAYLOAD_ROOM else 0
        batch.received[i].msg_hdr.msg_namelen = to_sockaddr(endpoint.address, endpoint.port, family, name_of(batch, i))
        batch.received[i].msg_hdr.msg_controllen = 0

    cdef void put_local(self, uint32_t i, str address, int family):
        """The PKTINFO control message. An IPv4 broadcast destination has another address to answer from."""
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef cmsghdr* control = <cmsghdr*>control_of(batch, i)
        cdef in_pktinfo* v4 = <in_pktinfo*>CMSG_DATA(control)
        packed = mapped(address)
        if family == AF_INET:
            control.cmsg_level, control.cmsg_type, control.cmsg_len = IPPROTO_IP, IP_PKTINFO, CMSG_LEN(sizeof(in_pktinfo))
            memcpy(&v4.ipi_addr, <const uint8_t*>packed + 12, 4)
            v4.ipi_spec_dst.s_addr = v4.ipi_addr.s_addr if not address.endswith(".255") else 0x0100007f
            batch.received[i].msg_hdr.msg_controllen = CMSG_SPACE(sizeof(in_pktinfo))
        else:
            control.cmsg_level, control.cmsg_type, control.cmsg_len = IPPROTO_IPV6, IPV6_PKTINFO, CMSG_LEN(sizeof(in6_pktinfo))
            memcpy(CMSG_DATA(control), <const uint8_t*>packed, 16)
            batch.received[i].msg_hdr.msg_controllen = CMSG_SPACE(sizeof(in6_pktinfo))

    cdef void begin(self, uint32_t count, uint32_t source):
        cdef Batch* batch = &self.forwarder.loop.batch
        batch.state.number += 1
        batch.state.stage = STAGE_OPEN
        batch.state.source = source
        batch.state.resumes = 0
        batch.count = count
        batch.queued = 0

    def take_up(self, packets, socket: int = 0) -> None:
        """Receives (client, local, datagram)s on a public socket and goes no further: where a worker may be killed."""
        cdef int family = self.forwarder.loop.router.publics[socket].family
        for i, (client, local, datagram) in enumerate(packets):
            self.put(i, client, datagram, family)
            if self.forwarder.loop.router.publics[socket].wildcard:
                self.put_local(i, local[0], family)
        self.begin(len(packets), socket)

    def take_down(self, packets) -> None:
        """Receives (sender, datagram)s on the internal socket and goes no further."""
        for i, (sender, datagram) in enumerate(packets):
            self.put(i, sender, datagram, self.forwarder.loop.router.peers.family)
        self.begin(len(packets), INTERNAL)

    # --------------------------------------------------------------------------------------------------------------- stepping

    def up(self, packets, socket: int = 0):
        """[(verdict, None or (next hop, datagram))] for (client, local, datagram)s that arrive together."""
        self.take_up(packets, socket)
        return self.step_up(socket)

    def step_up(self, socket: int):
        cdef Batch* batch = &self.forwarder.loop.batch
        decide_up(&self.forwarder.loop.router, batch, socket)
        results = self.commit(self.pretend_sent(False, socket, BATCH_MAX), PACKETS_UP, BYTES_UP)
        self.release()
        return results

    def down(self, packets):
        """[(verdict, None or (socket, client, source or None, payload))] for (sender, datagram)s on the internal leg."""
        self.take_down(packets)
        return self.step_down()

    def step_down(self):
        return self.commit(self.decide_and_send_down(BATCH_MAX), PACKETS_DOWN, BYTES_DOWN)

    def turn(self) -> list:
        """What a worker does at the beginning of a round: takes answers, lets go of what waited too long. What left the hold since
        the last turn: [(direction, (client, local), verdict, None or as `up` and `down` have it)]."""
        self.answers()
        self.release()
        return self.take_left()

    def answers(self) -> None:
        """The first half of a turn: what is to leave is ready."""
        if self.forwarder.loop.router.hold.exchange != NULL:
            recovery_hear(&self.forwarder.loop.router)

    def take_left(self) -> list:
        """What left the hold since the last look."""
        left, self.left = self.left, []
        return left

    def take_released(self, source: int) -> int:
        """The next batch of what is ready, open and no further: where a worker may be killed; how many packets. 255 is the internal leg."""
        return recovery_fill(&self.forwarder.loop.router, &self.forwarder.loop.batch, source)

    def verdicts(self) -> list:
        """Of the open batch, so far."""
        cdef const uint8_t* verdict = self.forwarder.loop.batch.state.verdict
        return [VERDICTS_BY_NUMBER[verdict[i]][2] for i in range(self.forwarder.loop.batch.count)]

    cdef int release(self) except -1:
        """All that is ready, by the same steps as the loop's; what left goes to `left`."""
        cdef Router* router = &self.forwarder.loop.router
        for source in [*range(router.public_count), INTERNAL] if router.hold.ready_count else []:
            while recovery_fill(router, &self.forwarder.loop.batch, source):
                self.step_released(source)
        recovery_left(router)
        return 0

    def step_released(self, source: int) -> list:
        """Decides, sends and counts the open batch, which came from the hold."""
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef uint32_t i
        if source == INTERNAL:
            results = self.commit(self.decide_and_send_down(BATCH_MAX, True), PACKETS_DOWN, BYTES_DOWN)
        else:
            decide_up(&self.forwarder.loop.router, batch, source)
            recovery_label(batch)
            results = self.commit(self.pretend_sent(False, source, BATCH_MAX), PACKETS_UP, BYTES_UP)
        way = "down" if source == INTERNAL else "up"
        self.left += [(way, flow_of(batch, i, source == INTERNAL), *result) for i, result in enumerate(results)]
        return results

    cdef dict decide_and_send_down(self, uint32_t most, bint released=False):
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef uint32_t sockets = decide_down(&self.forwarder.loop.router, batch)
        if released:
            recovery_label(batch)
        sent = {}
        for socket in range(self.forwarder.loop.router.public_count):
            if sockets >> socket & 1:
                queue_down(&self.forwarder.loop.router, batch, socket)
                sent |= self.pretend_sent(True, socket, most - len(sent))
        return sent

    cdef dict pretend_sent(self, bint down, uint32_t socket, uint32_t most):
        """Reads the first `most` queued messages and gives their packets the planned verdicts, as `batch_send` does on success."""
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef mmsghdr* message
        cdef uint32_t m
        sent = {}
        for m in range(min(batch.queued, most)):
            message = &batch.messages[m]
            data = (<uint8_t*>message.msg_hdr.msg_iov.iov_base)[:message.msg_hdr.msg_iov.iov_len]
            name = from_name(message.msg_hdr.msg_name)
            packet = batch.packet_of[m]
            sent[packet] = (socket, name, self.source_of(m), data) if down else (name, data)
            batch.state.verdict[packet] = batch.packets[packet].plan
        batch.queued = 0
        return sent

    cdef object source_of(self, uint32_t m):
        """The source address a message asks for; None where the socket has only one."""
        cdef mmsghdr* message = &self.forwarder.loop.batch.messages[m]
        cdef cmsghdr* control = <cmsghdr*>message.msg_hdr.msg_control
        if message.msg_hdr.msg_controllen == 0:
            return None
        if control.cmsg_level == IPPROTO_IP:
            assert (<in_pktinfo*>CMSG_DATA(control)).ipi_ifindex == 0
            return unmapped(bytes(10) + b"\xff\xff" + (CMSG_DATA(control) + 4)[:4])
        assert (<in6_pktinfo*>CMSG_DATA(control)).ipi6_ifindex == 0
        return unmapped(CMSG_DATA(control)[:16])

    cdef list commit(self, dict sent, uint32_t packets_counter, uint32_t bytes_counter):
        cdef Batch* batch = &self.forwarder.loop.batch
        result = [(VERDICTS_BY_NUMBER[batch.state.verdict[i]][2], sent.get(i)) for i in range(batch.count)]
        batch_commit(batch, packets_counter, bytes_counter)
        return result

    def mark_sent(self, count: int, socket: int = 0) -> dict:
        """Decides the open batch and has only its first `count` messages sent: killed in the middle of sending. Packet -> what left."""
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef bint released = batch.state.source & RELEASED
        if batch.state.source & ~<uint32_t>RELEASED == INTERNAL:
            return self.decide_and_send_down(count, released)
        decide_up(&self.forwarder.loop.router, batch, socket)
        if released:
            recovery_label(batch)
        return self.pretend_sent(False, socket, count)

    def finish(self):
        """What a successor does with the batch it found: the rest of it, or, where too many died in it, nothing more."""
        cdef Batch* batch = &self.forwarder.loop.batch
        cdef uint32_t source = batch.state.source & ~<uint32_t>RELEASED
        cdef bint down = source == INTERNAL
        if batch.state.resumes >= RESUMES_MOST:
            batch_abandon(batch, DOWN_ABANDONED if down else UP_ABANDONED)
        if batch.state.source & RELEASED:
            recovery_resume(batch)
            return self.step_released(source)
        return self.step_down() if down else self.step_up(batch.state.source)

    def send(self) -> None:
        """Decides, sends and commits the open batch as the loop does, on the sockets there are: with none each send is refused."""
        cdef Loop* loop = &self.forwarder.loop
        cdef Batch* batch = &loop.batch
        if batch.state.source == INTERNAL:
            pass_down(&loop.router, batch, loop.publics)
        else:
            pass_up(&loop.router, batch, loop.internal, loop.publics, batch.state.source)

    def resumed(self) -> int:
        """What a successor finds: how many packets are in an unfinished batch."""
        return batch_resume(&self.forwarder.loop.batch)

    # ------------------------------------------------------------------------------------------------------------------ table

    def sweep(self, budget: int) -> int:
        cdef Router* router = &self.forwarder.loop.router
        if router.peers.header.wanted:
            peers_collect(&router.peers)
        return flows_sweep(&router.flows, router.tick, budget, router.flow_ticks, router.half_open_ticks)

    def repair(self) -> int:
        return flows_repair(&self.forwarder.loop.router.flows)

    def open(self, client, local, owner, token: int, established: bool = True, socket: int = 0) -> bool:
        """A flow put into the table without a check; False when it is full."""
        cdef Router* router = &self.forwarder.loop.router
        cdef Endpoint endpoint = to_endpoint(owner)
        cdef FlowSeed seed
        key = key_of(client, local)
        seed.key = key
        seed.hash = key_hash(&router.secret, seed.key)
        seed.state = FLOW_ESTABLISHED if established else FLOW_HALF_OPEN
        seed.socket = socket
        seed.next_hop = seed.owner = peer_intern(&router.peers, &endpoint)
        seed.token = token & 0xffffffffffffffff
        seed.nonce = 0
        seed.tick = router.tick
        return token_make_room(&router.flows, seed.token, seed.tick, FLOWS_PER_TOKEN) and flow_open(&router.flows, &seed) != NULL

    def round(self) -> None:
        """What a worker does between two batches, but for the clock."""
        take_keys(&self.forwarder.loop)

    def hear(self) -> None:
        """What a worker does once a tick: makes room where a sibling asked for it."""
        hear_siblings(&self.forwarder.loop.router)

    def fill(self, count: int, client_base: int, client_port: int, local, owner) -> int:
        """Opens `count` established flows from consecutive IPv4 client addresses, each with a token of its own; how many fitted."""
        cdef Router* router = &self.forwarder.loop.router
        cdef Endpoint endpoint = to_endpoint(owner)
        cdef uint8_t key[36]
        cdef FlowSeed seed
        cdef uint32_t i, address
        template = key_of(("0.0.0.0", client_port), local)
        memcpy(key, <const uint8_t*>template, 36)
        seed.key = key
        seed.state = FLOW_ESTABLISHED
        seed.socket = 0
        seed.next_hop = seed.owner = peer_intern(&router.peers, &endpoint)
        seed.nonce = 0
        seed.tick = router.tick
        for i in range(<uint32_t>count):
            address = <uint32_t>client_base + i
            key[12], key[13], key[14], key[15] = address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255
            seed.hash = key_hash(&router.secret, key)
            seed.token = siphash13(&router.secret, <uint8_t*>&i, sizeof(i))
            if flow_open(&router.flows, &seed) == NULL:
                return i
        return count

    def tear(self, client, local) -> None:
        """Leaves a flow as a writer killed in the middle of making it does."""
        self.flow(client, local).generation |= 1

    cdef Flow* flow(self, client, local) except NULL:
        cdef Router* router = &self.forwarder.loop.router
        key = key_of(client, local)
        cdef Flow* flow = flow_find(&router.flows, key, key_hash(&router.secret, key))
        if flow == NULL:
            raise KeyError(client)
        return flow

    def index_words(self) -> tuple[int, int, int]:
        """(words used by key, by token, words there are)."""
        cdef FlowsHeader* header = self.forwarder.loop.router.flows.header
        return header.key_words, header.token_words, header.index_mask + 1
