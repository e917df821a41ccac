"""How many connections a judgement takes: exactly for one tested share, by simulation for more."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, exp, sqrt

from echod.probe.evidence import ShareTest
from echod.probe.fixed import MOST, sample_size, sample_size_within

_MOST_STEPS, _MOST_LOOKS = 4000, 40_000
"""Connections of one computed run, and looks at a share in it; what would take more is computed
for a coarser question."""

_HALF, _RARE, _WIDE = 0.5, 0.02, 0.1
_LEAST_RUNS, _RUNS, _SHARES_OF_RUNS = 100, 400, 3200
"""Simulated, and shares of all of them: the more shares, the less do their slowest vary."""
_SEED = 2026
_FORGOTTEN = 1e-12
"""A chance that is as good as nothing."""


class Bounds:
    """Which counts of hits end a test of one share, after so many samples as ``step`` was called.

    All four rise with the number of samples, by one at a time.
    """

    def __init__(self, test: ShareTest) -> None:
        self.total = 0
        self.wrong_to = -1  # so many and fewer are wrong
        self.wrong_from = 1  # so many and more are wrong
        self.right_from = 0
        self.right_to = -1
        self._test = test

    def step(self) -> None:
        """One more sample."""
        self.total = total = self.total + 1
        test = self._test
        while self.wrong_to < test.low * total and self._is_wrong(self.wrong_to + 1, below=True):
            self.wrong_to += 1
        while self.wrong_from <= total and not self._is_wrong(self.wrong_from, below=False):
            self.wrong_from += 1
        while self.right_from <= total and not test.not_below(self.right_from, total):
            self.right_from += 1
        while self.right_to < total and test.not_above(self.right_to + 1, total):
            self.right_to += 1

    def _is_wrong(self, hits: int, *, below: bool) -> bool:
        test, total = self._test, self.total
        if below:
            return hits < test.low * total and test.is_wrong(hits, 0, total)
        return hits > test.high * total and test.is_wrong(hits, 0, total)


@dataclass
class Stops:
    """When runs end, by their number of connections: the chance of each, and of each verdict."""

    ends: dict[int, float]
    right: float = 0.0
    wrong: float = 0.0

    @property
    def mean(self) -> float:
        """Connections on average."""
        return sum(n * chance for n, chance in self.ends.items())

    def quantile(self, part: float) -> int:
        """Connections that ``part`` of all runs do not pass."""
        known = sorted(self.ends)
        reached = zip(known, accumulate(self.ends[n] for n in known), strict=True)
        return next((n for n, chance in reached if chance >= part), known[-1])


def exact(test: ShareTest, truth: float, cap: int) -> Stops:
    """When runs with a true share ``truth`` end, and how."""
    bounds, stops = Bounds(test), Stops({})
    first, chances = 0, [1.0]  # of first, first + 1, ... hits, in the runs that go on
    while bounds.total < cap and chances:
        bounds.step()
        chances = [
            truth * a + (1 - truth) * b
            for a, b in zip([0.0, *chances], [*chances, 0.0], strict=True)
        ]
        wrong = _taken(chances, 0, bounds.wrong_to + 1 - first)
        wrong += _taken(chances, bounds.wrong_from - first, len(chances))
        right = _taken(chances, bounds.right_from - first, bounds.right_to + 1 - first)
        stops.wrong += wrong
        stops.right += right
        if wrong or right:
            stops.ends[bounds.total] = wrong + right
        first, chances = _trimmed(first, chances)
    left = sum(chances)
    if left:
        stops.ends[bounds.total] = stops.ends.get(bounds.total, 0.0) + left
    return stops


def _taken(chances: list[float], begin: int, end: int) -> float:
    """What was in these places, which are empty afterwards."""
    begin, end = max(0, begin), min(len(chances), end)
    if begin >= end:
        return 0.0
    taken = sum(chances[begin:end])
    chances[begin:end] = [0.0] * (end - begin)
    return taken


def _trimmed(first: int, chances: list[float]) -> tuple[int, list[float]]:
    """Without what is as good as nothing at both ends."""
    begin, end = 0, len(chances)
    while begin < end and chances[begin] < _FORGOTTEN:
        begin += 1
    while end > begin and chances[end - 1] < _FORGOTTEN:
        end -= 1
    return first + begin, chances[begin:end]


def simulated(tests: Sequence[ShareTest], truth: Sequence[float], cap: int, runs: int) -> Stops:
    """The same for several shares, from so many runs; always the same ones."""
    chance = random.Random(_SEED)  # noqa: S311  # the same runs every time are the point
    bounds = [Bounds(test) for test in tests]
    known: list[list[tuple[int, int, int, int]]] = []  # by the number of samples
    limits = list(accumulate(truth))
    stops = Stops({})
    places = range(len(tests))
    for _ in range(runs):
        hits, total = [0] * len(tests), 0
        while total < cap:
            hits[min(bisect_right(limits, chance.random()), len(tests) - 1)] += 1
            if total == len(known):
                known.append([_stepped(one) for one in bounds])
            now = known[total]
            total += 1
            right = True
            for at in places:  # without a generator, which would take most of the time
                seen, (wrong_to, wrong_from, right_from, right_to) = hits[at], now[at]
                if seen <= wrong_to or seen >= wrong_from:
                    stops.wrong += 1 / runs
                    break
                right = right and right_from <= seen <= right_to
            else:
                if not right:
                    continue
                stops.right += 1 / runs
            break
        stops.ends[total] = stops.ends.get(total, 0.0) + 1 / runs
    return stops


def _stepped(bounds: Bounds) -> tuple[int, int, int, int]:
    bounds.step()
    return bounds.wrong_to, bounds.wrong_from, bounds.right_from, bounds.right_to


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a judgement of a split that is as expected takes, in connections."""

    least: int
    typical: int
    p95: int
    cap: int


