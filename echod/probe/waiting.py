"""The judge of ``--wait``: it tests from many starting points whether the split has held since.

Each start is a separate test of all samples since. The tests share the error probability of a
single one, so that together they pass a split that is off no more often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf

from echod.probe.evidence import Mixture, ShareTest, log_likelihood
from echod.probe.expectation import FAILURES
from echod.probe.independence import CHANGED, Addresses, Order, Place, independence
from echod.probe.judge import forbidden
from echod.probe.tally import Outcome, Tally
from echod.probe.verdict import Judgement, Rules, Status, rows

MOST_STARTS = 300
LEAST_SECONDS = 1.0
"""Minimum time between two starts."""

_LAST = 0.75
"""The part of the time after which a split that does not hold yet counts as wrong."""

_TESTS_A_SAMPLE = 4
"""Average number of tests evaluated per sample; all of them would take too long."""


@dataclass
class Mark:
    """A point in time of the run, with the counts until then."""

    began: float
    tally: Tally
    order: Place


class Arrival:
    """The test of whether one share is within the tolerance, by one likelihood ratio per side."""

    def __init__(self, test: ShareTest) -> None:
        self._test = test
        near = test.shift / 2
        self._low = Mixture([test.share, max(0.0, test.share - near)])
        self._high = Mixture([test.share, min(1.0, test.share + near)])

    def has_come(self, hits: int, failed: int, total: int) -> bool:
        """Whether the samples show it, with ``failed`` ones counted as the worst case."""
        test = self._test
        if test.share >= 1:
            total, failed = total - failed, 0
        return _shown(self._low, test.below, hits, total, test.proof) and _shown(
            self._high, test.above, hits + failed, total, test.proof
        )


def _shown(prior: Mixture, off: float | None, hits: int, total: int, proof: float) -> bool:
    """Whether the samples reject the share ``off``."""
    if off is None:
        return True
    near = prior.log(hits, total - hits)
    return near > -inf and near - log_likelihood(hits, total - hits, off) >= proof


class Waiting:
    """Judges a run that waits for the split, for up to ``seconds``."""

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
        """Evaluate one more sample; return whether the split holds."""
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
        """The verdict at the end, from the start that has passed or on the last quarter."""
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
                self.order, self.addresses, since=mark.order if mark else None
            ),
        )

    def _mark(self, began: float) -> None:
        """Add a start if it is time, and a mark when the last quarter begins."""
        start, quarter = began >= self._next, began >= self._quarter
        if not (start or quarter):
            return
        mark = Mark(began, self.tally.copy(), self.order.mark())
        self._marks.append(mark)
        if start:
            self._starts.append(mark)
            self._next = (began // self._spacing + 1) * self._spacing
        if quarter:
            self._quarter = inf

    def _last(self, seconds: float) -> Mark | None:
        """The mark at which the last quarter of the time begins."""
        quarter = _LAST * seconds
        return min(self._marks, key=lambda mark: abs(mark.began - quarter), default=None)

    def _look(self) -> None:
        """Look for a start since which the split holds. Drop starts that can no longer pass."""
        self._unlooked = 0
        for start in list(self._starts):
            tally = self.tally.since(start.tally)
            if self._is_hopeless(tally):
                self._starts.remove(start)
            elif all(
                arrival.has_come(*self._rules.of(name, tally))
                for name, arrival in self._arrivals.items()
            ):
                found = self.order.homogeneity(start.order)
                if found is None or found.p >= CHANGED:
                    self._passed = start
                    return
                self._starts.remove(start)

    def _is_hopeless(self, tally: Tally) -> bool:
        return not self._rules.failures_count and tally.failed > self._rules.max_errors

    def _of(self, tally: Tally) -> Status:
        """The verdict on a split that does not hold at the end."""
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
