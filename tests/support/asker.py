"""A client that asks: one check to each relay address with one token, and where each answer came from.

`python -m tests.support.asker TOKEN ADDR:PORT...` prints a JSON list of [asked, answered from, payload came back
unchanged]. After the answer to its check it sends a media packet, which the backend echoes. Its socket is not
connected: an answer from any address arrives.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

from relay.runtime.config import Address, parse_address

WAIT_S = 3.0
TRIES = 5


def binding_request(token: str) -> bytes:
    username = f"{token}:askr".encode()
    padded = username + bytes(-len(username) % 4)
    attributes = struct.pack("!HH", 6, len(username)) + padded
    return struct.pack("!HHI", 1, len(attributes), 0x2112A442) + os.urandom(12) + attributes


def exchange(sock: socket.socket, address: Address, datagram: bytes) -> tuple[bytes, str]:
    """Sends until something comes back."""
    for _ in range(TRIES):
        sock.sendto(datagram, address.sockaddr)
        try:
            answer, source = sock.recvfrom(2048)
        except TimeoutError:
            continue
        return answer, str(Address(source[0], source[1], address.family))
    return b"", ""


def ask(token: str, address: Address) -> tuple[str, str, bool]:
    with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S / TRIES)
        check = binding_request(token)
        answer, source = exchange(sock, address, check)
        if answer[:2] != b"\x01\x01" or answer[2:] != check[2:]:
            return str(address), source, False
        media = bytes([0x80, 111]) + os.urandom(158)
        echoed, media_source = exchange(sock, address, media)
        return str(address), media_source, echoed == media and media_source == source


if __name__ == "__main__":
    print(json.dumps([ask(sys.argv[1], parse_address(text)) for text in sys.argv[2:]]))
