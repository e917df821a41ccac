"""The metrics port: /metrics, /livez, /readyz and what leads there, answered by one thread.

client_python's own server holds a thread per silent client and answers metrics on every path.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from echod.loop.event_loop import READ, WRITE, Driver
from echod.loop.heartbeat import Heartbeat
from echod.loop.listeners import Listener
from echod.telemetry.http import MAX_HEAD_BYTES, Pages, answer

DEADLINE_SECONDS = 10.0
"""From the start of a connection to its end: a scrape's default time."""
LINGER_SECONDS = 1.0
"""Time for a client to close after its response."""
PAUSE_SECONDS = 0.1
"""Time without an accept after one that the system refused."""

LINGERING, READING, SENDING = range(3)  # a client's stages, by what it would lose
PATIENCE_SECONDS = 0.0, PAUSE_SECONDS, 0.5
"""By its stage: time that a client has when another waits for its descriptor, the last one."""


class Exporter:
    """Serves the pages on a port, in a thread of its own."""

    def __init__(
        self,
        listener: Listener,
        pages: Pages,
        report_defect: Callable[[], None],
        accepting: Lock,
        max_clients: int,
    ) -> None:
        """``report_defect`` is called in the handling of an exception that a page raised.

        Whoever else accepts in this process holds ``accepting`` then. ``max_clients`` at a
        time: one more takes the place of the oldest that has its answer or else of the oldest
        whose request is not complete.
        """
        self.listener = listener
        self.driver = Driver("exporter", report_defect)  # to stop it: drain and join
        self._door = _Door(listener, pages, self.driver, _Spare(accepting), max_clients)

    @property
    def heartbeat(self) -> Heartbeat:
        """The stamp of its thread."""
        return self.driver.heartbeat

    def start(self) -> None:
        """Answers from now on. Its thread must run and the listener listen. Raises OSError."""
        self.driver.ask(lambda: self.driver.watch(self._door))


class _Spare:
    """A descriptor that is held back, to accept with when the process can have no other.

    Without it a process in that state could not say so: neither metrics nor health.
    """

    def __init__(self, accepting: Lock) -> None:
        self._accepting = accepting  # so that an echo connection does not take what is let go
        self._descriptor: int | None = None
        self._take_back()

    @property
    def in_use(self) -> bool:
        """Whether a client has it, or it was lost."""
        return self._descriptor is None

    def accept(self, listener: socket.socket) -> socket.socket | None:
        """Accepts with it; gives None if it is in use. Raises OSError."""
        if self.in_use:
            return None
        with self._accepting:
            self.close()
            try:
                return listener.accept()[0]
            except OSError:
                self._take_back()
                raise

    def replace(self, request: socket.socket) -> None:
        """Closes a socket; its descriptor becomes the spare one if there is none."""
        if not self.in_use:
            request.close()
            return
        with self._accepting:
            request.close()
            self._take_back()

    def close(self) -> None:
        """Lets it go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take_back(self) -> None:
        with suppress(OSError):  # another process may have been faster, or /dev is not there
            self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


class _Door:
    """The listening socket: accepts whatever the clients before are doing."""

    def __init__(
        self, listener: Listener, pages: Pages, driver: Driver, spare: _Spare, max_clients: int
    ) -> None:
        self.request = listener.socket
        self.tick = 0
        self.pages = pages
        self.driver = driver
        self.clients: dict[_Client, None] = {}  # in the order of their arrival
        self.max_clients = max_clients
        self._spare = spare
        self._inherited = listener.inherited
        self._open = True

    def handle(self) -> None:
        """Accepts one client; the oldest unanswered one gives way if there are too many."""
        try:
            request = self._accept()
        except BlockingIOError:
            return
        except OSError:
            request = None
        if request is None:
            self._rest()
            return
        request.setblocking(False)
        if len(self.clients) >= self.max_clients:
            self._first_to_go().close()
        client = _Client(request, self)
        self.driver.guarded(client, client.handle)  # it has probably asked already

    def expire(self, now: float) -> None:
        """The end of a pause."""
        self.driver.wake(self)

    def drain(self) -> None:
        """Accepts no more."""
        self._open = False
        self.driver.forget(self)
        self._spare.close()
        if not self._inherited:
            self.request.close()

    cut = drain

    def crash(self, error: Exception) -> None:
        """Costs the client that was being accepted, not the port."""
        self.driver.report_defect()
        self._rest()

    def gone(self, client: _Client) -> None:
        """Closes what a client leaves behind."""
        if self._open:
            self._spare.replace(client.request)
        else:
            client.request.close()

    def _accept(self) -> socket.socket | None:
        """The next client, or None if it has to wait for the descriptor of one before it."""
        try:
            return self.request.accept()[0]
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        if self._spare.in_use and self.clients:
            client = self._first_to_go()
            if self.driver.now - client.since >= PATIENCE_SECONDS[client.stage]:
                client.close()
        return self._spare.accept(self.request)

    def _first_to_go(self) -> _Client:
        """The oldest of those with the least to lose."""
        return min(self.clients, key=lambda client: client.stage)

    def _rest(self) -> None:
        """Leaves the queue alone for a moment: to ask again at once would be a busy loop."""
        if self._open:
            self.driver.rest(self)
            self.driver.timers.schedule(self, self.driver.now + PAUSE_SECONDS)

    def flush(self) -> None:
        """Never called: a listener is not written to."""


class _Client:
    """One connection: reads a head, sends the response, drops what follows, closes."""

    def __init__(self, request: socket.socket, door: _Door) -> None:
        self.request = request
        self.tick = 0
        self.stage = READING
        self._door = door
        self._head = b""
        self._received = 0
        self._unsent = b""
        self.since = door.driver.now
        door.clients[self] = None
        door.driver.watch(self)
        door.driver.timers.schedule(self, door.driver.now + DEADLINE_SECONDS)

    def handle(self) -> None:
        """Reads on, and answers when the head is complete or too long."""
        if self not in self._door.clients:
            return  # gave way to another in this very round
        try:
            data = self.request.recv(MAX_HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif self.stage == READING:
            self._received += len(data)  # empty lines before the request, too
            self._head = (self._head + data).lstrip(b"\r\n")
            complete = b"\n\r\n" in self._head or b"\n\n" in self._head
            if complete or self._received > MAX_HEAD_BYTES:
                self.stage = SENDING
                self._unsent = answer(self._head, self._door.pages)
                self._head = b""
                self.flush()

    def flush(self) -> None:
        """Sends what is left of the response; then the client is to close."""
        if self not in self._door.clients:
            return
        try:
            self._unsent = self._unsent[self.request.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._door.driver.rewatch(self, WRITE)
        else:
            # Not closed yet: unread input would reset the response on its way.
            self.stage = LINGERING
            self._door.driver.rewatch(self, READ)
            self._door.driver.timers.schedule(self, self._door.driver.now + LINGER_SECONDS)
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_WR)

    def expire(self, now: float) -> None:
        """Its time is over."""
        self.close()

    def drain(self) -> None:
        """Goes if it has nothing to wait for."""
        if self.stage != SENDING:
            self.close()

    def cut(self) -> None:
        """Goes as it is."""
        self.close()

    def crash(self, error: Exception) -> None:
        """A page that cannot be made costs the client its answer."""
        self._door.driver.report_defect()
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        if self._door.clients.pop(self, True) is None:
            self._door.driver.forget(self)
            self._door.gone(self)
