"""The metrics port: /metrics, /livez and /readyz, answered by one thread.

Unlike client_python's own server, it needs no thread per silent client, and returns metrics on
/metrics only.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from enum import IntEnum
from threading import Lock

from echod.loop.acceptor import PAUSE_SECONDS, Acceptor, ReserveDescriptor
from echod.loop.event_loop import EventLoop
from echod.loop.heartbeat import Heartbeat
from echod.loop.lingering_close import LingeringClose
from echod.loop.listeners import Listener
from echod.loop.poller import WRITE
from echod.loop.sockets import DONT_WAIT, accept, close, kind_of
from echod.telemetry.http import MAX_HEAD_BYTES, Pages, answer

DEADLINE_SECONDS = 10.0
"""Maximum duration of a connection: the default timeout of a scrape."""


class State(IntEnum):
    """The state of a client. A higher one loses more if it is disconnected."""

    LINGERING = 0
    READING = 1
    SENDING = 2


PATIENCE_SECONDS = {State.LINGERING: 0.0, State.READING: PAUSE_SECONDS, State.SENDING: 0.5}
"""The age at which a client is closed to free a descriptor for another that waits for one."""


class Exporter:
    """Serves the pages on a port, in its own thread."""

    def __init__(
        self,
        listener: Listener,
        pages: Pages,
        report_bug: Callable[[], None],
        accepting: Lock,
        max_clients: int,
    ) -> None:
        """``report_bug`` is called inside the ``except`` block of a bug in a page.

        Every other accept of this process must hold the lock ``accepting``. With ``max_clients``
        connected, a new client displaces the oldest one that has its response. If there is none,
        it displaces the oldest one whose request is incomplete.
        """
        self.listener = listener
        self.loop = EventLoop("exporter", report_bug)  # to end it, stop and join it
        self.pages = pages
        self.clients: dict[_Client, None] = {}  # in the order of their arrival
        self._max_clients = max_clients
        self._kind = kind_of(listener.socket)
        self._reserve = ReserveDescriptor(accepting)
        self.acceptor = Acceptor(listener.socket, self.loop, self._accept_one, self._close, batch=1)

    @property
    def heartbeat(self) -> Heartbeat:
        """The heartbeat of its thread."""
        return self.loop.heartbeat

    def release(self, request: socket.socket) -> None:
        """Close a client's socket."""
        if self.acceptor.is_open:
            self._reserve.replace(request)
        else:
            close(request)

    def _accept_one(self) -> bool:
        """Accept one client, and close another if there are too many."""
        try:
            request = self._accept()
        except BlockingIOError:
            return False
        if len(self.clients) >= self._max_clients:
            self._first_to_go().close()
        try:
            client = _Client(request, self)
        except BaseException:  # for example, no memory to poll it
            self.release(request)
            raise
        self.loop.guarded(client, client.handle)  # its request has probably arrived already
        return True

    def _accept(self) -> socket.socket:
        """The next client. Raises OSError if there is none or the system refuses to accept."""
        try:
            return accept(self.listener.socket, self._kind)[0]
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            if self._reserve.in_use and self.clients:
                client = self._first_to_go()
                if self.loop.now - client.since >= PATIENCE_SECONDS[client.state]:
                    client.close()
            request = self._reserve.accept(self.listener.socket)
            if request is None:  # an earlier client uses the reserve descriptor
                raise
            return request

    def _first_to_go(self) -> _Client:
        """The oldest client among those with the least to lose."""
        return min(self.clients, key=lambda client: client.state)

    def _close(self) -> None:
        """Close the port, and the clients that have their response."""
        self._reserve.close()
        if not self.listener.inherited:
            close(self.listener.socket)
        for client in [one for one in self.clients if one.state is State.LINGERING]:
            client.close()


class _Client:
    """One connection: reads a request's head, sends the response, discards the rest, closes."""

    def __init__(self, request: socket.socket, exporter: Exporter) -> None:
        self.request = request
        self.timer_slot = 0
        self.state = State.READING
        self._exporter = exporter
        self._loop = exporter.loop
        self._head = b""
        self._received = 0
        self._unsent = b""
        self._lingering: LingeringClose | None = None
        self.since = self._loop.now
        try:
            exporter.clients[self] = None
            self._loop.timers.schedule(self, self._loop.now + DEADLINE_SECONDS)
            self._loop.register(self)
        except BaseException:
            exporter.clients.pop(self, None)
            self._loop.timers.cancel(self)
            raise

    def handle(self) -> None:
        """Read more, and respond once the head is complete or too long."""
        try:
            data = self.request.recv(MAX_HEAD_BYTES, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += len(data)  # empty lines before the request, too
        self._head = (self._head + data).lstrip(b"\r\n")
        complete = b"\n\r\n" in self._head or b"\n\n" in self._head
        if complete or self._received > MAX_HEAD_BYTES:
            self.state = State.SENDING
            self._unsent = answer(self._head, self._exporter.pages)
            self._head = b""
            self.flush()

    def flush(self) -> None:
        """Send the rest of the response, then wait for the client to close."""
        try:
            self._unsent = self._unsent[self.request.send(self._unsent, DONT_WAIT) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._loop.modify(self, WRITE)
        else:
            self.state = State.LINGERING
            self._loop.unregister(self)
            self._lingering = LingeringClose(self.request, self._loop, self._release)

    def on_timer(self, now: float) -> None:
        """Close at the deadline."""
        self.close()

    def on_stop(self) -> None:
        """Close if its request is not complete."""
        if self.state is State.READING:
            self.close()

    def abort(self) -> None:
        """Close now."""
        self.close()

    def on_error(self, error: Exception) -> None:
        """Report a bug in a page, and close without a response."""
        self._loop.report_bug()
        self.close()

    def close(self) -> None:
        """Close the connection in any state; do nothing if it is closed."""
        if self._lingering:
            self._lingering.close()
        elif self in self._exporter.clients:
            if self.state is not State.LINGERING:
                self._loop.unregister(self)
            self._release(self.request)

    def _release(self, request: socket.socket) -> None:
        self._lingering = None
        self._exporter.clients.pop(self, None)
        self._exporter.release(request)
