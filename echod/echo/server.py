"""The server of a port: it accepts connections and passes them to event loops."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from socketserver import BaseServer, ThreadingTCPServer
from threading import Lock
from time import monotonic
from typing import Any

from echod.config.options import Config
from echod.echo.handler import LineHandler
from echod.echo.limits import Admission, Budget
from echod.echo.protocol import LineFormat, LineProtocol, LoggedProtocol
from echod.loop.acceptor import Acceptor
from echod.loop.event_loop import HandlerThread
from echod.loop.listeners import BACKLOG, Listener, listen
from echod.loop.sockets import accept, close, kind_of
from echod.telemetry.counters import ACCEPT_ERROR_REASONS, Counters, PortCounters
from echod.telemetry.events import Events

LAST_ACCEPTS_SECONDS = 0.5
"""Maximum time for emptying an accept queue at shutdown, however fast it fills."""


@dataclass(frozen=True)
class ServerContext:
    """The parts that the servers of all ports share."""

    config: Config
    loops: Sequence[HandlerThread]
    admission: Admission
    budget: Budget
    events: Events
    accepting: Lock  # locked during an accept: see ReserveDescriptor


class EchoServer(ThreadingTCPServer):
    """The server of one port: a ThreadingTCPServer whose hooks an event loop calls.

    Unlike the stock class it

    - never runs ``serve_forever``. An Acceptor in the first handler thread calls the same hooks
      (``get_request``, ``verify_request``, ``process_request`` or ``shutdown_request``), for all
      ports. With a thread per port a connection waits eight times for the interpreter lock, and
      takes 1.6 times as long;
    - passes a connection to an event loop in ``process_request``, where the mix-in starts a thread.
      The handlers that ``finish_request`` makes outlive their constructor. With a GIL one thread
      serves the connections of all ports: 120,000 lines a second at 64 connections instead of
      26,600;
    - does not call TCPServer's constructor, which always creates a socket. A systemd unit whose
      sockets are all inherited forbids that.
    """

    request_queue_size = BACKLOG

    def __init__(self, listener: Listener, context: ServerContext) -> None:
        """Take a bound listener; ``server_activate`` has it listen."""
        handler: Any = LineHandler  # Any, because its constructor also takes the loop
        BaseServer.__init__(self, listener.socket.getsockname(), handler)
        self.socket = listener.socket
        self.listener = listener
        self.config = context.config
        self.admission = context.admission
        self.budget = context.budget
        self.counters = [Counters() for _ in context.loops]  # by the loops' index
        self.loop = context.loops[0]  # the one that accepts
        self.acceptor = Acceptor(self.socket, self.loop, self._accept_one, self._close)
        self._accepted = self.counters[0]
        self._loops_in_turn = cycle(context.loops)
        self._events = context.events
        self._accepting = context.accepting
        self._tuning = listener.tuning
        self._kind = kind_of(self.socket)
        self._logs_lines = context.events.every_line
        self._format = LineFormat(
            self.config.prefix + b" ", self.config.max_line_bytes, logged=self._logs_lines
        )
        self.clean_protocol = LineProtocol(self._format)

    @property
    def port_counters(self) -> PortCounters:
        """The counters of all threads for this port."""
        return PortCounters(self.listener.port, self.counters)

    def stop_accepting(self) -> None:
        """Accept what is queued, for half a second at most, then close the port.

        An inherited queue is left as it is, for the next process that inherits the socket.
        """
        if self.listener.inherited:
            self.acceptor.close()
        else:
            self.acceptor.stop(monotonic() + LAST_ACCEPTS_SECONDS)

    def is_alive(self) -> bool:
        """Whether it still accepts."""
        return self.acceptor.is_open

    # Hooks of socketserver.

    def server_activate(self) -> None:
        """Listen, with the longest queue that the system allows. Raises SystemRefused."""
        listen(self.listener)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection. Raises OSError if there is none or the system refuses."""
        accepting = self._accepting
        try:
            accepting.acquire()  # "with" takes a thousand instructions more
            try:
                request, client_address = accept(self.socket, self._kind)
            finally:
                accepting.release()
        except BlockingIOError:
            raise
        except OSError as error:
            self._count_accept_error(error)
            raise
        if self._tuning.by_hand:
            self._tuning.pass_on(request)
        return request, client_address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Admit the connection if a slot is free."""
        if self.admission.take():
            return True
        self._accepted.rejected["limit"] += 1
        self._events.rejecting.hit(limit=self.admission.limit)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Pass the connection to an event loop, for life."""
        try:
            self._accepted.opened += 1
        except MemoryError:  # before it is counted, no count may be made of its end
            self.release(self.loop.index, request)
            raise
        try:
            loop = next(self._loops_in_turn)
            if loop is self.loop:
                self.finish_request(request, client_address, loop)
            else:
                loop.post(partial(self._finish_in, loop, request, client_address))
        except Exception:  # noqa: BLE001  # a bug costs this connection alone
            self._lose(request, client_address, self.loop.index)

    def finish_request(
        self, request: Any, client_address: Any, loop: HandlerThread | None = None
    ) -> None:
        """Make the handler, which registers with the loop in whose thread this is called."""
        LineHandler(request, client_address, self, loop or self.loop)

    def close_request(self, request: Any) -> None:
        """Close the socket of a connection, ignoring errors."""
        close(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report the exception being handled, which cost one connection."""
        self._events.connection_failed(client_address, self.listener.port)

    # Called by the handlers.

    def new_protocol(self, client_address: Any) -> LineProtocol:
        """A protocol for one connection; at debug level one that logs each line."""
        if not self._logs_lines:
            return LineProtocol(self._format)
        log = self._events.line_log(client_address, self.listener.port)
        return LoggedProtocol(self._format, log)

    def release(self, index: int, request: socket.socket) -> None:
        """Free an admitted connection's slot, then close its socket, in the thread of the loop with
        this index.

        In this order, because a client may reconnect as soon as it sees the close.
        """
        self.admission.give_back(index)
        close(request)

    def connection_closed(self, handler: LineHandler, seconds: float) -> None:
        """Report the close of a connection."""
        reason, lines = handler.reason, handler.lines
        if self._events.logs_close(reason, lines, handler.received, handler.sent):
            self._events.connection_closed(
                handler.client_address,
                reason,
                port=self.listener.port,
                lines=lines,
                received_bytes=handler.received,
                sent_bytes=handler.sent,
                seconds=round(seconds, 3),
            )

    # Accepting.

    def _accept_one(self) -> bool:
        """Accept one connection by the hooks of socketserver; return false if none is queued.

        Raises OSError if the system refuses to accept.
        """
        try:
            request, client_address = self.get_request()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:
            return True  # more may be queued behind this one
        if self.verify_request(request, client_address):
            self.process_request(request, client_address)
        else:
            self.shutdown_request(request)
        return True

    def _close(self) -> None:
        if not self.listener.inherited:
            with suppress(OSError):  # close() frees the descriptor even if it fails
                self.server_close()

    def _finish_in(self, loop: HandlerThread, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address, loop)
        except Exception:  # noqa: BLE001  # a bug costs this connection alone
            self._lose(request, client_address, loop.index)

    def _lose(self, request: Any, client_address: Any, index: int) -> None:
        """Close a connection whose handler could not be made."""
        try:
            self.counters[index].count_closed("error", 0.0)
            self.handle_error(request, client_address)
        finally:  # there may be no memory for a report
            self.release(index, request)

    def _count_accept_error(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "")
        reason = name if name in ACCEPT_ERROR_REASONS else "other"
        self._accepted.accept_errors[reason] += 1
        if reason != "ECONNABORTED":  # the client caused it
            self._events.not_accepting.hit(port=self.listener.port, error=str(error))
