"""One connection: from the first byte read to the close of its socket."""

from __future__ import annotations

import socket
from math import inf
from socketserver import BaseRequestHandler
from typing import Any

from echod.echo.closing import CloseIntent, State, jittered, reason_of
from echod.echo.interfaces import HandlerLoop, Server
from echod.echo.protocol import NEWLINE
from echod.loop.lingering_close import RECV_BYTES, linger
from echod.loop.poller import READ, WRITE
from echod.loop.sockets import close_with_reset

AGE_GRACE_SECONDS = 1.0
"""How long a connection past its age waits for the next line, to close right after a reply."""
FRESH_SECONDS = 1.0
"""How long after its start a client may send its first byte when a drain has begun."""

_ORDERLY = frozenset({"idle", "max_age", "line_too_long", "buffer_limit", "drain"})


class LineHandler(BaseRequestHandler):
    """Answers the lines of one connection.

    ``finish_request`` makes it like any request handler, and its methods have the standard names.
    Unlike the stock class it outlives its constructor. ``handle`` answers all that has arrived and
    returns; the event loop calls it again whenever the socket is readable, and ``finish`` when the
    connection closes. A thread that waited inside ``handle`` for the next line would have to win
    the interpreter lock back for every line.

    What happens, by state (tests/unit/test_connection_states.py walks through all of it):

    ============  ============================  ===============================  ========
    event         open                          closing                          closed
    ============  ============================  ===============================  ========
    ``handle``    answers lines; closes at eof  the same; closes when the        never:
                  or an error of the socket     intent is fulfilled              the loop
    ``flush``     sends pending replies         the same; closes when the        no longer
                                                intent is fulfilled              calls it
    ``on_timer``  closes if overdue; begins     closes if overdue; at ``until``
                  to close at its age           waits for nothing more
    ``on_stop``   begins to close: drain        the same, whatever it was
    ``abort``     closes: drain_timeout         the same
    ``on_error``  closes: error                 the same
    ============  ============================  ===============================  ========
    """

    server: Server  # type: ignore[assignment]  # narrower than BaseServer: the part used here
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
            self.on_error(error)

    def setup(self) -> None:
        """Registers with the event loop in whose thread this runs."""
        server, loop = self.server, self.loop
        self.counters = server.counters[loop.index]
        self.protocol = server.new_protocol(self.client_address)
        self.lines = self.received = self.sent = 0  # bytes but for the lines
        self.unsent = b""
        self.buffered = 0  # bytes taken from the budget
        self.plain_bytes = self.protocol.plain_bytes  # see handle
        self.events = READ  # or WRITE, while replies are pending
        self.state = State.OPEN
        self.intent: CloseIntent | None = None  # while closing
        self.reason = ""  # when closed
        self.held = True  # the socket, until finish lets go of it
        self.opened_at = self.active_at = loop.now
        age = server.config.max_connection_age
        self.ages_at = inf if age == inf else self.opened_at + jittered(age)
        self.timer_slot = 0
        loop.register(self)

    def handle(self) -> None:
        """Reads once and answers every line that is complete.

        The usual case, whole lines and nothing else to do (else ``plain_bytes`` are 0), is dealt
        with right here: ``_receive`` could do it too, with half as many instructions again.
        """
        try:
            data = self.request.recv(RECV_BYTES)
        except OSError as error:
            self._not_received(error)
            return
        size, form = len(data), self.protocol.format
        if not 0 < size <= self.plain_bytes:
            self._receive(data)
            return
        if data.find(b"\n") + 1 == size:
            replies, lines = form.prefix + data, 1
        elif data[-1] == NEWLINE:
            replies = form.replies(data)
            lines = (len(replies) - size) // form.prefix_bytes
        else:
            self._receive(data)
            return
        counters = self.counters
        self.active_at = self.loop.now
        self.received += size
        self.lines += lines
        counters.received += size
        counters.requests += lines
        try:
            sent = self.request.send(replies)
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
        """Sends more of what is pending. Nothing is read before all of it has left."""
        unsent, self.unsent = self.unsent, b""
        if unsent and not self._send(unsent):
            return
        if self.protocol.waiting and not self.unsent:
            reply, lines = self.protocol.resume()
            if not self._send(reply, lines):
                return
        self._update()

    def on_stop(self) -> None:
        """Drains: closes the connection once all that has arrived by now is answered, and the
        first line of a client that has only just connected, which is probably on its way.
        """
        arrived = self.loop.readable_bytes(self)
        fresh_until = self.opened_at + FRESH_SECONDS
        deadline = self.loop.stop_deadline or 0
        if not self.received + arrived and self.loop.now < fresh_until < deadline:
            self.close_after(CloseIntent("drain", 1, fresh_until))
        else:
            self.close_after(CloseIntent("drain", arrived))

    def abort(self) -> None:
        """Closes the connection as it is, because the time to drain is over."""
        self._close("drain_timeout")

    def on_timer(self, now: float) -> None:
        """Looks for what is there, then judges the deadlines."""
        self._take_what_is_there(now)
        if self.state is not State.CLOSED:
            self._judge_deadlines(now)

    def on_error(self, error: Exception) -> None:
        """Reports a bug; the connection closes with it."""
        self.server.handle_error(self.request, self.client_address)
        if self.state is not State.CLOSED:
            self._close("error")
        elif self.held:  # finish met the error, for want of memory: the rest of it
            self.finish()

    def finish(self) -> None:
        """Frees what was buffered, and closes or releases the socket."""
        if self.buffered:
            self.server.budget.change(-self.buffered)
            self.buffered = 0
        pending, release = self.unsent or self.protocol.waiting, self.server.release
        lingers = self.reason in _ORDERLY and not pending
        self.loop.unregister(self, closes=not lingers)
        self.held = False
        if lingers:
            linger(self.request, self.loop, release, self.counters.count_dropped)
        else:
            if pending and self.reason != "drain_timeout":
                close_with_reset(self.request)  # so that the kernel frees what was not read
            release(self.request)
        self.server.connection_closed(self, self.loop.now - self.opened_at)

    def close_after(self, intent: CloseIntent) -> None:
        """Closes as intended: now, or when it is fulfilled."""
        self.state, self.intent = State.CLOSING, intent
        self._update()

    # What has arrived.

    def _not_received(self, error: OSError) -> None:
        if not isinstance(error, BlockingIOError):
            self._close(reason_of(error))

    def _receive(self, data: bytes) -> None:
        """Deals with whatever was read; ``b""`` is the end of the stream."""
        if not data:
            self._close("eof")
            return
        size, protocol = len(data), self.protocol
        self.active_at = self.loop.now
        self.received += size
        self.counters.received += size
        reply, lines = protocol.receive(data)
        if lines and not self._send(reply, lines):
            return
        if self.unsent or not self.plain_bytes or not protocol.clean:
            if self.intent:
                left = self.intent.after_bytes - size
                self.intent = self.intent._replace(after_bytes=left)
            self._update()

    # Deadlines.

    def _take_what_is_there(self, now: float) -> None:
        """Handles data that arrived while the process was suspended, before its event."""
        pending = self._is_pending()
        if self._overdue(now) and self.loop.is_ready(self, WRITE if pending else READ):
            (self.flush if pending else self.handle)()

    def _judge_deadlines(self, now: float) -> None:
        if reason := self._overdue(now):
            self._close(reason)
        elif self.intent and 0 < self.intent.until <= now:
            self.close_after(CloseIntent(self.intent.reason))
        elif not self.intent and self.ages_at <= now:
            # Right after a reply is when a close costs a client least: waits a little for one.
            awaited = max(self.loop.readable_bytes(self), 1)
            self.close_after(CloseIntent("max_age", awaited, now + AGE_GRACE_SECONDS))
        else:
            self._schedule()

    def _overdue(self, now: float) -> str:
        """The reason of a timeout that has passed, or an empty text."""
        config, quiet = self.server.config, now - self.active_at
        if self._is_pending() and quiet >= config.write_timeout:
            return "write_timeout"
        return "idle" if quiet >= config.idle_timeout else ""

    def _schedule(self) -> None:
        """Sets the timer to the earliest deadline."""
        config = self.server.config
        quiet = config.idle_timeout
        if quiet > config.write_timeout and (self.unsent or self.protocol.waiting):
            quiet = config.write_timeout
        at = self.active_at + quiet
        end = (self.intent.until or inf) if self.intent else self.ages_at
        if end < at:
            at = end
        if at != inf:
            self.loop.timers.schedule(self, at)

    # Replies.

    def _is_pending(self) -> bool:
        """Whether replies are still to be sent, or lines to be answered."""
        return bool(self.unsent or self.protocol.waiting)

    def _send(self, reply: bytes, lines: int = 0) -> bool:
        """Counts lines that are answered now, sends what the kernel takes of a reply and keeps the
        rest; false if that closed the connection.
        """
        self.lines += lines
        self.counters.requests += lines
        try:
            sent = self.request.send(reply)
        except OSError as error:
            return self._not_sent(reply, error)
        self.counters.sent += sent
        self.sent += sent
        self.active_at = self.loop.now
        if sent < len(reply):
            self.unsent = reply[sent:]
        return True

    def _not_sent(self, reply: bytes, error: OSError) -> bool:
        """Keeps what the kernel has no room for; false if the error closed the connection."""
        if isinstance(error, BlockingIOError):
            self.unsent = reply
            return True
        self._close(reason_of(error))
        return False

    # What follows from what was read and sent.

    def _update(self) -> None:
        """Updates the budget, the intent, what the socket is polled for, and the timer."""
        protocol = self.protocol
        buffered = len(self.unsent) + protocol.buffered
        if buffered != self.buffered:
            if not self.server.budget.change(buffered - self.buffered):
                self._close("buffer_limit")
                return
            self.buffered = buffered
        self.plain_bytes = 0 if self.intent or buffered else protocol.plain_bytes
        if protocol.overlong:
            self.state, self.intent = State.CLOSING, CloseIntent("line_too_long")
        if self.intent and self._is_fulfilled(self.intent):
            self._close(self.intent.reason)
            return
        events = WRITE if self._is_pending() else READ
        if events != self.events:
            self.events = events
            self.loop.modify(self, events)
        self._schedule()

    def _is_fulfilled(self, intent: CloseIntent) -> bool:
        if self._is_pending() or intent.after_bytes > 0:
            return False
        return not (intent.until and self.protocol.in_line)

    def _close(self, reason: str) -> None:
        """Closes for ``reason``; a client that ends without a byte has not used the service."""
        unused = not self.received and reason in ("eof", "reset")
        closed, self.reason = State.CLOSED, "unused" if unused else reason
        self.counters.count_closed(self.reason, self.loop.now - self.opened_at)
        self.state, self.intent = closed, None  # only now: it is counted once, or not yet
        self.finish()
