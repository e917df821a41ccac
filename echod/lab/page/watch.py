"""Polling of the versions: whether they are ready, and their counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from threading import Event, Thread
from urllib.parse import urlsplit

from echod.errors import SystemRefused
from echod.loop.threads import start
from echod.probe import servers
from echod.probe.webclient import Connection

EVERY_SECONDS = 0.5
AGAIN_SECONDS = 1.0
"""Time until a refused thread is started again."""
TIMEOUT_SECONDS = 2.0
_ANSWER_BYTES = 200


@dataclass(frozen=True)
class Said:
    """The status of /readyz (0: no answer) and its text; counts, or None without an answer."""

    ready: int = 0
    text: str = ""
    connections: int | None = None
    requests: int | None = None


class Watch:
    """Polls the versions in a thread, from ``poll`` until ``stop``. ``urls`` are those of the
    metrics.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.said = {name: Said() for name in urls}
        self._urls = urls
        self._stopping = Event()
        self._thread: Thread | None = None
        self._problem = ""
        self._again = 0.0

    def poll(self, now: float) -> str:
        """Start the thread if it does not run. Return why this host refuses it, once per reason."""
        if self._thread or now < self._again:
            return ""
        before, self._again = self._problem, now + AGAIN_SECONDS
        thread = Thread(target=self._work, name="watch", daemon=True)
        try:
            start([thread])
        except SystemRefused as refused:
            self._problem = str(refused)
            return self._problem if self._problem != before else ""
        self._thread = thread
        return ""

    def stop(self) -> None:
        """End the thread, after its current poll."""
        self._stopping.set()
        if self._thread:
            self._thread.join(TIMEOUT_SECONDS)

    def _work(self) -> None:
        while not self._stopping.is_set():
            self.said = {name: ask(url) for name, url in self._urls.items()}
            self._stopping.wait(EVERY_SECONDS)


def ask(url: str) -> Said:
    """The readiness and counts of one version; empty if it does not answer."""
    status, text = _readiness(url)
    if not status:
        return Said()
    try:
        counts = servers.read([url])
    except SystemRefused:
        return Said(status, text)
    return Said(status, text, counts.connections, sum(counts.requests.values()))


def _readiness(url: str) -> tuple[int, str]:
    parts = urlsplit(url)
    connection = Connection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read(_ANSWER_BYTES).decode("utf-8", "replace").strip()
    except (OSError, HTTPException):
        return 0, ""
    finally:
        connection.close()
