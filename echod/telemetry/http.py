"""The pages of the metrics port, and the response to one request: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

from echod import __version__
from echod.telemetry.metrics import Registry, render

MAX_HEAD_BYTES = 16 * 1024
MOST_RANGES = 32
"""Media ranges evaluated of an Accept header; scrapers send a handful. Thousands fit into a head,
and took more time than the metrics."""

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

LINKS = {
    "metrics": "metrics, in the format that the scraper asks for",
    "livez": "200, or 503 if a handler thread is stuck",
    "readyz": "200, or 503 while echod is starting or draining",
}
"""The landing page's links: each page, and what it returns."""


@dataclass(frozen=True)
class Page:
    """A response to GET."""

    status: HTTPStatus
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[str], Page]]
"""By path, a function that makes the page; its argument is the request's Accept header."""


def metrics_page(registry: Registry, accept: str) -> Page:
    """The metrics in the format that ``accept`` prefers."""
    openmetrics = prefers_openmetrics(accept)
    body = render(registry, openmetrics=openmetrics)
    return Page(HTTPStatus.OK, OPENMETRICS if openmetrics else TEXT, body)


def health_page(problem: str) -> Page:
    """200 and "ok", or 503 and the problem."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
    return Page(status, PLAIN, f"{problem or 'ok'}\n".encode())


def landing_page(
    accept: str, title: str = f"echod {__version__}", links: Mapping[str, str] = LINKS
) -> Page:
    """The available pages: links for browsers, plain text for everything else."""
    if _prefers(accept, "text/html", {"text/html": "", "text/plain": ""}):
        items = [f'<li><a href="{path}">/{path}</a>: {text}</li>' for path, text in links.items()]
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        lines = [head, f"<h1>{title}</h1>", "<ul>", *items, "</ul>", "</html>"]
        return Page(HTTPStatus.OK, HTML, "".join(f"{line}\n" for line in lines).encode())
    lines = [title, *(f"/{path}: {text}" for path, text in links.items())]
    return Page(HTTPStatus.OK, PLAIN, "".join(f"{line}\n" for line in lines).encode())


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics 1.0.0 to text, or has no preference.

    client_python's function raises on ``version=a``, and echoes versions that it does not support.
    """
    openmetrics = "application/openmetrics-text"
    return _prefers(accept, openmetrics, {openmetrics: "1.0.0", "text/plain": "0.0.4"})


def _prefers(accept: str, wanted: str, supported: Mapping[str, str]) -> bool:
    """Whether an Accept header prefers ``wanted`` to the others, or has no preference.

    ``supported`` maps each media type to its version. Malformed parts are ignored.
    """
    weights = dict.fromkeys(supported, 0.0)
    for media_range in accept.lower().split(",")[:MOST_RANGES]:
        kind, *pairs = (part.strip() for part in media_range.split(";"))
        parameters = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if kind not in weights:
            continue
        if parameters.get("version", supported[kind]).strip('"') == supported[kind]:
            with suppress(ValueError):
                weights[kind] = max(weights[kind], float(parameters.get("q", "1")))
    return weights[wanted] >= max(0.001, *weights.values())


class _Answer(BaseHTTPRequestHandler):
    """Answers one request, whose head has already arrived, into memory."""

    protocol_version = default_request_version = "HTTP/1.1"  # so that every error has a head

    def __init__(self, head: bytes, pages: Pages) -> None:
        # Not super().__init__(), which takes a socket and a server that are not used here.
        self._head = head
        self._pages = pages
        self.rfile = BytesIO(head)
        self.wfile = self._written = BytesIO()
        self.handle()
        self.response = self._written.getvalue()

    def handle(self) -> None:
        if len(self._head) > MAX_HEAD_BYTES:
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self.handle_one_request()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path[:7].lower() == "http://":  # the absolute form, which proxies send
            path = "/" + path[7:].partition("/")[2]
        make = self._pages.get(path.rstrip("/") or "/")
        if make is None:
            paths = ", ".join(self._pages)
            text = f"not found; available paths: {paths}\n"
            self._send(Page(HTTPStatus.NOT_FOUND, PLAIN, text.encode()))
        else:
            # Python 3.14.8 sets a plain dict for HTTP/0.9, which has no headers.
            accepted = self.headers.get_all("Accept") if self.headers else None
            self._send(make(",".join(accepted or [])))

    do_HEAD = do_GET  # noqa: N815  # the name that the base class looks for

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:  # the base class sends it for other methods
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD"
        self._send(Page(status, PLAIN, f"{message or status.phrase}\n".encode("ascii", "replace")))

    def _send(self, page: Page) -> None:
        if self.request_version == "HTTP/0.9":  # the base class would send no head
            self.request_version = self.default_request_version
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
        """Log nothing: probes and scrapes are frequent."""


def answer(head: bytes, pages: Pages) -> bytes:
    """The response, head and body, to a request's head."""
    return _Answer(head, pages).response
