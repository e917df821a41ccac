"""How many connections a judgement takes: computed for one tested share, simulated for more."""

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
"""Maximum connections of a computed run, and evaluations of a share in it. Plans that would take
more are computed for a coarser question."""

_HALF, _RARE, _WIDE = 0.5, 0.02, 0.1
_LEAST_RUNS, _RUNS, _SHARES_OF_RUNS = 100, 400, 3200
"""Simulated runs, and shares in all of them. With more shares, the slowest of them varies less."""
_SEED = 2026
_FORGOTTEN = 1e-12
"""A negligible probability."""


class Bounds:
    """The counts of hits that end a test of one share, after one sample per call of ``step``.

    All four bounds rise with the number of samples, in steps of one.
    """

    def __init__(self, test: ShareTest) -> None:
        self.total = 0
        self.wrong_to = -1  # up to this count the share is wrong
        self.wrong_from = 1  # from this count on the share is wrong
        self.right_from = 0
        self.right_to = -1
        self._test = test

    def step(self) -> None:
        """Advance by one sample."""
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
    """When runs end: the probability of each number of connections, and of each verdict."""

    ends: dict[int, float]
    right: float = 0.0
    wrong: float = 0.0

    @property
    def mean(self) -> float:
        """The average number of connections."""
        return sum(n * chance for n, chance in self.ends.items())

    def quantile(self, part: float) -> int:
        """The number of connections that a share ``part`` of all runs does not exceed."""
        known = sorted(self.ends)
        reached = zip(known, accumulate(self.ends[n] for n in known), strict=True)
        return next((n for n, chance in reached if chance >= part), known[-1])


def exact(test: ShareTest, truth: float, cap: int) -> Stops:
    """When and how runs end if the true share is ``truth``."""
    bounds, stops = Bounds(test), Stops({})
    first, chances = 0, [1.0]  # of first, first + 1, ... hits, in runs that have not ended
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
    """Remove the probabilities from ``begin`` to ``end``; return their sum."""
    begin, end = max(0, begin), min(len(chances), end)
    if begin >= end:
        return 0.0
    taken = sum(chances[begin:end])
    chances[begin:end] = [0.0] * (end - begin)
    return taken


def _trimmed(first: int, chances: list[float]) -> tuple[int, list[float]]:
    """``first`` and ``chances`` without negligible probabilities at both ends."""
    begin, end = 0, len(chances)
    while begin < end and chances[begin] < _FORGOTTEN:
        begin += 1
    while end > begin and chances[end - 1] < _FORGOTTEN:
        end -= 1
    return first + begin, chances[begin:end]


def simulated(tests: Sequence[ShareTest], truth: Sequence[float], cap: int, runs: int) -> Stops:
    """The same for several shares, from ``runs`` simulated runs, which are always the same."""
    chance = random.Random(_SEED)  # noqa: S311  # runs must be reproducible
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
            for at in places:  # a generator would take most of the time
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
    """How many connections the judgement of a split takes that is as expected."""

    least: int
    typical: int
    p95: int
    cap: int


def plan(tests: Sequence[ShareTest]) -> Plan:
    """The plan of a judgement. Raises UsageError if it takes too many connections."""
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
    """A share, or its complement if that is smaller and not 0."""
    return min(share, 1 - share) or share


def _coarser(tests: Sequence[ShareTest]) -> tuple[Sequence[ShareTest], float]:
    """Tests that are fast to compute, and the factor of connections that the original ones take.

    A version that is half as rare appears as often in half the connections. The number of
    connections that detect a shift is inverse to its square.
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
    """Tests of several shares that take about half as many connections, if possible."""
    shift = max(tests[0].shift, min(_WIDE, tests[0].shift * sqrt(2)))
    shares = _less_rare([test.share for test in tests])
    return [replace(one, share=p, shift=shift) for one, p in zip(tests, shares, strict=True)]


def _less_rare(shares: Sequence[float]) -> Sequence[float]:
    """The shares with rare ones doubled, at the cost of the others."""
    doubled = [2 * one if one < _RARE else 0.0 for one in shares]
    if len(shares) == 1 or not any(doubled):
        return shares
    left = (1 - sum(doubled)) / sum(one for one in shares if one >= _RARE)
    return [two or one * left for one, two in zip(shares, doubled, strict=True)]


def earliest(tests: Sequence[ShareTest]) -> int:
    """The smallest number of connections with which a split can pass, whatever they show."""

    def least(test: ShareTest, total: int) -> int:
        return _first(total, lambda hits: test.not_below(hits, total))

    def most(test: ShareTest, total: int) -> int:
        return total - _first(total, lambda rest: test.not_above(total - rest, total))

    def passable(total: int) -> bool:
        counts = [(least(test, total), most(test, total)) for test in tests]
        fits = all(low <= high for low, high in counts)
        fits = fits and sum(low for low, _ in counts) <= total
        return fits and (len(tests) == 1 or sum(high for _, high in counts) >= total)

    # A smaller number than ``lasting`` may fit by chance, since counts are whole numbers. This
    # happens as often as the required count of a share grows by one, or never for a share whose
    # shift leads to 0 or 1.
    lasting = _first(4 * MOST, passable)
    begin = max(1, lasting - round(2 / min(max(rare(one.share), one.shift) for one in tests)))
    return next(n for n in range(begin, lasting + 1) if passable(n))


def _first(most: int, enough: Callable[[int], bool]) -> int:
    """The smallest number from which on ``enough`` is true; ``most`` + 1 if there is none."""
    low, high = -1, most + 1
    step = 1
    while low + step < high:  # usually near the beginning
        if enough(low + step):
            high = low + step
        else:
            low, step = low + step, 2 * step
    return low + 1 + bisect_left(range(low + 1, high), True, key=enough)


def limit(tests: Sequence[ShareTest]) -> int:
    """The number of connections after which a judgement ends without a verdict.

    It is four times the size of a test with a fixed number of connections. It is large enough to
    detect that the version with the smallest share never answers.
    """
    shares = [test.share for test in tests]
    level = max(test.against for test in tests)
    first = tests[0]
    tail = exp(-level) / 2
    fixed = (sample_size_within if first.tolerant else sample_size)(shares, tail, first.shift)
    rarest = rare(shares[0]) if len(shares) == 1 else min(shares)
    return max(4 * fixed, ceil(1.1 * (level + 1) / rarest))
