"""The sequential judge: it evaluates samples in the order of their start, until it is sure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from echod.probe.expectation import FAILURES
from echod.probe.independence import CHANGED, Addresses, Order, independence
from echod.probe.tally import MAX_NAMES, OTHER, Outcome, Tally
from echod.probe.verdict import Judgement, Rules, Status, rows

PATIENCE = 20
"""A run without an expectation ends after this many failures beyond the allowed ones."""


class Judge(Protocol):
    """The interface of a judge."""

    tally: Tally

    def take(self, outcome: Outcome) -> bool:
        """Evaluate one more sample; return whether the verdict is reached."""

    def conclude(self, seconds: float, later: Iterable[Outcome] = ()) -> Judgement:
        """The verdict at the end of a run that took ``seconds``. ``later`` samples are not judged,
        but a forbidden version among them prevents a pass.
        """


class Sequential:
    """Judges a split by all samples."""

    def __init__(self, rules: Rules) -> None:
        self.tally = Tally(rules.expectation.shares if rules.expectation else ())
        self.order = Order()
        self.addresses = Addresses()
        self._rules = rules
        self._status: Status | None = None
        self._changed = False

    def take(self, outcome: Outcome) -> bool:
        """Evaluate one more sample; return whether the verdict is reached."""
        name = self.tally.add(outcome)
        if name is not None or self._rules.failures_count:
            self.order.add(FAILURES if name is None else name)
        if outcome.address:
            self.addresses.add(outcome.address, FAILURES if name is None else name)
        if self._rules.expectation is None:
            return self._is_hopeless()
        self._status = self._look(name)
        return self._status is not None

    def conclude(self, seconds: float, later: Iterable[Outcome] = ()) -> Judgement:
        """The verdict at the end."""
        status = self._status
        found = forbidden(self._rules, self.tally, later)
        stopped_at = None if status in (None, Status.INCONCLUSIVE) else self.tally.total
        if status is None:
            status = self._without_verdict()
        if found and status in (Status.HOLDS, Status.INCONCLUSIVE):
            status = Status.DIFFERS
        return Judgement(
            status=status,
            tally=self.tally,
            rows=rows(self.tally, self._rules, status),
            stopped_at=stopped_at,
            changed=self._changed,
            later=found,
            independence=independence(self.order, self.addresses),
        )

    def _look(self, name: str | None) -> Status | None:
        rules, tally = self._rules, self.tally
        if not rules.failures_count and tally.failed > rules.max_errors:
            return Status.ERRORS
        if rules.must_not_be(name):
            return Status.DIFFERS
        seen = [(test, *rules.of(tested, tally)) for tested, test in rules.tests.items()]
        if any(test.is_wrong(hits, failed, total) for test, hits, failed, total in seen):
            return Status.DIFFERS
        if not all(test.is_right(hits, failed, total) for test, hits, failed, total in seen):
            return None
        found = self.order.homogeneity()
        self._changed = found is not None and found.p < CHANGED
        return Status.INCONCLUSIVE if self._changed else Status.HOLDS

    def _is_hopeless(self) -> bool:
        excess = self.tally.failed - self._rules.max_errors
        return excess > PATIENCE or (excess > 0 and not self.tally.answered)

    def _without_verdict(self) -> Status:
        if self._rules.expectation is not None:
            return Status.INCONCLUSIVE
        too_many = self.tally.failed > self._rules.max_errors
        return Status.ERRORS if too_many else Status.HOLDS


def forbidden(rules: Rules, tally: Tally, outcomes: Iterable[Outcome]) -> Counter[str]:
    """Forbidden versions among samples that were not judged."""
    if rules.expectation is None:
        return Counter()
    wrong = Counter(one.version for one in outcomes if rules.must_not_be(one.version))
    found: Counter[str] = Counter()
    for version, count in wrong.items():
        name = FAILURES if version is None else version
        known = version is None or version in tally.versions or len(found) < MAX_NAMES
        found[name if known else OTHER] += count
    return found
