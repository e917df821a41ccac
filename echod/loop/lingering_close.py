"""The orderly end of a socket: shut for writing, read until the peer has closed too."""

from __future__ import annotations

import socket
from collections.abc import Callable

from echod.loop.event_loop import Driver

RECV_BYTES = 64 * 1024
LINGER_SECONDS = 1.0
"""How long the peer has to close as well."""
DRAIN_LINGER_SECONDS = 0.4
"""The same after the end of a drain, which must not be held up."""


class Lingering:
    """A socket after its connection's end. To close one that has unread input would send RST,
    and RST destroys replies that the client has not read yet.
    """

    def __init__(
        self,
        request: socket.socket,
        driver: Driver,
        count: Callable[[int], None],
        close: Callable[[socket.socket], None],
    ) -> None:
        """``count`` gets the number of bytes that are dropped; ``close`` closes the socket."""
        self.request = request
        self.tick = 0
        self._driver = driver
        self._count = count
        self._close_request = close
        driver.watch(self)
        deadline = driver.now + LINGER_SECONDS
        if driver.drain_deadline is not None:
            deadline = min(deadline, driver.drain_deadline + DRAIN_LINGER_SECONDS)
        driver.timers.schedule(self, deadline)
        try:
            request.shutdown(socket.SHUT_WR)
        except OSError:  # the peer has reset it
            self._close()

    def handle(self) -> None:
        """Drops what still arrives, but counts it."""
        try:
            data = self.request.recv(RECV_BYTES)
        except OSError:
            data = b""
        self._count(len(data))
        if not data:
            self._close()

    def expire(self, now: float) -> None:
        """The peer has had its time."""
        self._close()

    def crash(self, error: Exception) -> None:
        """Whatever it was, the socket goes."""
        self._close()

    def flush(self) -> None:
        """Never called: there is nothing to send."""

    def drain(self) -> None:
        """Goes on: it has a deadline of its own."""

    cut = drain

    def _close(self) -> None:
        self._driver.forget(self)
        self._close_request(self.request)
