"""The metrics port: /metrics, /livez and /readyz, answered by one thread.

client_python's own server holds a thread per silent client and answers metrics on every path.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from time import monotonic, sleep
from typing import Any, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from echod.driver import READ, WRITE, Driver
from echod.listeners import Listener

MAX_CLIENTS = 100
"""Clients at a time; one more takes the place of the oldest whose request is not complete."""
MAX_HEAD_BYTES = 16 * 1024
DEADLINE_SECONDS = 10.0
"""From the start of a connection to its end: a scrape's default time."""
LINGER_SECONDS = 1.0
"""Time for a client to close after its response."""
PAUSE_SECONDS = 0.1
"""Time without an accept after one that the system refused."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Page:
    """An answer to GET."""

    status: HTTPStatus
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[str], Page]]
"""Makes the page at a path; the argument is the request's Accept header."""


def metrics_page(registry: CollectorRegistry, accept: str) -> Page:
    """The metrics in the format that ``accept`` prefers."""
    if prefers_openmetrics(accept):
        return Page(HTTPStatus.OK, OPENMETRICS, openmetrics.generate_latest(registry))
    return Page(HTTPStatus.OK, TEXT, generate_latest(registry))


def health_page(problem: str) -> Page:
    """200 and "ok", or 503 and what is wrong."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
    return Page(status, PLAIN, f"{problem or 'ok'}\n".encode())


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept header asks for OpenMetrics 1.0.0 at least as much as for text.

    Our own reading: client_python's raises on ``version=a`` and echoes versions it does not
    speak. What is malformed counts as not said.
    """
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    spoken = {"application/openmetrics-text": "1.0.0", "text/plain": "0.0.4"}
    for media_range in accept.lower().split(","):
        kind, *pairs = (part.strip() for part in media_range.split(";"))
        parameters = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if kind in weights and parameters.get("version", spoken[kind]).strip('"') == spoken[kind]:
            with suppress(ValueError):
                weights[kind] = max(weights[kind], float(parameters.get("q", "1")))
    return weights["application/openmetrics-text"] >= max(weights["text/plain"], 0.001)


