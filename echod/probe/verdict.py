"""From counts to a verdict, by rules that were fixed before the first sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from math import pi

from echod.errors import UsageError
from echod.probe.binomial import interval, p_value
from echod.probe.expectation import FAILURES, Expectation
from echod.probe.planning import detectable, finds, sample_size, sample_size_within
from echod.probe.tally import OTHER, Tally

WRONG = frozenset({"off", "outside", "forbidden", "unexpected"})
"""Verdicts on a share that contradict the expectation."""

Cell = tuple[str, float | None, int]
"""A name, its expected share and its count."""

WITHOUT_EXPECTATION = 200
"""Connections, where there is nothing to judge."""


class Status(IntEnum):
    """What a run comes to, and the program's exit status."""

    HOLDS = 0
    DIFFERS = 1
    ERRORS = 3
    INCONCLUSIVE = 4


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is asked of a split. Shares and differences of them are fractions, not per cent."""

    expectation: Expectation | None
    alpha: float
    detect: float
    tolerance: float | None
    max_errors: int

    @property
    def tail(self) -> float:
        """The chance of error that each side of each test may have."""
        return self.alpha / 2 / (len(self.expectation.tested) if self.expectation else 1)

    @property
    def failures_count(self) -> bool:
        """Whether failures are part of the split that is judged."""
        return bool(self.expectation and self.expectation.failures is not None)

    def look(self, number: int) -> Rules:
        """The rules for one look of many at fresh samples, from 1 on.

        The levels alpha * 6 / (pi * number) ** 2 of all looks add up to alpha, so that looking
        often makes a wrong split pass no more often.
        """
        return replace(self, alpha=self.alpha * 6 / (pi * number) ** 2)

    def plan(self) -> int:
        """How many connections it takes. Raises UsageError if that is too many."""
        if not self.expectation:
            return WITHOUT_EXPECTATION
        tested = self.expectation.tested
        if self.tolerance is not None:
            return sample_size_within(tested, self.tail, self.tolerance)
        return sample_size(tested, self.tail, self.detect)

    def is_plannable(self) -> bool:
        """Whether it takes no more connections than can be had."""
        try:
            self.plan()
        except UsageError:
            return False
        return True


@dataclass(frozen=True)
class Row:
    """One version, or the failures where they have a share. Shares are fractions."""

    name: str
    expected: float | None
    seen: int
    share: float
    low: float
    high: float
    p: float | None
    verdict: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict, and what it rests on."""

    status: Status
    rows: list[Row]
    judged: int
    """Connections that count towards the shares."""
    failed: int
    """Connections that do not, as nothing answered."""
    detectable: float | None = None
    """The smallest shift of a share that would have been found; None: no shift at all."""


def judge(tally: Tally, rules: Rules) -> Judgement:
    """The verdict on what was counted."""
    cells = _cells(tally, rules)
    judged = sum(seen for _, _, seen in cells)
    failed = 0 if rules.failures_count else tally.failed
    expectation = rules.expectation
    if expectation is None:
        level = rules.alpha / (len(cells) if len(cells) > 2 else 1)
        rows = [_row(cell, judged, level) for cell in cells]
        made = Judgement(Status.HOLDS, rows, judged, failed)
    else:
        rows = [_row(cell, judged, 2 * rules.tail) for cell in cells]
        if rules.tolerance is None:
            verdicts = _by_test(rows, expectation, rules.alpha)
        else:
            verdicts = _by_interval(rows, expectation, rules.tolerance)
        rows = [replace(row, verdict=word) for row, word in zip(rows, verdicts, strict=True)]
        shift = detectable(judged, expectation.tested, rules.tail) if judged else None
        found = bool(judged) and finds(judged, expectation.tested, rules.tail, rules.detect)
        made = Judgement(_status(rows, found, rules), rows, judged, failed, shift)
    return replace(made, status=Status.ERRORS) if failed > rules.max_errors else made


def _cells(tally: Tally, rules: Rules) -> list[Cell]:
    """Everything that is judged."""
    expectation = rules.expectation
    shares: dict[str, float | None] = dict(expectation.shares) if expectation else {}
    for name in sorted(set(tally.versions) - shares.keys()):
        shares[name] = 0.0 if expectation else None
    cells: list[Cell] = [(name, share, tally.versions[name]) for name, share in shares.items()]
    if tally.beyond:
        cells.append((OTHER, 0.0 if expectation else None, tally.beyond))
    if expectation and expectation.failures is not None:
        cells.append((FAILURES, expectation.failures, tally.failed))
    return cells


def _row(cell: Cell, judged: int, level: float) -> Row:
    name, expected, seen = cell
    if not judged:
        return Row(name, expected, seen, 0.0, 0.0, 1.0, None)
    p = None if expected is None else p_value(seen, judged, expected)
    return Row(name, expected, seen, seen / judged, *interval(seen, judged, level), p)


def _by_test(rows: Sequence[Row], expectation: Expectation, alpha: float) -> list[str]:
    """Each share by its exact test, with Holm's correction for their number: the most unlikely
    first, as long as they are unlikely enough.
    """
    left, rejecting = len(expectation.tested), True
    verdicts = {}
    for row in sorted((row for row in rows if row.expected), key=lambda row: row.p or 0.0):
        if row.p is None:
            verdicts[row.name] = "unclear"
            continue
        rejecting = rejecting and row.p <= alpha / max(1, left)
        verdicts[row.name] = "off" if rejecting else "as expected"
        left -= 1
    return [verdicts[row.name] if row.expected else _of_none(row, expectation) for row in rows]


def _by_interval(rows: Sequence[Row], expectation: Expectation, tolerance: float) -> list[str]:
    """Each share by where its interval lies."""
    verdicts = []
    for row in rows:
        if not row.expected:
            verdicts.append(_of_none(row, expectation))
            continue
        least, most = row.expected - tolerance, row.expected + tolerance
        if least <= row.low and row.high <= most:
            verdicts.append("within")
        else:
            verdicts.append("outside" if row.high < least or most < row.low else "unclear")
    return verdicts


def _of_none(row: Row, expectation: Expectation) -> str:
    """The verdict on what must not be there: one connection is too many."""
    if not row.seen:
        return "absent"
    named = row.name in expectation.shares or row.name == FAILURES
    return "forbidden" if named else "unexpected"


def _status(rows: Sequence[Row], found: bool, rules: Rules) -> Status:
    verdicts = {row.verdict for row in rows}
    if verdicts & WRONG:
        return Status.DIFFERS
    shown = found if rules.tolerance is None else bool(verdicts) and "unclear" not in verdicts
    return Status.HOLDS if shown else Status.INCONCLUSIVE
