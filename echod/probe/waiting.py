"""The judge of a split that is waited for: one start after another, from each of which it may hold.

Each start is a test of its own on all samples since; together they pass what is off with the
chance that a single one may have, since each has its part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf

from echod.probe.evidence import Mixture, ShareTest, log_likelihood
from echod.probe.expectation import FAILURES
from echod.probe.independence import CHANGED, Addresses, Order, independence
from echod.probe.judge import forbidden
from echod.probe.tally import Outcome, Tally
from echod.probe.verdict import Judgement, Rules, Status, rows

MOST_STARTS = 300
LEAST_SECONDS = 1.0
"""Between two starts."""

_LAST = 0.75
"""The part of the time after which a split that has not come is one that is wrong."""

_TESTS_A_SAMPLE = 4
"""Tests that are looked at after each sample, on average: all of them would take too long."""


@dataclass
class Mark:
    """A moment of the run, and what had come until then."""

    began: float
    tally: Tally
    ordered: int


class Arrival:
    """Whether one share is within the tolerance on both sides, each by a ratio that rises there."""

    def __init__(self, test: ShareTest) -> None:
        self._test = test
        near = test.shift / 2
        self._low = Mixture([test.share, max(0.0, test.share - near)])
        self._high = Mixture([test.share, min(1.0, test.share + near)])

    def has_come(self, hits: int, failed: int, total: int) -> bool:
        """Whether samples show it. ``failed`` ones count in the worst way."""
        test = self._test
        if test.share >= 1:
            total, failed = total - failed, 0
        return _shown(self._low, test.below, hits, total, test.proof) and _shown(
            self._high, test.above, hits + failed, total, test.proof
        )


def _shown(prior: Mixture, off: float | None, hits: int, total: int, proof: float) -> bool:
    """Whether a share that is off is rejected."""
    if off is None:
        return True
    near = prior.log(hits, total - hits)
    return near > -inf and near - log_likelihood(hits, total - hits, off) >= proof


class Waiting:
    """Judges a split that is waited for, for so many seconds."""

    def __init__(self, rules: Rules, seconds: float) -> None:
        self.tally = Tally(rules.expectation.shares if rules.expectation else ())
        self.order = Order()
        self.addresses = Addresses()
        self._rules = rules
        self._spacing = max(LEAST_SECONDS, seconds / MOST_STARTS)
        self._most = max(1, ceil(seconds / self._spacing))
        self._arrivals = {
            name: Arrival(rules.test(test.share, self._most)) for name, test in rules.tests.items()
        }
        self._starts: list[Mark] = []
        self._next = 0.0
        self._marks: list[Mark] = []
        self._quarter = _LAST * seconds
        self._passed: Mark | None = None
        self._unlooked = 0

    def take(self, outcome: Outcome) -> bool:
        """Looks at one more sample; true when the split holds."""
        self._mark(outcome.began)
        name = self.tally.add(outcome)
        if name is not None or self._rules.failures_count:
            self.order.add(FAILURES if name is None else name)
        if outcome.address:
            self.addresses.add(outcome.address, FAILURES if name is None else name)
        if self._rules.must_not_be(name):
            self._starts.clear()
        self._unlooked += 1
        if self._unlooked * _TESTS_A_SAMPLE >= len(self._starts) * len(self._arrivals):
            self._look()
        return self._passed is not None

    def conclude(self, seconds: float, later: Iterable[Outcome] = ()) -> Judgement:
        """The verdict at the end: of the start that has passed, or of the last quarter."""
        if not self._passed:
            self._look()
        mark = self._passed or self._last(seconds)
        tally = self.tally.since(mark.tally) if mark else self.tally
        found = forbidden(self._rules, tally, later)
        status = Status.HOLDS if self._passed and not found else self._of(tally)
        return Judgement(
            status=Status.DIFFERS if found and status is Status.INCONCLUSIVE else status,
            tally=tally,
            rows=rows(tally, self._rules, status, self._most if self._passed else 1),
            stopped_at=self.tally.total if self._passed else None,
            later=found,
            independence=independence(
                self.order, self.addresses, since=mark.ordered if mark else 0
            ),
        )

    def _mark(self, began: float) -> None:
        """Begins a start if it is time, and notes when the last quarter begins."""
        start, quarter = began >= self._next, began >= self._quarter
        if not (start or quarter):
            return
        mark = Mark(began, self.tally.copy(), self.order.total)
        self._marks.append(mark)
        if start:
            self._starts.append(mark)
            self._next = (began // self._spacing + 1) * self._spacing
        if quarter:
            self._quarter = inf

    def _last(self, seconds: float) -> Mark | None:
        """The mark from which on the last quarter of the time is judged."""
        quarter = _LAST * seconds
        return min(self._marks, key=lambda mark: abs(mark.began - quarter), default=None)

    def _look(self) -> None:
        """Looks for a start from which on the split holds. One that cannot pass any more ends."""
        self._unlooked = 0
        for start in list(self._starts):
            tally = self.tally.since(start.tally)
            if self._is_hopeless(tally):
                self._starts.remove(start)
            elif all(
                arrival.has_come(*self._rules.of(name, tally))
                for name, arrival in self._arrivals.items()
            ):
                found = self.order.homogeneity(start.ordered)
                if found is None or found.p >= CHANGED:
                    self._passed = start
                    return
                self._starts.remove(start)

    def _is_hopeless(self, tally: Tally) -> bool:
        return not self._rules.failures_count and tally.failed > self._rules.max_errors

    def _of(self, tally: Tally) -> Status:
        """The verdict on a split that has not come."""
        rules = self._rules
        if self._is_hopeless(tally):
            return Status.ERRORS
        named = [name for name, count in tally.versions.items() if count]
        wrong = any(map(rules.must_not_be, named)) or tally.beyond > 0
        wrong = wrong or (tally.failed > 0 and rules.failures_forbidden)
        if wrong or any(
            test.is_wrong(*rules.of(name, tally)) for name, test in rules.tests.items()
        ):
            return Status.DIFFERS
        return Status.INCONCLUSIVE
