"""One connection, from its first byte to the close of its socket."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from math import inf
from socketserver import BaseRequestHandler
from typing import Any

from echod.echo.closing import CLOSED, CLOSING, OPEN, ORDERLY, CloseIntent, jittered, reason_of
from echod.echo.interfaces import HandlerLoop, Server
from echod.echo.protocol import NEWLINE
from echod.loop.lingering_close import linger
from echod.loop.poller import READ, WRITE
from echod.loop.sockets import DONT_WAIT, FIRST_RECV_BYTES, RECV_BYTES, close_with_reset


class LineHandler(BaseRequestHandler):
    """Answers the lines of one connection.

    ``finish_request`` makes it like any request handler, and its methods have the standard names.
    Unlike the stock class it outlives its constructor. ``handle`` answers what has arrived and
    returns. The event loop calls it again whenever the socket is readable, and ``finish`` runs when
    the connection closes. A thread that waited for the next line inside ``handle`` would have to
    acquire the interpreter lock again for every line.

    Effects of the calls in each state (tests/unit/test_connection_states.py tests all of them):

    ============  ============================  ===============================  ========
    event         open                          closing                          closed
    ============  ============================  ===============================  ========
    ``handle``    answers lines; closes at eof  the same; closes when the        never
                  or an error of the socket     intent is fulfilled              called
    ``flush``     sends pending replies         the same; closes when the
                                                intent is fulfilled
    ``on_timer``  closes after a timeout;       closes after a timeout; after
                  starts to close at its age    ``until`` waits for nothing
    ``on_stop``   starts to close: drain        the same; replaces the intent
    ``abort``     closes: drain_timeout         the same
    ``on_error``  closes: error                 the same
    ============  ============================  ===============================  ========
    """

    server: Server  # type: ignore[assignment]  # the part of BaseServer that is used
    request: socket.socket

    def __init__(self, request: Any, client_address: Any, server: Any, loop: HandlerLoop) -> None:
        # Not super().__init__(), which ends the connection when handle() returns.
        self.request = request
        self.client_address = client_address
        self.server = server
        self.loop = loop
        self.setup()
        try:
            self._schedule()
            self.handle()
        except Exception as error:  # noqa: BLE001  # a bug costs this connection alone
            loop.failed(self, error)

    def setup(self) -> None:
        """Register with the event loop in whose thread this runs."""
        server, loop = self.server, self.loop
        self.counters = server.counters[loop.index]
        self.protocol = server.clean_protocol  # until a line is cut, for example
        self.lines = self.received = self.sent = 0  # received and sent: bytes
        self.unsent = b""
        self.buffered = 0  # bytes counted in the budget
        self.recv_bytes = FIRST_RECV_BYTES  # until input fills it
        plain = self.protocol.format.plain_bytes  # not min(), which takes time from each connection
        self.plain_bytes = plain if plain < FIRST_RECV_BYTES else FIRST_RECV_BYTES - 1  # see handle
        self.several = False  # whether the last input was several lines: the next one may be, too
        self.events = READ  # or WRITE, while replies are pending
        self.state = OPEN
        self.intent: CloseIntent | None = None  # while closing
        self.reason = ""  # when closed
        self.held = True  # whether the socket is still this handler's; finish passes it on
        self.opened_at = self.active_at = loop.now
        age = server.config.max_connection_age
        self.ages_at = inf if age == inf else self.opened_at + jittered(age)
        self.timer_slot = 0
        loop.register(self)

    def handle(self) -> None:
        """Read once, and answer every complete line.

        Whole lines while nothing is pending (else ``plain_bytes`` is 0) are answered here, as by
        ``form.replies``. With ``_receive`` it would take 1.5 times the instructions.
        """
        try:
            data = self.request.recv(self.recv_bytes, DONT_WAIT)
        except OSError as error:
            self._not_received(error)
            return
        size, form = len(data), self.protocol.format
        if not data or size > self.plain_bytes:
            self._receive(data)
            return
        if not self.several and data.find(b"\n") + 1 == size:
            replies, lines = form.prefix + data, 1
        elif data[-1] == NEWLINE:
            replies = form.prefix + data.replace(b"\n", form.between).removesuffix(form.prefix)
            lines = (len(replies) - size) // form.prefix_bytes
            self.several = lines > 1
        else:
            self._receive(data)
            return
        counters, self.active_at = self.counters, self.loop.now
        self.received += size
        self.lines += lines
        counters.received += size
        counters.requests += lines
        try:
            sent = self.request.send(replies, DONT_WAIT)
        except OSError as error:
            if self._not_sent(replies, error):
                self._update()
            return
        self.sent += sent
        counters.sent += sent
        if sent < len(replies):
            self.unsent = replies[sent:]
            self._update()

    def flush(self) -> None:
        """Send more pending bytes. The connection reads nothing until all of them are sent."""
        unsent, self.unsent = self.unsent, b""
        if unsent and not self._send(unsent):
            return
        if self.protocol.waiting and not self.unsent:
            reply, lines = self.protocol.resume()
            if not self._send(reply, lines):
                return
        self._update()

    def on_stop(self) -> None:
        """Drain: close the connection once everything that has arrived is answered."""
        arrived, loop = self.loop.readable_bytes(self), self.loop
        unused_since = None if self.received + arrived else self.opened_at
        self.close_after(
            CloseIntent.drain(arrived, unused_since, loop.now, loop.stop_deadline or 0)
        )

    def abort(self) -> None:
        """Close the connection at once, because the drain has timed out."""
        self._close("drain_timeout")

    def on_timer(self, now: float) -> None:
        """Handle data that arrived while the process was suspended, then check the deadlines."""
        pending = self._is_pending()
        if self._overdue(now) and self.loop.is_ready(self, WRITE if pending else READ):
            (self.flush if pending else self.handle)()
        if self.state is not CLOSED:
            self._judge_deadlines(now)

    def on_error(self, error: Exception) -> None:
        """Report a bug, and close the connection."""
        try:
            self.server.handle_error(self.request, self.client_address)
        finally:  # there may be no memory for a report
            if self.state is not CLOSED:
                self._close("error")
            elif self.held:  # finish itself failed, out of memory: do the rest of it
                self.finish()

    def finish(self) -> None:
        """Free buffered bytes, then close the socket or hand it to a lingering close."""
        if self.buffered:
            self.server.budget.change(-self.buffered)
            self.buffered = 0
        server, loop, pending = self.server, self.loop, self.unsent or self.protocol.waiting
        if self.reason in ORDERLY and not pending:
            loop.unregister(self)
            release = partial(server.release, loop.index)
            linger(self.request, loop, release, self.counters.count_dropped)
        else:
            loop.unregister(self, closes=True)
            if pending and self.reason != "drain_timeout":
                close_with_reset(self.request)  # so that the kernel frees unsent replies
            server.release(loop.index, self.request)
        self.held = False
        server.connection_closed(self, loop.now - self.opened_at)

    def close_after(self, intent: CloseIntent) -> None:
        """Close as intended: now, or when it is fulfilled."""
        self.state, self.intent = CLOSING, intent
        self._update()

    # What has arrived.

    def _not_received(self, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            self._close(reason_of(error))

    def _receive(self, data: bytes) -> None:
        """Handle any data that was read; ``b""`` is the end of the stream."""
        if not data:
            self._close("eof")
            return
        if len(data) == self.recv_bytes == FIRST_RECV_BYTES:
            data = self._read_on(data)
        size, protocol = len(data), self.protocol
        self.active_at = self.loop.now
        self.received += size
        self.counters.received += size
        if protocol is self.server.clean_protocol:
            protocol = self.protocol = self.server.new_protocol(self.client_address)
        reply, lines = protocol.receive(data)
        if lines and not self._send(reply, lines):
            return
        if self.unsent or not self.plain_bytes or not protocol.clean:
            if self.intent:
                self.intent = self.intent._replace(after_bytes=self.intent.after_bytes - size)
            self._update()

    def _read_on(self, data: bytes) -> bytes:
        """Return input that filled the first buffer, with what else has arrived. A cut there would
        need the budget, and a close that waits for input would take half of it for all.
        """
        self.plain_bytes = 0  # for an update, which sets the next buffer, too
        with suppress(OSError):
            if more := self.loop.readable_bytes(self):  # else an error would be read, and lost
                data += self.request.recv(min(more, RECV_BYTES - len(data)), DONT_WAIT)
        return data

    # Deadlines.

    def _judge_deadlines(self, now: float) -> None:
        if reason := self._overdue(now):
            self._close(reason)
        elif self.intent and 0 < self.intent.until <= now:
            self.close_after(CloseIntent(self.intent.reason, self.loop.readable_bytes(self)))
        elif not self.intent and self.ages_at <= now:
            self.close_after(CloseIntent.max_age(self.loop.readable_bytes(self), now))
        else:
            self._schedule()

    def _overdue(self, now: float) -> str:
        """The close reason of an expired timeout, or an empty string."""
        config, quiet = self.server.config, now - self.active_at
        if self._is_pending() and quiet >= config.write_timeout:
            return "write_timeout"
        return "idle" if quiet >= config.idle_timeout else ""

    def _schedule(self) -> None:
        """Set the timer to the earliest deadline."""
        config = self.server.config
        at = self.active_at + config.idle_timeout
        if self.unsent or self.protocol.waiting:
            at = min(at, self.active_at + config.write_timeout)
        end = (self.intent.until or inf) if self.intent else self.ages_at
        if end < at:
            at = end
        if at != inf:
            self.loop.timers.schedule(self, at)

    # Replies.

    def _is_pending(self) -> bool:
        """Whether any reply is unsent or any complete line unanswered."""
        return bool(self.unsent or self.protocol.waiting)

    def _send(self, reply: bytes, lines: int = 0) -> bool:
        """Count the answered lines, send what the kernel accepts of the reply, and keep the rest.
        Returns false if that closed the connection.
        """
        self.lines += lines
        self.counters.requests += lines
        try:
            sent = self.request.send(reply, DONT_WAIT)
        except OSError as error:
            return self._not_sent(reply, error)
        self.counters.sent += sent
        self.sent += sent
        self.active_at = self.loop.now
        if sent < len(reply):
            self.unsent = reply[sent:]
        return True

    def _not_sent(self, reply: bytes, error: OSError) -> bool:
        """Keep the reply if the kernel has no room; false if the error closed the connection."""
        if isinstance(error, BlockingIOError):
            self.unsent = reply
            return True
        self._close(reason_of(error))
        return False

    # After reading and sending.

    def _update(self) -> None:
        """Update the budget, the intent, the polled event and the timer."""
        protocol = self.protocol
        buffered = len(self.unsent) + protocol.buffered
        if buffered != self.buffered:
            if not self.server.budget.change(buffered - self.buffered):
                self._close("buffer_limit")
                return
            self.buffered = buffered
        self.recv_bytes = RECV_BYTES  # plain_bytes fits it, not the first buffer
        self.plain_bytes = 0 if self.intent or buffered else protocol.format.plain_bytes
        if protocol.overlong:
            self.state, self.intent = CLOSING, CloseIntent("line_too_long")
        pending = self._is_pending()
        if self.intent and not pending and self.intent.is_fulfilled(protocol.in_line):
            self._close(self.intent.reason)
            return
        events = WRITE if pending else READ
        if events != self.events:
            self.events = events
            self.loop.modify(self, events)
        self._schedule()

    def _close(self, reason: str) -> None:
        """Close for ``reason``, or as ``unused`` if the client left without sending a byte."""
        unused = not self.received and reason in ("eof", "reset")
        self.reason = "unused" if unused else reason
        self.counters.count_closed(self.reason, self.loop.now - self.opened_at)
        self.state, self.intent = CLOSED, None  # after counting, so that it is counted once only
        self.finish()
