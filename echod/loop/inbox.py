"""Calls from other threads into an event loop's thread, and the socket that wakes it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from echod.loop.sockets import close


class Inbox:
    """Queued calls, in order, and the handler of their socket. ``request`` is its reading end."""

    def __init__(self, report_bug: Callable[[], None]) -> None:
        self._report_bug = report_bug
        self.request, self._waker = socket.socketpair()
        self.request.setblocking(False)
        self._waker.setblocking(False)
        self.calls: deque[Callable[[], None]] = deque()

    def post(self, call: Callable[[], None]) -> None:
        """Add a call, from any thread."""
        self.calls.append(call)
        # A full socket wakes the loop anyway, and an ended loop needs no wake. Without memory, the
        # loop makes the call within a second; to raise here would deny that it is made.
        try:  # noqa: SIM105  # suppress() takes memory
            self._waker.send(b"\0")
        except (OSError, MemoryError):
            pass

    def handle(self) -> None:
        """Empty the socket. The loop makes the calls after the events of its round."""
        # Emptied first, so that a call posted while the others run wakes the thread again.
        self.request.recv(4096)

    def flush(self) -> None:
        """Never called: the socket is not polled for WRITE."""

    def on_error(self, error: Exception) -> None:
        """Report a bug."""
        self._report_bug()

    def make_calls(self) -> None:
        """Make all calls, in the loop's thread."""
        while self.calls:
            try:
                self.calls.popleft()()
            except Exception:  # noqa: BLE001  # a bug costs this call, never the thread
                self._report_bug()

    def close(self) -> None:
        """Close both ends."""
        close(self.request)
        close(self._waker)
