"""What is done to every socket, and what an error of it means."""

from __future__ import annotations

import socket
from contextlib import suppress


def close(request: socket.socket) -> None:
    """Closes a socket. An error (EINTR, EIO) is dropped: the descriptor is free all the same."""
    with suppress(OSError):
        request.close()


def make_non_blocking(accepted: socket.socket) -> None:
    """Makes an accepted socket non-blocking, or closes it and raises OSError."""
    try:
        accepted.setblocking(False)
    except OSError:
        close(accepted)
        raise
