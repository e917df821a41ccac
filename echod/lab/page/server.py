"""The page's server: waitress, in its own threads, on the loopback address only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Thread
from typing import Any

from waitress import wasyncore
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from echod.errors import SystemRefused
from echod.lab.page.app import App
from echod.lab.page.feed import MOST_TABS
from echod.loop.listeners import bind
from echod.loop.threads import start

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


class _Dispatcher(ThreadedTaskDispatcher):
    """waitress' own, with a limit on the wait for a thread that cannot run."""

    def start_new_thread(self, target: Callable[[int], object], thread_no: int) -> None:
        """Start one. Raises SystemRefused."""
        name = f"waitress-{thread_no}"
        start([Thread(target=target, name=name, args=(thread_no,), daemon=True)])


class Server:
    """Serves from its construction until ``stop``. Port 0 takes any free port.

    Raises SystemRefused.
    """

    def __init__(self, port: int, app: App) -> None:
        listener = bind("--page-port", HOST, port)
        self.port = app.port = listener.port
        self._map: dict[int, Any] = {}
        dispatcher = _Dispatcher()
        try:
            dispatcher.set_thread_count(LIMITS["threads"])
            self._server: Any = create_server(
                app,
                map=self._map,
                sockets=[listener.socket],
                ident=None,
                _dispatcher=dispatcher,
                **LIMITS,
            )
            self._thread = Thread(target=self._server.run, name="page", daemon=True)
            start([self._thread])
        except (SystemRefused, OSError) as error:
            dispatcher.shutdown(timeout=0)
            wasyncore.close_all(self._map, ignore_all=True)
            listener.socket.close()
            raise SystemRefused(f"--page-port {port}: {error}") from error

    def stop(self) -> None:
        """Stop it. Streams must have ended before. Threads that still send are abandoned."""
        if not self._map:
            return
        self._server.task_dispatcher.shutdown(timeout=STOP_SECONDS)
        trigger = self._server.trigger
        # Under its lock: another thread's pull can have the call made, and the trigger's pipe
        # closed, before our own pull, which would then write to a descriptor that is not ours.
        with trigger.lock:
            trigger.thunks.append(self._close)
            trigger.pull_trigger()
        self._thread.join(STOP_SECONDS)

    def _close(self) -> None:
        self._server.trigger.trigger = -1  # abandoned threads pull it later
        wasyncore.close_all(self._map)
