"""The size of a test with a fixed number of connections, from which a judgement's cap is derived.

``shares`` are the tested shares, each over 0 and at most 1. ``tail`` is the error probability of
each side of each test.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from echod.errors import UsageError
from echod.probe.binomial import at_least, at_most, least_above, most_below

POWER = 0.95
"""The statistical power: the probability that a run detects what it is meant to detect."""

MOST = 10_000_000
"""Maximum number of connections; a plan that needs more is a mistake."""

_NOTHING = 1e-9  # differences of shares up to this are rounding


def sample_size(shares: Sequence[float], tail: float, shift: float) -> int:
    """The number of connections from which on the test finds a share that is off by ``shift``."""
    return _first_lasting(lambda n: _weakest(n, _bounds(n, shares, tail), shift) >= POWER, shares)


def sample_size_within(shares: Sequence[float], tail: float, tolerance: float) -> int:
    """The number of connections from which on the test shows true shares to be within tolerance."""
    return _first_lasting(lambda n: _chance_within(n, shares, tail, tolerance) >= POWER, shares)


def _bounds(n: int, shares: Sequence[float], tail: float) -> list[tuple[float, int, int]]:
    """Each share with the largest low count and the smallest high count that reject it."""
    return [(p, most_below(n, p, tail), least_above(n, p, tail)) for p in shares]


def _weakest(n: int, bounds: Sequence[tuple[float, int, int]], shift: float) -> float:
    """The smallest probability of finding a share that is off by ``shift``.

    Off in either direction, if the result lies between 0 and 1.
    """
    chances = [1.0]
    for p, low, high in bounds:
        for q in (p - shift, p + shift):
            if -_NOTHING <= q <= 1 + _NOTHING:
                truth = min(1.0, max(0.0, q))
                chances.append(at_most(low, n, truth) + at_least(high, n, truth))
    return min(chances)


def _chance_within(n: int, shares: Sequence[float], tail: float, tolerance: float) -> float:
    """The probability that all intervals lie within the tolerance, if the split is as expected."""
    missed = 0.0
    for p in shares:
        low, high = p - tolerance, p + tolerance
        if low > 0:
            missed += at_most(least_above(n, low, tail) - 1, n, p)
        if high < 1:
            missed += at_least(most_below(n, high, tail) + 1, n, p)
    return 1 - missed


def _first_lasting(enough: Callable[[int], bool], shares: Sequence[float]) -> int:
    """The smallest n from which on every n is enough.

    Probabilities of discrete counts rise in a sawtooth: one more connection may lower them a
    little. A tooth is about 1/p connections long, so the search covers two more of them.
    """
    period = min(500, max((round(2 / min(p, 1 - p)) for p in shares if p < 1), default=1))
    high = 1
    while not enough(high):
        high *= 2
        if high > MOST:
            raise UsageError(f"that takes more than {MOST:,} connections: ask for less precision")
    begin = high // 2 + 1
    n = failing = begin - 1 + bisect_left(range(begin, high), True, key=enough)
    while n < failing + period:
        n += 1
        if not enough(n):
            failing = n
    return failing + 1
