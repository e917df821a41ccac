"""Log events of samples that fail: a few, however many do."""

from __future__ import annotations

from math import inf
from typing import Any

from echod.probe.result import printable
from echod.probe.tally import Outcome
from echod.telemetry.events import Logger

EVENT_SECONDS = 60.0
"""Between two events of one kind of failure."""

SILENT_SECONDS = 10.0
"""Without an answer, until there is an event that says so."""


class Troubles:
    """Reports failures by kind, and when a target has stopped to answer and when it is back."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._reported: dict[str, float] = {}  # when there was an event of a kind
        self._left_out: dict[str, int] = {}
        self._answered = 0.0
        self._failed = 0
        self._silent = False

    def add(self, outcome: Outcome) -> None:
        """Takes one more outcome, in the order in which they began."""
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
            detail = printable(outcome.detail)
            self._logger.warning("sample failed", kind=kind, detail=detail, more=more or None)
        if not self._silent and now - self._answered >= SILENT_SECONDS:
            self._silent = True
            self._logger.error("target does not answer", **self._facts(outcome))

    def _facts(self, outcome: Outcome) -> dict[str, Any]:
        return {"seconds": round(outcome.began - self._answered, 3), "failures": self._failed}