class _Answer(BaseHTTPRequestHandler):
    """Answers one request whose head is here already, into memory."""

    protocol_version = default_request_version = "HTTP/1.1"  # no heads of errors are left out

    def __init__(self, head: bytes, pages: Pages) -> None:
        self._head = head
        self._pages = pages
        # In the place of a socket and a server, for which nothing asks: see setup().
        super().__init__(cast("Any", head), ("", 0), cast("Any", None))

    def setup(self) -> None:
        self.rfile = BytesIO(self._head)
        self.wfile = self._written = BytesIO()

    def handle(self) -> None:
        if len(self._head) > MAX_HEAD_BYTES:
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self.handle_one_request()

    def finish(self) -> None:
        self.response = self._written.getvalue()

    def do_GET(self) -> None:
        make = self._pages.get(self.path.partition("?")[0])
        if make is None:
            paths = ", ".join(self._pages)
            self._send(Page(HTTPStatus.NOT_FOUND, PLAIN, f"here are: {paths}\n".encode()))
        else:
            accept = ",".join(self.headers.get_all("Accept") or [])
            self._send(make(accept))

    do_HEAD = do_GET  # noqa: N815  # the name that the base class looks for

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:  # the base class's word for another method
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD"
        self._send(Page(status, PLAIN, f"{message or status.phrase}\n".encode("ascii", "replace")))

    def _send(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Connection", "close")
        if page.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def version_string(self) -> str:
        return "echod"

    def log_message(self, *args: Any) -> None:
        """Probes and scrapes come all the time: not logged."""


def answer(head: bytes, pages: Pages) -> bytes:
    """The response, head and body, to a request's head."""
    return _Answer(head, pages).response


class Exporter:
    """Serves the pages on a port, in a thread of its own."""

    def __init__(self, listener: Listener, pages: Pages, report_defect: Callable[[], None]) -> None:
        """``report_defect`` is called in the handling of an exception that a page raised."""
        self.listener = listener
        self._driver = Driver("exporter", report_defect)
        self._door = _Door(listener, pages, self._driver, report_defect)

    def start(self) -> None:
        """Answers from now on. The listener must listen already."""
        self._driver.post(lambda: self._driver.watch(self._door))
        self._driver.start()

    def stop(self, timeout: float) -> None:
        """Closes the port; responses on their way have up to ``timeout`` seconds."""
        self._driver.drain(monotonic() + timeout)
        self._driver.join(timeout + 1.0)


class _Door:
    """The listening socket: accepts whatever the clients before are doing."""

    def __init__(
        self, listener: Listener, pages: Pages, driver: Driver, report_defect: Callable[[], None]
    ) -> None:
        self.request = listener.socket
        self.tick = 0
        self.pages = pages
        self.driver = driver
        self.report_defect = report_defect
        self.clients: dict[_Client, None] = {}  # in the order of their arrival
        self._inherited = listener.inherited

    def handle(self) -> None:
        """Accepts one client; the oldest unanswered one gives way if there are too many."""
        try:
            request, _ = self.request.accept()
        except BlockingIOError:
            return
        except OSError:  # no free descriptor, say: to ask again at once would be a busy loop
            sleep(PAUSE_SECONDS)
            return
        request.setblocking(False)
        if len(self.clients) >= MAX_CLIENTS:
            unanswered = (client for client in self.clients if not client.answered)
            next(unanswered, next(iter(self.clients))).close()
        _Client(request, self)

    def drain(self) -> None:
        """Accepts no more."""
        self.driver.forget(self)
        if not self._inherited:
            self.request.close()

    cut = drain

    def crash(self, error: Exception) -> None:
        """Costs the client that was being accepted, not the port."""
        self.report_defect()

    def flush(self) -> None:
        """Never called: a listener is not written to."""

    def expire(self, now: float) -> None:
        """Never called: nothing is scheduled."""


class _Client:
    """One connection: reads a head, sends the response, drops what follows, closes."""

    def __init__(self, request: socket.socket, door: _Door) -> None:
        self.request = request
        self.tick = 0
        self.answered = False
        self._door = door
        self._head = b""
        self._unsent = b""
        door.clients[self] = None
        door.driver.watch(self)
        door.driver.timers.schedule(self, door.driver.now + DEADLINE_SECONDS)

    def handle(self) -> None:
        """Reads on, and answers when the head is complete or too long."""
        if self not in self._door.clients:
            return  # gave way to another in this very round
        try:
            data = self.request.recv(MAX_HEAD_BYTES)
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self.answered:
            self._head += data
            if b"\r\n\r\n" in self._head or b"\n\n" in self._head or self._too_long():
                self.answered = True
                self._unsent = answer(self._head, self._door.pages)
                self._head = b""
                self.flush()

    def flush(self) -> None:
        """Sends what is left of the response; then the client is to close."""
        if self not in self._door.clients:
            return
        try:
            self._unsent = self._unsent[self.request.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._unsent:
            self._door.driver.rewatch(self, WRITE)
        else:
            # Not closed yet: unread input would reset the response on its way.
            self._door.driver.rewatch(self, READ)
            self._door.driver.timers.schedule(self, self._door.driver.now + LINGER_SECONDS)
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_WR)

    def expire(self, now: float) -> None:
        """Its time is over."""
        self.close()

    def drain(self) -> None:
        """Goes if it has nothing to wait for."""
        if not self.answered:
            self.close()

    def cut(self) -> None:
        """Goes as it is."""
        self.close()

    def crash(self, error: Exception) -> None:
        """A page that cannot be made costs the client its answer."""
        self._door.report_defect()
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        if self._door.clients.pop(self, True) is None:
            self._door.driver.forget(self)
            self.request.close()

    def _too_long(self) -> bool:
        return len(self._head) > MAX_HEAD_BYTES
