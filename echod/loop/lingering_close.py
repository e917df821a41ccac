"""Closing a socket without losing replies: shut down writing, read until the peer closes too."""

from __future__ import annotations

import socket
from collections.abc import Callable

from echod.loop.interfaces import Loop
from echod.loop.sockets import DONT_WAIT, RECV_BYTES

LINGER_SECONDS = 1.0
"""Time for the peer to close too."""
STOP_LINGER_SECONDS = 0.4
"""The same once the deadline of a stop has passed: the stop must not take longer."""


def linger(
    request: socket.socket,
    loop: Loop,
    close: Callable[[socket.socket], None],
    count: Callable[[int], None],
) -> None:
    """Close a socket by a LingeringClose, or at once if there is no memory for one."""
    try:
        LingeringClose(request, loop, close, count)
    except MemoryError:
        close(request)


class LingeringClose:
    """A socket whose connection has ended. Closing it with unread input would send RST, and RST
    destroys replies that the client has not read yet.
    """

    def __init__(
        self,
        request: socket.socket,
        loop: Loop,
        close: Callable[[socket.socket], None],
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``close`` closes the socket; ``count`` gets the number of bytes discarded."""
        self.request = request
        self.timer_slot = 0
        self._loop = loop
        self._close_request = close
        self._count = count
        try:
            request.shutdown(socket.SHUT_WR)
            deadline = loop.now + LINGER_SECONDS
            if loop.stop_deadline is not None:
                deadline = min(deadline, loop.stop_deadline + STOP_LINGER_SECONDS)
            loop.timers.schedule(self, deadline)
            loop.register(self)
        except (OSError, MemoryError):  # the peer has reset it, or there is no memory to poll it
            loop.timers.cancel(self)
            close(request)

    def handle(self) -> None:
        """Discard further input, and count it."""
        try:
            data = self.request.recv(RECV_BYTES, DONT_WAIT)
        except OSError:
            data = b""
        self._count(len(data))
        if not data:
            self.close()

    def flush(self) -> None:
        """Never called: there is nothing to send."""

    def on_timer(self, now: float) -> None:
        """Close: the peer has not closed in time."""
        self.close()

    def on_stop(self) -> None:
        """Keep lingering: the close has its own deadline."""

    abort = on_stop

    def on_error(self, error: Exception) -> None:
        """Close the socket, whatever the error was."""
        self.close()

    def close(self) -> None:
        """Close the socket now."""
        self._loop.unregister(self)
        self._close_request(self.request)
