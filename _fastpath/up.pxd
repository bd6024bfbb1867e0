"""Decisions about packets from clients. The rules stand in router.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from _fastpath.batch cimport Batch, Packet
from _fastpath.flows cimport Flow
from _fastpath.router cimport Router
from _fastpath.siphash cimport SipKey
from _fastpath.wire.address cimport Endpoint

# Gives every packet of a batch from public socket `socket` a verdict, or a plan and a message for the internal socket.
cdef void decide_up(Router* router, Batch* batch, uint32_t socket) noexcept nogil

# How many flows of a token this worker may have, beside those that its siblings have.
cdef uint32_t room_for(const Router* router, uint64_t token) noexcept nogil

# What stands for the token of a flow that the route cache knew.
cdef uint64_t provisional_token(const SipKey* secret, const uint8_t* key, const Endpoint* owner, uint64_t nonce) noexcept nogil

# The flow of a packet that only a sibling knows, now in our table too. NULL if there is none, or if its next hop is not `sender`
# (where that is not NULL), or its token not `token` (where that is not ANY_TOKEN).
cdef Flow* adopt(Router* router, Packet* packet, const Endpoint* sender, uint64_t token) noexcept nogil
