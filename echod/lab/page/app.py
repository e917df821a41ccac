"""The page's HTTP requests: its files, a stream of events, and commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import resources
from typing import TYPE_CHECKING

from echod.lab.control import ERROR
from echod.lab.page.feed import MOST_TABS, Feed, Full
from echod.lab.page.guard import HEADERS, MOST_BODY_BYTES, Environ, refusal, wrong_body

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
TEXT, JSON = "text/plain; charset=utf-8", "application/json"


def files() -> dict[str, tuple[str, bytes]]:
    """The type and content of the page's files, by path."""
    found = {}
    for file in (resources.files("echod.lab.page") / "files").iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        found[path] = KINDS[file.name.rpartition(".")[2]], file.read_bytes()
    return found


class App:
    """A WSGI application. ``ask`` passes a command's line to the lab and returns its answer."""

    def __init__(self, feed: Feed, ask: Callable[[str], str]) -> None:
        self.port = 0
        """The port that it is reached on; requests for another one are refused."""
        self._feed = feed
        self._ask = ask
        self._files = files()

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request, of HEAD with the headers alone."""
        pieces = self._respond(environ, start)
        return pieces if environ["REQUEST_METHOD"] != "HEAD" else []

    def _respond(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        refused = refusal(environ, self.port)
        if refused:
            return _answer(start, *refused)
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if path == "/command":
            return self._command(environ, start) if method == "POST" else _wrong(start, "POST")
        if path == "/events":
            return self._events(start) if method == "GET" else _wrong(start, "GET")
        if path not in self._files:
            return _answer(start, "404 Not Found", "not found; the page is at /")
        if method not in ("GET", "HEAD"):
            return _wrong(start, "GET, HEAD")
        kind, content = self._files[path]
        start("200 OK", [*HEADERS, ("Content-Type", kind), ("Content-Length", f"{len(content)}")])
        return [content]

    def _events(self, start: StartResponse) -> Iterable[bytes]:
        try:
            tab = self._feed.watch()
        except Full:
            text = f"too many tabs: {MOST_TABS} are open already"
            return _answer(start, "503 Service Unavailable", text)
        start("200 OK", [*HEADERS, ("Content-Type", "text/event-stream")])
        return tab

    def _command(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        wrong = wrong_body(environ)
        if wrong:
            return _answer(start, *wrong)
        try:
            body = json.loads(environ["wsgi.input"].read(MOST_BODY_BYTES))
            line = body["command"]
        except (ValueError, LookupError, TypeError, RecursionError):
            line = None
        if not isinstance(line, str):
            return _answer(start, "400 Bad Request", 'must be {"command": "shift 80/20"}')
        answer = self._ask(line)
        status = "409 Conflict" if answer.startswith(ERROR) else "200 OK"
        return _answer(start, status, json.dumps({"answer": answer.removeprefix(ERROR)}), JSON)


def _wrong(start: StartResponse, allowed: str) -> Iterable[bytes]:
    return _answer(start, "405 Method Not Allowed", f"must be {allowed}", allow=allowed)


def _answer(
    start: StartResponse, status: str, text: str, kind: str = TEXT, *, allow: str = ""
) -> Iterable[bytes]:
    data = f"{text}\n".encode()
    headers = [*HEADERS, ("Content-Type", kind), ("Content-Length", f"{len(data)}")]
    start(status, headers + ([("Allow", allow)] if allow else []))
    return [data]
