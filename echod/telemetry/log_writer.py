"""Structured logs: one event is one physical line, and writing it never stalls the caller."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, MutableMapping
from queue import Full, Queue
from threading import Lock, Thread
from time import monotonic
from typing import Any

import structlog

from echod.loop.poller import WRITE, is_ready
from echod.texts import escaped

QUEUED_EVENTS = 1000
"""Events that wait for a stalled reader of the log; what comes on top is dropped, and counted."""
LOOK_SECONDS = 0.02
"""Time between two looks, at the end, whether the log can still be written to."""
CUT_AT = 256
"""Characters after which a text of a client's is cut."""

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The numbers of the log levels, as structlog and the standard library have them."""


class LogWriter(Thread):
    """Writes lines to a file descriptor, from a bounded queue, in a thread of its own."""

    def __init__(self, descriptor: int, most_queued: int = QUEUED_EVENTS) -> None:
        super().__init__(name="log-writer", daemon=True)
        self.dropped = 0
        self._torn = b""
        self._descriptor = descriptor
        self._queue: Queue[bytes | None] = Queue(most_queued)
        self._lock = Lock()

    def msg(self, line: str) -> None:
        """Takes an event's line; drops and counts it if the queue is full."""
        try:
            self._queue.put_nowait(line.encode("utf-8", "backslashreplace") + b"\n")
        except Full:
            self._drop()

    # The names under which structlog calls it.
    debug = info = warning = error = msg

    def run(self) -> None:
        """Writes until closed."""
        while (line := self._queue.get()) is not None:
            try:
                self._write(self._torn + line)
                self._torn = b""
            except OSError:  # the reader is gone, the disk is full; the service goes on
                self._drop()

    def close(self, timeout: float, late: float = 0.0) -> None:
        """Waits up to ``timeout`` seconds until everything is written, and up to ``late`` more
        while the log can be written to: then its reader is not what is slow.
        """
        deadline = monotonic() + timeout
        try:
            self._queue.put(None, timeout=timeout)
        except Full:
            return
        self.join(max(deadline - monotonic(), 0.0))
        while self.is_alive() and monotonic() < deadline + late and self._is_writable():
            self.join(LOOK_SECONDS)

    def _is_writable(self) -> bool:
        """Whether a write would not wait; one that fails at once does not."""
        return is_ready(self._descriptor, WRITE)

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
                self._torn = b"\n"  # if the rest fails: the next event begins its own line
            except BlockingIOError:  # another process has made the pipe non-blocking
                select.select([], [self._descriptor], [])

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1


def make_logger(
    writer: LogWriter, level: str, *, console: bool, colors: bool
) -> structlog.typing.FilteringBoundLogger:
    """A logger of one event a line, for people (``console``) or as JSON."""
    # The width of the event by its place: structlog 25.5 renamed it from pad_event to pad_event_to.
    render = structlog.dev.ConsoleRenderer(0, colors=colors, sort_keys=False)
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        writer,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _on_one_line,
            render if console else structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


def _on_one_line(_logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Time, level and event first, then what is known; no text may break the line, drive a
    terminal, or be shown in another order than it has.
    """
    head = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    return {
        key: escaped(value) if isinstance(value, str) else value
        for key, value in {**head, **event}.items()
        if value is not None
    }


def cut(text: str) -> str:
    """A text, truncated to what one event may have of it."""
    return text if len(text) <= CUT_AT else text[:CUT_AT] + "..."


def printable(data: bytes) -> str:
    """What a client sent, as a log may show it: text, escaped where it is none, and cut."""
    return cut(data[: CUT_AT + 1].decode("utf-8", "backslashreplace"))


def peer(client_address: Any) -> str:
    """``192.0.2.1:40000`` or ``[2001:db8::1]:40000``, from a socket's address."""
    host, port = client_address[:2]
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
