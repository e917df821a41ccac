"""The orderly end of a socket: shut for writing, read until the peer has closed too."""

from __future__ import annotations

import socket
from collections.abc import Callable

from echod.loop.event_loop import Loop

RECV_BYTES = 64 * 1024
LINGER_SECONDS = 1.0
"""How long the peer has to close as well."""
STOP_LINGER_SECONDS = 0.4
"""The same after the deadline of a stop, which must not be delayed."""


def linger(
    request: socket.socket,
    loop: Loop,
    close: Callable[[socket.socket], None],
    count: Callable[[int], None],
) -> None:
    """Closes a socket by a LingeringClose, or at once where there is no memory for one."""
    try:
        LingeringClose(request, loop, close, count)
    except MemoryError:
        close(request)


class LingeringClose:
    """A socket after its connection's end. To close one that has unread input would send RST,
    and RST destroys replies that the client has not read yet.
    """

    def __init__(
        self,
        request: socket.socket,
        loop: Loop,
        close: Callable[[socket.socket], None],
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``close`` closes the socket for good; ``count`` gets the bytes that are dropped."""
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
        """Drops what still arrives, but counts it."""
        try:
            data = self.request.recv(RECV_BYTES)
        except OSError:
            data = b""
        self._count(len(data))
        if not data:
            self.close()

    def flush(self) -> None:
        """Never called: there is nothing to send."""

    def on_timer(self, now: float) -> None:
        """The peer has not closed in time."""
        self.close()

    def on_stop(self) -> None:
        """Goes on: it has a deadline of its own."""

    abort = on_stop

    def on_error(self, error: Exception) -> None:
        """Closes the socket, whatever the error was."""
        self.close()

    def close(self) -> None:
        """Ends it now."""
        self._loop.unregister(self)
        self._close_request(self.request)
