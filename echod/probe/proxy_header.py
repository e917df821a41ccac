"""The header of the PROXY protocol, with which a balancer passes on the client's address.

https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

_PROXY = 0x21  # version 2, the command PROXY
_STREAM = {4: 0x11, 6: 0x21}  # TCP over IPv4 and IPv6


def header(version: int, connection: socket.socket) -> bytes:
    """The header in version 1 or 2, with a connection's addresses. Raises OSError."""
    source, source_port = connection.getsockname()[:2]
    target, target_port = connection.getpeername()[:2]
    ends = [ipaddress.ip_address(str(end).partition("%")[0]) for end in (source, target)]
    family = ends[0].version
    if version == 1:
        words = ["PROXY", f"TCP{family}", *map(str, ends), str(source_port), str(target_port)]
        return " ".join(words).encode() + b"\r\n"
    body = b"".join(end.packed for end in ends) + struct.pack("!HH", source_port, target_port)
    return SIGNATURE + struct.pack("!BBH", _PROXY, _STREAM[family], len(body)) + body
