"""What an event loop calls, and what it offers."""

from __future__ import annotations

import socket
from typing import Protocol

from echod.loop.timers import Timed, Timers


class Guarded(Protocol):
    """What the loop calls, catching exceptions. No call may block."""

    def on_error(self, error: Exception) -> None:
        """Called when another call of this handler raised: a bug costs this handler alone."""


class TimerHandler(Timed, Guarded, Protocol):
    """What the loop calls at the time it was scheduled for."""

    def on_timer(self, now: float) -> None:
        """Called at that time or soon after. ``now``: monotonic seconds."""


class SocketHandler(Guarded, Protocol):
    """What the loop calls when something happens on a socket."""

    request: socket.socket

    def handle(self) -> None:
        """Called when the socket is readable."""

    def flush(self) -> None:
        """Called when the socket is writable, if it is polled for WRITE."""


class EventHandler(SocketHandler, TimerHandler, Protocol):
    """A registered socket's handler: a connection, a listener, a socket that closes."""

    def on_stop(self) -> None:
        """Called once when the loop begins to stop: handle what has arrived, then unregister."""

    def abort(self) -> None:
        """Called once the deadline of the stop has passed: unregister now."""


class Loop(Protocol):
    """The part of an event loop that handlers use, in the loop's own thread."""

    now: float
    stop_deadline: float | None
    timers: Timers[TimerHandler]

    def register(self, handler: EventHandler) -> None:
        """Call ``handler`` when its socket is readable, from now on."""

    def modify(self, handler: EventHandler, events: int) -> None:
        """Poll its socket for READ or WRITE instead of what it was polled for before."""

    def unregister(self, handler: EventHandler, *, closes: bool = False) -> None:
        """Take a handler out, before its socket is closed (``closes``) or changes hands."""

    def is_ready(self, handler: EventHandler, events: int) -> bool:
        """Whether its socket is ready for READ or WRITE right now."""

    def readable_bytes(self, handler: EventHandler) -> int:
        """How many bytes have arrived on its socket and can be read now."""

    def failed(self, handler: Guarded, error: Exception) -> None:
        """Have ``handler`` meet the error of one of its calls, which its maker has caught."""
