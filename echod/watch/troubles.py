"""Log events for failed samples and look-ups, few even if many fail."""

from __future__ import annotations

from math import inf
from typing import Any

from echod.probe.result import MOST_TOLD, printable
from echod.probe.tally import Outcome
from echod.telemetry.events import Logger

EVENT_SECONDS = 60.0
"""Minimum time between two events for one kind of failure."""

SILENT_SECONDS = 10.0
"""Time without an answer after which an event reports it."""


LOOK_UP = "look-up failed"
"""The kind of failed look-ups. They are no samples: the addresses stay known."""


class Troubles:
    """Reports failures by kind, and when a target stops answering and when it answers again."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._reported: dict[str, float] = {}  # time of the last event of each kind
        self._left_out: dict[str, int] = {}
        self._answered = 0.0
        self._failed = 0
        self._silent = False
        self._failed_look_ups = 0
        self._name_lost = False  # and that was logged
        self._address = ""

    def add(self, outcome: Outcome) -> None:
        """Take one more outcome, in the order in which they began."""
        if outcome.version is None:
            self._fail(outcome)
            return
        if self._silent:
            self._logger.warning("target answers again", **self._facts(outcome))
        self._answered, self._failed, self._silent = outcome.began, 0, False

    def look_up(self, problem: str, now: float) -> None:
        """Take one more look-up of the name: its problem, or an empty text if it has succeeded."""
        if problem:
            self._failed_look_ups += 1
            if self._is_due(LOOK_UP, now):
                self._name_lost = True
                self._logger.warning(
                    f"{LOOK_UP}, keeping the known addresses",
                    detail=printable(problem, MOST_TOLD),
                    more=self._more(LOOK_UP),
                )
            return
        if self._name_lost:
            self._logger.info("look-up succeeds again", failures=self._failed_look_ups)
        self._failed_look_ups, self._name_lost = 0, False

    def take_address(self, address: str, addresses: int, now: float) -> None:
        """Take the address to which samples now go, one of ``addresses``. The first one is worth an
        event only if there are several.
        """
        before = self._address
        if address == before or (before and not self._is_due("address", now)):
            return
        self._address = address
        if before or addresses > 1:
            self._logger.info(
                "address taken",
                address=printable(address),
                addresses=addresses,
                before=printable(before) if before else None,
            )

    def _fail(self, outcome: Outcome) -> None:
        kind, now = outcome.failure, outcome.began
        self._failed += 1
        if self._is_due(kind, now):
            self._logger.warning(
                "sample failed",
                kind=kind,
                detail=printable(outcome.detail, MOST_TOLD),
                address=(outcome.address and printable(outcome.address)) or None,
                more=self._more(kind),
            )
        if not self._silent and now - self._answered >= SILENT_SECONDS:
            self._silent = True
            self._logger.error("target does not answer", **self._facts(outcome))

    def _is_due(self, kind: str, now: float) -> bool:
        """Whether another event of this kind may be logged; counts those that may not."""
        if now - self._reported.get(kind, -inf) < EVENT_SECONDS:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return False
        self._reported[kind] = now
        return True

    def _more(self, kind: str) -> int | None:
        """The number of events of this kind that were not logged."""
        return self._left_out.pop(kind, None)

    def _facts(self, outcome: Outcome) -> dict[str, Any]:
        return {"seconds": round(outcome.began - self._answered, 3), "failures": self._failed}
