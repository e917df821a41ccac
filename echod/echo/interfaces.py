"""What a connection's handler needs of its event loop and of its server: all that it can ask."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from echod.config.options import Config
from echod.echo.limits import Budget
from echod.echo.protocol import LineProtocol
from echod.loop.event_loop import Loop
from echod.telemetry.counters import Counters


class HandlerLoop(Loop, Protocol):
    """The event loop of a handler thread."""

    index: int
    """Selects what this loop counts, among the counters of a port."""


class Server(Protocol):
    """What a connection needs of the server that accepted it."""

    config: Config
    counters: list[Counters]  # by the loops' index
    budget: Budget

    def new_protocol(self, client_address: Any) -> LineProtocol:
        """The protocol of a new connection."""

    def connection_closed(self, handler: Any, seconds: float) -> None:
        """Reports the close of a LineHandler: ``handler.reason`` says why."""

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        """Reports the exception that is being handled."""

    def release(self, request: socket.socket) -> None:
        """Closes an admitted connection's socket and frees its slot."""
