"""Python's door to the hot thread; see media.pxd. Commands that cannot be written raise CommandsFull: the hot thread is stuck then."""

import hashlib

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.atomics cimport store32
from _fastpath.batch cimport BATCH_MAX, Batch, batch_attach, batch_detach, batch_resume, name_of, payload_of
from _fastpath.engine cimport *
from _fastpath.outbox cimport OUTBOX_MOST, Outbox, outbox_free, outbox_make
from _fastpath.rings cimport Ring, ring_commit, ring_format, ring_peek, ring_pop, ring_reserve, ring_room
from _fastpath.rounds cimport HOT_FAILED, clock_us, finish, run_rounds, work
from _fastpath.sessions cimport (
    NO_PATH, PATH_FREE, PATHS_MOST, TOKEN_ROOM, UFRAG_ROOM, Credential, Path, Session, sessions_free, sessions_make,
)
from _fastpath.media_slot cimport SessionRow, ring_down, ring_up
from _fastpath.sha1 cimport hmac_key
from _fastpath.sockets cimport AF_INET, AF_INET6, MSG_TRUNC, close, errno, write
from _fastpath.wheel cimport wheel_ahead
from _fastpath.wire.address cimport Network, from_sockaddr, is_mapped, to_sockaddr
from _fastpath.wire.envelope cimport ENVELOPE_BYTES
from _fastpath.wire.token cimport Keyring

from _fastpath.wire.envelope import mapped, unmapped

cdef enum:
    COMMANDS_BYTES = 1 << 20
    EVENTS_BYTES = 1 << 20
    STEP_MOST = 32                    # datagrams a round of `step`, so that the outbox holds all their answers

ANY_PATH = 0xfe  # the path in use; BEST_PATH of engine.pxd
EVENT_NAMES = ("", "check", "proven", "datagram", "media", "bye", "expired", "closed")


class CommandsFull(Exception):
    """The hot thread does not take its commands."""


