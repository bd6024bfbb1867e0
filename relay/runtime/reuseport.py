"""Which socket of a port's SO_REUSEPORT group gets a datagram, when it is not the kernel's own choice among all.

The kernel takes a hash of both addresses over the number of sockets. A classic BPF program (it needs no privilege) may
choose instead; here, one of the first `count`, by the client's address and port alone: so the others can be emptied
and closed without a packet lost in them. The sockets of a group are numbered as they were bound; closing the last one
changes no other's number.
"""

from __future__ import annotations

import ctypes
import socket
import struct

# <asm-generic/socket.h>
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog

# <linux/bpf_common.h>, <linux/filter.h>: those that are used.
_LOAD_WORD, _LOAD_HALF = 0x20, 0x28  # A = what is there in the packet
_ADD, _XOR = 0x0C, 0xAC  # with X
_MULTIPLY, _SHIFT_RIGHT, _MODULO = 0x24, 0x74, 0x94  # by a constant
_TO_X = 0x07
_RETURN = 0x16
_NETWORK = -0x100000  # SKF_NET_OFF: counted from the IP header, as the data begins behind UDP's

_GOLDEN = 0x9E3779B1  # odd, and spreads neighbours
_SOURCE_WORDS = {socket.AF_INET: (12,), socket.AF_INET6: (8, 12, 16, 20)}
_SOURCE_PORT = {socket.AF_INET: 20, socket.AF_INET6: 40}  # without options, which nobody on the way lets through


def steer(sock: socket.socket, count: int) -> None:
    """Datagrams for the group of `sock` go to its first `count` sockets, from now on."""
    code = b"".join(_INSTRUCTION.pack(code, 0, 0, value & 0xFFFFFFFF) for code, value in _program(sock.family, count))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _PROGRAM.pack(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def steer_no_more(sock: socket.socket) -> None:
    """The kernel chooses among all again, from Linux 5.3 on; an OSError before."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
    except FileNotFoundError:  # there was no program
        return


def _program(family: int, count: int) -> list[tuple[int, int]]:
    """A hash of all words, one after the other, as FNV does it; at last folded, since the low bits are the worst."""
    steps = []
    for at in _SOURCE_WORDS[socket.AddressFamily(family)]:
        steps += [(_LOAD_WORD, _NETWORK + at), (_ADD, 0), (_MULTIPLY, _GOLDEN), (_TO_X, 0)]
    steps += [(_LOAD_HALF, _NETWORK + _SOURCE_PORT[socket.AddressFamily(family)]), (_ADD, 0), (_MULTIPLY, _GOLDEN)]
    steps += [(_TO_X, 0), (_SHIFT_RIGHT, 16), (_XOR, 0)]
    return [*steps, (_MODULO, count), (_RETURN, 0)]
