"""Events for all open tabs: the same bytes for all, made by one thread and sent by others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition

MOST_TABS = 12
KEPT = 30
"""Events kept for slow tabs. A tab that is further behind gets a complete event instead."""

ALIVE_SECONDS = 10.0
"""After this time without an event the server sends a comment, to detect closed tabs."""


class Full(Exception):
    """The maximum number of tabs is open."""


def event(data: str, name: str = "") -> bytes:
    """An event of a stream (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    kind = f"event: {name}\n" if name else ""
    return f"{kind}data: {data}\n\n".encode()


class Feed:
    """Publishes events to the tabs that wait for them."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.number = 0
        self.kept: deque[tuple[int, bool, bytes]] = deque(maxlen=KEPT)
        self.closed = False
        self._tabs = 0
        self._newcomers = False

    @property
    def tabs(self) -> int:
        """The number of open tabs."""
        return self._tabs

    @property
    def wants_all(self) -> bool:
        """Whether a tab waits for a complete event."""
        return self._newcomers

    def publish(self, data: bytes, *, whole: bool) -> None:
        """Send an event to every tab. ``whole``: it is complete, so that new tabs can start."""
        with self.changed:
            self.number += 1
            self.kept.append((self.number, whole, data))
            self._newcomers = self._newcomers and not whole
            self.changed.notify_all()

    def close(self, last: bytes) -> None:
        """Send a last event, and end all streams."""
        self.publish(last, whole=True)
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def watch(self) -> Tab:
        """A stream of all events from now on. Raises Full."""
        with self.changed:
            if self._tabs >= MOST_TABS:
                raise Full
            self._tabs += 1
            self._newcomers = True
            return Tab(self, self.number)

    def ask_for_all(self) -> None:
        """Request a complete event."""
        self._newcomers = True

    def leave(self) -> None:
        """Count one tab less."""
        with self.changed:
            self._tabs -= 1


class Tab:
    """The events for one tab, starting with a complete one."""

    def __init__(self, feed: Feed, number: int) -> None:
        self._feed = feed
        self._seen = number
        self._waits_for_all = True
        self._first = True
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        """Return itself, as WSGI requires."""
        return self

    def __next__(self) -> bytes:
        """Wait for the next bytes."""
        if self._first:  # the server sends the headers with the first bytes
            self._first = False
            return b"retry: 1000\n\n"
        feed = self._feed
        with feed.changed:
            if not feed.changed.wait_for(self._is_due, ALIVE_SECONDS):
                return b":\n\n"
            found = self._take()
            if not found and feed.closed:
                raise StopIteration
            return found or b":\n\n"

    def close(self) -> None:
        """Called by the server when the tab is closed or the stream has ended."""
        if self._open:
            self._open = False
            self._feed.leave()

    def _is_due(self) -> bool:
        return self._feed.closed or self._feed.number > self._seen

    def _take(self) -> bytes:
        """The new events; none before a first complete one."""
        feed = self._feed
        missed = bool(feed.kept) and feed.kept[0][0] > self._seen + 1
        if missed and not self._waits_for_all:
            self._waits_for_all = True
            feed.ask_for_all()
        pieces = []
        for number, whole, data in feed.kept:
            if number > self._seen:
                self._waits_for_all = self._waits_for_all and not whole
                if not self._waits_for_all:
                    pieces.append(data)
        self._seen = feed.number
        return b"".join(pieces)
