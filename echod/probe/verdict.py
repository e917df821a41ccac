"""The rules for a split, and the verdict on the counted samples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from math import isinf, log

from echod.probe.binomial import interval
from echod.probe.evidence import PASS, ShareTest
from echod.probe.expectation import FAILURES, Expectation
from echod.probe.independence import Independence
from echod.probe.tally import OTHER, Tally

WRONG = frozenset({"off", "outside", "forbidden", "unexpected"})
"""Verdicts on a share that contradict the expectation."""


class Status(IntEnum):
    """The verdict of a run, and the exit status of the program."""

    HOLDS = 0
    DIFFERS = 1
    ERRORS = 3
    INCONCLUSIVE = 4


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for a split. Shares and differences of shares are fractions, not per cent."""

    expectation: Expectation | None
    alpha: float
    detect: float
    tolerance: float | None
    max_errors: int

    @property
    def failures_count(self) -> bool:
        """Whether failures are part of the split that is judged."""
        return bool(self.expectation and self.expectation.failures is not None)

    @property
    def named(self) -> set[str]:
        """All names in the expectation."""
        return set(self.expectation.cells) if self.expectation else set()

    @property
    def certain(self) -> bool:
        """Whether only one version is expected, so that failures cannot be another version's."""
        return bool(self.expectation and 1.0 in self.expectation.shares.values())

    @property
    def failures_forbidden(self) -> bool:
        """Whether a single failure contradicts the expectation."""
        return bool(self.expectation and self.expectation.failures == 0)

    @cached_property
    def tests(self) -> dict[str, ShareTest]:
        """The tests that a verdict needs, by name."""
        tested = self.expectation.tested if self.expectation else {}
        return {name: self.test(share) for name, share in tested.items()}

    def test(self, share: float, looks: int = 1) -> ShareTest:
        """The test of one share: a tested one, or one that is equivalent to it.

        ``looks``: how many parts of the run are tested in this way.
        """
        tolerant = self.tolerance is not None
        count = len(self.expectation.tested) if self.expectation else 1
        return ShareTest(
            share=share,
            shift=self.detect if self.tolerance is None else self.tolerance,
            tolerant=tolerant,
            against=log(looks * count / self.alpha),
            proof=log(looks / self.alpha) if tolerant else -log(PASS),
        )

    def of(self, name: str, tally: Tally) -> tuple[int, int, int]:
        """The counts for a name: hits, failures that may be hits, and all samples."""
        if self.failures_count:
            hits = tally.failed if name == FAILURES else tally.versions[name]
            return hits, 0, tally.total
        return tally.versions[name], tally.failed, tally.total

    def must_not_be(self, name: str | None) -> bool:
        """Whether a single sample of this name (None: a failure) contradicts the expectation."""
        if name is None:
            return self.failures_forbidden
        return self.expectation is not None and not self.expectation.shares.get(name)


@dataclass(frozen=True)
class Row:
    """One version, or the failures if they have a share. Shares are fractions."""

    name: str
    expected: float | None
    seen: int
    share: float
    low: float
    high: float
    log_e: float | None
    """The log evidence against the share; None if it is not finite."""
    verdict: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict and its basis."""

    status: Status
    tally: Tally
    """The counts of the judged samples only."""
    rows: list[Row]
    stopped_at: int | None = None
    """The number of judged samples at which the verdict was reached; None: it was not."""
    changed: bool = False
    """Whether the split would have passed if it had not changed during the run."""
    later: Counter[str] = field(default_factory=Counter)
    """Forbidden names among the samples after the judged ones."""
    independence: Independence = field(default_factory=Independence)

    @property
    def judged(self) -> int:
        """The number of samples that the verdict is based on, including failures."""
        return self.tally.total


def rows(tally: Tally, rules: Rules, status: Status, looks: int = 1) -> list[Row]:
    """A row for each version, with its interval and its part of the verdict."""
    if rules.expectation is None:
        return _tallied(tally, rules)
    cells = [
        (name, share, rules.of(name, tally)) for name, share in rules.expectation.cells.items()
    ]
    for name in sorted(set(tally.versions) - rules.expectation.shares.keys()):
        _, failed, total = rules.of(name, tally)
        cells.append((name, 0.0, (tally.versions[name], failed, total)))
    if tally.beyond:
        _, failed, total = rules.of(OTHER, tally)
        cells.append((OTHER, 0.0, (tally.beyond, failed, total)))
    return [
        _row(name, rules.test(share, looks), seen, rules, status) for name, share, seen in cells
    ]


def _tallied(tally: Tally, rules: Rules) -> list[Row]:
    counts = dict(sorted(tally.versions.items())) | ({OTHER: tally.beyond} if tally.beyond else {})
    level, all_of_them = rules.alpha / (len(counts) if len(counts) > 2 else 1), tally.answered
    return [
        Row(name, None, seen, seen / all_of_them, *interval(seen, all_of_them, level), None)
        for name, seen in counts.items()
    ]


def _row(
    name: str, test: ShareTest, seen: tuple[int, int, int], rules: Rules, status: Status
) -> Row:
    (hits, failed, total), share = seen, test.share
    answered = total - failed
    low, high = test.interval(hits, failed, total)
    evidence = test.log_e(hits, failed, total) if share else None
    row = Row(
        name,
        share,
        hits,
        hits / answered if answered else 0.0,
        low,
        high,
        None if evidence is None or isinf(evidence) else evidence,
    )
    if not share:
        return replace(row, verdict=_of_none(row, rules))
    if test.is_wrong(hits, failed, total):
        return replace(row, verdict="outside" if test.tolerant else "off")
    good = "within" if test.tolerant else "as expected"
    right = status is Status.HOLDS or test.is_right(hits, failed, total)
    return replace(row, verdict=good if right else "unclear")


def _of_none(row: Row, rules: Rules) -> str:
    """The verdict on a version with share 0, which one connection contradicts."""
    if not row.seen:
        return "absent"
    expectation = rules.expectation
    return "forbidden" if expectation and row.name in expectation.cells else "unexpected"
