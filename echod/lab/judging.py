"""Judging a split under continuous traffic: its rules, and a verdict that follows the traffic."""

from __future__ import annotations

from collections.abc import Sequence

from echod.lab.weights import Weights, expectation
from echod.probe.expectation import parse as expected
from echod.probe.judge import Sequential
from echod.probe.result import Result
from echod.probe.tally import Outcome
from echod.probe.verdict import Judgement, Row, Rules, Status, rows
from echod.probe.words import verdict_lines

ALPHA = 0.001
DETECT = 0.05


def rules_of(weights: Weights, alpha: float = ALPHA) -> Rules:
    """The rules for a split by these weights. Raises UsageError for shares under a millionth."""
    return Rules(
        expectation=expected([expectation(weights)]),
        alpha=alpha,
        detect=DETECT,
        tolerance=None,
        max_errors=0,
    )


class Following:
    """The probe's sequential judge, for samples that continue after its verdict.

    A split that holds stays under test. The evidence against it may be checked without end, and is
    still wrong in at most one of ``1 / ALPHA`` runs. So *holds* may turn into *differs* or *too
    many errors*; those two are final.
    """

    def __init__(self, weights: Weights, target: str) -> None:
        self._rules = rules_of(weights)
        self._judge = Sequential(self._rules)
        self._target = target
        self._fallen: Judgement | None = None
        self.stopped_at: int | None = None
        """The number of samples at the verdict; None before it."""

    @property
    def status(self) -> Status | None:
        """The verdict, or None if there is none yet."""
        return self._fallen.status if self._fallen else None

    @property
    def total(self) -> int:
        """The number of samples so far."""
        return self._judge.tally.total

    @property
    def failed(self) -> int:
        """The number of failed samples."""
        return self._judge.tally.failed

    def take(self, outcome: Outcome) -> None:
        """Evaluate one more sample. Samples must come in the order in which they began."""
        if self._fallen is None:
            if self._judge.take(outcome):
                self._fall(self._judge.conclude(0.0))
            return
        name = self._judge.tally.add(outcome)
        if self.status in (Status.DIFFERS, Status.ERRORS):
            return
        if name is None:
            self._turn(Status.ERRORS)
        elif self._rules.must_not_be(name) or self._is_wrong():
            self._turn(Status.DIFFERS)

    def rows(self) -> list[Row]:
        """Each version with its current share and interval."""
        return rows(self._judge.tally, self._rules, self.status or Status.INCONCLUSIVE)

    def lines(self) -> Sequence[str]:
        """The verdict as the probe prints it, or the progress towards it."""
        if self._fallen is None or self.status is Status.ERRORS:  # whose count of failures goes on
            return self._said(self._made(self.status or Status.INCONCLUSIVE))
        return self._words

    def _is_wrong(self) -> bool:
        tally = self._judge.tally
        return any(
            test.is_wrong(*self._rules.of(name, tally)) for name, test in self._rules.tests.items()
        )

    def _turn(self, status: Status) -> None:
        self._fall(self._made(status))

    def _fall(self, judgement: Judgement) -> None:
        self._fallen = judgement
        self.stopped_at = self.total
        self._words = self._said(judgement)

    def _made(self, status: Status) -> Judgement:
        tally = self._judge.tally
        return Judgement(status=status, tally=tally, rows=rows(tally, self._rules, status))

    def _said(self, judgement: Judgement) -> list[str]:
        tally = self._judge.tally
        result = Result(
            target=self._target,
            rules=self._rules,
            judgement=judgement,
            seconds=0.0,
            answered=tally.answered,
            failed=tally.failed,
        )
        return verdict_lines(result)