def plan(tests: Sequence[ShareTest]) -> Plan:
    """The plan of a judgement. Raises UsageError if it takes more than can be had."""
    cap, least = limit(tests), earliest(tests)
    coarse, factor = _coarser(tests)
    most = limit(coarse)
    if len(coarse) == 1:
        stops = exact(coarse[0], coarse[0].share, most)
    else:
        runs = min(_RUNS, max(_LEAST_RUNS, _SHARES_OF_RUNS // len(coarse)))
        stops = simulated(coarse, [test.share for test in coarse], most, runs)
    typical, p95 = (min(cap, round(factor * one)) for one in (stops.mean, stops.quantile(0.95)))
    return Plan(least=least, typical=max(least, typical), p95=max(least, p95), cap=cap)


def _steps(tests: Sequence[ShareTest]) -> float:
    """About how many connections a judgement takes on average."""
    return max(
        max(10 * one.share * (1 - one.share) / one.shift**2, 10 / rare(one.share)) for one in tests
    )


def rare(share: float) -> float:
    """What a share leaves, if that is less and not nothing."""
    return min(share, 1 - share) or share


def _coarser(tests: Sequence[ShareTest]) -> tuple[Sequence[ShareTest], float]:
    """Tests that can be computed in a moment, and how many times as many connections these take.

    Rare versions come by chance as often in fewer connections if they are less rare; and finding
    a shift takes connections by the inverse of its square.
    """
    factor = 1.0
    most = min(_MOST_STEPS, _MOST_LOOKS / len(tests))
    while len(tests) == 1 and _steps(tests) > most and rare(tests[0].share) < _RARE:
        share = 2 * rare(tests[0].share)
        share = share if tests[0].share < _HALF else 1 - share
        shift = max(tests[0].shift, min(_WIDE, 2 * tests[0].shift))
        tests, factor = [replace(tests[0], share=share, shift=shift)], 2 * factor
    while _steps(tests) > most and (coarse := _halved(tests)) != tests:
        tests, factor = coarse, 2 * factor
    return tests, factor


def _halved(tests: Sequence[ShareTest]) -> Sequence[ShareTest]:
    """Tests of several shares that take about half as many connections, if they can."""
    shift = max(tests[0].shift, min(_WIDE, tests[0].shift * sqrt(2)))
    shares = _less_rare([test.share for test in tests])
    return [replace(one, share=p, shift=shift) for one, p in zip(tests, shares, strict=True)]


def _less_rare(shares: Sequence[float]) -> Sequence[float]:
    """Rare ones of several shares doubled, at the cost of the others."""
    doubled = [2 * one if one < _RARE else 0.0 for one in shares]
    if len(shares) == 1 or not any(doubled):
        return shares
    left = (1 - sum(doubled)) / sum(one for one in shares if one >= _RARE)
    return [two or one * left for one, two in zip(shares, doubled, strict=True)]


def earliest(tests: Sequence[ShareTest]) -> int:
    """The number of connections before which nothing can pass, whatever they show."""

    def least(test: ShareTest, total: int) -> int:
        return _first(total, lambda hits: test.not_below(hits, total))

    def most(test: ShareTest, total: int) -> int:
        return total - _first(total, lambda rest: test.not_above(total - rest, total))

    def passable(total: int) -> bool:
        counts = [(least(test, total), most(test, total)) for test in tests]
        fits = all(low <= high for low, high in counts)
        fits = fits and sum(low for low, _ in counts) <= total
        return fits and (len(tests) == 1 or sum(high for _, high in counts) >= total)

    # Before the first from which on all do, whole numbers may fit by chance: as often as one more
    # is asked of a share, which does not go on for one that its shift leads to 0 or to 1.
    lasting = _first(4 * MOST, passable)
    begin = max(1, lasting - round(2 / min(max(rare(one.share), one.shift) for one in tests)))
    return next(n for n in range(begin, lasting + 1) if passable(n))


def _first(most: int, enough: Callable[[int], bool]) -> int:
    """The smallest number from 0 on from which on it is enough; ``most`` + 1 if none is."""
    low, high = -1, most + 1
    step = 1
    while low + step < high:  # near the beginning, as a rule
        if enough(low + step):
            high = low + step
        else:
            low, step = low + step, 2 * step
    return low + 1 + bisect_left(range(low + 1, high), True, key=enough)


def limit(tests: Sequence[ShareTest]) -> int:
    """Connections after which a judgement ends without an answer.

    Four times as many as a number of connections takes that is fixed before, and enough for one
    to find that the version with the smallest share is dead.
    """
    shares = [test.share for test in tests]
    level = max(test.against for test in tests)
    first = tests[0]
    tail = exp(-level) / 2
    fixed = (sample_size_within if first.tolerant else sample_size)(shares, tail, first.shift)
    rarest = rare(shares[0]) if len(shares) == 1 else min(shares)
    return max(4 * fixed, ceil(1.1 * (level + 1) / rarest))