cdef class MediaEngine:
    """`run` is the hot thread's; `step` runs the same rounds without sockets and clock, for tests and fuzzing."""

    def __cinit__(self) -> None:
        memset(&self.engine, 0, sizeof(Engine))
        memset(&self.hot, 0, sizeof(Hot))
        self.hot.epoll = -1

    def __init__(self, slot: MediaSlot, *, secret: bytes, keyring: Keyring, ice_key: bytes, own: tuple[str, int], generation: int,
                 relays, srtp, srtp_known: bool = False, socket: int = -1, wake: int = -1, ring: int = -1, now_us: int = 0,
                 unix_us: int = 0, cname: str = "ufrag"):
        cdef Engine* engine = &self.engine
        if len(secret) != 16:
            raise ValueError("the secret has 16 bytes")
        # One key for each use: what one of them shows to the network must say nothing of another.
        keys = hashlib.sha512(b"ufrag media engine 1" + secret).digest()[:40]
        self.slot = slot
        self.hot.socket, self.hot.wake, self.hot.ring = socket, wake, ring
        engine.now_us = now_us or clock_us()
        engine.unix_offset_us = <uint64_t>(unix_us - <object>engine.now_us if unix_us else 0)
        engine.header = slot.header
        engine.views = <SessionRow*>(slot.memory + slot.header.views_at)
        engine.rings = slot.memory + slot.header.rings_at
        if sessions_make(&engine.sessions, slot.header.max_sessions, keys, engine.now_us) < 0 \
                or batch_attach(&engine.batch, slot.memory + slot.header.batch_at) < 0 \
                or outbox_make(&engine.outbox, socket, slot.header.sent, &slot.header.sent_bytes) < 0:
            raise MemoryError("no memory for the media engine")
        self.aim_batch()
        self.make_rings()
        self.set_relays(relays)
        self.set_identity(keyring, ice_key, own, generation, cname)
        engine.srtp_known = srtp_known
        engine.protect, engine.unprotect = <srtp_function><size_t>srtp[0], <srtp_function><size_t>srtp[1]
        engine.protect_rtcp, engine.unprotect_rtcp = <srtp_function><size_t>srtp[2], <srtp_function><size_t>srtp[3]

    def set_identity(self, keyring: Keyring, ice_key: bytes, own: tuple[str, int], generation: int, cname: str) -> None:
        cdef Engine* engine = &self.engine
        address, name = mapped(own[0]), cname.encode()[:CNAME_ROOM]
        engine.keys = keyring.keys
        memcpy(engine.own.address, <const uint8_t*>(<bytes>address), 16)
        engine.own.port[0], engine.own.port[1] = own[1] >> 8, own[1] & 255
        engine.generation = generation
        hmac_key(&engine.passwords, ice_key, len(ice_key))
        memcpy(engine.cname, <const uint8_t*>(<bytes>name), len(name))
        engine.cname_bytes = <uint8_t>len(name)

    cdef void aim_batch(self):
        """What a predecessor died in belongs to calls that died with it: forgotten, not resumed."""
        cdef Batch* batch = &self.engine.batch
        cdef uint32_t i
        batch.state.stage = 0
        batch_resume(batch)
        for i in range(<uint32_t>BATCH_MAX):
            batch.receive_vectors[i].iov_base = payload_of(batch, i) + ALIGN_SHIFT
            batch.receive_vectors[i].iov_len -= ALIGN_SHIFT

    cdef int make_rings(self) except -1:
        self.engine.commands = <Ring*>calloc(1, sizeof(Ring) + COMMANDS_BYTES)
        self.engine.events = <Ring*>calloc(1, sizeof(Ring) + EVENTS_BYTES)
        self.engine.touched = <uint32_t*>calloc(self.engine.sessions.capacity, sizeof(uint32_t))
        if self.engine.commands == NULL or self.engine.events == NULL or self.engine.touched == NULL:
            raise MemoryError("no memory for the media engine's rings")
        ring_format(self.engine.commands, COMMANDS_BYTES)
        ring_format(self.engine.events, EVENTS_BYTES)
        return 0

    cdef int set_relays(self, relays) except -1:
        cdef Network* network
        if len(relays) > RELAYS_MAX:
            raise ValueError(f"at most {RELAYS_MAX} relay networks")
        for prefix, bits in relays:
            network = &self.engine.relays[self.engine.relay_count]
            memcpy(network.prefix, <const uint8_t*>(<bytes>prefix), 16)
            network.bits = bits
            self.engine.relay_count += 1
        return 0

    def __dealloc__(self) -> None:
        batch_detach(&self.engine.batch)
        outbox_free(&self.engine.outbox)
        sessions_free(&self.engine.sessions)
        free(self.engine.commands)
        free(self.engine.events)
        free(self.engine.touched)
        if self.hot.epoll >= 0:
            close(self.hot.epoll)

    # -------------------------------------------------------------------------------------------------------- commands: the loop's

    cdef unsigned char* command(self, int kind, int index, int serial, int path, int flag, int body_bytes) except NULL:
        """Room for a command's body."""
        cdef Head* head
        if not 0 <= index < <int>self.engine.sessions.capacity:
            raise IndexError(index)
        head = <Head*>ring_reserve(self.engine.commands, <uint32_t>(sizeof(Head) + body_bytes))
        if head == NULL:
            raise CommandsFull
        memset(head, 0, sizeof(Head))
        head.kind, head.path, head.flag, head.session, head.serial = kind, path, flag, index, serial
        return <unsigned char*>head + sizeof(Head)

    cdef int commit(self) except -1:
        """One call for all commands of the loop's present round: each one is a switch of threads where they share a CPU."""
        ring_commit(self.engine.commands)
        if self.defer is None:
            self.wake()
        elif not self.deferred:
            self.deferred = True
            self.defer(self.wake)
        return 0

    def wake(self) -> None:
        cdef uint64_t one = 1
        self.deferred = False
        if self.hot.wake >= 0 and write(self.hot.wake, &one, sizeof(one)) < 0:
            return                    # the counter is full: the hot thread has been rung often enough

    def open(self, index: int, serial: int, *, ssrc: int, sequence: int, timestamp_offset: int, payload_type: int = 0xff,
             clock_rate: int = 48000, echo: bool = False) -> None:
        """Number `index` has a call. Its first sequence number is below 2^15 (RFC 3711 3.3.1: a lost first packet at the wrap)."""
        cdef OpenBody* body = <OpenBody*>self.command(COMMAND_OPEN, index, serial, 0, 0, sizeof(OpenBody))
        body.ssrc, body.sequence, body.timestamp_offset = ssrc, sequence & 0x7fff, timestamp_offset
        body.payload_type, body.clock_rate, body.echo = payload_type, max(1, clock_rate), echo
        self.commit()

    def add_credential(self, index: int, serial: int, *, token: str, password: str, remote_ufrag: str, remote_password: str) -> None:
        """Checks with this token are the session's from now on; earlier tokens stay valid until the call's second restart from here."""
        cdef Credential* own
        text, remote = token.encode("ascii"), remote_ufrag.encode("ascii")
        local_key, remote_key = password.encode("ascii"), remote_password.encode("ascii")
        if len(text) > TOKEN_ROOM or len(remote) > UFRAG_ROOM:
            raise ValueError("a ufrag is too long")
        own = <Credential*>self.command(COMMAND_CREDENTIAL, index, serial, 0, 0, sizeof(Credential))
        memset(own, 0, sizeof(Credential))
        memcpy(own.token, <const uint8_t*>text, len(text))
        own.token_bytes = <uint8_t>len(text)
        memcpy(own.remote_ufrag, <const uint8_t*>remote, len(remote))
        own.remote_bytes = <uint16_t>len(remote)
        hmac_key(&own.local, local_key, len(local_key))
        hmac_key(&own.remote, remote_key, len(remote_key))
        self.commit()

    def set_keys(self, index: int, serial: int, tx: int, rx: int) -> None:
        """SRTP contexts, which live until this call's `closed`."""
        cdef KeysBody* body = <KeysBody*>self.command(COMMAND_KEYS, index, serial, 0, 0, sizeof(KeysBody))
        body.tx, body.rx = <void*><size_t>tx, <void*><size_t>rx
        self.commit()

    def send(self, index: int, serial: int, path: int, datagram: bytes) -> None:
        """Datagrams leave room for commands that must not be lost: then it is these that raise."""
        cdef unsigned char* body
        if ring_room(self.engine.commands) < self.engine.commands.size // 8:
            raise CommandsFull
        body = self.command(COMMAND_SEND, index, serial, path, 0, <int>len(datagram))
        memcpy(body, <const uint8_t*>datagram, len(datagram))
        self.commit()

    def set_reporting(self, index: int, serial: int, reporting: bool) -> None:
        self.command(COMMAND_REPORTING, index, serial, 0, reporting, 0)
        self.commit()

    def pump(self, index: int, serial: int) -> None:
        self.command(COMMAND_PUMP, index, serial, 0, 0, 0)
        self.commit()

    def close(self, index: int, serial: int) -> None:
        """Answered by the event `closed`."""
        self.command(COMMAND_CLOSE, index, serial, 0, 0, 0)
        self.commit()

    def rotate(self, keyring: Keyring) -> None:
        """What tokens of dead sessions are verified with from now on."""
        cdef unsigned char* body = self.command(COMMAND_ROUTE_KEYS, 0, 0, 0, 0, sizeof(TokenKeys))
        memcpy(body, &keyring.keys, sizeof(TokenKeys))
        self.commit()

    def events(self, most: int = 256) -> list[tuple[str, int, int, int, int, bytes]]:
        """(name, index, serial, path, value or flag, datagram) of what happened, oldest first."""
        cdef uint32_t length = 0
        cdef uint8_t* record
        cdef Head* head
        cdef Session* session
        found = []
        while len(found) < most:
            record = ring_peek(self.engine.events, &length)
            if record == NULL:
                break
            head = <Head*>record
            body = bytes(record[sizeof(Head):length]) if head.kind == EVENT_DATAGRAM else b""
            if head.kind == EVENT_DATAGRAM:
                session = &self.engine.sessions.all[head.session]
                store32(&session.taken, session.taken + 1)
            found.append((EVENT_NAMES[head.kind], head.session, head.serial, head.path,
                          head.value if head.value else head.flag, body))
            ring_pop(self.engine.events)
        return found

    # --------------------------------------------------------------------------------------------------------------- audio rings

    def read_frames(self, index: int, most: int = 64) -> list[tuple[int, int, int, bool, int, bytes]]:
        """(arrival us, timestamp, sequence, marker, payload type, payload) of what was heard: for an application in this process."""
        cdef Ring* ring = ring_up(self.engine.rings, <uint32_t>index)
        cdef uint32_t length = 0
        cdef uint8_t* record
        cdef Frame* frame
        frames = []
        while len(frames) < most:
            record = ring_peek(ring, &length)
            if record == NULL:
                break
            frame = <Frame*>record
            frames.append((frame.at_us, frame.timestamp, frame.sequence, bool(frame.marker), frame.payload_type,
                           bytes(record[sizeof(Frame):length])))
            ring_pop(ring)
        return frames

    def write_frame(self, index: int, payload: bytes, *, timestamp: int, marker: bool = False, at_us: int = 0) -> bool:
        """A frame to be sent, at once or when due; `pump` tells of it. False: the ring is full."""
        cdef Ring* ring = ring_down(self.engine.rings, <uint32_t>index)
        cdef Frame* frame = <Frame*>ring_reserve(ring, <uint32_t>(sizeof(Frame) + len(payload)))
        if frame == NULL:
            return False
        frame.at_us, frame.timestamp, frame.sequence = at_us, timestamp & 0xffffffff, 0
        frame.marker, frame.payload_type = marker, 0
        memcpy(<uint8_t*>frame + sizeof(Frame), <const uint8_t*>payload, len(payload))
        ring_commit(ring)
        return True

    # ------------------------------------------------------------------------------------------------------------ the hot thread's

    def run(self) -> str:
        """Works until the slot says halt."""
        cdef int ending
        with nogil:
            ending = run_rounds(&self.hot, &self.engine)
        if ending == HOT_FAILED:
            raise OSError(self.hot.error, "the internal socket failed")
        return "stopped"

    # -------------------------------------------------------------------------------------------------------- tests and fuzzing

    def step(self, now_us: int, datagrams=()) -> list[tuple[bytes, tuple[str, int]]]:
        """Rounds over these (datagram, sender), or one over none; what was sent, in order."""
        out = []
        todo = list(datagrams)
        self.engine.now_us = now_us
        while True:
            self.receive(todo[:STEP_MOST])
            todo = todo[STEP_MOST:]
            work(&self.engine)
            out += self.sent()
            finish(&self.engine, -1)
            if not todo:
                return out

    cdef int receive(self, datagrams) except -1:
        """As recvmmsg would leave them."""
        cdef Batch* batch = &self.engine.batch
        cdef uint32_t i
        batch.count = 0
        for i, (datagram, (host, port)) in enumerate(datagrams):
            room = <object>batch.receive_vectors[i].iov_len
            kept = datagram[:room]
            memcpy(batch.receive_vectors[i].iov_base, <const uint8_t*>(<bytes>kept), len(kept))
            address, port_bytes = mapped(host), port.to_bytes(2, "big")
            batch.received[i].msg_hdr.msg_namelen = to_sockaddr(
                <const uint8_t*>(<bytes>address), <const uint8_t*>(<bytes>port_bytes),
                AF_INET if is_mapped(<const uint8_t*>(<bytes>address)) else AF_INET6, name_of(batch, i))
            batch.received[i].msg_len = <uint32_t>len(kept)
            batch.received[i].msg_hdr.msg_flags = MSG_TRUNC if len(datagram) > room else 0
            batch.count += 1
        return 0

    cdef list sent(self):
        cdef Outbox* outbox = &self.engine.outbox
        cdef uint8_t address[18]
        cdef uint8_t* start
        cdef uint32_t i
        found = []
        for i in range(outbox.queued):
            from_sockaddr(outbox.messages[i].msg_hdr.msg_name, address, address + 16)
            start = <uint8_t*>outbox.vectors[i].iov_base
            found.append((bytes(start[:outbox.vectors[i].iov_len]),
                          (unmapped(bytes(address[:16])), address[16] << 8 | address[17])))
            outbox.sent[outbox.kinds[i]] += 1
            outbox.sent_bytes[0] += outbox.vectors[i].iov_len - ENVELOPE_BYTES
        outbox.queued = 0
        return found

    def wait_us(self) -> int:
        """Microseconds until a timer is due; -1: none is set."""
        cdef uint32_t ahead = wheel_ahead(&self.engine.sessions.wheel)
        if ahead == 4096:
            return -1
        return max(0, (self.engine.sessions.wheel.tick + ahead) * 1000 - <object>self.engine.now_us)

    def debug(self, index: int) -> dict[str, object]:
        """A session's paths, for tests."""
        cdef Session* session = &self.engine.sessions.all[<uint32_t>index]
        return {
            "serial": session.serial,
            "active": session.active if session.active != NO_PATH else None,
            "sources": session.sources,
            "paths": [
                {"number": i, "proven": session.paths[i].state == 2, "nominated": bool(session.paths[i].nominated),
                 "bytes_in": session.paths[i].bytes_in, "bytes_out": session.paths[i].bytes_out, "rtt_us": session.paths[i].rtt_us,
                 "indexed": bool(session.paths[i].indexed), "key": bytes(session.paths[i].key[:36])}
                for i in range(PATHS_MOST) if session.paths[i].state != PATH_FREE
            ],
        }
