"""An event loop, a clock, a socket and a server that a test moves by hand."""

from __future__ import annotations

import socket
from typing import Any, cast

from echod.config.options import load
from echod.echo.handler import LineHandler
from echod.echo.limits import Budget
from echod.echo.protocol import LineFormat, LineProtocol
from echod.loop.interfaces import EventHandler, Guarded, TimerHandler
from echod.loop.poller import READ, WRITE
from echod.loop.timers import Timers
from echod.telemetry.counters import Counters

START = 1000.0


class FakeSocket:
    """The connection's end of a socket; the rest of the world is in its attributes."""

    def __init__(self) -> None:
        self.arrived = bytearray()
        self.ended = False  # by the peer
        self.error: OSError | None = None  # which the next call raises
        self.room = 1 << 30  # bytes that the kernel takes for now
        self.taken = bytearray()
        self.recv_bytes = 0  # of the last call
        self.closed = False

    def fileno(self) -> int:
        return 7

    def recv(self, size: int, flags: int) -> bytes:
        assert flags == socket.MSG_DONTWAIT
        self.recv_bytes = size
        if self.error:
            raise self.error
        if not self.arrived and not self.ended:
            raise BlockingIOError
        data = bytes(self.arrived[:size])
        del self.arrived[:size]
        return data

    def send(self, data: bytes, flags: int) -> int:
        assert flags == socket.MSG_DONTWAIT
        if self.error:
            raise self.error
        if not self.room:
            raise BlockingIOError
        size = min(len(data), self.room)
        self.taken += data[:size]
        self.room -= size
        return size

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option, value[:4] != bytes(4)) == (
            socket.SOL_SOCKET, socket.SO_LINGER, True
        )  # fmt: skip


class FakeLoop:
    """What a handler sees of its event loop. Time passes when a test says so."""

    index = 0

    def __init__(self) -> None:
        self.now = START
        self.stop_deadline: float | None = None
        self.timers: Timers[TimerHandler] = Timers(self.now)
        self.registered: dict[EventHandler, int] = {}  # with what each is polled for

    def register(self, handler: EventHandler) -> None:
        assert handler not in self.registered
        self.registered[handler] = READ

    def modify(self, handler: EventHandler, events: int) -> None:
        assert self.registered[handler] != events
        self.registered[handler] = events

    def unregister(self, handler: EventHandler, *, closes: bool = False) -> None:
        self.registered.pop(handler, None)
        self.timers.cancel(handler)

    def is_ready(self, handler: EventHandler, events: int) -> bool:
        end = cast("FakeSocket", handler.request)
        if end.error:
            return True
        return end.room > 0 if events == WRITE else bool(end.arrived or end.ended)

    def readable_bytes(self, handler: EventHandler) -> int:
        return len(cast("FakeSocket", handler.request).arrived)

    def failed(self, handler: Guarded, error: Exception) -> None:
        handler.on_error(error)

    def run(self) -> None:
        """Rounds without time, until there is nothing to do."""
        while ready := [one for one in self.registered if self.is_ready(one, self.registered[one])]:
            for handler in ready:
                if polled := self.registered.get(handler):
                    (handler.flush if polled == WRITE else handler.handle)()

    def pass_time(self, seconds: float) -> None:
        """Rounds a tenth of a second apart."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.1, end)
            for handler in self.timers.due(self.now):
                handler.on_timer(self.now)
            self.run()

    def stop(self, deadline: float) -> None:
        self.stop_deadline = deadline
        for handler in list(self.registered):
            handler.on_stop()


class FakeServer:
    """What a handler sees of its server, and has reported to it."""

    def __init__(self, **settings: str) -> None:
        self.config = load({"ports": "9000", "prefix": "one"} | settings, {})
        self.counters = [Counters()]
        self.budget = Budget(self.config.max_buffered_bytes)
        self.format = self.new_format()
        self.clean_protocol = LineProtocol(self.format)
        self.closes: list[tuple[str, float]] = []
        self.bugs = 0

    def new_format(self) -> LineFormat:
        return LineFormat(b"one ", self.config.max_line_bytes)

    def new_protocol(self, _client_address: Any) -> LineProtocol:
        return LineProtocol(self.format)

    def connection_closed(self, handler: LineHandler, seconds: float) -> None:
        self.closes.append((handler.reason, seconds))

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        self.bugs += 1

    def release(self, _index: int, request: Any) -> None:
        assert not request.closed
        request.closed = True


class Connection:
    """One handler with all that belongs to it."""

    def __init__(self, server: FakeServer) -> None:
        self.loop = FakeLoop()
        self.server = server
        self.end = FakeSocket()
        self.handler = LineHandler(self.end, ("192.0.2.1", 40000), self.server, self.loop)

    def receive(self, data: bytes) -> None:
        """Bytes arrive, and the loop goes round."""
        self.end.arrived += data
        self.loop.run()

    def meet_eof(self) -> None:
        """The client ends its stream, and the loop goes round."""
        self.end.ended = True
        self.loop.run()

    def meet(self, error: OSError) -> None:
        """The next call on the socket raises an error; then the loop runs a round."""
        self.end.error = error
        self.loop.run()
