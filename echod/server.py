"""One server per port: it accepts, admits and hands over."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from socketserver import BaseServer, ThreadingTCPServer
from threading import current_thread
from time import monotonic, sleep
from typing import Any, cast

from echod.config import Config
from echod.counters import ACCEPT_ERROR_REASONS, Counters, PortCounters
from echod.driver import HandlerThread
from echod.handler import LineHandler
from echod.heartbeat import Heartbeat
from echod.limits import Admission, Budget
from echod.listeners import BACKLOG, Listener
from echod.protocol import LineProtocol
from echod.reports import Reports

POLL_SECONDS = 0.2
"""How often an idle accept thread stamps its heartbeat and looks whether it is to stop."""
PAUSE_SECONDS = 0.1
"""Time without an accept after one that the system refused (no free descriptor, say)."""
BATCH = 100
"""Connections accepted at one wake before the other duties of the loop have their turn."""
LAST_ACCEPTS_SECONDS = 0.5
"""Longest time for emptying the accept queue at the end, however fast it fills."""


class StopServing(Exception):
    """Ends ``serve_forever`` from within."""


@dataclass(frozen=True)
class Engine:
    """What the servers of all ports share."""

    config: Config
    threads: Sequence[HandlerThread]
    admission: Admission
    budget: Budget
    reports: Reports


class EchoServer(ThreadingTCPServer):
    """The server of one port.

    A standard ThreadingTCPServer, but that ``process_request``, the hook in which the mix-in
    starts a thread per connection, hands the connection to one of the handler threads.
    """

    request_queue_size = BACKLOG

    def __init__(self, listener: Listener, engine: Engine) -> None:
        """Takes a bound listener; ``listen`` has it listen with the same backlog."""
        # Not TCPServer's constructor: it makes a socket of its own, which a unit whose sockets
        # are all inherited is not allowed to.
        BaseServer.__init__(self, listener.socket.getsockname(), LineHandler)
        self.socket = listener.socket
        self.listener = listener
        self.config = engine.config
        self.admission = engine.admission
        self.budget = engine.budget
        self.counters = [Counters() for _ in engine.threads]  # by the threads' index
        self.heartbeat = Heartbeat(f"accept-{listener.port}")
        self._threads_in_turn = cycle(engine.threads)
        self._reports = engine.reports
        self._accepted = Counters()  # the accept thread's own
        self._head = engine.config.prefix.encode() + b" "
        self._more_may_wait = False
        self._stopping = False

    @property
    def port_counters(self) -> PortCounters:
        """What all threads have counted for this port."""
        return PortCounters(self.listener.port, [self._accepted, *self.counters])

    def accept_until_stopped(self) -> None:
        """The body of the accept thread: serves, then empties the queue and closes the port.

        An inherited listener is left as it is: what waits there is its next owner's.
        """
        with suppress(StopServing):
            self.serve_forever(POLL_SECONDS)
        if not self.listener.inherited:
            deadline = monotonic() + LAST_ACCEPTS_SECONDS
            while self._accept_one() and monotonic() < deadline:
                pass
            self.server_close()
        self.heartbeat.end()

    def stop(self) -> None:
        """Has the accept thread come to its end, within POLL_SECONDS; does not wait for it.

        ``shutdown()`` waits, and for ever if ``serve_forever`` has not begun.
        """
        self._stopping = True

    # Hooks of socketserver.

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts one connection. Raises OSError if there is none, or after a pause if the
        system refuses, which would otherwise be asked again at once and for ever.
        """
        self._more_may_wait = False
        try:
            request, client_address = self.socket.accept()
        except BlockingIOError:
            raise
        except OSError as error:
            self._accept_failed(error)
            raise
        self._more_may_wait = True
        request.setblocking(False)
        return request, client_address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Admits the connection if there is a place for it."""
        if self.admission.take():
            return True
        self._accepted.rejected["limit"] += 1
        self._reports.rejecting.hit(limit=self.admission.limit)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands the connection to a handler thread."""
        self._accepted.opened += 1
        try:
            thread = next(self._threads_in_turn)
            thread.post(partial(self.process_request_thread, request, client_address))
        except Exception:  # noqa: BLE001  # a defect costs this connection alone
            self._lose(request, client_address, self._accepted)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the handler thread: makes the handler, which joins that thread."""
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  # a defect costs this connection alone
            thread = cast(HandlerThread, current_thread())
            self._lose(request, client_address, self.counters[thread.index])

    def service_actions(self) -> None:
        """Once a round: a heartbeat, the ends of overload, the rest of the backlog."""
        if self._stopping:
            raise StopServing
        self.heartbeat.beat(monotonic())
        self._reports.settle()
        for _ in range(BATCH):
            if not (self._more_may_wait and self._accept_one()):
                break

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports the exception being handled: it cost one connection."""
        self._reports.defect(client_address, self.listener.port)

    # What the handlers ask for.

    def new_protocol(self, client_address: Any) -> LineProtocol:
        """The protocol of a new connection."""
        return self._reports.protocol(
            self._head, self.config.max_line_bytes, client_address, self.listener.port
        )

    def release(self, request: socket.socket) -> None:
        """Closes an admitted connection's socket and frees its place."""
        self.close_request(request)
        self.admission.give_back()

    def connection_ended(self, handler: LineHandler, seconds: float) -> None:
        """Reports the end of a connection."""
        self._reports.closing.ended(
            handler.client_address,
            {
                "port": self.listener.port,
                "reason": handler.reason,
                "lines": handler.lines,
                "received_bytes": handler.received,
                "sent_bytes": handler.sent,
                "seconds": round(seconds, 3),
            },
        )

    # Accepting.

    def _lose(self, request: Any, client_address: Any, counters: Counters) -> None:
        """Ends a connection that never got its handler."""
        counters.count_closed("error", 0.0)
        self.handle_error(request, client_address)
        self.release(request)

    def _accept_one(self) -> bool:
        """What serve_forever does at a wake: false if nothing was there to accept."""
        try:
            request, client_address = self.get_request()
        except OSError:
            return False
        if self.verify_request(request, client_address):
            self.process_request(request, client_address)
        else:
            self.shutdown_request(request)
        return True

    def _accept_failed(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "")
        reason = name if name in ACCEPT_ERROR_REASONS else "other"
        self._accepted.accept_errors[reason] += 1
        if reason != "ECONNABORTED":  # that one was the client's doing
            self._reports.not_accepting.hit(port=self.listener.port, error=str(error))
            sleep(PAUSE_SECONDS)
