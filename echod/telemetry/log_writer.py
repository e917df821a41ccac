"""Structured logs: each event is one line, and logging never blocks the caller."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping, MutableMapping
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any

import structlog

from echod.loop.poller import WRITE, is_ready
from echod.texts import escaped, joined

QUEUED_EVENTS = 1000
"""Maximum number of events that wait for a stalled log reader; more are dropped and counted."""
LOOK_SECONDS = 0.02
"""Time between two checks, at the end, whether the log is still writable."""
PAUSE_SECONDS = 0.1
"""Pause after memory ran out."""
CUT_AT = 256
"""Client data in an event is truncated to this many characters."""

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The numbers of the log levels, as structlog and the standard library have them."""


class LogWriter(Thread):
    """Writes lines to a file descriptor, from a bounded queue, in its own thread."""

    def __init__(self, descriptor: int, most_queued: int = QUEUED_EVENTS) -> None:
        super().__init__(name="log-writer", daemon=True)
        self.dropped = 0
        self._torn = b""
        self._descriptor = descriptor
        # Not a Queue, whose lock may stay held if memory runs out: see echod.echo.limits.
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._most_queued = most_queued
        self._lock = Lock()

    def msg(self, line: str) -> None:
        """Queue an event's line; drop and count it if the queue is full."""
        if self._queue.qsize() >= self._most_queued:
            self._drop()
        else:
            self._queue.put(line.encode("utf-8", "backslashreplace") + b"\n")

    # The names under which structlog calls it.
    debug = info = warning = error = msg

    def run(self) -> None:
        """Write until closed, even if memory runs out."""
        more = True
        while more:
            try:
                more = self._write_next()
            except MemoryError:  # the end of the thread would cost all later events
                sleep(PAUSE_SECONDS)  # the error may recur at once

    def _write_next(self) -> bool:
        """Wait for an event and write it; return false at the end."""
        line = self._queue.get()
        if line is None:
            return False
        try:
            self._write(self._torn + line)
            self._torn = b""
        except (OSError, MemoryError):  # no reader or a full disk, for example: drop the event
            self._drop()
        return True

    def close(self, timeout: float, late: float = 0.0) -> None:
        """Wait up to ``timeout`` seconds until everything is written. While the log is writable,
        which means that its reader is not the cause, wait up to ``late`` seconds more.
        """
        deadline = monotonic() + timeout
        self._queue.put(None)
        self.join(max(deadline - monotonic(), 0.0))
        while self.is_alive() and monotonic() < deadline + late and self._is_writable():
            self.join(LOOK_SECONDS)

    def _is_writable(self) -> bool:
        """Whether a write would not block; it may fail."""
        return is_ready(self._descriptor, WRITE)

    def _write(self, line: bytes) -> None:
        while line:
            try:
                written = os.write(self._descriptor, line)
                self._torn = b"\n"  # if the rest fails, the next event starts on a new line
                line = line[written:]
            except BlockingIOError:  # another process has made the pipe non-blocking
                select.select([], [self._descriptor], [])

    def _drop(self) -> None:
        self._lock.acquire()
        try:
            self.dropped += 1
        finally:
            self._lock.release()


def make_logger(
    writer: LogWriter, level: str, *, console: bool, colors: bool
) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes one event per line, for people (``console``) or as JSON."""
    # The width is positional: structlog 25.5 renamed it from pad_event to pad_event_to.
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
    """Put time, level and event first, and escape all text. No text may break the line, control a
    terminal, or change the direction of reading.
    """
    head = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    return {
        key: escaped(value) if isinstance(value, str) else value
        for key, value in {**head, **event}.items()
        if value is not None
    }


def cut(text: str) -> str:
    """A text, truncated to CUT_AT characters."""
    return text if len(text) <= CUT_AT else text[:CUT_AT] + "..."


def printable(data: bytes) -> str:
    """Client data as text for the log: invalid bytes escaped, and truncated."""
    return cut(data[: CUT_AT + 1].decode("utf-8", "backslashreplace"))


def peer(client_address: Any) -> str:
    """``192.0.2.1:40000`` or ``[2001:db8::1]:40000``, from a socket's address."""
    host, port = client_address[:2]
    host = host.removeprefix("::ffff:") if "." in host else host
    return joined(host, port)
