"""One connection: from the first byte read to the end of its socket."""

from __future__ import annotations

import errno
import fcntl
import random
import socket
import struct
import termios
from contextlib import suppress
from math import inf
from socketserver import BaseRequestHandler
from threading import current_thread
from typing import Any, Protocol, cast

from echod.config.options import Config
from echod.echo.limits import Budget
from echod.echo.protocol import LineProtocol
from echod.loop.event_loop import READ, WRITE, HandlerThread
from echod.loop.lingering_close import RECV_BYTES, Lingering
from echod.loop.poller import is_ready
from echod.telemetry.counters import Counters

AGE_GRACE_SECONDS = 1.0
"""How long a connection past its age waits for the next line, to end right after a reply."""
FRESH_SECONDS = 1.0
"""How long after its start a connection that has sent nothing yet is kept open in a drain."""
AGE_JITTER = 0.1
"""Ages are spread by this share, so that connections made together do not return together."""

_PEER_GONE = {
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    # What the kernel reports in its place, when it gives up, if it was told why nobody answers.
    errno.EHOSTUNREACH: "timeout",  # by a router, or because no neighbour has the address
    errno.EHOSTDOWN: "timeout",
    errno.ENETUNREACH: "timeout",
    errno.ECONNREFUSED: "timeout",  # by a firewall's ICMP: port unreachable,
    errno.ENOPROTOOPT: "timeout",  # protocol unreachable,
    errno.EACCES: "timeout",  # prohibited (IPv6); or the route of this host is,
    errno.EINVAL: "timeout",  # or is a black hole (IPv6)
}
_ORDERLY = frozenset({"idle", "max_age", "line_too_long", "buffer_limit", "drain"})
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER, on, 0 s: close() sends RST


class Server(Protocol):
    """What a connection needs of the server that accepted it."""

    config: Config
    counters: list[Counters]
    budget: Budget

    def new_protocol(self, client_address: Any) -> LineProtocol:
        """The protocol of a new connection."""

    def connection_ended(self, handler: LineHandler, seconds: float) -> None:
        """Reports an end: ``handler.reason`` says why."""

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        """Reports the exception that is being handled."""

    def release(self, request: socket.socket) -> None:
        """Closes an admitted connection's socket and frees its place."""


