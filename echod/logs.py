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

QUEUED_EVENTS = 1000
"""Events that wait for a stalled reader of the log; what comes on top is dropped, and counted."""
CUT_AT = 256
"""Characters after which a text of a client's is cut."""
CLOSINGS_A_SECOND = 10
"""Ends of connections that are logged one by one; the others of a second share one event."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}


class LogWriter(Thread):
    """Writes lines to a file descriptor, from a bounded queue, in a thread of its own."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(name="log-writer", daemon=True)
        self.dropped = 0
        self._torn = b""
        self._descriptor = descriptor
        self._queue: Queue[bytes | None] = Queue(QUEUED_EVENTS)
        self._lock = Lock()

    def msg(self, line: str) -> None:
        """Takes an event's line; drops and counts it if the queue is full."""
        try:
            self._queue.put_nowait(line.encode("utf-8", "backslashreplace") + b"\n")
        except Full:
            self._drop()

    # The names under which structlog calls it.
    debug = info = warning = error = critical = msg

    def run(self) -> None:
        """Writes until closed."""
        while (line := self._queue.get()) is not None:
            try:
                self._write(self._torn + line)
                self._torn = b""
            except OSError:  # the reader is gone, the disk is full; the service goes on
                self._drop()

    def close(self, timeout: float) -> None:
        """Waits up to ``timeout`` seconds until everything is written."""
        deadline = monotonic() + timeout
        try:
            self._queue.put(None, timeout=timeout)
        except Full:
            return
        self.join(max(deadline - monotonic(), 0.0))

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
                self._torn = b"\n"  # if the rest fails: the next event begins its own line
            except BlockingIOError:  # somebody made the pipe non-blocking
                select.select([], [self._descriptor], [])

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1


def make_logger(
    writer: LogWriter, level: str, *, console: bool, colors: bool
) -> structlog.typing.FilteringBoundLogger:
    """A logger of one event a line, for people (``console``) or as JSON."""
    render = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False, pad_event_to=0)
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        writer,
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _on_one_line,
            render if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=True,
    )
    return logger


def _on_one_line(_logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Time, level and event first, then what is known; no text may break the line or drive a
    terminal.
    """
    head = {key: event.pop(key) for key in ("timestamp", "level", "event")}
    return {
        key: value.translate(_ESCAPES) if isinstance(value, str) else value
        for key, value in {**head, **event}.items()
        if value is not None
    }


def printable(data: bytes) -> str:
    """What a client sent, as a log may show it: text, escaped where it is none, and cut."""
    text = data[: CUT_AT + 1].decode("utf-8", "backslashreplace")
    return text if len(data) <= CUT_AT else text[:CUT_AT] + "..."


def peer(client_address: Any) -> str:
    """``192.0.2.1:40000`` or ``[2001:db8::1]:40000``, from a socket's address."""
    host, port = client_address[:2]
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ClosingLog:
    """The events of connections that end: some a second one by one, the others summed up."""

    def __init__(self, logger: structlog.typing.FilteringBoundLogger) -> None:
        self._logger = logger
        self._lock = Lock()
        self._second = 0
        self._logged = 0
        self._left_out = self._received = self._sent = self._lines = 0

    def ended(self, client_address: Any, facts: dict[str, Any]) -> None:
        """Logs one end, or adds it to what is left out in this second.

        ``facts`` has at least ``lines``, ``received_bytes`` and ``sent_bytes``.
        """
        self.settle()
        with self._lock:
            self._logged += 1
            if self._logged > CLOSINGS_A_SECOND:
                self._left_out += 1
                self._lines += facts["lines"]
                self._received += facts["received_bytes"]
                self._sent += facts["sent_bytes"]
                return
        self._logger.info("connection closed", peer=peer(client_address), **facts)

    def settle(self, *, now: bool = False) -> None:
        """Logs what was left out, once its second is over, or ``now``."""
        second = int(monotonic())
        if second == self._second and not now:
            return
        with self._lock:
            left_out = {
                "count": self._left_out,
                "lines": self._lines,
                "received_bytes": self._received,
                "sent_bytes": self._sent,
            }
            self._second = second
            self._logged = self._left_out = self._received = self._sent = self._lines = 0
        if left_out["count"]:
            self._logger.info("more connections closed", **left_out)
