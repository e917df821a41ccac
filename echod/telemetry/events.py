"""The log events of servers and connections."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import current_thread
from typing import Any

import structlog

from echod.telemetry.log_writer import LEVELS, cut, peer, printable
from echod.telemetry.throttling import OverloadState, RateLimitedEvent

Logger = structlog.typing.FilteringBoundLogger


class Events:
    """The log events of servers and connections, which share one instance."""

    def __init__(self, logger: Logger, log_level: str, is_full: Callable[[], bool]) -> None:
        """``log_level`` is the logger's; ``is_full`` returns whether no slot is free."""
        self.rejecting = OverloadState(
            lambda **facts: logger.warning("rejecting connections", **facts),
            lambda times: logger.warning("no longer rejecting connections", rejected=times),
            still=is_full,
        )
        self.not_accepting = OverloadState(
            lambda **facts: logger.error("cannot accept connections", **facts),
            lambda times: logger.warning("accepting connections again", errors=times),
        )
        self._closings = RateLimitedEvent(
            partial(logger.info, "more connections closed"), amounts=True
        )
        self._unused_closings = RateLimitedEvent(
            partial(logger.debug, "more connections closed", reason="unused"), amounts=True
        )
        self._failures = RateLimitedEvent(
            partial(logger.error, "more unhandled exceptions in connection handlers")
        )
        self._bugs = RateLimitedEvent(
            partial(logger.error, "more unhandled exceptions in event loops")
        )
        self._logger = logger
        # Not the logger's is_enabled_for, which structlog has only from 25.1 on.
        self._debugging = LEVELS[log_level] <= LEVELS["debug"]
        self._informing = LEVELS[log_level] <= LEVELS["info"]

    def summarize(self, *, now: bool = False) -> None:
        """Report states that have ended, and the sums of events that were not logged individually.

        Call it several times a second, and with ``now`` at the end.
        """
        self.rejecting.end_if_quiet()
        self.not_accepting.end_if_quiet()
        limited = (self._closings, self._unused_closings, self._failures, self._bugs)
        for event in limited:
            event.summarize(now=now)

    @property
    def every_line(self) -> bool:
        """Whether each line of a client is logged, as at level debug."""
        return self._debugging

    def line_log(self, client_address: Any, port: int) -> Callable[[bytes], None]:
        """The function that logs a connection's lines; it takes each without its newline."""
        logger = self._logger.bind(peer=peer(client_address), port=port)
        return lambda line: logger.debug("line", bytes=len(line) + 1, line=printable(line))

    def logs_close(self, reason: str, lines: int, received: int, sent: int) -> bool:
        """Whether the close of a connection is logged individually; others are summed up.

        ``received`` and ``sent`` are bytes. Call this first: most of the cost of an event is
        building it.
        """
        if reason == "unused":
            return self._debugging and self._unused_closings.allows(lines, received, sent)
        return self._informing and self._closings.allows(lines, received, sent)

    def connection_closed(self, client_address: Any, reason: str, **facts: Any) -> None:
        """Log the close of a connection, at level debug if it was unused."""
        log = self._logger.debug if reason == "unused" else self._logger.info
        log("connection closed", peer=peer(client_address), reason=reason, **facts)

    def connection_failed(self, client_address: Any, port: int) -> None:
        """Log the exception being handled, which cost a connection."""
        if self._failures.allows():
            self._logger.error(
                "unhandled exception in connection handler",
                peer=peer(client_address),
                port=port,
                **described(sys.exception()),
            )

    def bug(self) -> None:
        """Log the exception being handled, which belongs to no connection."""
        if self._bugs.allows():
            name = current_thread().name
            self._logger.error(
                "unhandled exception in event loop", thread=name, **described(sys.exception())
            )


def described(error: BaseException | None) -> dict[str, str]:
    """An exception for the log: its type and text, and where it was raised."""
    # Not with the module traceback: it reads source files, which takes memory.
    frames, traced = [], error.__traceback__ if error else None
    while traced:
        code = traced.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{traced.tb_lineno} {code.co_name}")
        traced = traced.tb_next
    frames_shown = " < ".join(reversed(frames[-3:]))
    return {"error": cut(repr(error)), "at": frames_shown}  # the error may quote client data
