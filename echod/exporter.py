"""The metrics port: /metrics, /livez and /readyz, answered by one thread.

client_python's own server holds a thread per silent client and answers metrics on every path.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from time import sleep

from echod.driver import READ, WRITE, Driver
from echod.heartbeat import Heartbeat
from echod.listeners import Listener
from echod.pages import MAX_HEAD_BYTES, Pages, answer

MAX_CLIENTS = 100
"""Clients at a time; one more takes the place of the oldest that has its answer or else of the
oldest whose request is not complete."""
DEADLINE_SECONDS = 10.0
"""From the start of a connection to its end: a scrape's default time."""
LINGER_SECONDS = 1.0
"""Time for a client to close after its response."""
PAUSE_SECONDS = 0.1
"""Time without an accept after one that the system refused."""

LINGERING, READING, SENDING = range(3)  # a client's stages, by what it would lose


class Exporter:
    """Serves the pages on a port, in a thread of its own."""

    def __init__(self, listener: Listener, pages: Pages, report_defect: Callable[[], None]) -> None:
        """``report_defect`` is called in the handling of an exception that a page raised."""
        self.listener = listener
        self.driver = Driver("exporter", report_defect)  # to stop it: drain and join
        self._door = _Door(listener, pages, self.driver)

    @property
    def heartbeat(self) -> Heartbeat:
        """The stamp of its thread."""
        return self.driver.heartbeat

    def start(self) -> None:
        """Answers from now on. The listener must listen already."""
        self.driver.post(lambda: self.driver.watch(self._door))
        self.driver.start()


class _Door:
    """The listening socket: accepts whatever the clients before are doing."""

    def __init__(self, listener: Listener, pages: Pages, driver: Driver) -> None:
        self.request = listener.socket
        self.tick = 0
        self.pages = pages
        self.driver = driver
        self.clients: dict[_Client, None] = {}  # in the order of their arrival
        self._inherited = listener.inherited

    def handle(self) -> None:
        """Accepts one client; the oldest unanswered one gives way if there are too many."""
        try:
            request, _ = self.request.accept()
        except BlockingIOError:
            return
        except OSError:  # no free descriptor, say: to ask again at once would be a busy loop
            sleep(PAUSE_SECONDS)
            return
        request.setblocking(False)
        if len(self.clients) >= MAX_CLIENTS:
            # The oldest of those with the least to lose.
            min(self.clients, key=lambda client: client.stage).close()
        client = _Client(request, self)
        self.driver.guarded(client, client.handle)  # it has probably asked already

    def drain(self) -> None:
        """Accepts no more."""
        self.driver.forget(self)
        if not self._inherited:
            self.request.close()

    cut = drain

    def crash(self, error: Exception) -> None:
        """Costs the client that was being accepted, not the port."""
        self.driver.report_defect()

    def flush(self) -> None:
        """Never called: a listener is not written to."""

    def expire(self, now: float) -> None:
        """Never called: nothing is scheduled."""


class _Client:
    """One connection: reads a head, sends the response, drops what follows, closes."""

    def __init__(self, request: socket.socket, door: _Door) -> None:
        self.request = request
        self.tick = 0
        self.stage = READING
        self._door = door
        self._head = b""
        self._unsent = b""
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
            self._head = (self._head + data).lstrip(b"\r\n")
            complete = b"\n\r\n" in self._head or b"\n\n" in self._head
            if complete or len(self._head) > MAX_HEAD_BYTES:
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
            self.request.close()
