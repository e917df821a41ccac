"""Accepting on a listening socket: batches, pauses, a reserve descriptor, and stopping."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from threading import Lock
from time import monotonic

from echod.loop.event_loop import EventLoop
from echod.loop.sockets import accept, close, kind_of

BATCH = 100
"""Connections accepted per wake-up, before open connections are served again."""
PAUSE_SECONDS = 0.1
"""Pause after the system refused an accept (no free file descriptor, for example)."""


class Acceptor:
    """A listening socket in an event loop.

    ``accept`` accepts one connection and passes it on. It returns false if none is waiting, and
    raises OSError if the system refuses. Then the acceptor pauses: an immediate retry would be a
    busy loop.
    """

    def __init__(
        self,
        request: socket.socket,
        loop: EventLoop,
        accept: Callable[[], bool],
        close: Callable[[], None],
        *,
        batch: int | None = None,
    ) -> None:
        """``request`` listens. ``close`` is called once accepting has ended. ``batch`` is the
        number of connections accepted per wake-up, BATCH by default.
        """
        self.request = request
        self.timer_slot = 0
        self.is_open = True
        self._loop = loop
        self._accept = accept
        self._close = close
        self._batch = batch

    # Called by other threads.

    def stop(self, deadline: float) -> None:
        """Accept what is queued, until ``deadline`` (monotonic seconds) at most; then close."""
        self._loop.post(_LastAccepts(self, self._loop, deadline))

    def close(self) -> None:
        """Stop accepting."""
        self._loop.post(self.on_stop)

    # Called in the event loop's thread.

    def start(self) -> None:
        """Start accepting. Raises OSError if the socket cannot be polled."""
        self._loop.register(self)

    def handle(self) -> None:
        """Accept queued clients, one batch at most."""
        self.accept_batch()

    def accept_batch(self) -> bool:
        """Accept one batch at most; return whether more clients may be queued."""
        accept = self._accept
        try:
            for _ in range(self._batch or BATCH):
                if not accept():
                    return False
        except OSError:
            self._pause()
            return False
        return True

    def on_timer(self, now: float) -> None:
        """End the pause."""
        self._loop.resume(self)

    def on_stop(self) -> None:
        """Stop accepting."""
        if self.is_open:
            self.is_open = False
            self._loop.unregister(self)
            self._close()

    abort = on_stop

    def on_error(self, error: Exception) -> None:
        """Report a bug in accepting, and pause: it may recur at every attempt."""
        self._loop.report_bug()
        self._pause()

    def flush(self) -> None:
        """Never called: a listener is not written to."""

    def _pause(self) -> None:
        if self.is_open and not self.timer_slot:
            # Scheduled first: if there is no memory for that, it goes on accepting.
            self._loop.timers.schedule(self, self._loop.now + PAUSE_SECONDS)
            self._loop.pause(self)


class _LastAccepts:
    """Empties an accept queue, one batch per round, so that other ports are served in between."""

    def __init__(self, acceptor: Acceptor, loop: EventLoop, deadline: float) -> None:
        self._acceptor = acceptor
        self._loop = loop
        self._deadline = deadline

    def __call__(self) -> None:
        more = False
        try:
            more = self._acceptor.is_open and self._acceptor.accept_batch()
        finally:
            if more and monotonic() < self._deadline:
                self._loop.post(self)
            else:
                self._acceptor.on_stop()


class ReserveDescriptor:
    """A file descriptor kept in reserve, to accept with when the process has no free one."""

    def __init__(self, accepting: Lock) -> None:
        """Every other accept of this process must hold the lock ``accepting``. Otherwise it could
        take the descriptor that is released here.
        """
        self._accepting = accepting
        self._descriptor: int | None = None
        self._take_back()

    @property
    def in_use(self) -> bool:
        """Whether a client's socket uses it, or it was lost."""
        return self._descriptor is None

    def accept(self, listener: socket.socket) -> socket.socket | None:
        """Release it and accept with it; return None if it is in use. Raises OSError."""
        if self.in_use:
            return None
        kind = kind_of(listener)
        self._accepting.acquire()
        try:
            self.close()
            try:
                return accept(listener, kind)[0]
            except BaseException:
                self._take_back()
                raise
        finally:
            self._accepting.release()

    def replace(self, request: socket.socket) -> None:
        """Close a socket; its descriptor becomes the reserve if there is none."""
        if not self.in_use:
            close(request)
            return
        self._accepting.acquire()
        try:
            close(request)
            self._take_back()
        finally:
            self._accepting.release()

    def close(self) -> None:
        """Release it."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:  # noqa: SIM105  # suppress() takes memory
                os.close(descriptor)
            except OSError:  # it is free even so
                pass

    def _take_back(self) -> None:
        try:  # noqa: SIM105  # suppress() takes memory
            self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, MemoryError):  # another process took the last one, or /dev is missing
            pass
