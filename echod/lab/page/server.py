"""The page's server: waitress, in its own threads, on the loopback address only."""

from __future__ import annotations

import logging
from threading import Thread
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from echod.lab.page.app import App
from echod.lab.page.feed import MOST_TABS
from echod.loop.listeners import bind

HOST = "127.0.0.1"
STOP_SECONDS = 2.0

LIMITS: dict[str, Any] = {
    "threads": MOST_TABS + 4,  # each open tab occupies one
    "connection_limit": 100,
    "channel_timeout": 10,  # seconds for a request to arrive, and between two requests
    "cleanup_interval": 1,
    "max_request_header_size": 16 * 1024,
    "max_request_body_size": 16 * 1024,
    "outbuf_high_watermark": 256 * 1024,  # stop writing to tabs that do not read
    "channel_request_lookahead": 1,  # keep reading, to detect closed tabs
    "asyncore_use_poll": True,
}

logging.getLogger("waitress").addHandler(logging.NullHandler())
logging.getLogger("waitress").propagate = False  # only the lab writes to the terminal


class Server:
    """Serves from its construction until ``stop``. Port 0 takes any free port.

    Raises SystemRefused.
    """

    def __init__(self, port: int, app: App) -> None:
        listener = bind("--page-port", HOST, port)
        self.port = app.port = listener.port
        self._map: dict[int, Any] = {}
        self._server: Any = create_server(
            app, map=self._map, sockets=[listener.socket], ident=None, **LIMITS
        )
        self._thread = Thread(target=self._server.run, name="page", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop it. Streams must have ended before. Threads that still send are abandoned."""
        if not self._map:
            return
        self._server.task_dispatcher.shutdown(timeout=STOP_SECONDS)
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._map))
        self._thread.join(STOP_SECONDS)