class LineHandler(BaseRequestHandler):
    """Answers the lines of one connection.

    Made by ``finish_request`` like any request handler, with the standard names, and with
    one departure from the standard shape: the instance outlives its constructor. ``handle``
    answers all that has arrived and returns; the handler thread calls it again whenever the
    socket is readable; ``finish`` comes at the end of the connection. A thread that waits
    inside ``handle`` for the next line, as the standard shape has it, costs every line a
    fight for the interpreter lock.
    """

    server: Server  # type: ignore[assignment]  # narrower than BaseServer: the part used here
    request: socket.socket

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        # Not super().__init__(), which ends the connection when handle() returns.
        self.request = request
        self.client_address = client_address
        self.server = server
        self.setup()
        try:
            self.handle()
        except Exception as error:  # noqa: BLE001  # a defect costs this connection alone
            self.crash(error)

    def setup(self) -> None:
        """Joins the handler thread that this runs in."""
        self.thread = cast(HandlerThread, current_thread())
        self.counters = self.server.counters[self.thread.index]
        self.protocol = self.server.new_protocol(self.client_address)
        self.lines = self.received = self.sent = 0  # bytes but for the lines
        self.unsent = b""
        self.held = 0  # bytes taken from the budget
        self.events = READ  # or WRITE, while replies are due
        self.leaving: str | None = None  # the reason to end with, when what is due is sent
        self.quota = 0  # bytes still to be read before leaving
        self.reason = ""
        self.opened_at = self.active_at = self.thread.now
        age = self.server.config.max_connection_age
        self.expires_at = None if age is None else self.opened_at + _jittered(age)
        self.tick = 0
        self.thread.watch(self)
        self._schedule()

    def handle(self) -> None:
        """Reads once and answers every line that is complete."""
        try:
            data = self.request.recv(RECV_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(_reason_of(error))
            return
        if not data:
            self._end("eof")
            return
        size = len(data)
        self.active_at = self.thread.now
        self.received += size
        self.counters.received += size
        protocol = self.protocol
        reply, lines = protocol.receive(data)
        if lines and not self._answer(reply, lines):
            return
        if self.unsent or self.held or self.leaving or not protocol.clean:
            self.quota -= size
            self._settle()

    def flush(self) -> None:
        """Sends more of what is due. Nothing is read before all of it has left."""
        unsent, self.unsent = self.unsent, b""
        if unsent and not self._send(unsent):
            return
        if self.protocol.waiting and not self.unsent:
            reply, lines = self.protocol.resume()
            if not self._answer(reply, lines):
                return
        self._settle()

    def drain(self) -> None:
        """Ends the connection once all that has arrived by now is answered.

        The first line of a client that has only just connected is probably on its way.
        """
        arrived = _readable_bytes(self.request)
        fresh_until = self.opened_at + FRESH_SECONDS
        deadline = self.thread.drain_deadline or 0
        if not self.received + arrived and self.thread.now < fresh_until < deadline:
            self.expires_at = fresh_until
            self._leave("drain", 1)
        else:
            self.expires_at = None
            self._leave("drain", arrived)

    def cut(self) -> None:
        """Ends the connection as it is, because the time to drain is over."""
        self._end("drain_timeout")

    def expire(self, now: float) -> None:
        """Looks which deadline has come, if one still has."""
        due = self._replies_due()
        if self._overdue(now) and is_ready(self.request.fileno(), writing=due):
            # What it waits for is there, its event still to come: after a standstill, say.
            (self.flush if due else self.handle)()
        if self.reason:
            return
        if reason := self._overdue(now):
            self._end(reason)
        elif self.expires_at is not None and now >= self.expires_at:
            self._age(now)
        else:
            self._schedule()

    def crash(self, error: Exception) -> None:
        """Reports a defect; the connection ends with it."""
        self.server.handle_error(self.request, self.client_address)
        if not self.reason:
            self._end("error")

    def finish(self) -> None:
        """Counts the end, gives back what was held, and lets the socket go."""
        seconds = self.thread.now - self.opened_at
        self.counters.count_closed(self.reason, seconds)
        if self.held:
            self.server.budget.change(-self.held)
            self.held = 0
        self.thread.forget(self)
        if self.reason in _ORDERLY and not self._replies_due():
            Lingering(self.request, self.thread, self.counters.count_dropped, self.server.release)
        else:
            if self._replies_due() and self.reason != "drain_timeout":
                # A client that does not take its replies: free the kernel's copy as well.
                with suppress(OSError):
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.server.release(self.request)
        self.server.connection_ended(self, seconds)

    def _overdue(self, now: float) -> str:
        """The reason to end with, if it has been quiet for too long."""
        config, quiet = self.server.config, now - self.active_at
        if self._replies_due() and quiet >= (config.write_timeout or inf):
            return "write_timeout"
        return "idle" if quiet >= (config.idle_timeout or inf) else ""

    def _replies_due(self) -> bool:
        return bool(self.unsent or self.protocol.waiting)

    def _answer(self, reply: bytes, lines: int) -> bool:
        """Counts the lines and sends their reply; false if that ended the connection."""
        self.lines += lines
        self.counters.requests += lines
        return self._send(reply)

    def _send(self, reply: bytes) -> bool:
        """Sends what the kernel takes and keeps the rest; false if that ended the connection."""
        try:
            sent = self.request.send(reply)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._end(_reason_of(error))
            return False
        self.counters.sent += sent
        self.sent += sent
        if sent < len(reply):
            self.unsent = reply[sent:]
        if sent:
            self.active_at = self.thread.now
        return True

    def _settle(self) -> None:
        """Decides what to wait for now: room to send, more to read, or nothing any more."""
        held = len(self.unsent) + self.protocol.held
        if not self.server.budget.change(held - self.held):
            self._end("buffer_limit")
            return
        self.held = held
        if self.protocol.overlong:
            self.leaving, self.quota = "line_too_long", 0
        done = not self._replies_due()
        waited_for = self.expires_at and self.protocol.in_line
        if done and self.leaving and self.quota <= 0 and not waited_for:
            self._end(self.leaving)
            return
        events = READ if done else WRITE
        if events != self.events:
            self.events = events
            self.thread.rewatch(self, events)
        self._schedule()

    def _leave(self, reason: str, quota: int) -> None:
        """Ends for ``reason`` when ``quota`` bytes more are read and every reply is sent."""
        self.leaving, self.quota = reason, quota
        self._settle()

    def _age(self, now: float) -> None:
        """Right after a reply is when an end costs a client least: waits a little for one."""
        if self.leaving is None:
            self.expires_at = now + AGE_GRACE_SECONDS
            self._leave("max_age", max(_readable_bytes(self.request), 1))
        else:
            self.expires_at = None
            self._leave(self.leaving, 0)

    def _schedule(self) -> None:
        """Asks for a look at the earliest deadline."""
        config = self.server.config
        at = inf if self.expires_at is None else self.expires_at
        if config.idle_timeout is not None:
            at = min(at, self.active_at + config.idle_timeout)
        if self._replies_due() and config.write_timeout is not None:
            at = min(at, self.active_at + config.write_timeout)
        if at != inf:
            self.thread.timers.schedule(self, at)

    def _end(self, reason: str) -> None:
        # A client that has sent nothing and goes is a load balancer's check: no traffic.
        self.reason = "unused" if not self.received and reason in ("eof", "reset") else reason
        self.finish()


def _reason_of(error: OSError) -> str:
    return _PEER_GONE.get(error.errno or 0, "error")


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)  # noqa: S311  # no secret


def _readable_bytes(request: socket.socket) -> int:
    """How many bytes have arrived on a socket and can be read now."""
    return int(struct.unpack("i", fcntl.ioctl(request, termios.FIONREAD, bytes(4)))[0])
