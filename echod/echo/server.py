"""One server per port: it accepts, admits and hands over."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from socketserver import BaseServer, ThreadingTCPServer
from threading import Lock, current_thread
from time import monotonic
from typing import Any, cast

from echod.config.options import Config
from echod.echo.handler import LineHandler
from echod.echo.limits import Admission, Budget
from echod.echo.protocol import LineProtocol, LoggedProtocol
from echod.loop.event_loop import HandlerThread
from echod.loop.listeners import BACKLOG, Listener
from echod.telemetry.counters import ACCEPT_ERROR_REASONS, Counters, PortCounters
from echod.telemetry.events import Events

SETTLE_SECONDS = 0.2
"""How often it is looked whether a state of overload is over."""
PAUSE_SECONDS = 0.1
"""Time without an accept after one that the system refused (no free descriptor, say)."""
BATCH = 100
"""Connections accepted at one wake before those that are open have their turn."""
LAST_ACCEPTS_SECONDS = 0.5
"""Longest time for emptying the accept queues at the end, however fast they fill."""


@dataclass(frozen=True)
class Engine:
    """What the servers of all ports share."""

    config: Config
    threads: Sequence[HandlerThread]
    admission: Admission
    budget: Budget
    events: Events
    accepting: Lock  # held during an accept: see the exporter's spare descriptor


class EchoServer(ThreadingTCPServer):
    """The server of one port.

    A ThreadingTCPServer, but that ``process_request``, the hook in which the mix-in starts a
    thread per connection, hands the connection to one of the handler threads; and that one of
    them calls it when somebody connects, in the place of a ``serve_forever`` in a thread of its
    own. Two threads that take turns at the interpreter lock cost a connection more than
    everything else about it.
    """

    request_queue_size = BACKLOG

    def __init__(self, listener: Listener, engine: Engine) -> None:
        """Takes a bound listener; ``listen`` has it listen with the same backlog."""
        # Not TCPServer's constructor: it makes a socket of its own, which a unit whose sockets
        # are all inherited is not allowed to.
        BaseServer.__init__(self, listener.socket.getsockname(), LineHandler)
        self.socket = self.request = listener.socket
        self.tick = 0
        self.listener = listener
        self._tuning = listener.tuning
        self.config = engine.config
        self.admission = engine.admission
        self.budget = engine.budget
        self.counters = [Counters() for _ in engine.threads]  # by the threads' index
        self.thread = engine.threads[0]  # that accepts
        self._accepted = self.counters[0]
        self._threads_in_turn = cycle(engine.threads)
        self._events = engine.events
        self._accepting = engine.accepting
        self._head = engine.config.prefix + b" "
        self._open = True
        self._resting_until = 0.0

    @property
    def port_counters(self) -> PortCounters:
        """What all threads have counted for this port."""
        return PortCounters(self.listener.port, self.counters)

    def stop(self) -> None:
        """Has it empty the queue and close the port; ``is_alive`` tells when that is done."""
        self._accept_last_until(monotonic() + LAST_ACCEPTS_SECONDS)

    def is_alive(self) -> bool:
        """Whether it still accepts."""
        return self._open

    # Called by the handler thread.

    def start(self) -> None:
        """Accepts from now on. Raises OSError."""
        self.thread.watch(self)
        self.thread.timers.schedule(self, self.thread.now + SETTLE_SECONDS)

    def handle(self) -> None:
        """Accepts those who wait, a batch of them at most."""
        self._accept_batch()

    def expire(self, now: float) -> None:
        """Several times a second: the ends of a pause and of overload."""
        if self._resting_until and now >= self._resting_until:
            self._resting_until = 0.0
            self.thread.wake(self)
        self._events.settle()
        self.thread.timers.schedule(self, now + SETTLE_SECONDS)

    def drain(self) -> None:
        """Accepts nobody any more.

        An inherited listener is left as it is: what waits there is its next owner's.
        """
        self.thread.forget(self)
        if not self.listener.inherited:
            self.server_close()
        self._open = False

    cut = drain

    def crash(self, error: Exception) -> None:
        """A defect in accepting; not to be met again at once and for ever."""
        self._events.bug()
        self._rest()

    def flush(self) -> None:
        """Never called: a listener is not written to."""

    # Hooks of socketserver.

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts one connection. Raises OSError if there is none or the system refuses, which
        begins a pause: it would otherwise be asked again at once and for ever.
        """
        try:
            with self._accepting:
                request, client_address = self.socket.accept()
        except BlockingIOError:
            raise
        except OSError as error:
            self._accept_failed(error)
            raise
        request.setblocking(False)
        if self._tuning.by_hand:
            self._tuning.pass_on(request)
        return request, client_address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Admits the connection if there is a place for it."""
        if self.admission.take():
            return True
        self._accepted.rejected["limit"] += 1
        self._events.rejecting.hit(limit=self.admission.limit)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hands the connection to a handler thread."""
        self._accepted.opened += 1
        try:
            thread = next(self._threads_in_turn)
            if thread is self.thread:
                self.finish_request(request, client_address)
            else:
                thread.post(partial(self.process_request_thread, request, client_address))
        except Exception:  # noqa: BLE001  # a defect costs this connection alone
            self._lose(request, client_address, self._accepted)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In another handler thread: makes the handler, which joins that thread."""
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001  # a defect costs this connection alone
            thread = cast(HandlerThread, current_thread())
            self._lose(request, client_address, self.counters[thread.index])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports the exception being handled: it cost one connection."""
        self._events.connection_failed(client_address, self.listener.port)

    # What the handlers ask for.

    def new_protocol(self, client_address: Any) -> LineProtocol:
        """The protocol of a new connection, of the kind that logs lines at the level debug only."""
        limit = self.config.max_line_bytes
        if not self._events.every_line:
            return LineProtocol(self._head, limit)
        log = self._events.line_log(client_address, self.listener.port)
        return LoggedProtocol(self._head, limit, log)

    def release(self, request: socket.socket) -> None:
        """Closes an admitted connection's socket and frees its place.

        Its place first: a client that sees the end comes back before another thread goes on.
        """
        self.admission.give_back()
        self.close_request(request)

    def connection_ended(self, handler: LineHandler, seconds: float) -> None:
        """Reports the end of a connection."""
        self._events.connection_closed(
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

    def _accept_last_until(self, deadline: float) -> None:
        self.thread.post(partial(self._accept_last, deadline))

    def _accept_last(self, deadline: float) -> None:
        """Accepts those who wait and nobody after them: a batch, then other ports have theirs."""
        if not self._open:
            return
        done = True
        try:
            if not self.listener.inherited:
                done = not self._accept_batch() or monotonic() >= deadline
        finally:
            if done:
                self.drain()
            else:
                self._accept_last_until(deadline)

    def _rest(self) -> None:
        """Leaves the queue alone for a moment."""
        if not self._resting_until:
            self._resting_until = self.thread.now + PAUSE_SECONDS
            self.thread.rest(self)
            self.thread.timers.schedule(self, self._resting_until)

    def _lose(self, request: Any, client_address: Any, counters: Counters) -> None:
        """Ends a connection that never got its handler."""
        counters.count_closed("error", 0.0)
        self.handle_error(request, client_address)
        self.release(request)

    def _accept_batch(self) -> bool:
        """Whether there may be more."""
        for _ in range(BATCH):  # noqa: SIM110  # a generator takes half a microsecond more
            if not self._accept_one():
                return False
        return True

    def _accept_one(self) -> bool:
        """What socketserver does at a wake: false if nothing was there to accept."""
        try:
            request, client_address = self.get_request()
        except OSError as error:
            return error.errno == errno.ECONNABORTED  # others may wait behind this one
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
            self._events.not_accepting.hit(port=self.listener.port, error=str(error))
            self._rest()
