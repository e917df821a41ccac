"""What is done to every socket, and what an error of it means."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from socket import SocketType
from typing import Any

_NO_LINGER = struct.pack("ii", 1, 0)  # on, for 0 s


def accept(listener: Any, kind: tuple[int, int, int]) -> tuple[socket.socket, Any]:
    """Accepts a connection: its non-blocking socket, and the address of the peer. Raises OSError.

    As ``listener.accept``, whose socket has Python's class, with family and type as enums and a
    close of its own; that made a connection take 40 % more instructions. ``kind`` is the listener's
    family, type and protocol.
    """
    descriptor, address = listener._accept()
    family, form, protocol = kind
    try:
        accepted: Any = SocketType(family, form, protocol, descriptor)
    except BaseException:  # no memory, say: nothing else knows of the descriptor
        os.close(descriptor)
        raise
    try:
        accepted.setblocking(False)
    except OSError:
        close(accepted)
        raise
    return accepted, address


def close_with_reset(request: socket.socket) -> None:
    """Has the close that follows send RST, and the kernel drop what it has not sent."""
    with suppress(OSError):
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def close(request: socket.socket) -> None:
    """Closes a socket. An error (EINTR, EIO) is dropped: the descriptor is free all the same."""
    try:  # noqa: SIM105  # suppress() takes as long as the close
        request.close()
    except OSError:
        pass
