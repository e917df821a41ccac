"""The interfaces of event loop and server that a connection's handler uses."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from echod.config.options import Config
from echod.echo.limits import Budget
from echod.echo.protocol import LineProtocol
from echod.loop.interfaces import Loop
from echod.telemetry.counters import Counters


class HandlerLoop(Loop, Protocol):
    """The event loop of a handler thread."""

    index: int
    """Selects this loop's counters among those of a port, and among those of slots."""


class Server(Protocol):
    """The part of a server that its connections use."""

    config: Config
    counters: list[Counters]  # by the loops' index
    budget: Budget
    clean_protocol: LineProtocol
    """Shared, and never changed, by connections that have not needed one of their own."""

    def new_protocol(self, client_address: Any) -> LineProtocol:
        """A protocol for one connection."""

    def connection_closed(self, handler: Any, seconds: float) -> None:
        """Report the close of a LineHandler; ``handler.reason`` is the reason."""

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        """Report the exception that is being handled."""

    def release(self, index: int, request: socket.socket) -> None:
        """Free an admitted connection's slot and close its socket, in the thread of the loop with
        this index.
        """
