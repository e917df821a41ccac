"""Log events for failed samples, few even if many fail."""

from __future__ import annotations

from math import inf
from typing import Any

from echod.probe.result import printable
from echod.probe.tally import Outcome
from echod.telemetry.events import Logger

EVENT_SECONDS = 60.0
"""Minimum time between two events for one kind of failure."""

SILENT_SECONDS = 10.0
"""Time without an answer after which an event reports it."""


class Troubles:
    """Reports failures by kind, and when a target stops answering and when it answers again."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._reported: dict[str, float] = {}  # time of the last event of each kind
        self._left_out: dict[str, int] = {}
        self._answered = 0.0
        self._failed = 0
        self._silent = False

    def add(self, outcome: Outcome) -> None:
        """Take one more outcome, in the order in which they began."""
        if outcome.version is None:
            self._fail(outcome)
            return
        if self._silent:
            self._logger.warning("target answers again", **self._facts(outcome))
        self._answered, self._failed, self._silent = outcome.began, 0, False

    def _fail(self, outcome: Outcome) -> None:
        kind, now = outcome.failure, outcome.began
        self._failed += 1
        if now - self._reported.get(kind, -inf) < EVENT_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
        else:
            self._reported[kind] = now
            more = self._left_out.pop(kind, 0)
            self._logger.warning(
                "sample failed",
                kind=kind,
                detail=printable(outcome.detail),
                address=(outcome.address and printable(outcome.address)) or None,
                more=more or None,
            )
        if not self._silent and now - self._answered >= SILENT_SECONDS:
            self._silent = True
            self._logger.error("target does not answer", **self._facts(outcome))

    def _facts(self, outcome: Outcome) -> dict[str, Any]:
        return {"seconds": round(outcome.began - self._answered, 3), "failures": self._failed}
