"""What the engine reports, in the words of the log."""

from __future__ import annotations

import sys
import traceback
from functools import partial
from pathlib import Path
from threading import current_thread
from typing import Any

import structlog

from echod.limits import Admission, Latch
from echod.logs import Ration, cut, peer, printable
from echod.protocol import LineProtocol

Logger = structlog.typing.FilteringBoundLogger


class Reports:
    """One place for the events of servers and connections, shared by all of them."""

    def __init__(self, logger: Logger, admission: Admission) -> None:
        self.rejecting = Latch(
            lambda **facts: logger.warning("rejecting connections", **facts),
            lambda times: logger.warning("no longer rejecting connections", rejected=times),
            still=admission.full,
        )
        self.not_accepting = Latch(
            lambda **facts: logger.error("cannot accept connections", **facts),
            lambda times: logger.warning("accepting connections again", errors=times),
        )
        amounts = "lines", "received_bytes", "sent_bytes"
        self._closings = Ration(partial(logger.info, "more connections closed"), *amounts)
        self._unused_closings = Ration(
            partial(logger.debug, "more connections closed", reason="unused"), *amounts
        )
        self._failures = Ration(partial(logger.error, "more connections failed on a defect"))
        self._defects = Ration(partial(logger.error, "more defects"))
        self._logger = logger
        self._debugging = logger.is_enabled_for(10)

    def settle(self, *, now: bool = False) -> None:
        """Reports what is over. To be called several times a second, and ``now`` at the end."""
        self.rejecting.settle()
        self.not_accepting.settle()
        rations = (self._closings, self._unused_closings, self._failures, self._defects)
        for ration in rations:
            ration.settle(now=now)

    def protocol(
        self, head: bytes, max_line_bytes: int, client_address: Any, port: int
    ) -> LineProtocol:
        """A connection's protocol, of the kind that logs each line at the level debug only."""
        if not self._debugging:
            return LineProtocol(head, max_line_bytes)
        return LoggedProtocol(
            head, max_line_bytes, self._logger.bind(peer=peer(client_address), port=port)
        )

    def closed(self, client_address: Any, facts: dict[str, Any]) -> None:
        """Reports the end of a connection, at the level debug if it was not used.

        ``facts`` has at least ``reason``, ``lines``, ``received_bytes`` and ``sent_bytes``.
        """
        ration, log = self._closings, self._logger.info
        if facts["reason"] == "unused":
            if not self._debugging:
                return
            ration, log = self._unused_closings, self._logger.debug
        if ration.allows(facts["lines"], facts["received_bytes"], facts["sent_bytes"]):
            log("connection closed", peer=peer(client_address), **facts)

    def defect(self, client_address: Any, port: int) -> None:
        """Reports the exception being handled, which cost a connection."""
        if self._failures.allows():
            self._logger.error(
                "connection failed on a defect",
                peer=peer(client_address),
                port=port,
                **described(sys.exception()),
            )

    def thread_defect(self) -> None:
        """Reports the exception being handled, which no connection can be blamed for."""
        if self._defects.allows():
            name = current_thread().name
            self._logger.error("defect", thread=name, **described(sys.exception()))


class LoggedProtocol(LineProtocol):
    """A protocol that logs each line it answers."""

    __slots__ = ("_logger",)

    def __init__(self, head: bytes, max_line_bytes: int, logger: Logger) -> None:
        super().__init__(head, max_line_bytes)
        self._logger = logger

    def _answer(self, lines: bytes) -> tuple[bytes, int]:
        reply, count = super()._answer(lines)
        for line in lines.split(b"\n")[:count]:
            self._logger.debug("line", bytes=len(line) + 1, line=printable(line))
        return reply, count


def described(error: BaseException | None) -> dict[str, str]:
    """An exception for the log: what it is and where it was raised, without a traceback."""
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    place = " < ".join(
        f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames[-3:])
    )
    return {"error": cut(repr(error)), "at": place}  # it may hold what a client sent
