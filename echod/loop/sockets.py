"""Accepting, resetting and closing sockets, and what their errors mean."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from socket import SocketType
from typing import Any

DONT_WAIT = int(socket.MSG_DONTWAIT)  # each call would convert the enum
"""The flag for every ``recv`` and ``send`` of an accepted socket: see ``accept``."""
RECV_BYTES = 64 * 1024
FIRST_RECV_BYTES = 448
"""A connection's buffers until an input fills one, or is not whole lines. This size Python's own
allocator serves; a buffer of RECV_BYTES, from malloc, costs a short line 2 % of its CPU.
"""
_RESET = struct.pack("ii", 1, 0)  # linger for 0 s
_NO_LINGER = struct.pack("ii", 0, 0)


Kind = tuple[int, int, int]
"""A socket's family, type and protocol."""


def kind_of(listener: socket.socket) -> Kind:
    """The kind of a listener, and of the sockets that it accepts."""
    return int(listener.family), int(listener.type), listener.proto


def accept(listener: Any, kind: Kind) -> tuple[socket.socket, Any]:
    """Accept a connection; return its socket and the peer's address. Raises OSError.

    The socket is a blocking one: to pass DONT_WAIT to its calls takes one system call less.
    ``listener.accept`` returns an instance of Python's class, with enums and its own ``close``.
    That made a connection take 40 % more instructions, and without memory for the instance its
    descriptor would be lost. ``kind`` is the listener's.
    """
    descriptor, address = listener._accept()
    family, form, protocol = kind
    try:
        accepted: Any = SocketType(family, form, protocol, descriptor)
    except BaseException:  # no memory, for example; no object owns the descriptor yet
        os.close(descriptor)
        raise
    return accepted, address


def close_with_reset(request: socket.socket) -> None:
    """Make the next close send RST and discard unsent bytes."""
    with suppress(OSError):
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def close_at_once(listener: socket.socket) -> None:
    """Have no close of an accepted socket wait for its client. It would with the listener's
    SO_LINGER, even if the socket were non-blocking.
    """
    with suppress(OSError):  # hardly any listener has it on: no reason not to start
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def close(request: socket.socket) -> None:
    """Close a socket. Errors (EINTR, EIO) are ignored: the descriptor is free all the same."""
    try:  # noqa: SIM105  # suppress() takes as long as the close
        request.close()
    except OSError:
        pass
