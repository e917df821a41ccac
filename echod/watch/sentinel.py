"""The judge of a watched split: as expected, in alarm, or settling after a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from math import log1p
from threading import Lock
from typing import Any

from echod.probe.expectation import FAILURES, Expectation
from echod.probe.result import expected_text, printable
from echod.probe.tally import OTHER, Outcome, Tally
from echod.probe.verdict import Row, Rules, Status, rows
from echod.watch.counts import Counts
from echod.watch.sums import Departure, Return, mean


class Verdict(Enum):
    """The verdict on the current split."""

    SETTLING = "settling"
    EXPECTED = "expected"
    ALARM = "alarm"


Report = Callable[..., Any]
"""Logs an event, given by its name and its fields."""


class Sentinel:
    """Judges samples in the order in which they began. Any thread may call it.

    On average, at most one false alarm occurs in ``threshold`` samples, and one false all-clear in
    ``enough``. Times are in seconds from the start of the run, as in ``Outcome.began``. ``kinds``
    are the possible kinds of failure that the conversation adds.
    """

    def __init__(
        self,
        rules: Callable[[Expectation], Rules],
        expectation: Expectation,
        report: Report,
        *,
        threshold: float,
        enough: float,
        settle: float,
        kinds: Iterable[str] = (),
    ) -> None:
        self.counts = Counts(kinds)
        self.verdict = Verdict.EXPECTED
        self.changes = 0
        self._make_rules = rules
        self._report = report
        self._threshold = threshold
        self._enough = enough
        self._settle = settle
        self._lock = Lock()
        self._judged_from = 0.0
        self._since = 0.0  # when the verdict began
        self._expect(rules(expectation), expectation)

    @property
    def expectation(self) -> Expectation:
        """The expectation in force."""
        return self._expectation

    @property
    def level(self) -> float:
        """How near an alarm is, from 0 to 1; 1 until the all-clear."""
        if self.verdict is Verdict.ALARM:
            return 1.0
        return min(1.0, log1p(mean(self._departures.values())) / log1p(self._threshold))

    def rows(self) -> tuple[list[Row], int]:
        """Each version with its share and interval, and the number of samples; all since the last
        change of the verdict or the expectation.
        """
        with self._lock:
            return rows(self._tally, self._rules, Status.INCONCLUSIVE), self._tally.total

    def change(self, expectation: Expectation, now: float) -> None:
        """Change the expectation. Samples that began earlier are not judged by it."""
        rules = self._make_rules(expectation)
        with self._lock:
            before, was = self._expectation, self.verdict
            self._expect(rules, expectation)
            self._judged_from = now + self._settle
            if self._settle:
                self._enter(Verdict.SETTLING, now)
            else:
                self._enter(Verdict.EXPECTED, now)
            self._report(
                "expectation changed",
                expected=expected_text(expectation),
                before=expected_text(before),
                verdict_before=was.value,
                settle=self._settle,
            )

    def take(self, outcome: Outcome) -> None:
        """Count one more sample, and judge it unless the split is settling."""
        with self._lock:
            self.counts.add(outcome)
            if outcome.began < self._judged_from:
                return
            if self.verdict is Verdict.SETTLING:
                self._enter(Verdict.EXPECTED, outcome.began)
                self._report("settled", expected=expected_text(self._expectation))
            if outcome.version is not None or self._rules.failures_count:
                self._judge(outcome)

    def _expect(self, rules: Rules, expectation: Expectation) -> None:
        self._rules, self._expectation = rules, expectation
        self.counts.expect(expectation.shares)
        self._begin()

    def _begin(self) -> None:
        """Reset all sums and the shown shares."""
        tests = self._rules.tests
        self._tally = Tally(self._expectation.shares)
        self._departures = {
            name: Departure(test.share, test.shift)
            for name, test in tests.items()
            if test.share < 1
        }
        self._begin_return()

    def _begin_return(self) -> None:
        tests = self._rules.tests
        self._returns = {
            name: Return(test.share, test.shift, self._enough) for name, test in tests.items()
        }

    def _enter(self, verdict: Verdict, now: float) -> None:
        if verdict is not self.verdict:
            self.changes += 1
        self.verdict = verdict
        self._since = now
        self._begin()

    def _judge(self, outcome: Outcome) -> None:
        self._tally.add(outcome)
        seen = FAILURES if outcome.version is None else outcome.version
        if self._rules.must_not_be(outcome.version):
            self._forbidden(seen, outcome.began)
            return
        in_alarm = self.verdict is Verdict.ALARM
        sums: Mapping[str, Departure | Return] = self._returns if in_alarm else self._departures
        for name, one in sums.items():
            one.add(hit=name == seen)
        if in_alarm and all(one.is_shown for one in self._returns.values()):
            self._turn(Verdict.EXPECTED, outcome.began, "all-clear")
        elif not in_alarm and mean(self._departures.values()) >= self._threshold:
            self._turn(Verdict.ALARM, outcome.began, "alarm", reason="shares differ")

    def _forbidden(self, name: str, now: float) -> None:
        """Handle a forbidden version: raise an alarm, or start the all-clear over."""
        if self.verdict is Verdict.ALARM:
            self._begin_return()
            return
        kind = "forbidden" if name in self._rules.named else "unexpected"
        self._turn(Verdict.ALARM, now, "alarm", reason=kind, version=printable(name))

    def _turn(self, verdict: Verdict, now: float, event: str, **facts: Any) -> None:
        """Log the event with the counts since the last change, and enter the new verdict."""
        self._report(
            event,
            **facts,
            expected=expected_text(self._expectation),
            seen=seen_text(self._tally),
            seconds=round(now - self._since, 3),
        )
        self._enter(verdict, now)


def seen_text(tally: Tally) -> str:
    """The counts by version: ``one=75,two=25``."""
    counts = [(printable(name), count) for name, count in sorted(tally.versions.items())]
    counts += [(OTHER, tally.beyond)] * (tally.beyond > 0) + [(FAILURES, tally.failed)] * (
        tally.failed > 0
    )
    return ",".join(f"{name}={count}" for name, count in counts)
